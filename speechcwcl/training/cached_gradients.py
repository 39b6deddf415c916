"""Contrastive batches of thousands of utterances on one device: cached embedding gradients.

The loss needs all embeddings of a batch at once, the encoder does not. So (1) embed the batch
chunk by chunk without a graph, (2) compute the loss and its gradient with respect to the
embeddings, (3) embed each chunk again, now with a graph, and push its part of that gradient
through. The gradient is that of one big batch; the memory is that of one chunk; the price is one
more forward pass. Randomness (dropout, masks, layer drop) is replayed, so both passes see the same
network.

Source: Gao et al., GradCache, arXiv 2101.06983.
"""

from __future__ import annotations

import contextlib
import dataclasses
import random
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from speechcwcl.errors import require

Embeddings = Tensor | tuple[Tensor, ...]


class _Randomness:
    """The states of the generators that encoders draw from.

    NumPy and Python are among them: transformers draws the time masks of wav2vec2-like models from
    NumPy.
    """

    def __init__(self) -> None:
        self.python, self.numpy = random.getstate(), np.random.get_state()
        self.cpu = torch.get_rng_state()
        gpu = torch.cuda.is_available() and torch.cuda.is_initialized()
        self.gpus = torch.cuda.get_rng_state_all() if gpu else None

    def restore(self) -> None:
        random.setstate(self.python)
        np.random.set_state(self.numpy)
        torch.set_rng_state(self.cpu)
        if self.gpus is not None:
            torch.cuda.set_rng_state_all(self.gpus)


def split_batch(batch: Any, size: int) -> list[Any]:
    """Cut a batch into chunks of at most ``size`` items.

    Args:
        batch: a tensor, or a tuple, list, dictionary or dataclass that holds tensors or lists, all
            with the items along their first axis; anything else in it (a flag, say) goes to every
            chunk.
        size: items in a chunk.

    Example:
        >>> batch = {"wav": torch.zeros(5, 8), "clean": True}
        >>> [len(chunk["wav"]) for chunk in split_batch(batch, 2)]
        [2, 2, 1]
    """
    count = _items(batch)
    require(count is not None, f"batch: cannot be cut into chunks: {type(batch).__name__}")
    return [_part(batch, lo, lo + size) for lo in range(0, count, size)]


def _members(batch: Any) -> list[Any]:
    if isinstance(batch, Mapping):
        return list(batch.values())
    if dataclasses.is_dataclass(batch):
        return [getattr(batch, f.name) for f in dataclasses.fields(batch)]
    return list(batch) if isinstance(batch, tuple) else []


def _items(batch: Any) -> int | None:
    if isinstance(batch, Tensor):
        return len(batch) if batch.dim() else None
    if isinstance(batch, list):
        return len(batch)
    counts = {n for n in map(_items, _members(batch)) if n is not None}
    require(len(counts) < 2, f"batch: its parts hold different numbers of items: {sorted(counts)}")
    return counts.pop() if counts else None


def _part(batch: Any, lo: int, hi: int) -> Any:
    if isinstance(batch, list) or (isinstance(batch, Tensor) and batch.dim()):
        return batch[lo:hi]
    if isinstance(batch, Mapping):
        return {key: _part(value, lo, hi) for key, value in batch.items()}
    if dataclasses.is_dataclass(batch):
        fields = [f.name for f in dataclasses.fields(batch)]
        return dataclasses.replace(batch, **{n: _part(getattr(batch, n), lo, hi) for n in fields})
    if isinstance(batch, tuple):
        return tuple(_part(value, lo, hi) for value in batch)
    return batch


