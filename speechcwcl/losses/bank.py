"""Text bank: the speech -> text softmax over every transcript of the training set.

The text encoder is frozen, so the embedding of every unique transcript can be computed once and
never goes stale. Against such a bank the speech -> text term of an utterance does not depend on
the batch it came in: a batch of 8 has the same expected gradient as one of 8,000. For linear
weights the target of every row comes in closed form from ``B^T B`` and ``B^T 1``, computed once
per bank.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from speechcwcl.errors import UserError, require
from speechcwcl.losses.checks import check_embeddings, check_ids
from speechcwcl.losses.products import fits_range, product, working_dtypes
from speechcwcl.losses.weighting import Weighting

_BLOCK_BYTES = {"cpu": 12 * 2**20, "cuda": 256 * 2**20}


class TextBank:
    """The frozen embeddings of every unique transcript, and what can be computed from them once.

    Args:
        matrix: (M, dim) unit-norm, float32 or float16, each transcript once. It may stay on the
            CPU, or in a memory-mapped file, while the speech is on a GPU: it is read in blocks.
        sample: draw so many negatives for each batch instead of reading the whole bank; a term's
            own ``negatives`` goes before it.

    Example:
        >>> import torch
        >>> bank = TextBank(torch.nn.functional.normalize(torch.randn(100, 8), dim=1))
        >>> speech = torch.nn.functional.normalize(torch.randn(4, 8), dim=1)
        >>> wanted = torch.logsumexp(20 * speech @ bank.matrix.T, 1)
        >>> torch.allclose(bank.logsumexp(speech, 20.0), wanted)
        True
    """

    def __init__(self, matrix: Tensor, sample: int | None = None) -> None:
        require(isinstance(matrix, Tensor), "bank: expected a (M, dim) tensor")
        require(
            matrix.dim() == 2 and len(matrix) > 1,
            f"bank: expected shape (M, dim) with at least 2 rows, got {tuple(matrix.shape)}",
        )
        require(
            sample is None
            or (isinstance(sample, int) and not isinstance(sample, bool) and sample >= 2),
            f"bank: sample must be a whole number of at least 2, got {sample!r}",
        )
        self.matrix, self.sample = matrix.detach(), sample
        for lo in range(0, len(matrix), 65536):
            try:
                check_embeddings(bank=self.matrix[lo : lo + 65536])
            except UserError as error:
                raise UserError(f"{error} (rows counted from {lo})") from None
        self._moments: dict[tuple, tuple[Tensor, Tensor]] = {}

    def __len__(self) -> int:
        return len(self.matrix)

    @property
    def dim(self) -> int:
        """Width of the embeddings."""
        return self.matrix.shape[1]

    @classmethod
    def load(cls, path: str | Path) -> TextBank:
        """Open a ``.npy`` file of one (M, dim) matrix, memory-mapped.

        Raises:
            UserError: the file is missing or holds something else.
        """
        try:
            array = np.load(path, mmap_mode="c", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: cannot read a text bank: {error}") from error
        require(
            array.ndim == 2 and array.dtype in (np.float16, np.float32, np.float64),
            f"{path}: a text bank is one (M, dim) floating-point matrix, "
            f"found {array.dtype} {array.shape}",
        )
        return cls(torch.from_numpy(array))

    def save(self, path: str | Path) -> None:
        """Write the matrix as a ``.npy`` file, atomically."""
        from speechcwcl.files import atomic_write

        with atomic_write(path, "wb") as stream:
            np.save(stream, self.matrix.cpu().numpy(), allow_pickle=False)

    def to(self, device: torch.device | str) -> TextBank:
        """The same bank on another device."""
        moved = TextBank.__new__(TextBank)
        moved.matrix, moved.sample, moved._moments = self.matrix.to(device), self.sample, {}
        return moved

    def blocks(
        self, like: Tensor, dtype: torch.dtype, index: Tensor | None = None
    ) -> Iterator[tuple[int, Tensor]]:
        """Yield ``(first row, block)`` in ``dtype`` on the device of ``like``, cache-sized."""
        size = _BLOCK_BYTES.get(like.device.type, _BLOCK_BYTES["cuda"])
        step = max(64, size // (4 * (self.dim + len(like))))
        rows = len(self) if index is None else len(index)
        for lo in range(0, rows, step):
            part = slice(lo, lo + step)
            block = self.matrix[part] if index is None else self.matrix[index[part]]
            yield lo, block.to(device=like.device, dtype=dtype)

    def moments(self, like: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """``B^T B`` (dim, dim) and ``B^T 1`` (dim,), computed once, summed in float64."""
        key = (like.device, dtype)
        if key not in self._moments:
            gram = torch.zeros(self.dim, self.dim, dtype=torch.float64)
            total = torch.zeros(self.dim, dtype=torch.float64)
            for _, block in self.blocks(like, dtype):
                gram += (block.T @ block).cpu().double()
                total += block.sum(0).cpu().double()
            self._moments[key] = (gram.to(like.device, dtype), total.to(like.device, dtype))
        return self._moments[key]

    def targets(self, text: Tensor, weighting: Weighting) -> Tensor:
        """``t_i = sum_j (w_ij / W_i) b_j`` over the bank.

        Args:
            text: (n, dim) unit-norm embeddings of the batch's own transcripts.
            weighting: what turns cosines into weights.

        Returns:
            (n, dim), without gradient.
        """
        wide = working_dtypes(text)[1]
        text = text.detach().to(wide)
        if weighting.name in ("identity", "same_text"):
            return text  # every transcript is in the bank once
        with torch.no_grad(), torch.autocast(text.device.type, enabled=False):
            if weighting.linear:
                gram, total = self.moments(text, wide)
                mass = text @ total + len(self)
                return torch.addmm(total[None, :], text, gram).div_(mass[:, None])
            if weighting.name == "top_k":
                return self._nearest(text, weighting)
            mass = torch.zeros(len(text), dtype=wide, device=text.device)
            mixed = torch.zeros_like(text)
            for _, block in self.blocks(text, wide):
                weights = weighting.of_cosines(text @ block.T)
                mass += weights.sum(1)
                mixed.addmm_(weights, block)
            return mixed.div_(mass[:, None])

    def _nearest(self, text: Tensor, weighting: Weighting) -> Tensor:
        """Targets of ``top_k``: the best so far are carried from block to block."""
        k = min(int(weighting.value), len(self))
        best = text.new_full((len(text), 0), -2.0)
        where = torch.zeros((len(text), 0), dtype=torch.int64, device=text.device)
        for lo, block in self.blocks(text, text.dtype):
            cosines = text @ block.T
            value, index = cosines.topk(min(k, cosines.shape[1]), dim=1)
            value, index = torch.cat([best, value], 1), torch.cat([where, index + lo], 1)
            best, chosen = value.topk(min(k, value.shape[1]), dim=1)
            where = index.gather(1, chosen)
        weights = best.add_(1.0).clamp_(min=0.0)
        weights /= weights.sum(1, keepdim=True)
        rows = self.matrix[where.to(self.matrix.device)].to(text)
        return torch.einsum("nk,nkd->nd", weights, rows)

    def logsumexp(self, speech: Tensor, scale: Tensor | float) -> Tensor:
        """``log sum_j exp(s <speech_i, b_j>)`` over the whole bank, streamed.

        The gradient is formed in the same pass (as the softmax is: unnormalised, divided at the
        end), so forward and backward together cost two products with the bank.

        Args:
            speech: (n, dim) unit-norm.
            scale: logit scale.

        Returns:
            (n,).
        """
        return _stream_rows(speech, scale, len(self), lambda a, t: self.blocks(a, t), None)

    def sampled_logsumexp(
        self,
        speech: Tensor,
        text: Tensor,
        scale: Tensor | float,
        ids: Tensor,
        negatives: int,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """An estimate of ``logsumexp`` from ``negatives`` rows drawn without replacement.

        The own text is always there; the others stand for all ``M - 1`` negatives, so their sum of
        exponentials is multiplied by ``(M - 1) / K_i`` (``K_i`` rows drawn that are not the own
        text; ``log`` of it is added to the logits). That makes the sum unbiased; its logarithm is
        low by about ``variance / (2 mean^2)``, which falls as ``1 / negatives``.

        Args:
            speech: (n, dim) unit-norm.
            text: (n, dim) the batch's own transcripts.
            scale: logit scale.
            ids: (n,) int64, the bank row of each transcript.
            negatives: rows to draw, shared by the batch.
            generator: source of the draw (on the CPU); torch's own when None.

        Returns:
            (n,).
        """
        require(
            isinstance(negatives, int) and negatives >= 2,
            f"negatives: must be a whole number of at least 2, got {negatives!r}",
        )
        if negatives >= len(self):
            return self.logsumexp(speech, scale)
        self.check_rows(text, ids)
        drawn = draw(len(self), negatives, generator)
        own = torch.full((len(self),), -1, dtype=torch.int64)
        own[drawn] = torch.arange(negatives)
        own = own[ids.cpu()].to(speech.device)
        index = drawn.to(self.matrix.device)
        lse = _stream_rows(speech, scale, negatives, lambda a, t: self.blocks(a, t, index), own)
        count = negatives - (own >= 0).to(lse.dtype)
        wide = lse.dtype
        paired = scale * (speech.to(wide) * text.to(wide)).sum(1)
        return torch.logaddexp(paired, lse + torch.log((len(self) - 1) / count))

    def check_rows(self, text: Tensor, ids: Tensor | None) -> None:
        """Refuse ``ids`` that are not the bank rows of ``text``."""
        require(ids is not None, "text_ids: the bank's row of each transcript is needed here")
        check_ids("text_ids", ids, text)
        low, high = int(ids.min()), int(ids.max())
        require(
            low >= 0 and high < len(self),
            f"text_ids: {low if low < 0 else high} is not a row of the bank ({len(self)} rows)",
        )
        rows = self.matrix[ids.to(self.matrix.device)].to(text.device, torch.float32)
        worst = (rows - text.detach().float()).abs().amax(1)
        if bool((worst > 0.02).any()):
            row = int(worst.argmax())
            raise UserError(
                f"text_ids: bank row {int(ids[row])} is not text[{row}]; number the transcripts as "
                "the bank does, and build it with the same text encoder and centring"
            )


def build_text_bank(spec: Any, matrix: Tensor) -> TextBank | None:
    """A text bank from one line of YAML.

    Args:
        spec: ``true`` (every text is a candidate), ``{sample: 4096}`` (so many drawn for each
            batch), or ``false`` or null for none.
        matrix: (M, dim) unit-norm frozen embeddings of the unique transcripts.

    Raises:
        UserError: an unknown option, or a bad value.

    Example:
        >>> import torch
        >>> build_text_bank({"sample": 2}, torch.eye(4)).sample
        2
    """
    if spec is None or spec is False:
        return None
    if spec is True:
        return TextBank(matrix)
    require(
        isinstance(spec, Mapping) and set(spec) == {"sample"},
        f"text_bank: expected true, false or {{sample: number}}, got {spec!r}",
    )
    return TextBank(matrix, sample=spec["sample"])


def draw(size: int, count: int, generator: torch.Generator | None = None) -> Tensor:
    """``count`` different row numbers below ``size``, int64 on the CPU, in O(count) memory."""
    if count * 4 > size:
        return torch.randperm(size, generator=generator)[:count]
    found = torch.empty(0, dtype=torch.int64)
    while len(found) < count:
        more = torch.randint(size, (count + count // 4 + 8,), generator=generator)
        # Unique keeps sorted values: shuffle before cutting, or large numbers would be rarer.
        found = torch.unique(torch.cat([found, more]))
    return found[torch.randperm(len(found), generator=generator)[:count]]


class _StreamRows(torch.autograd.Function):
    """Row log-sum-exp over blocks of frozen rows; value and gradient in one pass."""

    @staticmethod
    def forward(ctx, speech, scale, blocks, own, options):  # noqa: D102
        operand, bounded, graph = options
        factor = float(scale)
        a = speech.to(operand)
        rows = torch.arange(len(a), device=a.device)
        total = torch.zeros_like(speech[:, 0])
        peak = torch.zeros_like(total) if bounded else torch.full_like(total, -math.inf)
        mixed = torch.zeros_like(speech) if graph else None
        for lo, block in blocks(speech, operand):
            values = product(a, block.T, speech.dtype).mul_(factor)
            if own is not None:
                inside = (own >= lo) & (own < lo + len(block))
                values[rows[inside], own[inside] - lo] = -math.inf
            if not bounded:
                higher = torch.maximum(peak, values.amax(1))
                safe = higher.masked_fill(higher == -math.inf, 0.0)
                shrink = torch.exp(peak - safe)
                total *= shrink
                if graph:
                    mixed *= shrink[:, None]
                values -= safe[:, None]
                peak = higher
            values.exp_()
            total += values.sum(1)
            if graph:
                mixed += product(values.to(operand), block, speech.dtype)
        if graph:
            mixed /= total[:, None]
            ctx.save_for_backward(speech, scale, mixed)
        return total.log() + peak

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):  # noqa: D102
        speech, scale, mixed = ctx.saved_tensors
        to_speech = (grad * scale)[:, None] * mixed if ctx.needs_input_grad[0] else None
        to_scale = None
        if ctx.needs_input_grad[1]:
            to_scale = (grad[:, None] * speech * mixed).sum().to(scale.dtype)
        return to_speech, to_scale, None, None, None


def _stream_rows(
    speech: Tensor,
    scale: Tensor | float,
    columns: int,
    blocks: Callable[[Tensor, torch.dtype], Iterator[tuple[int, Tensor]]],
    own: Tensor | None,
) -> Tensor:
    operand, wide = working_dtypes(speech)
    scale = torch.as_tensor(scale, dtype=wide, device=speech.device)
    graph = torch.is_grad_enabled() and (speech.requires_grad or scale.requires_grad)
    # Half-precision exponentials overflow unless they are shifted by the maximum.
    bounded = operand == wide and fits_range(float(scale.detach()), columns, wide)
    with torch.autocast(speech.device.type, enabled=False):
        return _StreamRows.apply(speech.to(wide), scale, blocks, own, (operand, bounded, graph))
