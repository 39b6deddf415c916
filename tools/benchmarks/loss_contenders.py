"""What the benchmark of the losses runs: ours, the rivals, and the products nobody can avoid."""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from speechcwcl.losses import build_loss, cwcl_plain
from speechcwcl.losses.kernel import DEFAULT_MEMORY

SCALE = 20.0
Run = Callable[[], None]


class Case:
    """One pair of embedding matrices and what runs on them."""

    def __init__(self, rows: int, dim: int, device: str, dtype: torch.dtype, chunk: int) -> None:
        generator = torch.Generator().manual_seed(rows + dim)
        text = normalize(torch.randn(rows, dim, generator=generator), dim=1)
        noise = normalize(torch.randn(rows, dim, generator=generator), dim=1)
        self.text = text.to(device, dtype)
        self.speech = normalize(text + noise, dim=1).to(device, dtype).requires_grad_()
        self.chunk = chunk

    def step(self, loss: Callable[[Tensor, Tensor], Tensor]) -> None:
        """Forward and backward."""
        self.speech.grad = None
        loss(self.speech, self.text).backward()

    def floor(self) -> None:
        """Two products, N x N x dim each, in chunks that reuse their memory."""
        _products(self, again=0, target=False)

    def cwcl_floor(self) -> None:
        """The same, what does not fit the kept memory twice, and the cheaper way to the target."""
        rows = len(self.text)
        kept = min(rows, DEFAULT_MEMORY // (4 * rows))
        _products(self, again=rows - kept, target=True)


def _products(case: Case, again: int, target: bool) -> None:
    """The products of one step on matrices, nothing else.

    Args:
        case: the matrices.
        again: how many rows of logits are computed a second time in the backward pass.
        target: whether to add those of linear CWCL's target: `Q Q^T` (N x N x dim), or where
            that is less `Q^T Q` and its product with `Q` (N x dim x dim each).
    """
    speech, text = case.speech.detach(), case.text
    rows, dim = speech.shape
    step = min(case.chunk, rows)
    logits = torch.empty(step, rows, device=text.device, dtype=text.dtype)
    gradient = torch.empty(rows, dim, device=text.device, dtype=text.dtype)
    direct = target and rows < 2 * dim
    if target and not direct:
        torch.mm(text, text.T @ text, out=gradient)
    for lo in range(0, rows, step):
        part = logits[: min(step, rows - lo)]
        for left in [speech, *([text] if direct else []), *([speech] if lo < again else [])]:
            torch.mm(left[lo : lo + step], text.T, out=part)
        torch.mm(part, text, out=gradient[lo : lo + step])


def ours(spec: str) -> Callable[[Case], Run]:
    """Our objective as it is trained with, checks included, the every-tenth-step log left out."""
    loss = build_loss(spec, scale=SCALE, diagnostics_every=0)
    return lambda case: lambda: case.step(lambda p, q: loss(p, q).total)


def _formula(p: Tensor, q: Tensor) -> Tensor:
    """CWCL from its formula, with matrices of all pairs; plus text to speech, as in ours."""
    labels = torch.arange(len(p), device=p.device)
    return cwcl_plain(p, q, SCALE) + cross_entropy(SCALE * q @ p.T, labels)


def plain(case: Case) -> Run:
    """The plain formula, operation by operation."""
    return lambda: case.step(_formula)


def compiled(case: Case) -> Run:
    """The plain formula through torch.compile, which fuses what is not a product."""
    loss = torch.compile(_formula, dynamic=False)
    return lambda: case.step(loss)


def open_clip(case: Case) -> Run:
    """ClipLoss of open_clip."""
    from open_clip.loss import ClipLoss

    loss = ClipLoss(cache_labels=True)
    scale = torch.tensor(SCALE, device=case.text.device, dtype=case.text.dtype)
    return lambda: case.step(lambda p, q: loss(p, q, scale))


_SYMMETRIC = {"directions": ("query_to_doc", "doc_to_query"), "partition_mode": "per_direction"}


def mnrl(case: Case) -> Run:
    """MultipleNegativesRankingLoss of sentence-transformers, both ways, on ready embeddings."""
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
    from sentence_transformers.util import dot_score

    loss = MultipleNegativesRankingLoss(
        torch.nn.Sequential(torch.nn.Identity()),
        scale=SCALE,
        similarity_fct=dot_score,
        **_SYMMETRIC,
    )
    return lambda: case.step(lambda p, q: loss.compute_loss_from_embeddings([p, q], None))


def cached_mnrl(case: Case) -> Run:
    """Its cached (chunked) form."""
    from sentence_transformers.sentence_transformer.losses import (
        CachedMultipleNegativesRankingLoss,
    )
    from sentence_transformers.util import dot_score

    loss = CachedMultipleNegativesRankingLoss(
        torch.nn.Sequential(torch.nn.Identity()),
        scale=SCALE,
        similarity_fct=dot_score,
        mini_batch_size=case.chunk,
        **_SYMMETRIC,
    )

    def run() -> None:
        case.speech.grad = None
        loss.calculate_loss([[case.speech], [case.text]], with_backward=True)

    return run


@dataclass(frozen=True)
class Contender:
    """One row of runs: what makes it, and how much memory it takes.

    Args:
        title: its name in the table.
        make: from a case to what is timed.
        matrices: matrices of N x N that it holds at its peak.
        needs: the package to install, if any.
    """

    title: str
    make: Callable[[Case], Run]
    matrices: float = 0.0
    needs: str | None = None


CONTENDERS = {
    "floor": Contender("floor", lambda case: case.floor),
    "cwcl_floor": Contender("CWCL floor", lambda case: case.cwcl_floor),
    "cwcl": Contender("our CWCL", ours("cwcl")),
    "clip": Contender("our CLIP", ours("clip")),
    "plain": Contender("plain CWCL formula", plain, 5.5),
    "compiled": Contender("torch.compile of it", compiled, 5.5),
    "open_clip": Contender("open_clip ClipLoss", open_clip, 4.5, "open_clip_torch"),
    "mnrl": Contender("s-t MNRL", mnrl, 5.5, "sentence-transformers"),
    "cached_mnrl": Contender("s-t Cached MNRL", cached_mnrl, 0.0, "sentence-transformers"),
}
PACKAGES = sorted({c.needs for c in CONTENDERS.values() if c.needs})


def default_contenders(device: str) -> list[str]:
    """All; on a CPU without torch.compile, which wants a C++ compiler there and gains little."""
    return [name for name in CONTENDERS if name != "compiled" or device.startswith("cuda")]


def installed(names: list[str]) -> list[str]:
    """The contenders whose package is there; says which are left out."""
    found = []
    for name in names:
        contender = CONTENDERS[name]
        try:
            if contender.needs:
                importlib.metadata.version(contender.needs)
            found.append(name)
        except importlib.metadata.PackageNotFoundError:
            print(
                f"{contender.title}: left out, {contender.needs} is not installed", file=sys.stderr
            )
    return found


def check(names: list[str], device: str) -> None:
    """That the contenders compute the same thing, before they are timed."""
    case = Case(256, 64, device, torch.float32, 64)

    def gradient(name: str) -> Tensor:
        CONTENDERS[name].make(case)()
        return case.speech.grad.clone()

    groups = [["cwcl", "plain", "compiled"], ["clip", "open_clip", "mnrl", "cached_mnrl"]]
    for first, *others in groups:
        for other in (o for o in others if o in names and first in names):
            gap = float((gradient(first) - gradient(other)).norm() / gradient(first).norm())
            if gap > 1e-4:
                titles = CONTENDERS[other].title, CONTENDERS[first].title
                raise SystemExit(f"{titles[0]} differs from {titles[1]}: {gap:.2g}")
