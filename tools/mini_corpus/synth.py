"""Speaks clips with Kokoro and hibari in worker processes; finished clips stay in a cache."""

from __future__ import annotations

import json
import multiprocessing
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from .clips import SAMPLE_RATE, finish, problem_with, resample
from .fetch import fetch_model, fetch_styles, style_of
from .plan import Clip
from .programs import PROGRAMS, speak_by_program
from .voices import is_british, pitch_factor

QUESTION = re.compile(
    r"^(what|who|whose|where|when|why|which|how|is|are|am|was|were|do|does|did|can|could|will"
    r"|would|should|shall|may|has|have|had|isn't|aren't|don't|doesn't|won't|can't)\b"
)
NO_SOUND = set('.,;:!?—…"()“” ˈˌː')
TAKES = 4


def spoken_text(text: str, kind: str) -> str:
    """The text as the voice gets it: `I` in upper case and a mark at the end."""
    text = re.sub(r"\bi\b", "I", text)
    if text[-1] in ".?!":
        return text
    return text + ("?" if kind in ("sentence", "intent") and QUESTION.match(text) else ".")


class Speaker:
    """Both engines, loaded when first needed; one for each worker process."""

    def __init__(self, work: Path) -> None:
        self.work = work
        self.g2p: dict[bool, Any] = {}
        self.kokoro: Any = None
        self.hibari: Any = None
        self.styles: dict[str, np.ndarray] = {}
        self.vocab: dict[str, int] = {}

    def phonemes(self, text: str, british: bool) -> str:
        """Phoneme string in Kokoro's alphabet."""
        from hibari.g2p import G2P

        if british not in self.g2p:
            self.g2p[british] = G2P(british=british)
        return self.g2p[british](text)

    def _load_kokoro(self) -> None:
        import hibari
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.kokoro = onnxruntime.InferenceSession(
            str(fetch_model(self.work)), options, providers=["CPUExecutionProvider"]
        )
        self.styles = fetch_styles(self.work)
        vocab = Path(hibari.__file__).parent / "assets" / "vocab.json"
        self.vocab = json.loads(vocab.read_text(encoding="utf-8"))

    def _by_kokoro(self, phonemes: str, voice: str, speed: float, take: int) -> np.ndarray:
        """24 kHz float32. A later take uses the style of a longer text."""
        if self.kokoro is None:
            self._load_kokoro()
        tokens = [0, *(self.vocab[c] for c in phonemes if c in self.vocab), 0]
        style = style_of(voice, self.styles)[len(tokens) - 2 + 12 * take]
        speeds = np.full(len(tokens), speed, np.float32)
        feed = {"tokens": np.array([tokens], np.int64), "style": style[None], "speed": speeds}
        return np.asarray(self.kokoro.run(["audio"], feed)[0], np.float32).ravel()

    def _by_hibari(self, phonemes: str, voice: str, speed: float, take: int) -> np.ndarray:
        """24 kHz float32, still to be moved in pitch by resampling."""
        if self.hibari is None:
            import hibari

            self.hibari = hibari.Hibari(threads=1)
        seed = zlib.crc32(f"{voice}|{phonemes}|{take}".encode())
        return self.hibari.from_phonemes(phonemes, speed * 100 / pitch_factor(voice), seed)

    def speak(self, clip: Clip) -> tuple[np.ndarray, str | None]:
        """A finished clip (int16 at 16 kHz), or an empty one with the reason for giving it up."""
        phonemes = self.phonemes(spoken_text(clip.text, clip.kind), is_british(clip.voice))
        sounds = sum(symbol not in NO_SOUND for symbol in phonemes)
        problem: str | None = "no phonemes"
        for take in range(TAKES if sounds else 0):
            speed = 1.0 + (clip.speed - 1.0) * (1.0 - take / TAKES)
            if clip.engine == "hibari":
                audio = self._by_hibari(phonemes, clip.voice, speed, take)
                audio = resample(audio, pitch_factor(clip.voice))
            elif clip.engine in PROGRAMS:
                audio = speak_by_program(clip.engine, clip.voice, clip.text, speed)
            else:
                audio = resample(self._by_kokoro(phonemes, clip.voice, speed, take))
            samples, seconds = finish(audio)
            problem = problem_with(seconds, clip.kind, sounds)
            if problem is None:
                return samples, None
        return np.zeros(0, np.int16), problem


def cached(work: Path, clip: Clip) -> Path:
    """Where the finished clip is kept: an int16 array at 16 kHz, empty if it was given up."""
    return work / "clips" / clip.key[:2] / f"{clip.key}.npy"


def load_clip(work: Path, clip: Clip) -> np.ndarray:
    """The finished clip: (samples,) int16 at 16 kHz."""
    return np.load(cached(work, clip))


def was_given_up(work: Path, clip: Clip) -> bool:
    """Whether no acceptable clip could be made (an empty array of 128 bytes is kept then)."""
    return cached(work, clip).stat().st_size <= 128


_speaker: Speaker | None = None


def _start_worker(work: Path) -> None:
    global _speaker
    _speaker = Speaker(work)


def _make(job: tuple[Path, Clip]) -> tuple[Clip, float, str | None]:
    work, clip = job
    assert _speaker is not None
    samples, problem = _speaker.speak(clip)
    path = cached(work, clip)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        np.save(file, samples)
    partial.replace(path)
    return clip, samples.size / SAMPLE_RATE, problem


def synthesize(
    clips: list[Clip], work: Path, jobs: int
) -> Iterator[tuple[Clip, float, str | None]]:
    """Makes the clips that are not in the cache yet; yields (clip, seconds, problem) of each."""
    missing = [(work, clip) for clip in clips if not cached(work, clip).is_file()]
    missing.sort(key=lambda job: job[1].split == "train")  # what is scored comes first
    if not missing:
        return
    if any(clip.engine == "kokoro" for _, clip in missing):
        fetch_model(work)  # once, before the workers want it
        fetch_styles(work)
    context = multiprocessing.get_context("spawn")
    with context.Pool(jobs, _start_worker, (work,)) as pool:
        yield from pool.imap_unordered(_make, missing, chunksize=4)
