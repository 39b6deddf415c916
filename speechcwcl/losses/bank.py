"""Text bank: the speech -> text softmax over every transcript of the training set.

The text encoder is frozen, so the embedding of every unique transcript can be computed once and
never goes stale. Against such a bank the speech -> text term of an utterance does not depend on the
batch it came in: a batch of 8 has the same expected gradient as one of 8,000. For linear weights
the target of every row comes in closed form from `B^T B` and `B^T 1`, computed once per bank.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from speechcwcl.errors import UserError, require
from speechcwcl.losses.inputs import check_embeddings, own_rows, sum_over_ranks
from speechcwcl.losses.kernel import pair_sums, working_dtypes
from speechcwcl.losses.weighting import Weighting

_BLOCK_BYTES = {"cpu": 12 * 2**20, "cuda": 256 * 2**20}


class TextBank:
    """The frozen embeddings of every unique transcript, and what can be computed from them once.

    Args:
        matrix: (M, dim) unit-norm, float32 or float16, each transcript once. It may stay on the
            CPU, or in a memory-mapped file, while the speech is on a GPU: it is read in blocks.

    Examples:
        >>> import torch
        >>> bank = TextBank(torch.nn.functional.normalize(torch.randn(100, 8), dim=1))
        >>> speech = torch.nn.functional.normalize(torch.randn(4, 8), dim=1)
        >>> wanted = torch.logsumexp(20 * speech @ bank.matrix.T, 1)
        >>> torch.allclose(bank.logsumexp(speech, 20.0), wanted)
        True
    """

    def __init__(self, matrix: Tensor) -> None:
        require(isinstance(matrix, Tensor), "bank: expected a (M, dim) tensor")
        require(
            matrix.dim() == 2 and len(matrix) > 1,
            f"bank: expected shape (M, dim) with at least 2 rows, got {tuple(matrix.shape)}",
        )
        self.matrix = matrix.detach()
        for lo in range(0, len(matrix), 65536):
            try:
                check_embeddings("bank", self.matrix[lo : lo + 65536])
            except UserError as error:
                raise UserError(f"{error} (rows counted from {lo})") from None
        self._moments: dict[tuple, tuple[Tensor, Tensor]] = {}

    def __len__(self) -> int:
        return len(self.matrix)

    @property
    def dim(self) -> int:
        """Width of the embeddings."""
        return self.matrix.shape[1]

    def loss(
        self, speech: Tensor, text: Tensor, scale: Tensor | float, weighting: Weighting
    ) -> Tensor:
        """The speech -> text loss over the bank: each rank takes its own rows, sums are added.

        Args:
            speech: (N, dim) unit-norm.
            text: (N, dim) unit-norm, row i the transcript of speech i.
            scale: logit scale.
            weighting: what turns cosines into weights.

        Returns:
            The loss, 0-d: `(1/N) sum_i [ logsumexp_j( s <p_i, b_j> ) - s <p_i, t_i> ]`.
        """
        count, own = len(speech), own_rows(speech)
        if own is not None:
            speech, text = own[0], text[own[1]]
        targets = self.targets(text, weighting)
        lse = self.logsumexp(speech, scale)
        total = lse.sum() - scale * (speech.to(targets.dtype) * targets).sum()
        return (total if own is None else sum_over_ranks(total)) / count

    def logsumexp(self, speech: Tensor, scale: Tensor | float) -> Tensor:
        """`log sum_j exp(s <speech_i, b_j>)` over the whole bank, streamed: (n,)."""
        found, _ = pair_sums(self.matrix, speech, scale, wanted=("columns",), like=speech)
        return found["columns"]

    def blocks(self, like: Tensor, dtype: torch.dtype) -> Iterator[tuple[int, Tensor]]:
        """Yield `(first row, block)` in `dtype` on the device of `like`, cache-sized."""
        size = _BLOCK_BYTES.get(like.device.type, _BLOCK_BYTES["cuda"])
        step = max(64, size // (4 * (self.dim + len(like))))
        for lo in range(0, len(self), step):
            yield lo, self.matrix[lo : lo + step].to(like.device, dtype, non_blocking=True)

    def moments(self, like: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """`B^T B` (dim, dim) and `B^T 1` (dim,), computed once, summed in float64."""
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
        """`t_i = sum_j (w_ij / W_i) b_j` over the bank.

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
        """Targets of `top_k`: the best so far are carried from block to block."""
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
