"""Which texts a clip should be near, and how near: the weights `w_ij` of CWCL.

A weighting turns the cosines of two texts into a weight; a row of weights divided by its sum is the
target distribution `y_i` that the softmax of clip `i` should match. Weights are constants: they
come from the frozen text encoder and no gradient flows through them.

| name | weight of text j for item i (`c = <q_i, q_j>`) | option (default) |
|---|---|---|
| linear | (1 + c) / 2, the paper's | none |
| power | ((1 + c) / 2) ** exponent | exponent (2) |
| softmax | exp(c / temperature) | temperature (0.1) |
| threshold | (1 + c) / 2 where c >= minimum, else 0 | minimum (0.5) |
| top_k | (1 + c) / 2 for the k nearest texts, else 0 | k (10) |
| identity | 1 for its own text, else 0: CLIP / LiT | none |
| same_text | 1 where the transcripts are equal, else 0: SupCon | none |
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from speechcwcl.errors import UserError, closest
from speechcwcl.losses.kernel import DEFAULT_MEMORY, chunk_rows

_OPTIONS: dict[str, tuple[str, float] | None] = {
    "linear": None,
    "power": ("exponent", 2.0),
    "softmax": ("temperature", 0.1),
    "threshold": ("minimum", 0.5),
    "top_k": ("k", 10),
    "identity": None,
    "same_text": None,
}
WEIGHTINGS = tuple(_OPTIONS)


@dataclass(frozen=True)
class Weighting:
    """A named weighting and its one option.

    Args:
        name: one of `WEIGHTINGS`.
        value: the option in the table above; None takes the default.

    Examples:
        >>> Weighting.parse({"softmax": 0.05})
        Weighting(name='softmax', value=0.05)
    """

    name: str = "linear"
    value: Any = None

    def __post_init__(self) -> None:
        if self.name not in _OPTIONS:
            raise UserError(
                f"weighting: no weighting {self.name!r}{closest(str(self.name), _OPTIONS)}; "
                f"choose from {', '.join(_OPTIONS)}"
            )
        option = _OPTIONS[self.name]
        if option is None:
            if self.value is not None:
                raise UserError(f"weighting: {self.name} takes no option (got {self.value!r})")
            return
        value = option[1] if self.value is None else self.value
        object.__setattr__(self, "value", _checked(self.name, option[0], value))

    @classmethod
    def parse(cls, given: str | Mapping | Weighting | None) -> Weighting:
        """Read `"softmax"`, `{"softmax": 0.1}`, `{"softmax": {"temperature": 0.1}}`."""
        if isinstance(given, Weighting):
            return given
        if given is None:
            return cls()
        if isinstance(given, str):
            return cls(given)
        if not isinstance(given, Mapping) or len(given) != 1:
            raise UserError(f"weighting: expected a name or {{name: option}}, got {given!r}")
        ((name, value),) = given.items()
        if isinstance(value, Mapping):
            option = _OPTIONS.get(name)
            if option is None or set(value) != {option[0]}:
                expected = f"{{{option[0]}: number}}" if option else "no option"
                raise UserError(f"weighting: {name} takes {expected}, got {dict(value)!r}")
            value = value[option[0]]
        return cls(str(name), value)

    @property
    def linear(self) -> bool:
        """Whether the closed form applies."""
        return self.name == "linear"

    def of_cosines(self, cosines: Tensor) -> Tensor:
        """Weights of cosines, for the elementwise weightings; overwrites its argument."""
        if self.name == "softmax":
            # Relative to the largest value it can take, 1, which every item's own text has.
            return cosines.sub_(1.0).div_(self.value).exp_()
        near = cosines >= self.value if self.name == "threshold" else None
        weights = cosines.add_(1.0).mul_(0.5).clamp_(min=0.0)
        if self.name == "power":
            return weights.pow_(self.value)
        return weights if near is None else weights.mul_(near)

    def rows(self, cosines: Tensor, own: Tensor, ids: Tensor | None, lo: int) -> Tensor:
        """Weights of a block of rows; overwrites `cosines`.

        Args:
            cosines: (rows, M) between the texts of the rows and all texts.
            own: (rows,) the column of each row's own text.
            ids: (M,) equal where transcripts are equal, or None.
            lo: index of the first row.
        """
        here = torch.arange(len(own), device=own.device)
        if self.name in ("identity", "same_text"):
            weights = cosines.zero_()
            if self.name == "same_text" and ids is not None:
                weights.copy_(ids[lo : lo + len(own), None] == ids[None, :])
            weights[here, own] = 1.0
            return weights
        if self.name == "top_k":
            cosines[here, own] = 2.0  # its own text is always among the nearest
            nearest = cosines.topk(min(int(self.value), cosines.shape[1]), dim=1).indices
            cosines[here, own] = 1.0
            chosen = torch.zeros_like(cosines).scatter_(1, nearest, 1.0)
            return cosines.add_(1.0).mul_(0.5).clamp_(min=0.0).mul_(chosen)
        weights = self.of_cosines(cosines)
        if self.name == "threshold":
            weights[here, own] = 1.0
        return weights


def _checked(name: str, option: str, value: object) -> float:
    """Check one option's value."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise UserError(f"weighting: {name} needs a number for {option}, got {value!r}")
    if name == "top_k" and (value < 1 or int(value) != value):
        raise UserError(f"weighting: top_k needs a whole k of at least 1, got {value!r}")
    if name in ("power", "softmax") and not 0 < value < float("inf"):
        raise UserError(f"weighting: {name} needs a {option} above 0, got {value!r}")
    if name == "threshold" and not -1 <= value <= 1:
        raise UserError(f"weighting: threshold needs a minimum cosine in [-1, 1], got {value!r}")
    return int(value) if name == "top_k" else float(value)