class CachedGradients:
    """Runs forward and backward of a batch in chunks, with the gradient of the whole batch.

    Args:
        chunk_size: items embedded at a time.
        split: ``(batch, chunk_size) -> chunks``, where ``split_batch`` does not fit the batch's
            type.

    Example (inside a SpeechBrain Brain, in the place of its own ``fit_batch``)::

        def fit_batch(self, batch):
            return self.cached_gradients.fit_batch(self, batch)
    """

    def __init__(
        self, chunk_size: int, split: Callable[[Any, int], Sequence[Any]] = split_batch
    ) -> None:
        require(
            isinstance(chunk_size, int) and not isinstance(chunk_size, bool) and chunk_size > 0,
            f"chunk_size: must be a whole number above 0, got {chunk_size!r}",
        )
        self.chunk_size, self.split = chunk_size, split
        self._warned = False

    def backward(
        self,
        chunks: Sequence[Any],
        embed: Callable[[Any], Embeddings],
        loss: Callable[..., Tensor],
        *,
        to_scaled: Callable[[Tensor], Tensor] = lambda value: value,
        autocast: Callable[[], AbstractContextManager] = contextlib.nullcontext,
        no_sync: Callable[[], AbstractContextManager] = contextlib.nullcontext,
        sync: bool = True,
    ) -> tuple[Tensor, Embeddings]:
        """Add the gradient of ``loss`` over all chunks to the parameters.

        Args:
            chunks: the batch in parts.
            embed: one chunk to its embeddings (n, dim), or a tuple of such.
            loss: the embeddings of all chunks, concatenated, to a 0-d tensor. It may gather over
                ranks and have parameters of its own.
            to_scaled: what is differentiated, given the loss: gradient accumulation, a GradScaler.
            autocast: entered around every ``embed`` and around ``loss``.
            no_sync: entered around what must not make DistributedDataParallel reduce gradients:
                all chunks but the last. Ranks may have different numbers of chunks.
            sync: whether gradients are to be reduced at all (not on an accumulation step).

        Returns:
            The loss and the embeddings, both detached.
        """
        quiet = contextlib.nullcontext if sync else no_sync
        states, parts = [], []
        for chunk in chunks:
            states.append(_Randomness())
            with torch.no_grad(), autocast():
                parts.append(_as_tuple(embed(chunk)))
        leaves = tuple(_leaf(column) for column in zip(*parts, strict=True))
        with quiet():
            with autocast():
                value = loss(*leaves)
            to_scaled(value).backward()
        after = _Randomness()
        start = 0
        for index, (chunk, state, part) in enumerate(zip(chunks, states, parts, strict=True)):
            stop = start + len(part[0])
            state.restore()
            with quiet() if index == len(parts) - 1 else no_sync():
                with autocast():
                    again = _as_tuple(embed(chunk))
                self._compare(part, again)
                _push(again, [leaf.grad for leaf in leaves], start, stop)
            start = stop
        after.restore()
        found = tuple(leaf.detach() for leaf in leaves)
        return value.detach(), found if len(found) > 1 else found[0]

    def fit_batch(self, brain: Any, batch: Any) -> Tensor:
        """``Brain.fit_batch`` with cached gradients, under SpeechBrain's AMP, DDP and accumulation.

        ``brain.compute_forward(chunk, stage)`` must return embeddings,
        ``brain.compute_objectives(embeddings, batch, stage)`` the loss of the whole batch.

        Args:
            brain: a ``speechbrain.Brain``.
            batch: one batch.

        Returns:
            The loss, detached, on the CPU.
        """
        from speechbrain import Stage

        should_step = brain.step % brain.grad_accumulation_factor == 0
        brain.on_fit_batch_start(batch, should_step)

        def loss(*embeddings: Tensor) -> Tensor:
            whole = embeddings if len(embeddings) > 1 else embeddings[0]
            return brain.compute_objectives(whole, batch, Stage.TRAIN)

        def to_scaled(value: Tensor) -> Tensor:
            scaled = brain.scaler.scale(value / brain.grad_accumulation_factor)
            brain.check_loss_isfinite(scaled)
            return scaled

        value, outputs = self.backward(
            self.split(batch, self.chunk_size),
            lambda chunk: brain.compute_forward(chunk, Stage.TRAIN),
            loss,
            to_scaled=to_scaled,
            autocast=lambda: brain.training_ctx,
            no_sync=brain.no_sync,
            sync=should_step,
        )
        if should_step:
            brain.optimizers_step()
        brain.on_fit_batch_end(batch, outputs, value, should_step)
        return value.cpu()

    def _compare(self, first: tuple[Tensor, ...], again: tuple[Tensor, ...]) -> None:
        """Warn once where the second pass saw another network than the first."""
        if self._warned:
            return
        for old, new in zip(first, again, strict=True):
            gap = float((old.float() - new.detach().float()).abs().max())
            if gap > 0.02:
                self._warned = True
                warnings.warn(
                    f"cached gradients: embedding a chunk twice gave embeddings {gap:.2g} apart, "
                    "so the gradient is not that of the batch; something draws from a generator of "
                    "its own (augmentation inside the model?) or changes state in its forward pass",
                    UserWarning,
                    stacklevel=3,
                )


def _as_tuple(value: Embeddings) -> tuple[Tensor, ...]:
    return value if isinstance(value, tuple) else (value,)


def _leaf(parts: tuple[Tensor, ...]) -> Tensor:
    """All chunks in one, in at least float32, which their gradient is then kept in too."""
    whole = torch.cat(parts).detach()
    return whole.to(torch.promote_types(whole.dtype, torch.float32)).requires_grad_()


def _push(
    embeddings: tuple[Tensor, ...], grads: list[Tensor | None], start: int, stop: int
) -> None:
    """Push rows ``start..stop`` of the cached gradients through a chunk's graph."""
    pairs = [
        (e, g[start:stop].to(e.dtype))
        for e, g in zip(embeddings, grads, strict=True)
        if e.requires_grad and g is not None
    ]
    if pairs:
        torch.autograd.backward([e for e, _ in pairs], [g for _, g in pairs])
