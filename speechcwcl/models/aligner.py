"""The aligned model: a speech encoder whose embeddings live in a frozen text encoder's space."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from speechcwcl.errors import UserError, first_line
from speechcwcl.files import replace_folder, sha256_json
from speechcwcl.models import checkpoint, folders
from speechcwcl.models.audio_input import (
    Audio,
    check_windows,
    embed_all,
    listed,
    load_one,
    samples,
    windows_in_block,
    windows_over,
)
from speechcwcl.models.device import check_device, on_meta
from speechcwcl.models.encoders.families import tensor_hash
from speechcwcl.models.encoders.frames import pad
from speechcwcl.models.encoders.speech import SpeechEncoder
from speechcwcl.models.folders import TextInfo
from speechcwcl.models.head import build_pooling, build_projection
from speechcwcl.models.text_side import TextEncoder, TextSide, centred, describe_text
from speechcwcl.models.weights.sources import bring, locate
from speechcwcl.zeroshot import classifier, enrolment

MAX_SCALE = 100.0
_HEAD = ("pooling", "pooling_options", "projection")


class Aligner(nn.Module):
    """Speech encoder, pooling and projection into the space of a frozen text encoder.

    The text encoder is not part of the module: `text` describes it and loads it when it is
    first asked for, so that it takes no memory while training from stored text embeddings.
    `classify` and `encode_labels` are `speechcwcl.zeroshot.classifier`'s,
    `enrol` is `speechcwcl.zeroshot.enrolment`'s.

    Args:
        text: the text encoder: a source, its description, or a loaded encoder; see [`TextSide`][].
        pooling: `"mean"` or `"attention"`.
        pooling_options: options of [`AttentionPooling`][speechcwcl.models.head.AttentionPooling].
        projection: `"linear"`, `"mlp"`, or options of
            [`Projection`][speechcwcl.models.head.Projection].
        logit_scale: initial 1 / temperature, learnable as its logarithm.

    Attributes:
        windows: how [`encode_parts`][] looks at long recordings, `{"seconds": [0.8, 1.6],
            "longer_than": 5.0}`; None: as a whole.
    """

    def __init__(
        self,
        speech_encoder: SpeechEncoder,
        text: str | os.PathLike | TextInfo | TextEncoder = "all-MiniLM-L6-v2",
        *,
        pooling: str = "attention",
        pooling_options: dict[str, Any] | None = None,
        projection: str | dict[str, Any] = "mlp",
        logit_scale: float = 1 / 0.07,
    ):
        super().__init__()
        self.text = TextSide(text)
        self.dim = self.text.info.dim
        self._head_options = {
            "pooling": pooling,
            "pooling_options": dict(pooling_options or {}),
            "projection": projection,
        }
        self.speech_encoder = speech_encoder
        self.pooling = build_pooling(pooling, speech_encoder.dim, pooling_options)
        self.projection = build_projection(projection, self.pooling.out_dim, self.dim)
        self.log_scale = nn.Parameter(torch.tensor(math.log(logit_scale)))
        # Zero: the text space as it is.
        self.text_mean: Tensor
        self.register_buffer("text_mean", torch.zeros(self.dim))
        self.windows: dict[str, Any] | None = None

    @classmethod
    def build(
        cls,
        speech_encoder: str | os.PathLike = "whisper-tiny.en",
        text_encoder: str | os.PathLike = "all-MiniLM-L6-v2",
        *,
        text_pooling: str = "auto",
        **options: Any,
    ) -> Aligner:
        """An untrained aligner from plain values, as a YAML file gives them.

        Args:
            speech_encoder: source of the speech encoder.
            text_encoder: source of the text encoder; only its files are read and hashed.
            text_pooling: `auto`, `mean`, `cls`, `max` or `last`.
            **options: of the class, and of
                [`SpeechEncoder`][].
        """
        own = {key: options.pop(key) for key in (*_HEAD, "logit_scale") if key in options}
        speech = SpeechEncoder.from_pretrained(speech_encoder, **options)
        return cls(speech, describe_text(text_encoder, text_pooling), **own)

    # -- spaces -----------------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.log_scale.device

    @property
    def text_encoder(self) -> TextEncoder:
        """The text encoder where the weights are, loaded when first asked for."""
        return self.text.encoder(self.device)

    @property
    def logit_scale(self) -> Tensor:
        """1 / temperature, at most 100, with gradient."""
        return self.log_scale.exp().clamp(max=MAX_SCALE)

    def set_logit_scale(self, value: float) -> None:
        """Set 1 / temperature, for instance to the one that the loss has learned."""
        with torch.no_grad():
            self.log_scale.fill_(math.log(value))

    def set_text_mean(self, mean: Tensor | np.ndarray) -> None:
        """Centre the text space: embeddings become `(q - mean)` re-normalised.

        Sentence encoders put all sentences into one narrow cone; taking its axis out makes the
        similarities between texts, which CWCL weighs by, tell more.

        Args:
            mean: (dim,), usually the mean embedding of the unique training texts.
        """
        self.text_mean.copy_(torch.as_tensor(mean, dtype=torch.float32))

    def transform_text(self, raw: Tensor | np.ndarray) -> Tensor:
        """(texts, dim) from the text encoder -> (texts, dim) unit-norm in the aligned space."""
        return centred(raw, self.text_mean)

    # -- training ---------------------------------------------------------------------------------

    def embed_speech(self, wav: Tensor, lengths: Tensor, *, apart: bool = False) -> Tensor:
        """Waveforms to the aligned space, with gradient.

        Args:
            wav: (batch, samples) float32 at 16 kHz, zero-padded.
            lengths: (batch,) in samples.
            apart: see [`head`][].

        Returns:
            (batch, dim) unit norm.
        """
        return self.head(*self.speech_encoder(wav, lengths), apart=apart)

    def embed_features(
        self, feats: Tensor, frame_lengths: Tensor, *, apart: bool = False
    ) -> Tensor:
        """As [`embed_speech`][], from `speech_encoder.frozen_features` (cached)."""
        feats, frame_lengths = feats.to(self.device), frame_lengths.to(self.device)
        return self.head(*self.speech_encoder.from_features(feats, frame_lengths), apart=apart)

    def forward(self, wav: Tensor, lengths: Tensor) -> Tensor:
        """Same as [`embed_speech`][]."""
        return self.embed_speech(wav, lengths)

    def head(self, frames: Tensor, frame_lengths: Tensor, *, apart: bool = False) -> Tensor:
        """(batch, frames, width) of the speech encoder and their lengths -> (batch, dim).

        With `apart` a head of several outputs gives each, (batch, outputs, dim), for its loss.
        """
        projected = self.projection(self.pooling(frames, frame_lengths))
        if projected.shape[1] == 1:
            return projected[:, 0]
        return projected if apart else nn.functional.normalize(projected.mean(1), dim=-1)

    # -- use --------------------------------------------------------------------------------------

    @torch.no_grad()
    def encode_speech(
        self,
        audio: Sequence[Audio],
        *,
        batch_seconds: float = 60.0,
        sample_rate: int = 16000,
        progress: bool = False,
    ) -> np.ndarray:
        """Embed recordings; the result depends neither on their order nor on the batches.

        Args:
            audio: files, or one-dimensional arrays or tensors.
            batch_seconds: most seconds of audio, padding included, in one batch.
            sample_rate: of the arrays, in Hz (files know theirs).

        Returns:
            (recordings, dim) float32 unit norm, in the order given.
        """
        training = self.training
        self.eval()
        try:
            return embed_all(
                audio,
                self.dim,
                lambda *b: (
                    self.embed_speech(*(torch.from_numpy(x).to(self.device) for x in b))
                    .cpu()
                    .numpy()
                ),
                batch_seconds=batch_seconds,
                sample_rate=sample_rate,
                progress=progress,
            )
        finally:
            self.train(training)

    @torch.no_grad()
    def encode_parts(self, audio: Sequence[Audio], *, sample_rate: int = 16000) -> list[np.ndarray]:
        """Embed recordings, those longer than `windows` says in overlapping windows.

        The encoder hears each recording once and whole; the windows are over its frames. They find
        what is said somewhere in a long sentence, which its embedding as a whole hardly tells.

        Args:
            audio: see [`encode_speech`][].
            sample_rate: of the arrays, in Hz.

        Returns:
            Of each recording (parts, dim) float32 unit norm; one part of a short one.
        """
        audio = listed(audio)
        most = 16000 * self.windows["longer_than"] if self.windows else math.inf
        sizes = [samples(item, index, sample_rate) for index, item in enumerate(audio)]
        short = [index for index, size in enumerate(sizes) if size <= most]
        rows = self.encode_speech([audio[i] for i in short], sample_rate=sample_rate)
        parts = dict(zip(short, rows[:, None], strict=True))
        for index, item in enumerate(audio):
            if index not in parts:
                wav, lengths = pad([load_one(item, index, sample_rate)])
                frames, _ = self.speech_encoder(wav.to(self.device), lengths.to(self.device))
                parts[index] = self._windowed(frames[0]).cpu().numpy()
        return [parts[index] for index in range(len(audio))]

    def _windowed(self, frames: Tensor) -> Tensor:
        """(frames, width) of one recording -> (windows, dim), each window a quarter on."""
        rate, found = self.speech_encoder.frame_rate, []
        for rows in windows_over(frames, rate, (self.windows or {})["seconds"]):
            lengths = torch.full((len(rows),), rows.shape[1], device=frames.device)
            found.append(self.head(rows, lengths))
        return torch.cat(found)

    @torch.no_grad()
    def encode_windows(self, blocks: np.ndarray) -> np.ndarray:
        """Embed windows over blocks of sound, each block encoded once; for spotting.

        Args:
            blocks: (blocks, samples) float32 at 16 kHz, of the length that
                `GRID` says.

        Returns:
            (blocks, places, dim) float32 unit norm.
        """
        wav = torch.from_numpy(blocks).to(self.device)
        lengths = torch.full((len(wav),), wav.shape[1], device=self.device)
        frames, _ = self.speech_encoder(wav, lengths)
        rate = self.speech_encoder.frame_rate
        return windows_in_block(frames, rate, self.head).cpu().numpy()

    @torch.no_grad()
    def encode_text(self, texts: Sequence[str], *, batch_size: int = 64) -> np.ndarray:
        """Embed texts: (texts, dim) float32 unit norm, in the aligned space."""
        return self.text.encode(texts, self.text_mean, batch_size=batch_size)

    encode_labels = classifier.encode_labels
    classify = classifier.classify
    enrol = enrolment.enrol
    open_keywords = enrolment.open_keywords

    # -- folders ----------------------------------------------------------------------------------

    def learned_state(self, with_towers: bool = False) -> dict[str, Tensor]:
        """The tensors that are not in the pretrained encoders (or all, but the text encoder's)."""
        fixed = set() if with_towers else self.speech_encoder.pretrained_names()
        kept = self.state_dict()
        for name in fixed:
            del kept[f"speech_encoder.{name}"]
        return kept

    @property
    def identity(self) -> str:
        """Hex sha256 that two aligners share exactly when they embed alike.

        It covers both encoders (by their hashes), the speech encoder's options and every learned
        tensor; not the folder's name, nor whether the frozen encoders lie in it.
        """
        learned = self.learned_state()
        del learned["log_scale"]  # a temperature moves no embedding
        digests = {name: tensor_hash(tensor) for name, tensor in learned.items()}
        encoder = self.speech_encoder
        return sha256_json([encoder.hash, encoder.options(), self.text.hash, digests])

    def save_pretrained(
        self,
        folder: str | Path,
        with_towers: bool = False,
        info: dict[str, Any] | None = None,
        protocols: dict[str, Any] | None = None,
        card: str | None = None,
    ) -> None:
        """Write a folder that [`from_pretrained`][] opens: safetensors and plain JSON.

        Args:
            folder: made, or replaced as a whole when it holds a saved aligner and nothing else.
            with_towers: put the frozen encoders in too, so that nothing else is needed; otherwise
                they are named by source and hash.
            info: anything worth knowing (JSON-able), kept under `info`.
            protocols: label texts to go along: name -> `{"labels": [[label, [text, ...]], ...],
                "templates": [...]}`, written to `labels.json`.
            card: the model card, written to `README.md`.

        Raises:
            UserError: the folder holds anything else (nothing is touched), or a full disk.
        """
        config = {
            "dim": self.dim,
            "speech": {
                "source": self.speech_encoder.source,
                "hash": self.speech_encoder.hash,
                "options": self.speech_encoder.options(),
            },
            "text": asdict(self.text.info),
            "towers": with_towers,
            "info": info or {},
            **self._head_options,
            **({"windows": self.windows} if self.windows else {}),
        }
        with replace_folder(folder, folders.ours) as scratch:
            if with_towers:
                checkpoint.write_towers(scratch, self.speech_encoder, self.text.info)
            checkpoint.write(scratch, config, self.learned_state(with_towers), protocols, card)

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike, *, device: str | None = "cpu") -> Aligner:
        """Open a folder of [`save_pretrained`][] (or a hub id); runs no code of it.

        Args:
            device: where to put the weights; see `check_device`.

        Raises:
            UserError: not an aligner, from a newer version, truncated, changed, or its encoders
                cannot be fetched or are not those it was trained with.
        """
        device = check_device(device)  # before the seconds that reading takes
        path = locate(folder)
        config, shapes = checkpoint.read(path)
        if not config["towers"]:
            bring([config["speech"].get("source", ""), config["text"].get("source", "")])
        options = {key: config[key] for key in _HEAD}
        own = {"source": str(path / "text")} if config["towers"] else {}
        try:
            text = TextInfo(**config["text"] | own)
            with on_meta():  # nothing is allocated before it is known to fit
                outline = cls(checkpoint.speech_outline(path, config, shapes), text, **options)
            expected = outline.learned_state(config["towers"])
            folders.check_shapes(path / folders.WEIGHTS, shapes, expected)
            model = cls(checkpoint.speech_side(path, config), text, **options)
        except (UserError, TypeError, LookupError, ValueError, ArithmeticError, RuntimeError) as e:
            why = first_line(e)
            if isinstance(e, UserError) and str(path) in why:
                raise
            what = "" if isinstance(e, UserError) else "not as expected: "
            raise UserError(f"{path / 'config.json'}: {what}{why}") from e
        state = load_file(path / folders.WEIGHTS)
        model.load_state_dict(state, strict=False)  # checked name by name just above
        model.windows = check_windows(config.get("windows"), path / "config.json")
        return model.to(device).eval()