class Targets:
    """The target distributions `Y` (N, N) of a batch.

    There are three ways to them. Linear weights with `N` over `2 dim` use
    `Y = diag(1 / W) (1 1^T + Q Q^T) / 2`: `apply` and `apply_transposed` cost O(N dim^2) and
    `Y` is never formed. Else, if the memory allows it, `matrices` gives `Y`, which joins the
    gradient of the logits in the kernel; that costs the product `Q Q^T` and no other. Else
    `apply` goes through `Y` chunk by chunk of rows.

    Args:
        text: (N, dim) unit-norm, detached.
        weighting: what turns cosines into weights.
        ids: (N,) int64, equal where transcripts are equal; read by `same_text` only.
        chunk: rows at a time; chosen to fit the cache when None.
        memory: bytes that `Y` and the exponentials beside it may take together; where they do not
            fit, `Y` is not formed.

    Examples:
        >>> import torch
        >>> q = torch.nn.functional.normalize(torch.randn(6, 3), dim=1)
        >>> w = (1 + q @ q.T) / 2
        >>> y = w / w.sum(1, keepdim=True)
        >>> torch.allclose(Targets(q, Weighting("linear")).apply(q), y @ q, atol=1e-6)
        True
    """

    def __init__(
        self,
        text: Tensor,
        weighting: Weighting,
        ids: Tensor | None = None,
        chunk: int | None = None,
        memory: int = DEFAULT_MEMORY,
    ) -> None:
        self.source = text
        if text.dtype not in (torch.float32, torch.float64):
            text = text.float()
        self.text, self.weighting, self.ids = text.detach(), weighting, ids
        self.chunk = chunk_rows(text.shape[0], text.dtype, text.device, chunk)
        rows, dim = text.shape
        self.formed = (
            2 * rows * rows * text.element_size() <= memory
            and weighting.name != "identity"
            and not (weighting.linear and rows > 2 * dim)
        )
        self.closed = weighting.linear and rows > dim
        if weighting.linear:
            self.total = self.text.sum(0)
            with torch.autocast(text.device.type, enabled=False):
                self.mass = (self.text @ self.total).add_(rows).div_(2)  # W_i = sum_j w_ij

    def matrices(self, directions: tuple[str, ...]) -> tuple[Tensor, ...]:
        """What `kernel.pair_sums` is to weight the logits with; nothing where `apply` is it.

        Args:
            directions: `rows` (the speech is the anchor), `columns` (the text is), or both.

        Returns:
            One matrix (N, N), rows speech and columns text (the sum of the two for both), or none.
        """
        if not self.formed:
            return ()
        with torch.autocast(self.text.device.type, enabled=False):
            if self.weighting.linear:
                matrix = gram(self.text).add_(1.0).div_(2 * self.mass[:, None])
            else:
                matrix = self.text.new_empty(len(self.text), len(self.text))
                for lo, hi in self._spans():
                    matrix[lo:hi] = self.block(lo, hi)
        if len(directions) == 2:
            return (matrix + matrix.T,)
        return (matrix.T.contiguous() if directions == ("columns",) else matrix,)

    def apply(self, x: Tensor) -> Tensor:
        """`Y x`: (N, dim)."""
        same = x is self.source
        x = x.detach().to(self.text.dtype)
        if self.weighting.name == "identity":
            return x
        if self.closed:
            inner = gram(self.text.T) if same else self.text.T @ x
            total = self.total if same else x.sum(0)
            return torch.addmm(total[None, :], self.text, inner).div_(2 * self.mass[:, None])
        result = torch.empty_like(x)
        for lo, hi in self._spans():
            torch.mm(self.block(lo, hi), x, out=result[lo:hi])
        return result

    def apply_transposed(self, x: Tensor) -> Tensor:
        """`Y^T x`: (N, dim)."""
        x = x.detach().to(self.text.dtype)
        if self.weighting.name == "identity":
            return x
        if self.closed:
            x = x / (2 * self.mass[:, None])
            return torch.addmm(x.sum(0)[None, :], self.text, self.text.T @ x)
        result = torch.zeros_like(x)
        for lo, hi in self._spans():
            result.addmm_(self.block(lo, hi).T, x[lo:hi])
        return result

    def block(self, lo: int, hi: int) -> Tensor:
        """Rows `lo..hi` of `Y`: (hi - lo, N), each summing to 1."""
        cosines = self.text[lo:hi] @ self.text.T
        own = torch.arange(lo, hi, device=self.text.device)
        weights = self.weighting.rows(cosines, own, self.ids, lo)
        return weights.div_(weights.sum(1, keepdim=True))

    def _spans(self) -> list[tuple[int, int]]:
        rows = len(self.text)
        return [(lo, min(lo + self.chunk, rows)) for lo in range(0, rows, self.chunk)]


