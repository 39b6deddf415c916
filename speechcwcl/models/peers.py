"""Other people's models with the methods of ours: a CLAP, an audio model of sentence-transformers,
and the cascade (transcribe, then embed the transcript), which users would take instead."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from speechcwcl.errors import UserError, first_line, require
from speechcwcl.files import read_json, sha256_file, sha256_json
from speechcwcl.models.aligner import Aligner
from speechcwcl.models.audio_input import Audio, load_one
from speechcwcl.models.device import check_device
from speechcwcl.models.encoders.families import quiet
from speechcwcl.models.text_side import TextEncoder
from speechcwcl.models.weights.sources import resolve
from speechcwcl.zeroshot.classifier import unit_rows

HUB, CASCADE, SPELT = "hf:", "cascade:", "spelt"
# No label has more words; it only cuts short what has run away, in the cascade's favour.
MOST_TOKENS = 64
_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


class Peer(ABC):
    """What scoring needs of a model. Every clip is heard alone: no batch changes a score."""

    rate = 16000  # samples a second that it hears

    def __init__(self, name: str, identity: str) -> None:
        self.name = name  # as it was asked for
        self.identity = identity  # two peers share it exactly when they embed alike

    @abstractmethod
    def _hear(self, wav: np.ndarray) -> np.ndarray:
        """(samples,) float32 at `rate` -> (dim,)."""

    @abstractmethod
    def _read(self, texts: list[str]) -> np.ndarray:
        """Texts, none of them empty -> (texts, dim)."""

    @torch.no_grad()
    def encode_speech(
        self, audio: Sequence[Audio], *, sample_rate: int = 16000, progress: bool = False
    ) -> np.ndarray:
        """(recordings, dim) float32 unit norm; see `Aligner.encode_speech`."""
        bar = tqdm(audio, desc=f"hear {self.name}", unit="clip", disable=not progress)
        waves = (load_one(item, at, sample_rate, self.rate) for at, item in enumerate(bar))
        return unit_rows(np.stack([self._hear(wav) for wav in waves])).astype(np.float32)

    @torch.no_grad()
    def encode_text(self, texts: Sequence[str], *, batch_size: int = 64) -> np.ndarray:
        """(texts, dim) float32 unit norm; a text of nothing is a full stop."""
        asked = [text.strip() or "." for text in texts]
        parts = [asked[at : at + batch_size] for at in range(0, len(asked), batch_size)]
        return unit_rows(np.concatenate([self._read(p) for p in parts])).astype(np.float32)


class Clap(Peer):
    """A model of transformers with `get_audio_features` and `get_text_features`.

    A clip longer than the model hears is cut at its end, never at random: the extractor's own
    random crop costs LAION's CLAP a third of its accuracy.
    """

    def __init__(self, name: str, folder: Path, device: str | None = "cpu") -> None:
        from transformers import AutoFeatureExtractor, AutoModel, AutoTokenizer

        super().__init__(name, _weights_hash(folder))
        with quiet():
            model = AutoModel.from_pretrained(folder, dtype=torch.float32, trust_remote_code=False)
        both = hasattr(model, "get_audio_features") and hasattr(model, "get_text_features")
        require(both, f"{name}: {type(model).__name__} cannot take audio and text into one space")
        self.model: Any = model.eval().to(check_device(device))
        self.extractor = AutoFeatureExtractor.from_pretrained(folder)
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.rate = self.extractor.sampling_rate

    def _hear(self, wav: np.ndarray) -> np.ndarray:
        most = getattr(self.extractor, "nb_max_samples", len(wav))
        found = self.extractor(wav[:most], sampling_rate=self.rate, return_tensors="pt")
        if "is_longer" in found:  # the extractor calls one clip of a batch so, at random
            found["is_longer"] = torch.zeros_like(torch.as_tensor(found["is_longer"]))
        return self._pooled(self.model.get_audio_features(**found.to(self.model.device)))[0]

    def _read(self, texts: list[str]) -> np.ndarray:
        most = min(self.tokenizer.model_max_length, 77)  # LAION's length of a text
        tokens = self.tokenizer(
            texts, padding=True, truncation=True, max_length=most, return_tensors="pt"
        )
        known = {
            name: tokens[name].to(self.model.device) for name in ("input_ids", "attention_mask")
        }
        return self._pooled(self.model.get_text_features(**known))

    @staticmethod
    def _pooled(found: Any) -> np.ndarray:
        return getattr(found, "pooler_output", found).float().cpu().numpy()


class Sentences(Peer):
    """A model of sentence-transformers that takes audio."""

    def __init__(self, name: str, source: str, device: str | None, remote_code: bool) -> None:
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError as error:
            raise UserError(
                f"{name}: a model of sentence-transformers; pip install 'speechcwcl[mteb]'"
            ) from error
        super().__init__(name, _weights_hash(Path(source)))
        with quiet():
            self.model = SentenceTransformer(
                source, device=check_device(device), trust_remote_code=remote_code
            )
        if "audio" not in self.model.modalities:
            what = ", ".join(map(str, self.model.modalities))
            raise UserError(f"{name}: takes {what} only, no audio; give a model that hears")
        extractor = getattr(self.model[0].processor, "feature_extractor", self.model[0].processor)
        self.rate = getattr(extractor, "sampling_rate", self.rate)

    def _hear(self, wav: np.ndarray) -> np.ndarray:
        clip: Any = {"array": wav, "sampling_rate": self.rate}
        return self._encode([clip])[0]

    def _read(self, texts: list[str]) -> np.ndarray:
        return self._encode(texts)

    def _encode(self, inputs: list[Any]) -> np.ndarray:
        return np.asarray(self.model.encode(inputs, show_progress_bar=False), np.float32)


class Cascade(Peer):
    """Whisper, then a sentence encoder on its transcript.

    Args:
        text: text encoder.
        spelt: spell the transcript as labels are written, see `spell`.
        tokenizer: folder or name of a tokenizer.json, with a config.json that lists the tokens
            never to say; None: the one in the Whisper's folder, or of the name
            `<whisper>-tokenizer`.
    """

    def __init__(
        self,
        whisper: str | Path = "whisper-tiny.en",
        text: str | Path = "all-MiniLM-L6-v2",
        *,
        spelt: bool = False,
        tokenizer: str | Path | None = None,
        device: str | None = "cpu",
    ) -> None:
        from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration
        from transformers.utils import logging

        logging.set_verbosity_error()  # generate() warns at every call
        folder = resolve(whisper)
        self.text_encoder = TextEncoder.from_pretrained(text).to(check_device(device))
        parts = [_weights_hash(folder), self.text_encoder.hash, spelt]
        super().__init__(f"{CASCADE}{whisper}+{text}" + f"+{SPELT}" * spelt, sha256_json(parts))
        self.spelt = spelt
        with quiet():
            self.model: Any = WhisperForConditionalGeneration.from_pretrained(
                folder, dtype=torch.float32
            ).eval()
        self.model.to(check_device(device))
        self.features = WhisperFeatureExtractor.from_pretrained(folder)
        self.tokenizer = self._open_tokenizer(folder, whisper, tokenizer)
        self.model.generation_config.max_new_tokens = MOST_TOKENS

    def _open_tokenizer(self, folder: Path, whisper: str | Path, words: str | Path | None) -> Any:
        from transformers import AutoTokenizer, GenerationConfig, PreTrainedTokenizerFast

        if words is None and (folder / "generation_config.json").is_file():
            return AutoTokenizer.from_pretrained(folder)
        place, config = resolve(words or f"{whisper}-tokenizer"), self.model.config
        tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(place / "tokenizer.json"))
        never = read_json(place / "config.json", dict)
        ids = ("decoder_start_token_id", "bos_token_id", "eos_token_id", "pad_token_id")
        self.model.generation_config = GenerationConfig(
            **{name: getattr(config, name) for name in ids},
            no_timestamps_token_id=tokenizer.convert_tokens_to_ids("<|notimestamps|>"),
            is_multilingual=False,
            return_timestamps=False,
            suppress_tokens=never["suppress_ids"],
            begin_suppress_tokens=never["suppress_ids_begin"],
        )
        return tokenizer

    @torch.no_grad()
    def transcribe(self, wav: np.ndarray) -> str:
        """The words of (samples,) float32 at 16 kHz, greedily decoded, the clip inside 30 s."""
        features = self.features(wav, sampling_rate=16000, return_tensors="pt").input_features
        tokens = self.model.generate(features.to(self.model.device))
        return self.tokenizer.decode(tokens[0], skip_special_tokens=True).strip()

    def _hear(self, wav: np.ndarray) -> np.ndarray:
        text = self.transcribe(wav)
        return self.encode_text([spell(text) if self.spelt else text])[0]

    def _read(self, texts: list[str]) -> np.ndarray:
        return self.text_encoder.encode(texts)


def spell(transcript: str) -> str:
    """A transcript nearer to how labels are written: no punctuation, single digits in words."""
    plain = re.sub(r"[^\w' ]+", " ", transcript.lower())
    words = (_NUMBERS[int(w)] if re.fullmatch("[0-9]", w) else w for w in plain.split())
    return " ".join(words)


def open_model(
    name: str | Path, *, device: str | None = "cpu", remote_code: bool = False
) -> Aligner | Peer:
    """Open any model that can be scored.

    Args:
        name: a model of ours (folder, hub id, `en-tiny`); `hf:` and the folder or hub id of a
            CLAP of transformers or of a sentence-transformers model that takes audio; or
            `cascade:WHISPER+TEXT`, with `+spelt` behind it to spell transcripts as labels are.
        remote_code: let sentence-transformers run the code of a repository.

    Raises:
        UserError: no such model, or one that cannot take audio.
    """
    given = str(name)
    if given.startswith(CASCADE):
        whisper, plus, rest = given.removeprefix(CASCADE).partition("+")
        text, _, form = rest.partition("+")
        fits = bool(whisper and plus and text) and form in ("", SPELT)
        require(
            fits, f"--model {given}: expected cascade:WHISPER+TEXT or cascade:WHISPER+TEXT+spelt"
        )
        return Cascade(whisper, text, spelt=bool(form), device=device)
    if not given.startswith(HUB):
        return Aligner.from_pretrained(name, device=device)
    source = given.removeprefix(HUB)
    try:
        if remote_code:
            return Sentences(given, source, device, True)
        folder = resolve(source)
        if (folder / "modules.json").is_file():
            return Sentences(given, str(folder), device, False)
        return Clap(given, folder, device)
    except UserError:
        raise
    except Exception as error:
        why = first_line(error)
        raise UserError(f"{given}: cannot be opened as a model that takes audio: {why}") from error


def _weights_hash(folder: Path) -> str:
    """Hex sha256 over the weights and settings of a folder; of a hub id, its name."""
    if not folder.is_dir():
        return sha256_json(str(folder))
    kinds = (".safetensors", ".json", ".bin")
    files = sorted(p for p in folder.rglob("*") if p.suffix in kinds and p.is_file())
    return sha256_json([[p.relative_to(folder).as_posix(), sha256_file(p)] for p in files])
