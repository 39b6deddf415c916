"""The training loop: SpeechBrain's Brain with a contrastive objective across the whole batch."""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import speechbrain as sb
import torch
from speechbrain.augment.freq_domain import SpectrogramDrop
from speechbrain.utils.checkpoints import mark_as_loader, mark_as_saver, register_checkpoint_hooks
from torch import nn

from speechcwcl.errors import UserError
from speechcwcl.files import atomic_write
from speechcwcl.losses import ContrastiveObjective, LogitScale, LossOutput
from speechcwcl.models.aligner import Aligner
from speechcwcl.models.encoders.frames import by_length
from speechcwcl.training.cached_gradients import CachedGradients
from speechcwcl.training.config import Masks, TrainConfig
from speechcwcl.training.dataset import Batch, TrainingData, check_texts
from speechcwcl.training.state import RandomState

# what the one line an epoch shows, beside the validation scores
SHOWN = {"loss", "cwcl", "cl", "clip", "cosine", "accuracy"}


class SpeechSide(nn.Module):
    """The trained half as one module with a `forward`, which is what DDP can wrap."""

    def __init__(self, aligner: Aligner, masks: Masks | None = None) -> None:
        super().__init__()
        self.aligner = aligner
        self.masks = nn.ModuleList(feature_masks(masks))

    def forward(self, inputs: torch.Tensor, lengths: torch.Tensor, cached: bool) -> torch.Tensor:
        """Embed a batch: `(batch, dim)`, unit-norm; in training, each of several outputs."""
        encoder = self.aligner.speech_encoder
        if not cached and self.training and len(self.masks) and encoder.cacheable:
            inputs, lengths = encoder.frozen_features(inputs, lengths)
            cached = True
        if cached and self.training and len(self.masks):
            batch, frames, layers, dim = inputs.shape
            flat = inputs.reshape(batch, frames, layers * dim)
            for mask in self.masks:
                flat = mask(flat)
            inputs = flat.reshape(batch, frames, layers, dim)
        embed = self.aligner.embed_features if cached else self.aligner.embed_speech
        return by_length(partial(embed, apart=self.training), inputs, lengths)


class OutputLosses(nn.Module):
    """A loss for each output of a head that has several; their sum.

    Args:
        losses: of [`build_loss`][speechcwcl.losses.build_loss], the first output's first.
    """

    def __init__(self, losses: Sequence[ContrastiveObjective]) -> None:
        super().__init__()
        self.losses = nn.ModuleList(losses)

    @property
    def scale(self) -> LogitScale | None:
        """The logit scale of the first."""
        return cast(ContrastiveObjective, self.losses[0]).scale

    def forward(self, speech: torch.Tensor, text: torch.Tensor, **given: Any) -> LossOutput:
        """Add up; terms and diagnostics of the second output end in `_2`.

        Args:
            speech: (N, outputs, dim) unit-norm.
            text: (N, dim) unit-norm.
            **given: see [`ContrastiveObjective`][speechcwcl.losses.ContrastiveObjective].
        """
        total = torch.zeros((), device=speech.device)
        terms: dict[str, torch.Tensor] = {}
        values: dict[str, float] = {}
        for index, loss in enumerate(self.losses):
            out, end = loss(speech[:, index], text, **given), f"_{index + 1}" if index else ""
            total = total + out.total
            terms |= {name + end: value for name, value in out.terms.items()}
            values |= {name + end: value for name, value in out.diagnostics.items()}
        return LossOutput(total, terms, values, out.fresh)


def feature_masks(masks: Masks | None) -> list[nn.Module]:
    """SpecAugment-like masks on features."""
    axes = {"time": 1, "dim": 2}
    return [
        SpectrogramDrop(
            drop_length_low=1,
            drop_length_high=mask.width + 1,
            drop_count_low=0,
            drop_count_high=mask.count,
            replace="zeros",
            dim=axes[axis],
        )
        for axis, mask in (masks or {}).items()
    ]


