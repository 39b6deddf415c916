"""The mini corpus: synthetic speech that lies in the repository, for the demo and for tests.

Layout of its folder (`egs/mini/corpus`): `corpus.json`, `segments.tsv` (id, file, start, end,
split, set, voice, kind, label, text) and `audio/<split>/<voice>.ogg`, many clips in one file.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from speechcwcl.corpora.base import Corpus, chord, write_lines
from speechcwcl.data.audio import SAMPLE_RATE, write_audio
from speechcwcl.data.rows import read_table, seconds
from speechcwcl.data.tables import Problems
from speechcwcl.data.utterance import Utterance
from speechcwcl.errors import UserError
from speechcwcl.files import write_json

COLUMNS = ("id", "file", "start", "end", "split", "set", "voice", "kind", "label", "text")


class Mini(Corpus):
    """28 voices of Kokoro-82M: words, phrases and sentences of our own; 35 words and 35 intents."""

    name = "mini"
    title = "the mini corpus (synthetic speech)"
    licence = "Apache-2.0"
    url = "egs/mini/corpus"
    version = "1"
    synthetic_speech = True
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
        """Nothing to fetch: it lies in the repository."""
        folder = Path(__file__).resolve().parents[2] / "egs" / "mini" / "corpus"
        if not (folder / "segments.tsv").exists():
            raise UserError(
                "the mini corpus lies in the repository (egs/mini/corpus); from an installation "
                "without it, give a copy of that folder with --data"
            )
        return folder

    def utterances(self, source: Path, split: str, problems: Problems) -> Iterator[Utterance]:
        """Yield the clips of one set; see `Corpus.utterances`."""
        table = self.file(source / "segments.tsv")
        present: dict[str, bool] = {}
        for number, row in read_table(table, COLUMNS, problems):
            if row["set"] != split:
                continue
            where = f"{table}:{number}"
            audio = (source / row["file"]).resolve()
            if not present.setdefault(row["file"], audio.is_file()):
                problems.add(f"{where}: {row['file']} is not there")
                continue
            try:
                start, end = (seconds(row[name], where, name) for name in ("start", "end"))
            except UserError as error:
                problems.add(str(error))
                continue
            labels = {"kind": row["kind"]}
            if row["label"] != "-":
                labels["label"] = row["label"]
            yield Utterance(
                row["id"], str(audio), row["text"], row["voice"], start, end, None, labels
            )

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
                    length = 0.3 + 0.1 * len(text.split()) + 0.05 * int(draw.integers(4))
                    pieces += [chord(text, length, draw), np.zeros(SAMPLE_RATE // 4, np.float32)]
                    lines.append("\t".join([
                        f"{set_name}-{voice_name}-{number:05d}", name, f"{clock:.3f}",
                        f"{clock + length:.3f}", split, set_name, voice_name, kind, label, text,
                    ]))  # fmt: skip
                    clock += length + 0.25
                write_audio(target / name, np.concatenate(pieces))
        write_lines(target / "segments.tsv", lines)
        write_json(target / "corpus.json", {"name": "mini", "synthetic_speech": True, "fake": True})
        return target


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
