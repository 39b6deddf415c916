"""The training set: utterances as cached features or as waveforms, each with its text's row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from speechbrain.dataio.sampler import DynamicBatchSampler
from torch.utils.data import Dataset

from speechcwcl.data.manifest import Manifest
from speechcwcl.errors import require


@dataclass
class Batch:
    """One batch.

    Attributes:
        inputs: ``(batch, frames, layers, dim)`` cached features, or ``(batch, samples)`` waveforms.
        lengths: ``(batch,)`` in frames or samples.
        rows: ``(batch,)`` row of each utterance's text among the unique texts.
        cached: whether ``inputs`` are cached features.
    """

    inputs: torch.Tensor
    lengths: torch.Tensor
    rows: torch.Tensor
    cached: bool

    def to(self, device: Any, non_blocking: bool = False) -> Batch:
        """The same batch on another device (SpeechBrain's protocol)."""
        moved = [
            t.to(device, non_blocking=non_blocking) for t in (self.inputs, self.lengths, self.rows)
        ]
        return Batch(*moved, cached=self.cached)

    def pin_memory(self) -> Batch:
        """The same batch in page-locked memory."""
        return Batch(*(t.pin_memory() for t in (self.inputs, self.lengths, self.rows)), self.cached)


class AlignmentSet(Dataset):
    """Utterances of a manifest.

    Args:
        manifest: the utterances.
        rows: ``(len(manifest),)`` row of each utterance's text among the unique texts.
        cache: a FeatureCache of the frozen part, or None to decode waveforms.
        copies: how many augmented copies the cache holds beside the clean one.
        augment: an Augmenter, drawn anew every epoch, for waveforms; ignored with a cache.
        seed: chooses the copy, by utterance and epoch, so that a resumed run chooses the same.
    """

    def __init__(
        self,
        manifest: Manifest,
        rows: np.ndarray,
        cache: Any = None,
        copies: int = 0,
        augment: Any = None,
        seed: int = 0,
    ) -> None:
        require(len(manifest) > 0, "the manifest has no utterance")
        self.manifest, self.rows, self.cache = manifest, rows, cache
        self.copies, self.augment, self.seed = copies, augment, seed
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.manifest)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
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

    def collate(self, items: list[tuple[np.ndarray, int]]) -> Batch:
        """Zero-pad to the longest."""
        arrays = [item[0] for item in items]
        lengths = torch.tensor([len(a) for a in arrays])
        shape = (len(arrays), int(lengths.max()), *arrays[0].shape[1:])
        inputs = np.zeros(shape, dtype=np.float32)
        for row, array in enumerate(arrays):
            inputs[row, : len(array)] = array
        rows = torch.tensor([item[1] for item in items])
        return Batch(torch.from_numpy(inputs), lengths, rows, cached=self.cache is not None)


class ContrastiveBatchSampler(DynamicBatchSampler):
    """SpeechBrain's sampler without batches of one: an utterance alone has nothing to contrast."""

    def _generate_batches(self) -> None:
        super()._generate_batches()
        self._batches = [b for b in self._batches if len(b) > 1] or self._batches


def batch_sampler(
    dataset: AlignmentSet,
    *,
    batch_size: int,
    max_batch_length: float | None,
    num_buckets: int,
    seed: int,
) -> ContrastiveBatchSampler:
    """SpeechBrain's DynamicBatchSampler over length buckets with equal shares of utterances.

    Args:
        dataset: the training set.
        batch_size: utterances in a batch, at most.
        max_batch_length: padded seconds of speech in a batch, at most; None = no limit.
        num_buckets: 1 mixes all lengths in a batch.
        seed: of the shuffling.
    """
    durations = np.asarray(dataset.manifest.durations, dtype=np.float64)
    edges = np.quantile(durations, np.linspace(0, 1, num_buckets + 1)[1:])
    edges = np.unique(np.maximum(edges, 1e-3))
    limit = max_batch_length or float(edges[-1]) * batch_size * (1 + 1e-6)
    return ContrastiveBatchSampler(
        dataset,
        max_batch_length=limit,
        lengths_list=durations.tolist(),
        bucket_boundaries=edges.tolist(),
        max_batch_ex=batch_size,
        shuffle=True,
        seed=seed,
    )
