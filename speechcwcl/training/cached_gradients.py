"""Contrastive batches of thousands of utterances on one device: cached embedding gradients.

The loss needs all embeddings of a batch at once, the encoder does not. So (1) embed the batch chunk
by chunk without a graph, (2) compute the loss and its gradient with respect to the embeddings, (3)
embed each chunk again, now with a graph, and push its part of that gradient through. The gradient
is that of one big batch; the memory is that of one chunk; the price is one more forward pass.
Randomness (dropout, masks, layer drop) is replayed, so both passes see the same network.

Source: Gao et al., GradCache, arXiv 2101.06983.
"""

from __future__ import annotations

import contextlib
import dataclasses
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from speechcwcl.errors import require
from speechcwcl.training.state import random_states, set_random_states


def split_batch(batch: Any, size: int) -> list[Any]:
    """Cut a batch into chunks of at most `size` items.

    Args:
        batch: a tensor, or a dataclass whose tensors and lists all hold the items along their first
            axis; anything else in it (a flag, say) goes to every chunk.
    """
    if isinstance(batch, Tensor):
        return list(batch.split(size))
    values = {f.name: getattr(batch, f.name) for f in dataclasses.fields(batch)}
    rows = {name: v for name, v in values.items() if isinstance(v, (Tensor, list))}
    counts = {len(value) for value in rows.values()}
    require(len(counts) == 1, f"batch: its parts hold different numbers of items: {sorted(counts)}")
    return [
        dataclasses.replace(batch, **{name: v[lo : lo + size] for name, v in rows.items()})
        for lo in range(0, counts.pop(), size)
    ]


@dataclasses.dataclass
class CachedGradients:
    """Runs forward and backward of a batch in chunks, with the gradient of the whole batch.

    Example (inside a SpeechBrain Brain, in the place of its own `fit_batch`):

        def fit_batch(self, batch):
            return self.cached_gradients.fit_batch(self, batch)
    """

    chunk_size: int  # items embedded at a time
    _warned: bool = dataclasses.field(default=False, init=False)

    def backward(
        self,
        chunks: Sequence[Any],
        embed: Callable[[Any], Tensor],
        loss: Callable[[Tensor], Tensor],
        *,
        to_scaled: Callable[[Tensor], Tensor] = lambda value: value,
        autocast: Callable[[], AbstractContextManager] = contextlib.nullcontext,
        no_sync: Callable[[], AbstractContextManager] = contextlib.nullcontext,
        sync: bool = True,
    ) -> tuple[Tensor, Tensor]:
        """Add the gradient of `loss` over all chunks to the parameters.

        Args:
            embed: one chunk to its embeddings (n, dim).
            loss: the embeddings of all chunks, concatenated, to a 0-d tensor. It may gather over
                ranks and have parameters of its own.
            to_scaled: what is differentiated, given the loss: gradient accumulation, a GradScaler.
            autocast: entered around every `embed` and around `loss`.
            no_sync: entered around what must not make DistributedDataParallel reduce gradients:
                all chunks but the last. Ranks may have different numbers of chunks.
            sync: whether gradients are to be reduced at all (not on an accumulation step).

        Returns:
            The loss and the embeddings (items, dim), both detached.
        """
        quiet = contextlib.nullcontext if sync else no_sync
        states, parts = [], []
        for chunk in chunks:
            states.append(random_states())
            with torch.no_grad(), autocast():
                parts.append(embed(chunk))
        whole = torch.cat(parts)
        # in at least float32, which the gradient is then kept in too
        leaf = whole.to(torch.promote_types(whole.dtype, torch.float32)).requires_grad_()
        with quiet():
            with autocast():
                value = loss(leaf)
            to_scaled(value).backward()
        after = random_states()
        assert leaf.grad is not None
        grads = leaf.grad.split([len(part) for part in parts])
        for index, (chunk, part, grad) in enumerate(zip(chunks, parts, grads, strict=True)):
            set_random_states(states[index])
            with quiet() if index == len(parts) - 1 else no_sync():
                with autocast():
                    again = embed(chunk)
                self._compare(part, again)
                if again.requires_grad:
                    again.backward(grad.to(again.dtype))
        set_random_states(after)
        return value.detach(), leaf.detach()

    def fit_batch(self, brain: Any, batch: Any) -> Tensor:
        """`Brain.fit_batch` with cached gradients, under SpeechBrain's AMP, DDP and accumulation.

        `brain.compute_forward(chunk, stage)` must return embeddings,
        `brain.compute_objectives(embeddings, batch, stage)` the loss of the whole batch.

        Returns:
            The loss, detached, on the CPU.
        """
        from speechbrain import Stage

        should_step = brain.step % brain.grad_accumulation_factor == 0
        brain.on_fit_batch_start(batch, should_step)

        def to_scaled(value: Tensor) -> Tensor:
            scaled = brain.scaler.scale(value / brain.grad_accumulation_factor)
            brain.check_loss_isfinite(scaled)
            return scaled

        value, outputs = self.backward(
            split_batch(batch, self.chunk_size),
            lambda chunk: brain.compute_forward(chunk, Stage.TRAIN),
            lambda embeddings: brain.compute_objectives(embeddings, batch, Stage.TRAIN),
            to_scaled=to_scaled,
            autocast=lambda: brain.training_ctx,
            no_sync=brain.no_sync,
            sync=should_step,
        )
        if should_step:
            brain.optimizers_step()
        brain.on_fit_batch_end(batch, outputs, value, should_step)
        return value.cpu()

    def _compare(self, first: Tensor, again: Tensor) -> None:
        """Warn once where the second pass saw another network than the first."""
        gap = 0.0 if self._warned else float((first.float() - again.detach().float()).abs().max())
        if gap > 0.02:
            self._warned = True
            warnings.warn(
                f"cached gradients: embedding a chunk twice gave embeddings {gap:.2g} apart, so "
                "the gradient is not that of the batch; something draws from a generator of its "
                "own (augmentation inside the model?) or changes state in its forward pass",
                UserWarning,
                stacklevel=3,
            )
