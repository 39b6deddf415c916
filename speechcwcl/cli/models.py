"""Verbs about models and the machine: what is there, fetched, packed, exported, shown."""

from __future__ import annotations

from pathlib import Path

from speechcwcl.assets import DEFAULT_MODEL

_DUMP = Path("dump")


def pack(
    expdir: Path,
    *,
    out: Path | None = None,
    model: Path | None = None,
    results: Path | None = None,
    dumpdir: Path = _DUMP,
    licence: str = "other",
    push_to_hub: str | None = None,
    with_towers: bool = False,
) -> None:
    """Put a trained model into one folder to share: safetensors, plain JSON, texts, model card.

    Opening the folder runs no code from it. The label texts are those of the protocols that the run
    was scored under; `speechcwcl classify --protocol NAME` finds them in the folder. The card is
    made from the run: results, corpora with their licences, command, versions, citation.

    Args:
        expdir: experiment folder
        out: the folder to write; left out: EXPDIR/packed
        model: a model folder; left out: EXPDIR/model
        results: a RESULTS.md for the card; left out: the run's own scores
        dumpdir: where the sets' corpus.json are
        licence: licence of the trained weights, as model hubs write it
        push_to_hub (REPO): upload the folder to this hub repo
        with_towers: put the frozen encoders in too, so that nothing is fetched
    """
    from speechcwcl.report.markdown import Sharing, pack_model, push

    out = out or expdir / "packed"
    sharing = Sharing(licence, push_to_hub, with_towers, results)
    size = pack_model(expdir, out, dumpdir, sharing, model)
    print(f"packed: {out} ({size / 1e6:.1f} MB)")
    if push_to_hub:
        print(f"uploaded: {push(out, push_to_hub)}")


def export(
    *, model: str = DEFAULT_MODEL, out: Path, int8: bool = False, check: bool = False
) -> None:
    """Write the speech side of a model as ONNX, to run without torch's speech encoder.

    The folder holds model.onnx (waveforms in, unit-norm embeddings out, any batch and length) and
    config.json. --int8 keeps the weights in 8 bits: smaller and usually faster, a little less
    exact.

    Args:
        model: a model folder, or a hub id
        out: the folder to write
        int8: 8-bit weights in matrix products
        check: open what was written and compare the embeddings

    Examples:
        speechcwcl export --model exp/cwcl/model --out exp/cwcl/onnx --check
        speechcwcl export --model exp/cwcl/model --out exp/cwcl/onnx_int8 --int8
    """
    from speechcwcl.export import onnx, onnx_model
    from speechcwcl.files import refuse_foreign
    from speechcwcl.models.aligner import Aligner

    refuse_foreign(out, onnx_model.ours)  # before minutes of work
    aligner = Aligner.from_pretrained(model)
    onnx.export(aligner, out, int8=int8, info={"exported_from": Path(model).name})
    size = sum(path.stat().st_size for path in out.iterdir()) / 1e6
    print(f"exported: {out} ({size:.1f} MB, {'int8' if int8 else 'float32'})")
    if check:
        onnx.compare(aligner, onnx_model.OnnxAligner.from_pretrained(out), int8)


def fetch(names: tuple[str, ...] = (), *, check: bool = False, offline: bool = False) -> None:
    """Fetch pretrained weights by name into the cache; say what is there, and check it.

    Further models (Whisper base, Moonshine, all-mpnet-base-v2): python tools/fetch_weights.py

    Args:
        names (NAME): all-MiniLM-L6-v2, whisper-tiny.en, or a hub id (org/name); without one, list
            what there is
        check: hash the cached files again
        offline: never use the network

    Examples:
        speechcwcl fetch                                     # what there is
        speechcwcl fetch whisper-tiny.en all-MiniLM-L6-v2
        speechcwcl fetch --check whisper-tiny.en             # hash every file again
    """
    from speechcwcl.errors import UserError, summarise
    from speechcwcl.models.weights import sources

    for source in () if names else sources.SOURCES.values():
        here = "in the cache" if sources.is_cached(source.name) else "not fetched"
        print(f"{source.name:<18} {source.kind:<7} {source.title} ({source.licence}); {here}")
    for name in names:
        folder = sources.resolve(name, offline=True if offline else None)
        if check and name in sources.SOURCES and (problems := sources.check(name)):
            raise UserError(summarise(problems))
        print(f"{name}\t{folder}")


def doctor(*, deep: bool = False, json: bool = False, timeout: float = 5.0) -> int:
    """Check the installation; say what to type where something is missing.

    Looks at the packages and whether they fit each other, the GPU, the audio decoders, disk and
    permissions, the cache of fetched models, the model hub, and the optional extras. The exit code
    is 0 when nothing fails (warnings may remain), else 2.

    Args:
        deep: also hash the cached models and import every extra
        json: print one JSON object instead
        timeout: seconds to wait for the hub
    """
    from speechcwcl.apps.doctor import print_findings

    return print_findings(deep, timeout, as_json=json)


def demo(
    *,
    model: list[str] | None = None,
    host: str = "127.0.0.1",
    port: int = 7860,
    share: bool = False,
    device: str = "cpu",
    max_seconds: float = 30.0,
    max_megabytes: float = 10.0,
    max_labels: int = 100,
    far: float = 0.0,
) -> None:
    """A page in the browser: record or upload speech, type labels, see the ranked answer.

    Uploads go to a private temporary folder and are deleted within two minutes; nothing is loaded
    from the network. Name two models to see them side by side. Other programs may ask the endpoint
    `/classify` through gradio_client.

    Args:
        model (FOLDER): a model folder or hub id; give it twice to compare two models; left out: the
            model that comes with the package
        host: 0.0.0.0 lets other machines in
        port: port of the page
        share: also open a public address through gradio
        device: where the models run: cpu, cuda, cuda:1
        max_seconds: longest recording allowed
        max_megabytes: largest file allowed
        max_labels: most labels allowed
        far: say `unknown` so that about this share of other clips gets a label; 0: never say it

    Example:
        speechcwcl demo --model egs/mini/cwcl1/exp/cwcl/model --model egs/mini/cwcl1/exp/clip/model
    """
    from speechcwcl.apps.demo.ask import Limits
    from speechcwcl.apps.demo.serve import check_port, import_page, private_folder, serve
    from speechcwcl.errors import require

    limits = Limits(max_seconds, max_megabytes, max_labels)
    require(0 <= far < 1, f"--far {far}: not between 0 and 1, such as 0.05")
    check_port(host, port)
    with private_folder() as folder:
        page = import_page(folder)
        from speechcwcl.apps.demo.answer import open_judges  # late: torch, after the quick checks

        judges = open_judges(model or [DEFAULT_MODEL], device)
        for judge in judges:
            judge.warm_up()
        serve(judges, limits, page=page, folder=folder, host=host, port=port, share=share, far=far)
