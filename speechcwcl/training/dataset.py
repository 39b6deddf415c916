"""A training set on the disk: cached features or waveforms, each with its text's row."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import speechbrain as sb
import torch
from speechbrain.dataio.sampler import DynamicBatchSampler
from torch.utils.data import Dataset

from speechcwcl.cache.embed import FOLDER, TextStore, embed_stored, feature_cache
from speechcwcl.data.augment import Augmenter
from speechcwcl.data.manifest import Manifest
from speechcwcl.errors import UserError, require
from speechcwcl.losses import TextBank, world_size
from speechcwcl.models.aligner import Aligner
from speechcwcl.models.encoders.frames import pad
from speechcwcl.training.config import TrainConfig


@dataclass
class Batch:
    """One batch."""

    # `(batch, frames, layers, dim)` cached features, or `(batch, samples)` waveforms
    inputs: torch.Tensor
    lengths: torch.Tensor  # `(batch,)` in frames or samples
    # `(batch,)` row of each utterance's text among the unique texts; of a stream, whose texts are
    # not known before, a number that only equal texts share
    rows: torch.Tensor
    cached: bool  # whether `inputs` are cached features
    texts: list[str] | None = None  # the texts themselves, of a stream

    def to(self, device: Any, non_blocking: bool = False) -> Batch:
        """The same batch on another device (SpeechBrain's protocol)."""
        return self._changed(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Batch:
        """The same batch in page-locked memory."""
        return self._changed(torch.Tensor.pin_memory)

    def _changed(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Batch:
        inputs, lengths, rows = change(self.inputs), change(self.lengths), change(self.rows)
        return dataclasses.replace(self, inputs=inputs, lengths=lengths, rows=rows)


@dataclass
class TrainingData:
    """What a training set gives to the loop, whether it is a manifest or a stream."""

    # `(batch, device)` -> `(batch, dim)` unit-norm frozen text embeddings
    texts: Callable[[Batch, Any], torch.Tensor]
    steps_per_epoch: int  # optimizer steps of an epoch
    # makes the training loader, given the Brain
    loader: Callable[[Any], torch.utils.data.DataLoader]
    bank: Any = None  # text bank of the objective, or None
    # called on every rank before a checkpoint is written
    before_checkpoint: Callable[[], None] = lambda: None


@dataclass
class KnownTexts:
    """The embeddings of all texts of a manifest, looked up by row."""

    matrix: torch.Tensor  # `(unique, dim)` unit-norm

    def __call__(self, batch: Batch, device: Any) -> torch.Tensor:
        self.matrix = self.matrix.to(device)
        return self.matrix[batch.rows.to(device)]


@dataclass(eq=False)
class AlignmentSet(Dataset):
    """Utterances of a manifest."""

    manifest: Manifest
    rows: np.ndarray  # `(len(manifest),)` row of each utterance's text among the unique texts
    cache: Any = None  # a FeatureCache of the frozen part, or None to decode waveforms
    copies: int = 0  # how many augmented copies the cache holds beside the clean one
    augment: Any = None  # an Augmenter, drawn anew every epoch, for waveforms; not with a cache
    seed: int = 0  # chooses the copy, by utterance and epoch, in a resumed run the same
    epoch: int = 0

    def __len__(self) -> int:
        return len(self.manifest)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int] | UserError:
        try:
            return self._load(index)
        except UserError as error:
            return error  # raised in a worker it would come with its traceback

    def _load(self, index: int) -> tuple[np.ndarray, int]:
        if self.cache is not None:
            copy = 0
            if self.copies:
                draw = np.random.default_rng((self.seed, self.epoch, index))
                copy = int(draw.integers(self.copies + 1))
            return self.cache.get(index, copy), int(self.rows[index])
        utterance = self.manifest[index]
        wav = utterance.load()
        if self.augment is not None:
            wav = self.augment(wav, utterance.id, self.epoch)
        return wav, int(self.rows[index])

    def collate(self, items: list[Any]) -> Batch | UserError:
        """Zero-pad to the longest; the first error where an utterance could not be loaded."""
        for item in items:
            if isinstance(item, UserError):
                return item
        rows = torch.tensor([row for _, row in items])
        return Batch(*pad([array for array, _ in items]), rows, cached=self.cache is not None)


class ContrastiveBatchSampler(DynamicBatchSampler):
    """SpeechBrain's sampler without batches of one: an utterance alone has nothing to contrast."""

    def _generate_batches(self) -> None:
        super()._generate_batches()
        batches: list[list[int]] = self._batches
        self._batches: list[list[int]] = [b for b in batches if len(b) > 1] or batches


def batch_sampler(
    durations: Sequence[float] | np.ndarray, config: TrainConfig, seed: int
) -> ContrastiveBatchSampler:
    """SpeechBrain's DynamicBatchSampler over length buckets with equal shares of utterances."""
    seconds = np.asarray(durations, dtype=np.float64)
    edges = np.quantile(seconds, np.linspace(0, 1, config.num_buckets + 1)[1:])
    edges = np.unique(np.maximum(edges, 1e-3))
    limit = config.max_batch_length or float(edges[-1]) * config.batch_size * (1 + 1e-6)
    return ContrastiveBatchSampler(
        seconds,  # SpeechBrain asks it for its length only
        max_batch_length=limit,
        lengths_list=seconds.tolist(),
        bucket_boundaries=edges.tolist(),
        max_batch_ex=config.batch_size,
        shuffle=True,
        seed=seed,
    )


def manifest_data(
    config: TrainConfig, aligner: Aligner, manifest: Manifest, dumpdir: Path
) -> TrainingData:
    """A training set that is on the disk: texts embedded before, frozen features cached."""
    require(
        config.steps_per_epoch is None,
        "steps_per_epoch: for a stream only; an epoch of a manifest is all of it, so leave it out",
    )
    texts, rows = training_texts(aligner, manifest, dumpdir / FOLDER, config.center_text)
    dataset = build_dataset(config, aligner, manifest, rows, dumpdir / manifest.path.parent.name)
    sampler = batch_sampler(manifest.durations, config, config.seed)
    require(
        len(sampler) >= world_size(),
        f"{manifest.path}: {len(sampler)} batch(es) an epoch are too few for {world_size()} "
        f"processes; set batch_size (now {config.batch_size}) lower or start fewer processes",
    )
    return TrainingData(
        KnownTexts(texts),
        math.ceil(len(sampler) / world_size() / config.grad_accumulation),
        lambda brain: make_loader(brain, dataset, sampler, config),
        TextBank(texts) if config.text_bank else None,
    )


def training_texts(
    aligner: Aligner, manifest: Manifest, store_folder: Path, center: bool
) -> tuple[torch.Tensor, np.ndarray]:
    """Embeddings of the unique transcripts, and each utterance's row in them.

    The text tower is loaded only when the store lacks a text, and let go afterwards.

    Returns:
        `(unique, dim)` unit-norm float32, and `(len(manifest),)` int64 rows.
    """
    texts: list[str] = []
    for utterance in manifest:
        if not utterance.text:
            raise UserError(f"utterance {utterance.id!r} has no text; training needs one")
        texts.append(utterance.text)
    unique = sorted(set(texts))
    check_texts(Counter(texts), manifest.path)
    row_of = {text: row for row, text in enumerate(unique)}
    store = TextStore.open(store_folder, aligner.text.hash)
    raw = torch.from_numpy(embed_stored(aligner, store, unique, progress=True))
    aligner.text.drop()
    if center:
        aligner.set_text_mean(raw.mean(dim=0))
    return aligner.transform_text(raw), np.array([row_of[text] for text in texts], dtype=np.int64)


def say(line: str) -> None:
    """Print on one of the ranks."""
    if sb.utils.distributed.if_main_process():
        print(line, flush=True)


def check_texts(counts: Counter[str], where: str | Path) -> None:
    """Refuse a set with one and the same text everywhere; warn where most have the same."""
    (text, count), total = counts.most_common(1)[0], counts.total()
    shown = repr(text if len(text) <= 40 else text[:37] + "...")
    require(
        len(counts) > 1 or total == 1,
        f"{where}: all {total} utterances have the text {shown}, so there is nothing to tell "
        "apart; was the right column or file taken as the text?",
    )
    if count > total / 2 and total > 2:
        say(f"warning: {where}: {count} of {total} utterances have the same text, {shown}")


def augmenter(config: TrainConfig) -> Augmenter | None:
    """What `augment` asks for; None where it asks for nothing."""
    seed = config.seed if config.augment_seed is None else config.augment_seed
    return Augmenter(config.augment, seed=seed) if config.augment else None


def build_dataset(
    config: TrainConfig, aligner: Aligner, manifest: Manifest, rows: np.ndarray, folder: Path
) -> AlignmentSet:
    """The training set; the frozen part of the encoder is computed once when there is one."""
    augment = augmenter(config)
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


def make_loader(
    brain: Any, dataset: AlignmentSet, sampler: Any, config: TrainConfig
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