class AlignBrain(sb.Brain):
    """Aligns the speech side to frozen text embeddings.

    Args:
        data: the training set: frozen text embeddings, text bank, steps of one epoch.
        validate: called at the end of an epoch with the aligner; returns named scores, of which
            `score` (higher is better) chooses the checkpoints to keep.
    """

    def __init__(
        self,
        aligner: Aligner,
        objective: nn.Module,
        data: TrainingData,
        *,
        config: TrainConfig,
        expdir: Path,
        validate: Callable[[Aligner], dict[str, float]],
        run_opts: dict[str, Any] | None = None,
        checkpointer: Any = None,
    ) -> None:
        modules = {"speech": SpeechSide(aligner, config.feature_mask), "objective": objective}
        # hparams, though empty: SpeechBrain looks into them when there are several processes
        super().__init__(modules=modules, hparams={}, run_opts=run_opts, checkpointer=checkpointer)
        self.aligner, self.config, self.expdir = aligner, config, Path(expdir)
        self.data = data
        self.total_steps = max(1, data.steps_per_epoch * config.epochs)
        self.validate = validate
        self.means = RunningMeans()
        self.started, self.epochs_run = time.monotonic(), 0
        self.cached_gradients = (
            CachedGradients(chunk_size=config.grad_cache_chunk) if config.grad_cache_chunk else None
        )
        if checkpointer is not None:
            checkpointer.add_recoverables(
                {"speech": self.modules["speech"], "objective": self.modules["objective"]}
            )
            checkpointer.add_recoverables({"random": RandomState(), "means": self.means})

    # ---- one step
    def compute_forward(self, batch: Batch, stage: sb.Stage) -> torch.Tensor:
        """`(batch, dim)` unit-norm speech embeddings."""
        batch = batch.to(self.device)
        return self.modules["speech"](batch.inputs, batch.lengths, batch.cached)

    def compute_objectives(
        self, predictions: torch.Tensor, batch: Batch, stage: sb.Stage
    ) -> torch.Tensor:
        """The total loss over the batches of all ranks; its parts go to the running means."""
        out = self.modules["objective"](
            predictions.float(),
            self.data.texts(batch, self.device),
            text_ids=batch.rows,
            bank=self.data.bank,
            step=self.step - 1,
        )
        if stage == sb.Stage.TRAIN:
            self.means.add({"loss": out.total, **out.terms})
            self.means.add(out.diagnostics if out.fresh else {})
        return out.total

    def fit_batch(self, batch: Batch | UserError) -> torch.Tensor:
        """One step; with cached gradients when the configuration asks for them.

        Raises:
            UserError: a clip of the batch could not be loaded; the first texts are all the same.
        """
        if isinstance(batch, UserError):
            raise batch
        if batch.texts and not self.optimizer_step:  # of a stream; a manifest is looked at before
            check_texts(Counter(batch.texts), "the first batch")
        if self.cached_gradients is not None:
            return self.cached_gradients.fit_batch(self, batch)
        return super().fit_batch(batch)

    def check_loss_isfinite(self, loss: torch.Tensor) -> None:
        """End the training before a loss that is no number reaches the weights."""
        if not torch.isfinite(loss):
            raise UserError(
                f"epoch {self.train_dataset.epoch}, batch {self.step}: the loss is {float(loss)}; "
                "look at the audio, the learning rate and, in half precision, gradient scaling"
            )

    def on_fit_batch_start(self, batch: Batch, should_step: bool) -> None:
        """Set the learning rate from the number of steps made: nothing to save, nothing to lose.

        Random generators likewise on all ranks but the first, whose states are in checkpoints.
        """
        if rank := sb.utils.distributed.get_rank() or 0:
            place = (self.config.seed, rank, self.train_dataset.epoch, self.step)
            torch.manual_seed(int(np.random.SeedSequence(place).generate_state(1)[0]))
        factor = lr_factor(
            self.optimizer_step, self.total_steps, self.config.warmup, self.config.schedule
        )
        for optimizer in self.optimizers_dict.values():
            for group in optimizer.param_groups:
                group["lr"] = group["base_lr"] * factor

    def init_optimizers(self) -> None:
        """AdamW; one optimizer for each of (head, speech encoder) x (decayed, not decayed).

        SpeechBrain clips the gradient of the first parameter group of an optimizer only, so every
        group gets an optimizer of its own.
        """
        config = self.config
        encoder = {id(p) for p in self.aligner.speech_encoder.parameters()}
        parts: dict[str, list[nn.Parameter]] = {}
        for parameter in self.modules.parameters():
            if parameter.requires_grad:
                part = "encoder" if id(parameter) in encoder else "head"
                decay = "decay" if parameter.ndim >= 2 else "plain"
                parts.setdefault(f"{part}_{decay}", []).append(parameter)
        self.optimizers_dict = {}
        for name, parameters in parts.items():
            lr = config.lr
            if name.startswith("encoder") and config.encoder_lr is not None:
                lr = config.encoder_lr
            weight_decay = config.weight_decay if name.endswith("_decay") else 0.0
            group = {"params": parameters, "lr": lr, "base_lr": lr}
            self.optimizers_dict[name] = torch.optim.AdamW(
                [group], lr=lr, betas=(config.betas[0], config.betas[1]), weight_decay=weight_decay
            )
        if self.checkpointer is not None:
            self.checkpointer.add_recoverables(
                {f"optimizer_{name}": opt for name, opt in self.optimizers_dict.items()}
            )

    # ---- epochs
    def on_stage_start(self, stage: sb.Stage, epoch: int | None = None) -> None:
        """Tell the training set the epoch, which chooses copies and augmentation."""
        if stage == sb.Stage.TRAIN:
            self.started = time.monotonic()
            self.train_dataset.epoch = epoch
            self.epochs_run += 1

    def on_stage_end(self, stage: sb.Stage, stage_loss: float, epoch: int | None = None) -> None:
        """After an epoch: validate, log, save the checkpoint."""
        if stage != sb.Stage.TRAIN:
            return
        train = self.means.take()
        seconds = time.monotonic() - self.started
        self.modules.eval()
        valid = self.validate(self.aligner)
        if sb.utils.distributed.if_main_process():
            line = {
                "epoch": epoch,
                "step": self.optimizer_step,
                "lr": next(iter(self.optimizers_dict.values())).param_groups[0]["lr"],
                "seconds": round(seconds, 2),
                "train": {k: round(v, 6) for k, v in train.items()},
                "valid": {k: round(v, 6) for k, v in valid.items()},
            }
            append_metrics(self.expdir / "metrics.jsonl", line)
            shown = "  ".join(
                f"{k} {v:.3f}" for k, v in (train | valid).items() if k in SHOWN or k in valid
            )
            print(f"epoch {epoch}: {shown}  ({seconds:.1f} s)", flush=True)
        if self.checkpointer is not None:
            # The step counters must read as after the epoch, or a resumed run would skip batches.
            self.step, self.avg_train_loss = 0, 0.0
            self.data.before_checkpoint()
            self.checkpointer.save_and_keep_only(
                meta={"score": valid["score"], "epoch": epoch},
                max_keys=["score"],
                num_to_keep=self.config.keep_checkpoints,
                verbosity=10,
            )

    def _save_intra_epoch_ckpt(self) -> None:
        self.data.before_checkpoint()
        super()._save_intra_epoch_ckpt()


