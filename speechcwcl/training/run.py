"""One training run, from manifests and a configuration to checkpoints."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import json
import math
import os
import platform
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import speechbrain as sb
import torch
from speechbrain.utils.checkpoints import Checkpointer, average_checkpoints

from speechcwcl.data.manifest import Manifest
from speechcwcl.data.stream_spec import StreamSpec, is_stream, read_stream
from speechcwcl.errors import UserError, require
from speechcwcl.evaluation.evals import make_validator, parse_evals, read_protocol
from speechcwcl.files import (
    copy_json,
    lock,
    read_json,
    read_text,
    sha256_file,
    sha256_json,
    write_json,
)
from speechcwcl.losses import ContrastiveObjective, build_loss
from speechcwcl.models.aligner import Aligner
from speechcwcl.models.device import check_device, has_bf16
from speechcwcl.models.folders import check_shapes
from speechcwcl.training.brain import AlignBrain, OutputLosses, SpeechSide
from speechcwcl.training.config import TrainConfig, load_config
from speechcwcl.training.dataset import manifest_data, say
from speechcwcl.training.state import WholeCheckpointer
from speechcwcl.training.stream import stream_data


@dataclasses.dataclass(frozen=True)
class Experiment:
    """What a training run left in its folder."""

    # holds `checkpoints`, `metrics.jsonl`, `hparams.json`, `inputs.json` and `env.json`
    folder: Path

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """One dictionary a finished epoch: `epoch`, `step`, `lr`, `train`, `valid`."""
        lines = read_text(self.folder / "metrics.jsonl").splitlines()
        return [json.loads(line) for line in lines]

    def model(self, best: int = 1) -> Aligner:
        """The mean of the `best` checkpoints, written to `folder/model` and loaded."""
        average_run(self.folder, best)
        return Aligner.from_pretrained(self.folder / "model")


def train(
    config: str | os.PathLike | Mapping[str, Any] | TrainConfig,
    *,
    train: str | os.PathLike,
    valid: Sequence[str] = (),
    expdir: str | os.PathLike,
    dumpdir: str | Path | None = None,
    device: str | None = None,
    **options: Any,
) -> Experiment:
    """Train, or go on with a run that was interrupted.

    Args:
        config: what to train and how: a training YAML, or its keys and values.
        train: `dump/<set>/manifest.jsonl` of the training set, or a `stream.json`.
        valid: what chooses the checkpoints, `SET:PROTOCOL` each; `retrieval` is a protocol.
            Without any the latest checkpoint counts as the best.
        expdir: the experiment folder; checkpoints go to `expdir/checkpoints`.
        dumpdir: holds the sets, the text store and the feature caches; left out: the folder of the
            folder of the training set's manifest, `dump` with a stream.
        device: `cpu`, `cuda:0`, ...; None lets SpeechBrain choose.
        **options: keys of the configuration that are to be other ones.

    Raises:
        UserError: anything in the configuration or the data that the user can put right.

    Examples:
        >>> run = train("conf/cwcl.yaml", train="dump/train/manifest.jsonl",
        ...             valid=["valid:retrieval"], expdir="exp/cwcl", epochs=3)  # doctest: +SKIP
        >>> run.model().save_pretrained("aligned")  # doctest: +SKIP
    """
    config, train_set, expdir = load_config(config, options), Path(train), Path(expdir)
    dumpdir = Path(dumpdir or ("dump" if is_stream(train_set) else train_set.parent.parent))
    pairs = parse_evals(list(valid))
    check_workers(config)
    place = check_device(device, config.precision)
    if config.precision == "bf16" and place == "cpu" and not has_bf16():
        say("warning: precision: bf16 is many times slower than fp32 on a processor without it")
    joins = "RANK" in os.environ and not torch.distributed.is_initialized()
    if joins:
        sb.utils.distributed.ddp_init_group({"distributed_backend": _backend()})
    if config.threads:
        torch.set_num_threads(config.threads)
    with _alone(expdir):
        _fit(config, train_set, pairs, expdir, dumpdir, device)
    if joins:
        # what DDP wrapped holds the group, whose threads would outlive the interpreter and abort
        gc.collect()
        torch.distributed.destroy_process_group()
    return Experiment(expdir)


@contextlib.contextmanager
def _alone(expdir: Path) -> Iterator[None]:
    """Let one training at a time into an experiment folder, by its first process."""

    def refuse() -> None:
        env = read_json(expdir / "env.json") if (expdir / "env.json").exists() else {}
        who = f" (process {env['process']} of {env['host']})" if "process" in env else ""
        raise UserError(
            f"{expdir}: another training is running in this folder{who}; wait until it has ended, "
            "or end it, then run the same command again"
        )

    first = sb.utils.distributed.if_main_process()
    with lock(expdir / ".lock", refuse) if first else contextlib.nullcontext():
        yield


def _fit(
    config: TrainConfig,
    train_set: Path,
    pairs: list[tuple[str, str]],
    expdir: Path,
    dumpdir: Path,
    device: str | None,
) -> None:
    """Build everything that a run needs, and run it; nothing of it is left afterwards."""
    validator, manifests = make_validator(pairs, dumpdir)
    aligner = build_aligner(config)
    training = read_stream(train_set) if is_stream(train_set) else Manifest(train_set)
    inputs = run_inputs(aligner, train_set, training, pairs, manifests)
    if config.init_model is not None:
        identity = start_from(aligner, config.init_model)
        inputs["initial model"] = {"path": config.init_model, "hash": identity}
    if config.loss_file is not None:
        inputs["loss file"] = {
            "path": config.loss_file,
            "hash": sha256_file(Path(config.loss_file)),
        }
    refuse_another_run(config, inputs, expdir)
    if isinstance(training, Manifest):
        data = manifest_data(config, aligner, training, dumpdir)
    else:
        data = stream_data(config, aligner, training)
    counter = sb.utils.epoch_loop.EpochCounter(limit=config.epochs)
    checkpointer = WholeCheckpointer(expdir / "checkpoints", recoverables={"counter": counter})
    brain = AlignBrain(
        aligner,
        build_objective(config, aligner),
        data,
        config=config,
        expdir=expdir,
        validate=validator(aligner),
        run_opts=run_options(config, device),
        checkpointer=checkpointer,
    )
    loader = data.loader(brain)
    if sb.utils.distributed.if_main_process():
        write_run_files(config, inputs, expdir)
        if is_stream(train_set):  # where `pack` looks for what was trained on
            card = dumpdir / train_set.parent.name / "corpus.json"
            copy_json(train_set.with_name("corpus.json"), card)
    torch.manual_seed(config.seed)
    brain.fit(counter, loader)
    if not brain.epochs_run:
        say(
            f"{expdir}: {counter.current} epochs are done and {config.epochs} are asked for; "
            "nothing left to train (--epochs with a larger number goes on)"
        )


# what Aligner.build takes
ALIGNER_KEYS = {"speech_encoder", "text_encoder", "text_pooling", "pooling", "pooling_options"}
ALIGNER_KEYS |= {"projection", "freeze", "layers", "frame_stride", "gradient_checkpointing", "lora"}


def build_aligner(config: TrainConfig) -> Aligner:
    """The model that a configuration describes, untrained, seeded by `config.seed`."""
    torch.manual_seed(config.seed)
    return Aligner.build(**config.model_dump(include=ALIGNER_KEYS), **config.encoder_options)


def build_objective(config: TrainConfig, aligner: Aligner) -> ContrastiveObjective | OutputLosses:
    """The loss that a configuration describes; of a list one for each output of the head.

    Raises:
        UserError: the list and the head's outputs differ in number, or a loss cannot be built.
    """
    specs = config.loss if isinstance(config.loss, list) else [config.loss]
    outputs = aligner.projection.outputs
    require(
        len(specs) == outputs,
        f"loss: {len(specs)} for a projection with {outputs} output(s); give a list with one loss "
        "for each output (projection: {outputs: 2}, loss: [cwcl_matched, clip])",
    )
    losses = [build_loss(s, loss_file=config.loss_file, **config.loss_options) for s in specs]
    return losses[0] if outputs == 1 else OutputLosses(losses)


def start_from(aligner: Aligner, source: str) -> str:
    """Give an untrained aligner the weights of a trained one.

    More of the speech encoder may be trainable than was (`freeze`); head and text must be alike.

    Args:
        aligner: changed in place.
        source: a model folder, a hub id, or the name of the boxed model.

    Raises:
        UserError: it cannot be opened, has another text encoder, or tensors of other shapes.
    """
    trained = Aligner.from_pretrained(source)
    require(
        trained.text.hash == aligner.text.hash,
        f"init_model: {source}: trained against another text encoder "
        f"({trained.text.info.source}, here {aligner.text.info.source})",
    )
    state = trained.state_dict()
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    check_shapes(f"init_model: {source}", shapes, aligner.state_dict())
    aligner.load_state_dict(state)
    return trained.identity


def check_workers(config: TrainConfig) -> None:
    """Refuse workers that could not hand over a batch: the training would wait for ever."""
    folder = tempfile.gettempdir()
    require(
        config.num_workers == 0 or len(os.fsencode(folder)) <= 75,
        f"num_workers: {config.num_workers}: workers keep sockets in {folder}, and that name is "
        "too long for them; set TMPDIR to a folder whose name has at most 75 characters",
    )


def run_inputs(
    aligner: Aligner,
    train_set: Path,
    training: Manifest | StreamSpec,
    pairs: list[tuple[str, str]],
    manifests: dict[str, Manifest],
) -> dict[str, dict[str, str]]:
    """What a run depends on beside its configuration: for each input where it is, and its hash."""
    of_train = training.state if isinstance(training, Manifest) else training.hash
    found = {"training set": {"path": str(train_set), "hash": of_train}}
    for name, word in pairs:
        manifest = manifests[name]
        found[f"validation set {name}"] = {"path": str(manifest.path), "hash": manifest.state}
        protocol = read_protocol(word)
        if protocol is not None:
            content = dataclasses.asdict(protocol) | {"path": ""}
            found[f"protocol of {name}"] = {"path": word, "hash": sha256_json(content)}
    speech, text = aligner.speech_encoder, aligner.text.info
    found["speech encoder"] = {"path": speech.source, "hash": speech.hash}
    found["text encoder"] = {"path": text.source, "hash": text.hash}
    return found


# what may change between the parts of one run without making it another run
FREE_KEYS = {"epochs", "threads", "num_workers", "keep_checkpoints", "ckpt_interval_steps"}


def refuse_another_run(
    config: TrainConfig, inputs: dict[str, dict[str, str]], expdir: Path
) -> None:
    """Refuse to go on with a run under other settings, or on other data, than it began with."""
    known = expdir / "hparams.json"
    if not known.exists() or not any((expdir / "checkpoints").glob("CKPT+*")):
        return
    before, now = read_json(known), json.loads(json.dumps(config.as_dict()))
    changed = [k for k in now if k not in FREE_KEYS and before.get(k) != now[k]]
    differs = [f"{k}: {before.get(k)!r}, now {now[k]!r}" for k in changed]
    began, nothing = read_json(expdir / "inputs.json"), {"path": "none", "hash": ""}
    for name in dict.fromkeys([*began, *inputs]):
        old, new = began.get(name, nothing), inputs.get(name, nothing)
        if old["hash"] != new["hash"]:
            other = new["path"] != old["path"]
            what = f"now {new['path']}" if other else "whose content is another one now"
            differs.append(f"{name}: {old['path']}, {what}")
    more = f"; and {len(differs) - 3} more" if len(differs) > 3 else ""
    require(
        not differs,
        f"{expdir}: holds a run with other settings or data ({'; '.join(differs[:3])}{more}); give "
        "another folder (run.sh: --tag NAME) or delete this one",
    )


def run_options(config: TrainConfig, device: str | None) -> dict[str, Any]:
    """What SpeechBrain's Brain calls run_opts."""
    options: dict[str, Any] = {
        "precision": config.precision,
        "max_grad_norm": config.max_grad_norm or math.inf,  # SpeechBrain always clips
        "grad_accumulation_factor": config.grad_accumulation,
        "ckpt_interval_steps": config.ckpt_interval_steps,
        "ckpt_interval_minutes": 0,
        "distributed_backend": _backend(),  # by which SpeechBrain wraps: gloo takes no device id
        "find_unused_parameters": True,  # the aligner's own scale: the objective learns one
    }
    return options | ({"device": device} if device else {})


