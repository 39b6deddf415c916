"""What is to be spoken, by whom and how fast: a function of the seed and the lists alone."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import UserError
from .programs import PROGRAMS
from .voices import (
    HIBARI_VOICES,
    TEST_VOICES,
    TRAIN_VOICES,
    VALID_VOICES,
    blended_voices,
    rng_for,
)

SPEED_RANGE = (0.8, 1.25)
SPLIT_OF_SET = {
    "train": "train",
    "valid_words": "valid",
    "valid_intents": "valid",
    "valid_sentences": "valid",
    "test_words": "test",
    "test_intents": "test",
    "test_sentences": "test",
    # of tools/make_intent_speech.py
    "intents_train": "train",
    "voices_train": "train",
    "accents_train": "train",
    "valid_slurp": "valid",
    "valid_topv2": "valid",
    "test_slurp": "test",
    "test_topv2": "test",
}
LIST_FILES = {
    "commands": "commands.txt",
    "words_train": "words_train.txt",
    "words_valid": "words_valid.txt",
    "phrases_train": "phrases_train.txt",
    "sentences_train": "sentences_train.txt",
    "sentences_valid": "sentences_valid.txt",
    "sentences_test": "sentences_test.txt",
    "intents_valid": "intents_valid.yaml",
    "intents_test": "intents_test.yaml",
}


@dataclass(frozen=True)
class Settings:
    """What shapes the corpus besides the lists.

    Attributes:
        seed: the only source of randomness.
        blends: number of blended training voices.
        kokoro_words: share of the training words spoken by Kokoro, 0 to 1; hibari speaks the rest.
        hibari_words: share of Kokoro's training words that hibari speaks again.
        kokoro_phrases: share of the training phrases spoken by Kokoro; hibari speaks the rest.
        kokoro_sentences: the same for training sentences.
    """

    seed: int = 0
    blends: int = 30
    kokoro_words: float = 0.25
    hibari_words: float = 1.0
    kokoro_phrases: float = 0.2
    kokoro_sentences: float = 0.12


@dataclass(frozen=True)
class Clip:
    """One utterance to make. `speed` is a factor: 1.25 is a quarter faster than the voice."""

    id: str
    set: str
    voice: str
    kind: str
    label: str
    text: str
    speed: float

    @property
    def split(self) -> str:
        return SPLIT_OF_SET[self.set]

    @property
    def file(self) -> str:
        """Audio file of the corpus that holds the clip."""
        return f"audio/{self.split}/{self.voice}.ogg"

    @property
    def engine(self) -> str:
        """`hibari` or a program by the voice's first part; else Kokoro."""
        head = self.voice.partition("_")[0]
        return head if head == "hibari" or head in PROGRAMS else "kokoro"

    @property
    def key(self) -> str:
        """Name of the finished clip in the cache: everything that its sound depends on."""
        parts = f"{self.voice}|{self.kind == 'word'}|{self.speed:.3f}|{self.text}"
        return hashlib.sha256(parts.encode()).hexdigest()[:24]


def read_lists(folder: Path) -> dict[str, Any]:
    """Reads all lists: name -> lines, or for intents name -> {intent id: phrasings}."""
    lists: dict[str, Any] = {}
    for name, file in LIST_FILES.items():
        path = folder / file
        if not path.is_file():
            raise UserError(f"{path}: there is no such list")
        if path.suffix == ".yaml":
            lists[name] = _read_intents(path)
            continue
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
        lists[name] = [line for line in lines if line and not line.startswith("#")]
        twice = [line for line, count in Counter(lists[name]).items() if count > 1]
        if twice or not lists[name]:
            raise UserError(f"{path}: {'twice: ' + min(twice) if twice else 'is empty'}")
    _refuse_shared_texts(lists)
    return lists