@register_checkpoint_hooks
class RunningMeans:
    """Means of named numbers over the steps of an epoch; kept in checkpoints within an epoch."""

    def __init__(self) -> None:
        self.sums: dict[str, Any] = {}
        self.counts: dict[str, int] = {}

    def add(self, values: dict[str, Any]) -> None:
        """Count one step's values in; those on a GPU stay there until the means are asked for."""
        for name, value in values.items():
            if isinstance(value, torch.Tensor):
                value = value.detach().double()
            self.sums[name] = self.sums.get(name, 0.0) + value
            self.counts[name] = self.counts.get(name, 0) + 1

    def take(self) -> dict[str, float]:
        """The means so far, and start anew."""
        means = {name: float(total) / self.counts[name] for name, total in self.sums.items()}
        self.sums, self.counts = {}, {}
        return means

    @mark_as_saver
    def save(self, path: str | Path) -> None:
        """Write sums and counts."""
        sums = {name: float(total) for name, total in self.sums.items()}
        torch.save({"sums": sums, "counts": self.counts}, path)

    @mark_as_loader
    def load(self, path: str | Path, end_of_epoch: bool) -> None:
        """Read them back; a finished epoch leaves nothing to go on with."""
        if not end_of_epoch:
            state = torch.load(path, weights_only=True)
            self.sums = state["sums"]
            self.counts = state["counts"]


def lr_factor(step: int, total: int, warmup: float, schedule: str) -> float:
    """Linear warm-up over `warmup * total` steps, then cosine, linear or constant."""
    ramp = max(1, round(warmup * total))
    if step < ramp:
        return (step + 1) / ramp
    done = min(1.0, (step - ramp) / max(1, total - ramp))
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * done))
    return 1 - done if schedule == "linear" else 1.0


def append_metrics(path: Path, line: dict[str, Any]) -> None:
    """Put one epoch's numbers into metrics.jsonl, in place of those of the same or later epochs.

    A run that was killed after writing the line but before its checkpoint comes here twice.
    """
    kept = []
    if path.exists():
        for text in path.read_text(encoding="utf-8").splitlines():
            if text.strip() and json.loads(text)["epoch"] < line["epoch"]:
                kept.append(text)
    with atomic_write(path) as stream:
        stream.write("\n".join([*kept, json.dumps(line)]) + "\n")