def matched(speech: Tensor, text: Tensor, targets: Targets, transposed: bool = False) -> Tensor:
    """Mean over items of the cosine that the targets ask for.

    `(1/N) sum_ij y_ij <speech_i, text_j>`, or with `transposed` (the text is the anchor)
    `(1/N) sum_ij y_ij <text_i, speech_j>`. It is linear in each side, so the gradient with
    respect to one side is a constant of the other: no graph is recorded inside the targets.

    Args:
        speech: (N, dim) unit-norm.
        text: (N, dim) unit-norm; its share is computed only if it asks for a gradient.
    """
    forward, backward = targets.apply, targets.apply_transposed
    if transposed:
        forward, backward = backward, forward
    with torch.autocast(speech.device.type, enabled=False):
        wide = targets.text.dtype
        value = (speech.to(wide) * forward(text)).sum()
        if text.requires_grad and torch.is_grad_enabled():
            again = (text.to(wide) * backward(speech)).sum()
            value = value + (again - again.detach())
        return value / len(speech)


def gram(x: Tensor) -> Tensor:
    """`x @ x.T`, on a CPU in quarters of which only those on and above the diagonal are computed.

    That is 10 of 16 products; a GPU is faster with one.

    Examples:
        >>> import torch
        >>> gram(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
        tensor([[ 5., 11.],
                [11., 25.]])
    """
    rows = len(x)
    if x.device.type != "cpu" or rows < 256:
        return x @ x.T
    found = torch.empty(rows, rows, dtype=x.dtype)
    step = (rows + 3) // 4
    for lo in range(0, rows, step):
        hi = min(lo + step, rows)
        torch.mm(x[lo:hi], x[lo:].T, out=found[lo:hi, lo:])
        found[lo:hi, :lo] = found[:lo, lo:hi].T
    return found