def _read_intents(path: Path) -> dict[str, list[str]]:
    import yaml

    try:
        intents = yaml.safe_load(path.read_text(encoding="utf-8"))
        return {name: list(entry["phrasings"]) for name, entry in intents.items()}
    except (yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        problem = " ".join(str(error).split())
        raise UserError(f"{path}: not a list of intents with phrasings: {problem}") from error


def texts_by_split(lists: dict[str, Any]) -> dict[str, set[str]]:
    """The texts that are spoken in each split."""
    phrasings = {
        split: {text for some in lists[f"intents_{split}"].values() for text in some}
        for split in ("valid", "test")
    }
    return {
        "train": {*lists["words_train"], *lists["phrases_train"], *lists["sentences_train"]},
        "valid": {*lists["words_valid"], *lists["sentences_valid"], *phrasings["valid"]},
        "test": {*lists["commands"], *lists["sentences_test"], *phrasings["test"]},
    }


def _refuse_shared_texts(lists: dict[str, Any]) -> None:
    texts = texts_by_split(lists)
    for one, other in (("train", "valid"), ("train", "test"), ("valid", "test")):
        shared = sorted(texts[one] & texts[other])
        if shared:
            raise UserError(
                f"{len(shared)} texts are in both {one} and {other}: {', '.join(shared[:5])}"
            )


def _speed(settings: Settings, *parts: object, third: int | None = None, of: int = 3) -> float:
    """A random speaking speed; `third` limits it to one of `of` equal parts of the range."""
    low, high = SPEED_RANGE
    if third is not None:
        step = (high - low) / of
        low, high = low + third * step, low + (third + 1) * step
    return round(rng_for(settings.seed, "speed", *parts).uniform(low, high), 3)


def _train_clips(lists: dict[str, Any], settings: Settings) -> Iterator[tuple[str, ...]]:
    """Yields (voice, kind, label, text, take) for the training split.

    Each text is spoken by Kokoro or by hibari; a word of Kokoro's by hibari too.
    """
    blends = blended_voices(settings.seed, settings.blends)
    kokoro = [*TRAIN_VOICES, *TRAIN_VOICES, *blends]
    shares = {
        "word": settings.kokoro_words,
        "phrase": settings.kokoro_phrases,
        "sentence": settings.kokoro_sentences,
    }
    for kind, name in (("word", "words"), ("phrase", "phrases"), ("sentence", "sentences")):
        for text in lists[f"{name}_train"]:
            rng = rng_for(settings.seed, "train", kind, text)
            by_kokoro, again = rng.random() < shares[kind], rng.random() < settings.hibari_words
            voices = (rng.choice(kokoro), rng.choice(HIBARI_VOICES))
            label = text if kind == "word" else "-"
            if by_kokoro:
                yield voices[0], kind, label, text, "0"
            if not by_kokoro or (kind == "word" and again):
                yield voices[1], kind, label, text, "1"


def _valid_test_clips(
    lists: dict[str, Any], settings: Settings
) -> Iterator[tuple[str, str, str, str, str, float]]:
    """Yields (set, voice, kind, label, text, speed) for valid and test."""
    seed = settings.seed
    for split, voices, words, speeds, per_phrasing in (
        ("valid", VALID_VOICES, lists["words_valid"], 2, 1),
        ("test", TEST_VOICES, lists["commands"], 3, 1),
    ):
        for word in words:
            for voice in voices:
                for part in range(speeds):
                    speed = _speed(settings, split, word, voice, third=part, of=speeds)
                    yield f"{split}_words", voice, "word", word, word, speed
        for intent, phrasings in lists[f"intents_{split}"].items():
            for text in phrasings:
                for voice in rng_for(seed, split, text).sample(voices, per_phrasing):
                    speed = _speed(settings, split, text, voice)
                    yield f"{split}_intents", voice, "intent", intent, text, speed
        for text in lists[f"sentences_{split}"]:
            voice = rng_for(seed, split, text).choice(voices)
            speed = _speed(settings, split, text, voice)
            yield f"{split}_sentences", voice, "sentence", "-", text, speed


def make_plan(lists: dict[str, Any], settings: Settings) -> list[Clip]:
    """All clips of the corpus, in the order of `segments.tsv`."""
    rows: list[tuple[str, str, str, str, str, float]] = []
    for voice, kind, label, text, take in _train_clips(lists, settings):
        speed = _speed(settings, "train", kind, text, take)
        rows.append(("train", voice, kind, label, text, speed))
    rows.extend(_valid_test_clips(lists, settings))
    order = {name: number for number, name in enumerate(SPLIT_OF_SET)}
    rows.sort(key=lambda row: (order[row[0]], row[1]))  # stable: the order of the lists is kept
    clips: list[Clip] = []
    numbers: dict[str, int] = {}
    for set_name, voice, kind, label, text, speed in rows:
        number = numbers[set_name] = numbers.get(set_name, 0) + 1
        clip_id = f"{set_name}-{voice}-{number:05d}"
        clips.append(Clip(clip_id, set_name, voice, kind, label, text, speed))
    return clips
