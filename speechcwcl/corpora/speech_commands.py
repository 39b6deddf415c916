"""Google Speech Commands v0.02 and v0.01: one-second recordings of single words, and noise."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from speechcwcl.corpora._download import Archive
from speechcwcl.corpora.base import Corpus, Listing, write_lines, write_spoken
from speechcwcl.data.audio import SAMPLE_RATE, audio_info, write_audio
from speechcwcl.data.rows import read_lines
from speechcwcl.data.tables import Problems
from speechcwcl.data.utterance import Utterance
from speechcwcl.errors import UserError

COMMANDS = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")
"""The ten target words of the 12-class task."""

WORDS = (
    *COMMANDS,
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
    *("bed", "bird", "cat", "dog", "happy", "house", "marvin", "sheila", "tree", "wow"),
    *("backward", "forward", "follow", "learn", "visual"),
)
"""The 35 words of v0.02; v0.01 has all but the last five."""

SILENCE, UNKNOWN, NOISE = "_silence_", "_unknown_", "_background_noise_"
_LISTS = {"valid": "validation_list.txt", "test": "testing_list.txt"}
_VALID_NOISE = "running_tap.wav"
_DATA = "http://download.tensorflow.org/data/"
_CLIP = re.compile(r"(?:(?P<word>[a-z]+)_)?(?P<speaker>[0-9a-zA-Z]+)_nohash_\d+")
_MAIN = Archive(
    f"{_DATA}speech_commands_v0.02.tar.gz",
    size=2_428_923_189,
    checksum="sha256:af14739ee7dc311471de98f5f9d2c9191b18aedfe957f4a6ff791c709868ff58",
    into="speech_commands_v0.02",
)
_OFFICIAL = Archive(
    f"{_DATA}speech_commands_test_set_v0.02.tar.gz",
    size=112_563_277,
    checksum="sha256:cc2a00c1147c2254e9be3fa0f779d8c17421dc349b86366567a8edfa9acd51df",
    into="speech_commands_test_set_v0.02",
)


def which_set(name: str) -> str:
    """`train`, `valid` or `test` for `bb05582b_nohash_3.wav`: the rule of the published lists.

    A hash of the speaker decides, so that a speaker stays on one side whatever is added later.
    """
    base = re.sub(r"_nohash_.*$", "", Path(name).name)
    digest = hashlib.sha1(base.encode(), usedforsecurity=False).hexdigest()
    largest = 2**27 - 1
    percent = (int(digest, 16) % (largest + 1)) * (100.0 / largest)
    return "valid" if percent < 10.0 else "test" if percent < 20.0 else "train"


class SpeechCommands(Corpus):
    """`<word>/<speaker>_nohash_<n>.wav`, the lists of validation and test, background noise.

    Splits: `train`, `valid`, `test` are the words (35 in v0.02, 30 in v0.01); no silence, no
    noise. `train12` and `valid12` add the silence of the 12-class task: the recordings of
    `_background_noise_` in pieces of one second (`running_tap.wav` to valid12, the others to
    train12), label and text `_silence_` / "silence". `test12` is the official test archive of
    that task (no texts: its unknown words and silence have none). `all` is every word clip.
    A folder of word folders without lists is split by the rule that made the lists.
    """

    name = "speech_commands"
    title = "Speech Commands"
    licence = "CC-BY-4.0"
    url = "https://arxiv.org/abs/1804.03209"
    version = "v0.02 (v0.01 is read too)"
    splits = ("train", "valid", "test", "train12", "valid12", "test12", "all")
    label_fields = ("label",)

    def archives(self, splits: Iterable[str] | None = None) -> list[Archive]:
        """See `Corpus.archives`: the words, and for `test12` the official test set."""
        wanted = self.check_splits(splits)
        main = [] if wanted == ["test12"] else [_MAIN]
        return [*main, _OFFICIAL] if "test12" in wanted else main

    def utterances(self, source: Path, split: str, problems: Problems) -> Iterator[Utterance]:
        """Yield the clips of one split; see `Corpus.utterances`."""
        if split == "test12":
            yield from _official(_official_folder(source), problems)
            return
        root = _word_folder(source)
        part = split.removesuffix("12")
        yield from _words(root, part, problems)
        if split != part:
            yield from _silence(root, part, problems)

    def fake(self, target: Path, seed: int = 0) -> Path:
        """A few speakers saying some of the words, the lists, noise, and the official test set."""
        target = Path(target)
        root = target / "speech_commands_v0.02"
        lists: dict[str, list[str]] = {"valid": [], "test": []}
        for number in range(12):
            speaker = hashlib.sha1(f"{seed}-{number}".encode()).hexdigest()[:8]
            for word in _FAKE_WORDS:
                name = f"{word}/{speaker}_nohash_0.wav"
                write_spoken(root / name, word, seed + number, seconds=0.8)
                if (part := which_set(name)) in lists:
                    lists[part].append(name)
        for part, names in lists.items():
            write_lines(root / _LISTS[part], names)
        draw = np.random.default_rng(seed)
        for name in ("white_noise.wav", _VALID_NOISE):
            write_audio(root / NOISE / name, 0.05 * draw.standard_normal(int(2.5 * SAMPLE_RATE)))
        write_lines(root / NOISE / "README.md", ["Noises."])
        official = target / "speech_commands_test_set_v0.02"
        for number, word in enumerate(("yes", "stop", "left")):
            write_spoken(official / word / f"0000000{number}_nohash_0.wav", word, seed, 0.8)
        write_spoken(official / UNKNOWN / "tree_0000000a_nohash_1.wav.wav", "tree", seed, 0.8)
        write_audio(official / SILENCE / "0.wav", 0.01 * draw.standard_normal(SAMPLE_RATE))
        return target


_FAKE_WORDS = ("yes", "no", "left", "stop", "seven", "tree")


def _word_folder(source: Path) -> Path:
    """The folder of word folders: given, or one of the releases below it."""
    places = [*source.glob("speech_commands_v*"), *source.glob("*/speech_commands_v*")]
    for folder in (source, *sorted(places, reverse=True)):
        if any((folder / name).exists() for name in _LISTS.values()) or _has_words(folder):
            return folder.resolve()
    found = ", ".join(sorted(p.name for p in source.iterdir())[:6]) or "nothing"
    raise UserError(
        f"{source}: not a folder of word folders (yes/, no/, ... with WAV files), found {found}; "
        "give the folder that the archive was extracted to"
    )


def _has_words(folder: Path) -> bool:
    if (folder / SILENCE).is_dir() or (folder / UNKNOWN).is_dir():
        return False  # that is the official test set
    return any(
        next(inside.glob("[!.]*.wav"), None) is not None
        for inside in folder.iterdir()
        if inside.is_dir() and inside.name[0] not in "._"
    )


def _official_folder(source: Path) -> Path:
    for folder in (source, *sorted(source.glob("speech_commands_test_set_v*"), reverse=True)):
        if (folder / SILENCE).is_dir() or (folder / UNKNOWN).is_dir():
            return folder.resolve()
    raise UserError(
        f"{source}: the 12-class test set is not there (a folder speech_commands_test_set_v0.02 "
        f"with {SILENCE} and {UNKNOWN}); download it with the split test12"
    )


def _words(root: Path, part: str, problems: Problems) -> Iterator[Utterance]:
    """The clips of one part: by the lists where they are there, else by `which_set`."""
    listing = Listing()
    absent = [file for file in _LISTS.values() if not (root / file).exists()]
    if len(absent) == 1:  # or the clips of that list would count as training
        raise UserError(
            f"{root / absent[0]}: not there, but the other list is; was it extracted completely?"
        )
    listed: dict[str, list[str]] = {}
    for name, file in () if absent else _LISTS.items():
        listed[name] = [line.strip() for _, line in read_lines(root / file)]
    has_lists = any(listed.values())
    if part in listed and has_lists:
        for number, name in enumerate(listed[part], 1):
            if not listing.has(root / name):
                problems.add(f"{root / _LISTS[part]}:{number}: {listing.missing(root / name)}")
    others = {name for names in listed.values() for name in names}
    chosen = set(listed.get(part, ()))
    for word in sorted(p.name for p in root.iterdir() if p.is_dir() and p.name[0] not in "._"):
        for file in sorted(n for n in listing.names(root / word) if n.endswith(".wav")):
            name = f"{word}/{file}"
            if part == "all":
                mine = True
            elif has_lists:
                mine = name in chosen if part in listed else name not in others
            else:
                mine = which_set(file) == part
            if mine:
                yield _clip(root / word / file, word, word)


def _clip(path: Path, label: str, text: str | None) -> Utterance:
    stem = path.name.split(".")[0]
    match = _CLIP.fullmatch(stem)
    speaker = match["speaker"] if match else ""
    key = f"{label.strip('_')}-{'_'.join(stem.split())}"
    return Utterance(key, str(path), text, speaker, labels={"label": label})


def _silence(root: Path, part: str, problems: Problems) -> Iterator[Utterance]:
    """Pieces of one second of the background noise; a rest shorter than that is dropped."""
    folder = root / NOISE
    names = sorted(p.name for p in folder.glob("[!.]*.wav"))
    if not names:
        problems.add(f"{folder}: no WAV files; the silence of the 12-class task is cut from them")
    for name in names:
        if (name == _VALID_NOISE) != (part == "valid"):
            continue
        try:
            seconds = int(audio_info(folder / name).duration)
        except UserError as error:
            problems.add(str(error))
            continue
        for start in range(seconds):
            yield Utterance(
                f"silence-{Path(name).stem}-{start:03d}", str(folder / name), "silence",
                f"noise-{Path(name).stem}", float(start), start + 1.0, labels={"label": SILENCE},
            )  # fmt: skip


def _official(root: Path, problems: Problems) -> Iterator[Utterance]:
    listing = Listing()
    for label in (*COMMANDS, SILENCE, UNKNOWN):
        files = sorted(n for n in listing.names(root / label) if n.endswith(".wav"))
        for file in files:
            yield _clip(root / label / file, label, None)
    strange = listing.names(root) - {*COMMANDS, SILENCE, UNKNOWN}
    for name in sorted(n for n in strange if (root / n).is_dir()):
        problems.add(f"{root / name}: not a class of the 12-class task")
