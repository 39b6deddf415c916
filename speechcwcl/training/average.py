"""From checkpoints to the model folder: the best ones, averaged by SpeechBrain."""

from __future__ import annotations

from pathlib import Path

import torch
from speechbrain.utils.checkpoints import Checkpointer, average_checkpoints

from speechcwcl.errors import require
from speechcwcl.files import read_json
from speechcwcl.losses import build_loss
from speechcwcl.training.brain import SpeechSide
from speechcwcl.training.config import TrainConfig
from speechcwcl.training.run import build_aligner


def average_run(expdir: Path, best: int = 1) -> str:
    """Average the ``best`` checkpoints by validation score into ``expdir/model``.

    The learned logit scale of the loss becomes the model's temperature.

    Returns:
        One line that says which epochs were averaged.

    Raises:
        UserError: there is no finished epoch.
    """
    folder = expdir / "checkpoints"
    nothing = f"{folder}: no checkpoint of a finished epoch; train first"
    require(folder.is_dir(), nothing)  # SpeechBrain would make it
    checkpointer = Checkpointer(str(folder))
    found = checkpointer.find_checkpoints(max_key="score", max_num_checkpoints=best)
    require(bool(found), nothing)
    config = TrainConfig(**read_json(expdir / "hparams.json"))
    aligner = build_aligner(config)
    side = SpeechSide(aligner, config.feature_mask)
    side.load_state_dict(without_ddp(average_checkpoints(found, "speech")), strict=True)
    objective = build_loss(config.loss, **config.loss_options)
    objective.load_state_dict(without_ddp(average_checkpoints(found, "objective")), strict=True)
    if objective.scale is not None:
        aligner.set_logit_scale(objective.scale().item())
    epochs = sorted(c.meta["epoch"] for c in found)
    score = max(c.meta["score"] for c in found)
    info = {"epochs": epochs, "validation_score": score, "loss": config.loss}
    aligner.eval().save_pretrained(expdir / "model", info=info)
    return (
        f"{expdir / 'model'}: mean of {len(found)} checkpoint(s), epochs "
        f"{', '.join(map(str, epochs))}, validation score {score:.4f}"
    )


def without_ddp(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """State names as they were before DistributedDataParallel wrapped the module."""
    return {name.removeprefix("module."): value for name, value in state.items()}