def _backend() -> str:
    return "nccl" if torch.cuda.is_available() else "gloo"


def write_run_files(config: TrainConfig, inputs: dict[str, Any], expdir: Path) -> None:
    """`hparams.json`, `inputs.json` and `env.json`: enough to run it again."""
    write_json(expdir / "hparams.json", config.as_dict())
    write_json(expdir / "inputs.json", inputs)
    import speechbrain
    import torchaudio
    import transformers

    import speechcwcl

    write_json(
        expdir / "env.json",
        {
            "python": platform.python_version(),
            "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPU cores",
            "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
            "process": os.getpid(),
            "host": platform.node(),
            "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
            "versions": {
                module.__name__: module.__version__
                for module in (speechcwcl, torch, torchaudio, speechbrain, transformers)
            },
        },
    )


def average_run(expdir: Path, best: int = 1) -> str:
    """Average the `best` checkpoints by validation score into `expdir/model`.

    The learned logit scale of the loss becomes the model's temperature.

    Returns:
        One line that says which epochs were averaged.

    Raises:
        UserError: there is no finished epoch.
    """
    folder = expdir / "checkpoints"
    nothing = f"{folder}: no checkpoint of a finished epoch; train first"
    require(folder.is_dir(), nothing)  # SpeechBrain would make it
    checkpointer = Checkpointer(str(folder))
    found = checkpointer.find_checkpoints(max_key="score", max_num_checkpoints=best)
    require(bool(found), nothing)
    config = load_config(read_json(expdir / "hparams.json"))
    aligner = build_aligner(config)
    side = SpeechSide(aligner, config.feature_mask)
    side.load_state_dict(without_ddp(average_checkpoints(found, "speech")), strict=True)
    objective = build_objective(config, aligner)
    objective.load_state_dict(without_ddp(average_checkpoints(found, "objective")), strict=True)
    if objective.scale is not None:
        aligner.set_logit_scale(objective.scale().item())
    epochs = sorted(c.meta["epoch"] for c in found)
    score = max(c.meta["score"] for c in found)
    info = {"epochs": epochs, "validation_score": score, "loss": config.loss}
    aligner.eval().save_pretrained(expdir / "model", info=info)
    return (
        f"{expdir / 'model'}: mean of {len(found)} checkpoint(s), epochs "
        f"{', '.join(map(str, epochs))}, validation score {score:.4f}"
    )


def without_ddp(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """State names as they were before DistributedDataParallel wrapped the module."""
    return {name.removeprefix("module."): value for name, value in state.items()}
