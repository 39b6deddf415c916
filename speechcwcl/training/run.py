"""One training run, from manifests and a configuration to checkpoints."""

from __future__ import annotations

import json
import math
import os
import platform
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import speechbrain as sb
import torch

from speechcwcl.data.augment import Augmenter
from speechcwcl.data.manifest import Manifest
from speechcwcl.data.stream_spec import is_stream, read_stream
from speechcwcl.errors import UserError, require
from speechcwcl.files import read_json, write_json
from speechcwcl.losses import TextBank, build_loss
from speechcwcl.losses.gather import world_size
from speechcwcl.models.aligner import Aligner
from speechcwcl.models.embed import feature_cache
from speechcwcl.models.text_store import FOLDER, TextStore, embed_stored
from speechcwcl.training.brain import AlignBrain
from speechcwcl.training.config import TrainConfig
from speechcwcl.training.dataset import AlignmentSet, KnownTexts, TrainingData, batch_sampler
from speechcwcl.training.state import WholeCheckpointer
from speechcwcl.training.stream import stream_data

Validate = Callable[[Aligner], dict[str, float]]


def build_aligner(config: TrainConfig) -> Aligner:
    """The model that a configuration describes, untrained, seeded by ``config.seed``."""
    torch.manual_seed(config.seed)
    return Aligner.build(
        config.speech_encoder,
        config.text_encoder,
        text_pooling=config.text_pooling,
        pooling=config.pooling,
        pooling_options=config.pooling_options,
        projection=config.projection,
        freeze=config.freeze,
        layers=config.layers,
        frame_stride=config.frame_stride,
        gradient_checkpointing=config.gradient_checkpointing,
        lora=config.lora,
        **config.encoder_options,
    )


def training_texts(
    aligner: Aligner, manifest: Manifest, store_folder: Path, center: bool
) -> tuple[torch.Tensor, np.ndarray]:
    """Embeddings of the unique transcripts, and each utterance's row in them.

    The text tower is loaded only when the store lacks a text, and let go afterwards.

    Returns:
        ``(unique, dim)`` unit-norm float32, and ``(len(manifest),)`` int64 rows.
    """
    texts = []
    for utterance in manifest:
        require(bool(utterance.text), f"utterance {utterance.id!r} has no text; training needs one")
        texts.append(utterance.text)
    unique = sorted(set(texts))
    row_of = {text: row for row, text in enumerate(unique)}
    store = TextStore.open(store_folder, aligner.text.hash)
    raw = torch.from_numpy(embed_stored(aligner, store, unique, progress=True))
    aligner.text.drop()
    if center:
        aligner.set_text_mean(raw.mean(dim=0))
    return aligner.transform_text(raw), np.array([row_of[text] for text in texts], dtype=np.int64)


def train(
    config: TrainConfig,
    train_set: Path,
    expdir: Path,
    *,
    dumpdir: Path,
    validate: Callable[[Aligner], Validate],
    device: str | None = None,
) -> AlignBrain:
    """Train, or go on with a run that was interrupted.

    Args:
        config: what to train and how.
        train_set: ``dump/<set>/manifest.jsonl`` of the training set, or a ``stream.json``.
        expdir: the experiment folder; checkpoints go to ``expdir/checkpoints``.
        dumpdir: the text store and the feature caches live here.
        validate: given the aligner, makes the function that scores it after each epoch.
        device: ``cpu``, ``cuda:0``, ...; None lets SpeechBrain choose.

    Raises:
        UserError: anything in the configuration or the data that the user can put right.
    """
    refuse_other_settings(config, expdir)
    check_workers(config)
    joins = "RANK" in os.environ and not torch.distributed.is_initialized()
    if joins:
        sb.utils.distributed.ddp_init_group({"distributed_backend": _backend()})
    if config.threads:
        torch.set_num_threads(config.threads)
    aligner = build_aligner(config)
    if is_stream(train_set):
        data = stream_data(config, aligner, read_stream(train_set))
    else:
        data = manifest_data(config, aligner, train_set, dumpdir)
    counter = sb.utils.epoch_loop.EpochCounter(limit=config.epochs)
    checkpointer = WholeCheckpointer(expdir / "checkpoints", recoverables={"counter": counter})
    brain = AlignBrain(
        aligner,
        build_loss(config.loss, **config.loss_options),
        data,
        config=config,
        expdir=expdir,
        validate=validate(aligner),
        run_opts=run_options(config, device),
        checkpointer=checkpointer,
    )
    loader = data.loader(brain)
    if sb.utils.distributed.if_main_process():
        write_run_files(config, expdir)
    torch.manual_seed(config.seed)
    brain.fit(counter, loader)
    if joins:
        torch.distributed.destroy_process_group()
    return brain


