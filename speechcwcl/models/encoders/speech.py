"""Speech encoders: any supported transformers model, frozen up to any layer, batch-invariant."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from speechcwcl.errors import UserError, require
from speechcwcl.files import sha256_json
from speechcwcl.models.encoders.families import SAMPLE_RATE, Family, network_hash, open_family
from speechcwcl.models.encoders.frames import LayerMix, Windows, stride_mean, zero_beyond
from speechcwcl.models.encoders.lora import check_lora, inject_lora
from speechcwcl.models.weights.sources import resolve

# Raise when the numbers that frozen_features gives change, so that old caches are not used.
_FEATURE_VERSION = 1


class SpeechEncoder(nn.Module):
    """A pretrained speech encoder between waveforms and frames.

    Hidden states are numbered as in transformers: 0 is the front end's output, `i` the output of
    layer `i`, and the top one has the final norm applied. Layer drop and transformers' own
    masking are off; dropout works in the layers that are trained.

    Args:
        family: the model, cut into front end, layers and final norm.
        freeze: `"all"`; `"none"`; or N: the front end and the N lowest layers.
        layers: `"last"`: the top hidden state; `"mix"`: all of them, each normalised to zero
            mean and unit variance, in a learned weighted sum; a list: a mix of those.
        combine: `"mix"` or `"concat"` (side by side) for more than one layer.
        frame_stride: mean over that many frames, after the encoder.
        silence: seconds of digital silence before and after every clip while it is encoded (one
            number, or two); its frames are not given out. `None`: what suits the family.
        gradient_checkpointing: recompute the trained layers in the backward pass.
        lora: `None` or options of `speechcwcl.models.encoders.lora.check_lora`; the layers
            above the frozen ones then keep their weights and learn low-rank updates.
        source_hash: hash of the pretrained weights; computed when `None`.
    """

    def __init__(
        self,
        family: Family,
        *,
        freeze: str | int = "all",
        layers: str | Sequence[int] = "last",
        combine: str = "mix",
        frame_stride: int = 1,
        silence: float | Sequence[float] | None = None,
        gradient_checkpointing: bool = False,
        lora: dict[str, Any] | None = None,
        source: str = "",
        source_hash: str | None = None,
    ):
        super().__init__()
        self.family = family
        self.model = family.model
        self.source = source
        self.hash = source_hash or network_hash(family)
        self.depth = len(family.layers)
        whole = isinstance(frame_stride, int) and not isinstance(frame_stride, bool)
        require(
            whole and frame_stride >= 1,
            f"frame_stride: {frame_stride!r} is not a whole number from 1",
        )
        self.frame_stride = frame_stride
        self._silence = _silence_frames(silence, family)
        self.gradient_checkpointing = bool(gradient_checkpointing)
        self.freeze = freeze
        self.combine = combine
        self.lora = check_lora(lora, freeze) if lora else None
        self._wanted = _wanted_states(layers, self.depth)
        self.layers = layers if isinstance(layers, str) else list(layers)
        self._top = max(self._wanted)
        self._cut = _cut_layer(freeze, self.depth, self._top, bool(lora))
        if combine not in ("mix", "concat"):
            raise UserError(f"combine: {combine!r} is neither 'mix' nor 'concat'")
        many = len(self._wanted) > 1
        self.mix = LayerMix(len(self._wanted)) if many and combine == "mix" else None
        self.dim = family.dim * (len(self._wanted) if combine == "concat" else 1)
        self.frame_rate = SAMPLE_RATE / family.hop / self.frame_stride
        self._set_trainable()
        self.train(self.training)

    @classmethod
    def from_pretrained(cls, source: str | os.PathLike, **options: Any) -> SpeechEncoder:
        """Load a pretrained encoder.

        Args:
            source: a transformers folder, one of our names (`speechcwcl fetch`) or a hub id.

        Raises:
            UserError: no such model, not a speech encoder, broken weights, a wrong option.
        """
        name = os.fspath(source)
        return cls(open_family(resolve(source), name), source=name, **options)

    # -- what is trained ----------------------------------------------------------------------

    @property
    def cut(self) -> str:
        """What [`frozen_features`][] gives, in words; empty when nothing is frozen."""
        if self._cut is None:
            return ""
        stride = self.frame_stride if self._cut == "top" else 1
        normalise = self.family.feature_config.get("do_normalize", "default")
        return (
            f"v{_FEATURE_VERSION} below {self._cut}, states {self._cached_states()}, "
            f"stride {stride}, silence {self._silence}, normalise {normalise}"
        )

    @property
    def cacheable(self) -> bool:
        """Whether anything is frozen, so that [`frozen_features`][] may be cached."""
        return self._cut is not None

    @property
    def cache_key(self) -> str:
        """Hash of all that [`frozen_features`][] depends on besides the audio."""
        return sha256_json([self.hash, self.cut])

    @property
    def silence_samples(self) -> tuple[int, int]:
        """Samples of silence before and after a clip while it is encoded."""
        before, after = self._silence
        return before * self.family.hop, after * self.family.hop

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    def _cached_states(self) -> list[int]:
        if self._cut == "top":
            return [-1] if self.layers == "last" else self._wanted
        if self._cut is None:
            return []
        return [index for index in self._wanted if index < self._cut] + [self._cut]

    def _trained_modules(self) -> list[nn.Module]:
        if self._cut == "top":
            return []
        if self._cut is None:
            return [self.model]
        kept = list(self.family.layers[self._cut : self._top])
        return kept + (self.family.final_modules if self._top == self.depth else [])

    def _set_trainable(self) -> None:
        # Sinusoids, and what only transformers' own masking uses.
        unused = {id(p) for n, p in self.model.named_parameters() if n == "masked_spec_embed"}
        fixed = unused | {id(p) for p in self.model.parameters() if not p.requires_grad}
        self.model.requires_grad_(False)
        if self.lora:
            for layer in self.family.layers[self._cut : self._top]:
                inject_lora(layer, self.lora)
            return
        for module in self._trained_modules():
            for parameter in module.parameters():
                parameter.requires_grad_(id(parameter) not in fixed)
        for layer in self.family.layers[self._top :]:  # not on the way to any wanted state
            layer.requires_grad_(False)
        if self._top < self.depth:
            for module in self.family.final_modules:
                module.requires_grad_(False)

    def train(self, mode: bool = True) -> SpeechEncoder:
        """Set training mode for what is trained; what is frozen stays in evaluation mode."""
        super().train(mode)
        self.model.eval()
        for module in self._trained_modules():
            module.train(mode)
        for module in self.model.modules():
            if isinstance(module, nn.BatchNorm1d):  # its statistics would take in the padding
                module.eval()
        return self

    # -- computing ------------------------------------------------------------------------------

    def forward(self, wav: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Encode waveforms.

        Args:
            wav: (batch, samples) float32 at 16 kHz, zero-padded.
            lengths: (batch,) in samples.

        Returns:
            (batch, frames, dim), zero beyond the lengths, and (batch,) lengths in frames.
        """
        if self.cacheable:
            return self.from_features(*self.frozen_features(wav, lengths))
        hidden, frame_lengths = self._front(wav, lengths)
        return self._upper(hidden, frame_lengths, {}, 0)

    @torch.no_grad()
    def frozen_features(self, wav: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Everything below the cut: what a feature cache holds.

        Args:
            wav: (batch, samples) float32 at 16 kHz, zero-padded.
            lengths: (batch,) in samples.

        Returns:
            (batch, frames, states, width) float32 and (batch,) frame lengths; `states` are the
            hidden states that the part above the cut needs.
        """
        if self._cut is None:
            raise UserError("freeze: none leaves nothing to cache; train from the waveforms")
        hidden, frame_lengths = self._front(wav, lengths)
        kept: dict[int, Tensor] = {}
        if self._cut == "top":
            hidden = self._run(hidden, frame_lengths, 0, self._top, kept)
            return self._select(hidden, frame_lengths, kept)
        hidden = self._run(hidden, frame_lengths, 0, self._cut, kept)
        states = [kept[i] for i in self._wanted if i < self._cut] + [hidden]
        return zero_beyond(torch.stack(states, dim=2), frame_lengths), frame_lengths

    def from_features(self, feats: Tensor, frame_lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Everything above the cut.

        Args:
            feats: (batch, frames, states, width) of [`frozen_features`][], any precision.
            frame_lengths: (batch,).

        Returns:
            As [`forward`][].
        """
        if feats.dtype != torch.float32:
            feats = feats.float()
        if self._cut == "top":
            return self._combine(feats), frame_lengths
        below = [index for index in self._wanted if index < self._cut]
        kept = {index: feats[:, :, k] for k, index in enumerate(below)}
        return self._upper(feats[:, :, -1], frame_lengths, kept, self._cut)

    def _front(self, wav: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        wav, lengths = wav.to(self.device).float(), lengths.to(self.device)
        wav = zero_beyond(wav, lengths)
        wav = zero_beyond(self.family.normalise(wav, lengths), lengths)
        before, after = self.silence_samples
        wav, lengths = nn.functional.pad(wav, (before, after)), lengths + before + after
        least = self.family.min_samples
        if wav.shape[1] < least:
            wav = nn.functional.pad(wav, (0, least - wav.shape[1]))
        hidden, frame_lengths = self.family.front(wav, lengths.clamp(min=least))
        return zero_beyond(hidden, frame_lengths), frame_lengths

    def _upper(
        self, hidden: Tensor, frame_lengths: Tensor, kept: dict[int, Tensor], start: int
    ) -> tuple[Tensor, Tensor]:
        hidden = self._run(hidden, frame_lengths, start, self._top, kept)
        states, frame_lengths = self._select(hidden, frame_lengths, kept)
        return self._combine(states), frame_lengths

    def _run(
        self, hidden: Tensor, frame_lengths: Tensor, start: int, stop: int, kept: dict[int, Tensor]
    ) -> Tensor:
        """Layers `start` .. `stop - 1`; the wanted states among their inputs go to `kept`."""
        if start == stop:
            return hidden
        windows = Windows(frame_lengths, hidden.shape[1], self.family.window_frames)
        rows = windows.split(hidden)
        rows = self._layers(rows, windows.lengths, range(start, stop), kept, windows.merge)
        return windows.merge(rows)

    def _layers(
        self,
        hidden: Tensor,
        lengths: Tensor,
        indices: range,
        kept: dict[int, Tensor],
        merge: Callable[[Tensor], Tensor],
    ) -> Tensor:
        """Layers on rows (clips or windows of clips) of `lengths` frames."""
        context = self.family.context(hidden, lengths)
        save = self.gradient_checkpointing and self.training and torch.is_grad_enabled()
        for index in indices:
            if index in self._wanted and index not in kept:
                kept[index] = merge(hidden)
            if save:
                layer = self.family.layer
                hidden = checkpoint(layer, index, hidden, context, use_reentrant=False)
            else:
                hidden = self.family.layer(index, hidden, context)
        return hidden

    def above_front(
        self,
        rows: Tensor,
        row_lengths: Tensor,
        frame_lengths: Tensor,
        merge: Callable[[Tensor], Tensor],
    ) -> tuple[Tensor, Tensor]:
        """All layers at once, on windows that somebody else has cut (the exported graph).

        Args:
            rows: (rows, frames, dim), clips or windows of clips.
            row_lengths: (rows,) in frames.
            frame_lengths: (batch,) of the clips.
            merge: (rows, frames, dim) -> (batch, frames, dim).
        """
        kept: dict[int, Tensor] = {}
        top = self._layers(rows, row_lengths, range(self._top), kept, merge)
        states, frame_lengths = self._select(merge(top), frame_lengths, kept)
        return self._combine(states), frame_lengths

    def _select(
        self, hidden: Tensor, frame_lengths: Tensor, kept: dict[int, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """The wanted states (no silence, normalised, strided): (batch, frames, states, width)."""
        before, after = self._silence
        top = self.family.final(hidden) if self._top == self.depth else hidden
        states = [kept[index] for index in self._wanted[:-1]] + [top]
        most = max(1, top.shape[1] - before - after)
        states = [state[:, before : before + most] for state in states]
        frame_lengths = (frame_lengths - before - after).clamp(min=1)
        if self.layers != "last":
            states = [nn.functional.layer_norm(state, state.shape[-1:]) for state in states]
        strided = [
            stride_mean(zero_beyond(state, frame_lengths), frame_lengths, self.frame_stride)
            for state in states
        ]
        return torch.stack([frames for frames, _ in strided], dim=2), strided[0][1]

    def _combine(self, states: Tensor) -> Tensor:
        if self.mix is not None:
            return self.mix(states)
        return states.flatten(2)

    # -- for checkpoints --------------------------------------------------------------------------

    def pretrained_names(self) -> set[str]:
        """Names of the state's tensors that are as they were loaded, and stay so."""
        names = {f"model.{name}" for name in self.model.state_dict()}
        learned = {name for name, p in self.named_parameters() if p.requires_grad}
        trained = {id(module) for top in self._trained_modules() for module in top.modules()}
        for name, module in self.model.named_modules():
            if id(module) in trained:  # running statistics
                learned |= {f"model.{name}.{b}" for b, _ in module.named_buffers(recurse=False)}
        return names - learned

    def options(self) -> dict[str, Any]:
        """What [`from_pretrained`][] must be told to build this encoder again."""
        return {
            "freeze": self.freeze,
            "layers": self.layers,
            "combine": self.combine,
            "frame_stride": self.frame_stride,
            "silence": [frames * self.family.hop / SAMPLE_RATE for frames in self._silence],
            "lora": self.lora,
        }


def _wanted_states(layers: str | Sequence[int], depth: int) -> list[int]:
    """The hidden states that `layers` asks for, lowest first."""
    if layers == "last":
        return [depth]
    if layers == "mix":
        return list(range(depth + 1))
    listed = not isinstance(layers, str) and isinstance(layers, Sequence) and len(layers) > 0
    if not listed or not all(isinstance(i, int) and -depth - 1 <= i <= depth for i in layers):
        raise UserError(
            f"layers: {layers!r} is not 'last', 'mix' or a list of numbers between 0 and {depth}"
        )
    return sorted({int(i) % (depth + 1) for i in layers})


def _cut_layer(freeze: str | int, depth: int, top: int, lora: bool) -> Any:
    """What is frozen: `"top"` (all), the layers below a number, or `None` (nothing)."""
    if freeze == "all":
        return "top"
    if freeze == "none":
        return 0 if lora else None
    if isinstance(freeze, bool) or not isinstance(freeze, int) or not 0 <= freeze <= depth:
        raise UserError(f"freeze: {freeze!r} is not 'all', 'none' or a number from 0 to {depth}")
    return "top" if freeze >= top and top < depth else freeze


def _silence_frames(silence: float | Sequence[float] | None, family: Family) -> tuple[int, int]:
    """Frames of silence before and after a clip.

    Args:
        silence: seconds on either side, `[before, after]`, or `None` for the family's own.
    """
    value = family.silence if silence is None else silence
    pair = [value, value] if isinstance(value, int | float) else list(value)
    if len(pair) != 2 or not all(isinstance(x, int | float) and 0 <= x <= 30 for x in pair):
        raise UserError(f"silence: {silence!r} is not seconds from 0 to 30, or a pair of such")
    before, after = (round(seconds * SAMPLE_RATE / family.hop) for seconds in pair)
    return before, after
