"""The logit scale ``s = 1 / tau``: fixed or learnable, within bounds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from speechcwcl.errors import UserError, closest, require


class LogitScale(nn.Module):
    """A positive scale, stored as its logarithm, kept within ``[minimum, maximum]``.

    The bound acts on the parameter itself, before it is used, as in CLIP: a clamp in the graph
    would have no gradient once the bound is passed, and the scale could never come back.

    Args:
        init: the first value, ``1 / temperature``.
        learnable: whether the optimiser changes it. Keep it out of weight decay, which would pull
            it towards 1.
        minimum: least value of a learnable scale.
        maximum: greatest value of a learnable scale.

    Example:
        >>> scale = LogitScale(init=20.0, learnable=True)
        >>> round(scale().item(), 4)
        20.0
    """

    def __init__(
        self,
        init: float = 20.0,
        learnable: bool = True,
        minimum: float = 1.0,
        maximum: float = 100.0,
    ) -> None:
        super().__init__()
        for name, value in (("init", init), ("minimum", minimum), ("maximum", maximum)):
            good = isinstance(value, (int, float)) and not isinstance(value, bool)
            require(
                good and 0 < value < math.inf,
                f"scale: {name} must be a positive number, got {value!r}",
            )
        require(
            not learnable or minimum <= init <= maximum,
            f"scale: init {init} is outside its bounds [{minimum}, {maximum}]; "
            "change init, minimum or maximum",
        )
        self.minimum, self.maximum, self.learnable = float(minimum), float(maximum), bool(learnable)
        start = torch.tensor(math.log(init))
        if learnable:
            self.log_scale = nn.Parameter(start)
        else:
            self.register_buffer("log_scale", start)

    @classmethod
    def parse(cls, given: Any = None, **defaults: Any) -> LogitScale:
        """Read a number (fixed at it) or ``{init | temperature, learnable, minimum, maximum}``."""
        if isinstance(given, LogitScale):
            return given
        if given is None:
            return cls(**defaults)
        if isinstance(given, (int, float)) and not isinstance(given, bool):
            return cls(init=float(given), learnable=False)
        if not isinstance(given, Mapping):
            raise UserError(f"scale: expected a number or a dictionary, got {given!r}")
        options = {**defaults, **given}
        known = ("init", "temperature", "learnable", "minimum", "maximum")
        for key in options:
            require(
                key in known,
                f"scale: no option {key!r}{closest(str(key), known)}; use {', '.join(known)}",
            )
        if "temperature" in options:
            options["init"] = inverse(options.pop("temperature"))
        return cls(**options)

    def forward(self) -> Tensor:
        """Return the scale as a 0-d float32 tensor."""
        if self.learnable and self.training:
            with torch.no_grad():
                self.log_scale.clamp_(math.log(self.minimum), math.log(self.maximum))
        return self.log_scale.float().exp()

    def extra_repr(self) -> str:
        """Show the value and the bounds."""
        value = f"{float(self.log_scale.detach().exp()):.4g}"
        bounds = f"learnable within [{self.minimum:g}, {self.maximum:g}]"
        return f"{value}, {bounds if self.learnable else 'fixed'}"


def inverse(temperature: Any) -> float:
    """``1 / temperature``, checked."""
    good = isinstance(temperature, (int, float)) and not isinstance(temperature, bool)
    require(
        good and 0 < temperature < math.inf,
        f"temperature: must be a positive number, got {temperature!r}",
    )
    return 1.0 / float(temperature)
