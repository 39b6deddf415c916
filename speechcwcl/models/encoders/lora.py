"""Low-rank updates (LoRA) of single layers, through peft."""

from __future__ import annotations

from typing import Any

from torch import nn

from speechcwcl.errors import UserError, closest

_OPTIONS = {"r": 8, "alpha": 16, "dropout": 0.0, "targets": "linear"}


def check_lora(lora: dict[str, Any], freeze: str | int) -> dict[str, Any]:
    """Fill in the defaults of LoRA options and refuse what cannot be meant.

    Args:
        lora: any of `r` (rank), `alpha` (scale times rank), `dropout` and `targets` (`"linear"`:
            every linear map of a layer, or a list of module names such as `["q_proj", "v_proj"]`).
    """
    for key in lora:
        if key not in _OPTIONS:
            raise UserError(f"lora: no option {key!r}{closest(key, _OPTIONS)}")
    if freeze == "all":
        raise UserError(
            "lora: freeze is 'all', so no layer is left to adapt; use freeze: none or N"
        )
    return {**_OPTIONS, **lora}


def inject_lora(layer: nn.Module, lora: dict[str, Any]) -> None:
    """Put trainable low-rank updates into one layer, in place.

    Raises:
        UserError: peft is not installed, or the layer has no such modules.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise UserError("lora needs peft: pip install 'speechcwcl[lora]'") from error
    linear = [name for name, module in layer.named_modules() if isinstance(module, nn.Linear)]
    targets = lora["targets"]
    if targets == "linear":
        chosen = linear
    else:
        chosen = [name for name in linear if name.rsplit(".", 1)[-1] in targets or name in targets]
    if not chosen:
        names = sorted({name.rsplit(".", 1)[-1] for name in linear})
        raise UserError(f"lora: targets {targets!r} match none of the layer's {', '.join(names)}")
    config = LoraConfig(
        r=lora["r"], lora_alpha=lora["alpha"], lora_dropout=lora["dropout"], target_modules=chosen
    )
    inject_adapter_in_model(config, layer)
