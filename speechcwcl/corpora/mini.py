"""The mini corpus: made speech that lies in the repository, for the demo and for tests.

Layout of its folder (``egs/mini/corpus``): ``corpus.json``, ``segments.tsv`` (id, file, start, end,
split, set, voice, kind, label, text) and ``audio/<split>/<voice>.ogg``, many clips in one file.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from speechcwcl.corpora.base import Corpus
from speechcwcl.data.audio import SAMPLE_RATE, write_audio
from speechcwcl.data.kaldi import Utterance
from speechcwcl.data.problems import Problems
from speechcwcl.errors import UserError
from speechcwcl.files import atomic_write, write_json

COLUMNS = ("id", "file", "start", "end", "split", "set", "voice", "kind", "label", "text")


class Mini(Corpus):
    """28 voices of Kokoro-82M: words, phrases and sentences of our own; 35 words and 35 intents."""

    name = "mini"
    title = "the mini corpus (made speech)"
    licence = "Apache-2.0"
    url = "egs/mini/corpus"
    version = "1"
    made_speech = True
    splits = (
        "train",
        "valid_words",
        "valid_intents",
        "valid_sentences",
        "test_words",
        "test_intents",
        "test_sentences",
    )
    label_fields = ("label",)

    def download(self, target: Path, splits: Iterable[str] | None = None) -> Path:
        """Nothing to fetch: it lies in the repository.

        Raises:
            UserError: this is an installation without the repository.
        """
        folder = Path(__file__).resolve().parents[2] / "egs" / "mini" / "corpus"
        if not (folder / "segments.tsv").exists():
            raise UserError(
                "the mini corpus lies in the repository (egs/mini/corpus); from an installation "
                "without it, give a copy of that folder with --data"
            )
        return folder

    def utterances(self, source: Path, split: str, problems: Problems) -> Iterator[Utterance]:
        """Yield the clips of one set; see :meth:`Corpus.utterances`."""
        table = self.file(source / "segments.tsv")
        with table.open(encoding="utf-8", newline="") as stream:
            rows = csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE)
            if tuple(rows.fieldnames or ()) != COLUMNS:
                raise UserError(f"{table}:1: expected the columns {', '.join(COLUMNS)}")
            present: dict[str, bool] = {}
            for number, row in enumerate(rows, 2):
                if row["set"] != split:
                    continue
                audio = (source / row["file"]).resolve()
                if not present.setdefault(row["file"], audio.is_file()):
                    problems.add(f"{table}:{number}: {row['file']} is not there")
                    continue
                try:
                    start, end = float(row["start"]), float(row["end"])
                except ValueError:
                    problems.add(f"{table}:{number}: start and end are not both numbers")
                    continue
                labels = {"kind": row["kind"]}
                if row["label"] != "-":
                    labels["label"] = row["label"]
                yield Utterance(
                    id=row["id"], audio=str(audio), text=row["text"], speaker=row["voice"],
                    start=start, end=end, labels=labels,
                )  # fmt: skip

    def fake(self, target: Path, seed: int = 0) -> Path:
        """A few tones in the true layout, with the true labels' names."""
        target = Path(target)
        draw = np.random.default_rng(seed)
        lines = ["\t".join(COLUMNS)]
        for set_name, texts in _FAKE.items():
            split = set_name.split("_")[0]
            for voice in ("va", "vb"):
                voice_name = f"{split}_{voice}"
                name = f"audio/{split}/{set_name}_{voice_name}.ogg"
                pieces, clock = [], 0.0
                for number, (label, kind, text) in enumerate(texts):
                    seconds = 0.3 + 0.1 * len(text.split()) + 0.05 * int(draw.integers(4))
                    pieces += [_tone(text, seconds, draw), np.zeros(SAMPLE_RATE // 4, np.float32)]
                    lines.append("\t".join([
                        f"{set_name}-{voice_name}-{number:05d}", name, f"{clock:.3f}",
                        f"{clock + seconds:.3f}", split, set_name, voice_name, kind, label, text,
                    ]))  # fmt: skip
                    clock += seconds + 0.25
                write_audio(target / name, np.concatenate(pieces))
        with atomic_write(target / "segments.tsv") as stream:
            stream.write("\n".join(lines) + "\n")
        write_json(target / "corpus.json", {"name": "mini", "made_speech": True, "fake": True})
        return target


def _tone(text: str, seconds: float, draw: np.random.Generator) -> np.ndarray:
    """A chord that the text determines, with a little noise: learnable, and no two alike."""
    time = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    pitches = np.random.default_rng(list(text.encode())).uniform(150, 3000, size=3)
    wave = sum(np.sin(2 * np.pi * f * time) for f in pitches) / 6
    return (wave + 0.01 * draw.standard_normal(len(time))).astype(np.float32)


_FAKE: dict[str, list[tuple[str, str, str]]] = {
    "train": [
        ("-", "word", "bread"), ("-", "word", "window"), ("-", "phrase", "turn left here"),
        ("-", "phrase", "seven days a week"), ("-", "sentence", "set my morning alarm for six"),
        ("-", "sentence", "what is the weather like tomorrow"),
        ("-", "sentence", "play some quiet music in the kitchen"), ("-", "word", "green"),
    ],
    "valid_words": [(w, "word", w) for w in ("start", "open", "green")],
    "valid_intents": [
        ("volume_down", "intent", "make it quieter"), ("play_radio", "intent", "put the radio on"),
        ("lock_door", "intent", "lock up for the night"),
    ],
    "valid_sentences": [
        ("-", "sentence", "the train leaves at noon"), ("-", "sentence", "she opened the old door"),
        ("-", "sentence", "how tall is that mountain"),
    ],
    "test_words": [(w, "word", w) for w in ("yes", "no", "left", "right", "stop", "seven")],
    "test_intents": [
        ("set_alarm", "intent", "get me up at seven"), ("get_weather", "intent", "will it rain"),
        ("play_music", "intent", "put on a song"),
    ],
    "test_sentences": [
        ("-", "sentence", "the kettle is boiling over"), ("-", "sentence", "call me a taxi please"),
        ("-", "sentence", "we walked along the river"),
    ],
}  # fmt: skip