def manifest_data(
    config: TrainConfig, aligner: Aligner, train_manifest: Path, dumpdir: Path
) -> TrainingData:
    """A training set that is on the disk: texts embedded before, frozen features cached."""
    require(
        config.steps_per_epoch is None,
        "steps_per_epoch: for a stream only; an epoch of a manifest is all of it, so leave it out",
    )
    manifest = Manifest(train_manifest)
    texts, rows = training_texts(aligner, manifest, dumpdir / FOLDER, config.center_text)
    dataset = build_dataset(config, aligner, manifest, rows, dumpdir / train_manifest.parent.name)
    sampler = batch_sampler(
        manifest.durations,
        batch_size=config.batch_size,
        max_batch_length=config.max_batch_length,
        num_buckets=config.num_buckets,
        seed=config.seed,
    )
    require(
        len(sampler) >= world_size(),
        f"{train_manifest}: {len(sampler)} batch(es) an epoch are too few for {world_size()} "
        f"processes; set batch_size (now {config.batch_size}) lower or start fewer processes",
    )
    return TrainingData(
        KnownTexts(texts),
        math.ceil(len(sampler) / world_size() / config.grad_accumulation),
        lambda brain: make_loader(brain, dataset, sampler, config),
        TextBank(texts) if config.text_bank else None,
    )


def check_workers(config: TrainConfig) -> None:
    """Refuse workers that could not hand over a batch: the training would wait for ever.

    Raises:
        UserError: the folder of temporary files has too long a name for their sockets.
    """
    folder = tempfile.gettempdir()
    require(
        config.num_workers == 0 or len(os.fsencode(folder)) <= 75,
        f"num_workers: {config.num_workers}: workers keep sockets in {folder}, and that name is "
        "too long for them; set TMPDIR to a folder whose name has at most 75 characters",
    )


# what may change between the parts of one run without making it another run
FREE_KEYS = {"epochs", "threads", "num_workers", "keep_checkpoints", "ckpt_interval_steps"}


def refuse_other_settings(config: TrainConfig, expdir: Path) -> None:
    """Refuse to go on with a run under other settings than it began with.

    Raises:
        UserError: there are checkpoints of other settings; names the keys.
    """
    known = expdir / "hparams.json"
    if not known.exists() or not any((expdir / "checkpoints").glob("CKPT+*")):
        return
    before, now = read_json(known), json.loads(json.dumps(config.as_dict()))
    changed = [k for k in now if k not in FREE_KEYS and before.get(k) != now[k]]
    require(
        not changed,
        f"{expdir}: holds a run with other settings ("
        + ", ".join(f"{k}: {before.get(k)!r}, now {now[k]!r}" for k in changed[:3])
        + "); give another folder (run.sh: --tag NAME) or delete this one",
    )


def run_options(config: TrainConfig, device: str | None) -> dict[str, Any]:
    """What SpeechBrain's Brain calls run_opts."""
    options: dict[str, Any] = {
        "precision": config.precision,
        "max_grad_norm": config.max_grad_norm,
        "grad_accumulation_factor": config.grad_accumulation,
        "ckpt_interval_steps": config.ckpt_interval_steps,
        "ckpt_interval_minutes": 0,
        "distributed_backend": _backend(),  # by which SpeechBrain wraps: gloo takes no device id
        "find_unused_parameters": True,  # the aligner's own scale: the objective learns one
    }
    return options | ({"device": device} if device else {})


def make_loader(
    brain: AlignBrain, dataset: AlignmentSet, sampler: Any, config: TrainConfig
) -> torch.utils.data.DataLoader:
    """The training loader, whose position is kept in checkpoints."""
    brain.train_dataset = dataset
    loader = brain.make_dataloader(
        dataset,
        sb.Stage.TRAIN,
        batch_sampler=sampler,
        collate_fn=dataset.collate,
        num_workers=config.num_workers,
        # its own generator: else making an iterator would draw from the global one, and a resumed
        # run, which makes one more, would go another way
        generator=torch.Generator().manual_seed(config.seed),
    )
    if brain.train_sampler is None:
        brain.train_sampler = sampler  # for set_epoch: without it every epoch has the same batches
    return loader


def build_dataset(
    config: TrainConfig, aligner: Aligner, manifest: Manifest, rows: np.ndarray, folder: Path
) -> AlignmentSet:
    """The training set; the frozen part of the encoder is computed once when there is one."""
    augment = Augmenter(config.augment, seed=config.seed) if config.augment else None
    copies = config.augment_copies if augment else 0
    cache = None
    if aligner.speech_encoder.cacheable:
        cache = feature_cache(
            aligner.speech_encoder,
            manifest,
            folder,
            copies=copies,
            augment=augment,
            share=config.augment_share,
        )
    elif config.augment_copies:
        raise UserError(
            "augment_copies: needs a frozen part (freeze: all or N); with freeze: none "
            "every epoch is augmented anew, so set it to 0"
        )
    return AlignmentSet(manifest, rows, cache, copies, augment, seed=config.seed)


def _backend() -> str:
    return "nccl" if torch.cuda.is_available() else "gloo"


def write_run_files(config: TrainConfig, expdir: Path) -> None:
    """``hparams.json`` and ``env.json``: enough to run it again."""
    write_json(expdir / "hparams.json", config.as_dict())
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
            "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
            "versions": {
                module.__name__: module.__version__
                for module in (speechcwcl, torch, torchaudio, speechbrain, transformers)
            },
        },
    )
