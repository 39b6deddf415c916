"""Verbs of an experiment, from the texts to the report; and the stages that run them once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

_DUMP = Path("dump")


def embed_text(manifests: list[Path], *, config: Path, store: Path = Path("dump/text")) -> None:
    """Embed every unique transcript with the frozen text encoder, once, into a store on the disk.

    Args:
        manifests: manifest.jsonl files
        config: training YAML that names the encoder
        store: folder of the store
    """
    from speechcwcl.cache.embed import TextStore
    from speechcwcl.data.manifest import Manifest
    from speechcwcl.models.text_side import TextEncoder
    from speechcwcl.training.config import load_config

    settings = load_config(config)
    texts = {u.text for path in manifests for u in Manifest(path) if u.text}
    encoder = TextEncoder.from_pretrained(settings.text_encoder, pooling=settings.text_pooling)
    kept = TextStore.open(store, encoder.hash)
    new = kept.missing(sorted(texts))
    kept.add(new, encoder, progress=True)
    print(f"{len(texts)} unique texts, {len(new)} of them new, in {store}")


def train(
    config: Path,
    *keys: str,
    train: Path,
    valid: list[str],
    expdir: Path,
    dumpdir: Path = _DUMP,
    device: str | None = None,
) -> None:
    """Train the speech side against the frozen text embeddings. An interrupted training resumes.

    Any key of the YAML can be overridden: `--lr 1e-4 --loss clip`.

    A set that does not fit on the disk is streamed: `speechcwcl prepare huggingface --stream SET`
    and `speechcwcl shards --stream` write its stream.json.

    Args:
        config: training YAML
        train: the training set: a manifest.jsonl, or a stream.json that is read as training
            goes (needs --steps_per_epoch N)
        valid (SET:PROTOCOL): what chooses the checkpoints; PROTOCOL may be `retrieval`
        expdir: experiment folder
        dumpdir: manifests and caches
        device: cpu, cuda:0, ...; left out: a GPU when there is one

    Example:
        speechcwcl train conf/cwcl.yaml --train dump/train/manifest.jsonl \\
            --valid valid_words:mini_words_valid --expdir exp/cwcl
        speechcwcl train conf/cwcl.yaml --train data/train/stream.json --steps_per_epoch 1000 \\
            --valid validation:retrieval --expdir exp/streamed
    """
    from speechcwcl.training import run
    from speechcwcl.training.config import load_config, parse_overrides

    settings = load_config(config, parse_overrides(list(keys)))
    run.train(settings, train=train, valid=valid, expdir=expdir, dumpdir=dumpdir, device=device)


def average(expdir: Path, *, best: int = 1) -> None:
    """Average the weights of the best checkpoints and write the model folder `expdir/model`.

    Args:
        expdir: experiment folder of a finished training
        best: how many of the best checkpoints are averaged
    """
    from speechcwcl.training.run import average_run

    print(average_run(expdir, best))


def embed_speech(
    expdir: Path,
    *,
    sets: list[str],
    dumpdir: Path = _DUMP,
    model: str | None = None,
    device: str = "cpu",
) -> None:
    """Embed the utterances of sets with a trained model: `expdir/eval/<set>/speech.npy`.

    Args:
        expdir: experiment folder; the results go here
        sets: names of sets under --dumpdir
        dumpdir: manifests and caches
        model: a model folder; left out: EXPDIR/model
        device: cpu, cuda:0, ...
    """
    from speechcwcl.evaluation.evals import embed_set, eval_folder
    from speechcwcl.models.aligner import Aligner

    aligner = Aligner.from_pretrained(model or expdir / "model", device=device)
    for name in sets:
        speech = embed_set(aligner, expdir, dumpdir, name)
        print(f"{eval_folder(expdir, name) / 'speech.npy'}: {len(speech)} utterances")


def evaluate(
    expdir: Path,
    *,
    evals: list[str] | None = None,
    mteb: list[str] | None = None,
    dumpdir: Path = _DUMP,
    data: Path | None = None,
    model: str | None = None,
    device: str = "cpu",
    probe: str | None = None,
    trust_remote_code: bool = False,
    examples: Path | None = None,
    spoken: bool = False,
) -> None:
    """Score a model: zero-shot under protocols, speech-text retrieval, tasks of mteb.

    Models of others are scored on the same clips: --model hf:ID is a CLAP of transformers or a
    sentence-transformers model that takes audio; --model cascade:WHISPER+TEXT transcribes, then
    embeds the transcript (with +spelt behind it, spelt as labels are). --mteb scores with mteb's
    own code; --data DIR holds a folder for each task, as on the hub; without it they are fetched.

    Args:
        expdir: experiment folder
        evals (SET:PROTOCOL): PROTOCOL: a name, a YAML file, or `retrieval`
        mteb (TASK): tasks of mteb
        dumpdir: manifests and caches
        data (DIR): data of --mteb; else the hub's
        model: a model folder, en-tiny, hf:ID, or cascade:WHISPER+TEXT; left out: EXPDIR/model
        device: cpu, cuda:0, ...
        probe (SET): also a linear probe and few shots, with the labels of this set
        trust_remote_code: let hf:ID run the code that its repository brings along
        examples (FOLDER): for protocols of spotting: 1 to 16 clips of each label to enrol from
        spoken: for protocols of spotting: labels as they sound, said by synthetic voices

    Example:
        speechcwcl evaluate exp/cwcl --evals test_words:mini_words test_sentences:retrieval
        speechcwcl evaluate exp/cwcl --evals test:slurp_intent --probe train
        speechcwcl evaluate exp/cascade --model cascade:whisper-tiny.en+all-MiniLM-L6-v2 \\
            --evals test:gsc_10
        speechcwcl evaluate exp/en-tiny --model en-tiny --mteb FSDD MInDS14 --data DIR
        speechcwcl evaluate exp/cwcl --evals streams:wake.yaml --examples mine/
    """
    from speechcwcl.errors import require

    require(bool(evals or mteb), "nothing to score: give --evals, or --mteb")
    require(bool(mteb) or data is None, "--data: holds the tasks of --mteb; give those")
    options: dict[str, Any] = {"device": device, "remote_code": trust_remote_code}
    if evals:
        from speechcwcl.evaluation.evals import evaluate_sets, parse_evals

        pairs = parse_evals(evals)
        more = {**options, "model": model, "probe": probe, "examples": examples, "spoken": spoken}
        for line in evaluate_sets(expdir, pairs, dumpdir, **more):
            print(line, flush=True)
    if mteb:
        from speechcwcl.integrations.mteb import evaluate_tasks

        for line in evaluate_tasks(expdir, mteb, data=data, model=model, **options):
            print(line, flush=True)


def report(
    expdirs: list[Path],
    *,
    out: Path = Path("exp"),
    dumpdir: Path = _DUMP,
    title: str = "Zero-shot speech classification",
) -> None:
    """Write RESULTS.md and report.html from experiment folders, and print the table of results.

    Args:
        expdirs: experiment folders, side by side
        out: the two files go here
        dumpdir: manifests and caches
        title: the heading
    """
    from speechcwcl.report.markdown import results_table
    from speechcwcl.report.page import build_report

    build_report(expdirs, out, dumpdir=dumpdir, title=title)
    print(results_table(expdirs))
    print(f"\nreport: {(out / 'report.html').resolve()}")


def stage(
    *command: str,
    name: str,
    stamp: Path,
    log: Path,
    inputs: tuple[str, ...] = (),
    outputs: tuple[str, ...] = (),
) -> int:
    """Run one stage of a recipe, once.

    The command follows `--`. The stamp holds a hash of the command and of its inputs, and the
    state of the outputs. When all that still holds, the stage is skipped and says so; else the
    command runs, its output goes to the terminal and to the log, and the stamp is written only when
    it succeeded.

    Args:
        name: what to print before the command
        stamp: the stamp file
        log: where the output is kept
        inputs: files and folders read
        outputs: files and folders written

    Example:
        speechcwcl stage --name "stage 2: format train" --stamp exp/a/stamps/2.train \\
            --log exp/a/logs/2.train.log --inputs data/train --outputs dump/train/manifest.jsonl \\
            -- speechcwcl format data/train dump/train
    """
    from speechcwcl.stages import run_stage

    return run_stage(name, list(command), stamp=stamp, log=log, inputs=inputs, outputs=outputs)
