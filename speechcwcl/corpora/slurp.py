"""SLURP: commands to a home assistant, with scenario and action; close and far microphone."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from speechcwcl.corpora._download import Archive
from speechcwcl.corpora.base import Corpus, Listing, find_folder, write_lines, write_spoken
from speechcwcl.data.rows import read_lines
from speechcwcl.data.tables import Problems
from speechcwcl.data.utterance import Utterance
from speechcwcl.errors import UserError
from speechcwcl.files import read_json, write_json
from speechcwcl.jsons import parse_json

_COMMIT = "8eb16545762be97ace75334109d73824217311f1"
_TEXT = f"https://raw.githubusercontent.com/pswietojanski/slurp/{_COMMIT}/dataset/slurp/"
_AUDIO = "https://zenodo.org/records/4274930/files/"
_ANNOTATIONS = ("train", "devel", "test", "train_synthetic")
_HEADSET = "_headset"
_KEYS = ("slurp_id", "sentence", "scenario", "action", "recordings")
_SHA256 = {
    "devel": "00d346b183ecc2d160853cd3dc20e8ccd207d9e1809cf6e2c05182076bd0ecc9",
    "test": "fe3449af69b42fda7163345482556066c35a80f7e552a6d67e212a0e2f0783cc",
}


class Slurp(Corpus):
    """`dataset/slurp/<split>.jsonl` with `recordings`; `audio/slurp_real`, `slurp_synth`.

    One utterance a recording. Splits ending in `_headset` keep the close microphone only. The
    fields are `label` = scenario_action (60 classes; the raw `intent` of the annotations is
    noisy: 37 of the 2,974 test sentences disagree with their own scenario and action),
    `scenario` (18) and `action` (46).
    """

    name = "slurp"
    title = "SLURP"
    licence = "text CC-BY-4.0, audio CC-BY-NC-4.0"
    url = "https://github.com/pswietojanski/slurp"
    version = f"annotations {_COMMIT[:7]}, audio Zenodo 4274930"
    splits = (*_ANNOTATIONS, "train_headset", "devel_headset", "test_headset")
    label_fields = ("label", "scenario", "action")

    def archives(self, splits: Iterable[str] | None = None) -> list[Archive]:
        """See `Corpus.archives`: the annotations, and the audio that the splits need."""
        wanted = self.check_splits(splits)
        names = sorted({split.removesuffix(_HEADSET) for split in wanted})
        found = [
            Archive(
                f"{_TEXT}{name}.jsonl",
                checksum=f"sha256:{_SHA256[name]}" if name in _SHA256 else "",
                into="dataset/slurp",
                unpack=False,
            )
            for name in names
        ]
        found.append(Archive(f"{_TEXT}metadata.json", into="dataset/slurp", unpack=False))
        if names != ["train_synthetic"]:
            found.append(
                Archive(
                    f"{_AUDIO}slurp_real.tar.gz",
                    size=3_918_185_662,
                    checksum="md5:9efc0f058ced47bf5131c7cb2cade513",
                    into="audio",
                )
            )
        if "train_synthetic" in names:
            # Of its published MD5 only these digits were at hand; they are compared.
            found.append(
                Archive(f"{_AUDIO}slurp_synth.tar.gz", checksum="md5:6186b4d2475a", into="audio")
            )
        return found

    def utterances(self, source: Path, split: str, problems: Problems) -> Iterator[Utterance]:
        """Yield the recordings of one split; see `Corpus.utterances`."""
        part = split.removesuffix(_HEADSET)
        marks = tuple(f"{name}.jsonl" for name in _ANNOTATIONS)
        places = ("dataset/slurp", "slurp/dataset/slurp")
        texts = find_folder(source, marks, places, self.title)
        table = self.file(texts / f"{part}.jsonl")
        folder = self._audio(source, "slurp_synth" if part == "train_synthetic" else "slurp_real")
        speakers = _speakers(texts / "metadata.json")
        listing = Listing()
        for number, entry in read_sentences(table, problems):
            label = f"{entry['scenario']}_{entry['action']}"
            labels = {"label": label, "scenario": entry["scenario"], "action": entry["action"]}
            for recording in entry["recordings"]:
                name = recording["file"]
                if split.endswith(_HEADSET) and "-headset" not in name:
                    continue
                audio = folder / name
                if not listing.has(audio):
                    problems.add(f"{table}:{number}: {listing.missing(audio)}")
                    continue
                key = f"{entry['slurp_id']}-{Path(name).stem}"
                speaker = recording.get("usrid") or speakers.get(name, "")
                yield Utterance(key, str(audio), entry["sentence"], speaker, labels=dict(labels))

    def _audio(self, source: Path, name: str) -> Path:
        """`name` below `audio` (as the corpus' script puts it) or beside the annotations."""
        for place in ("audio", "", "scripts/audio", "slurp/audio"):
            if (source / place / name).is_dir():
                return (source / place / name).resolve()
        raise UserError(
            f"{source}: no folder audio/{name} (nor {name}) in it; extract {name}.tar.gz there"
        )

    def fake(self, target: Path, seed: int = 0) -> Path:
        """A few sentences of our own with their true kinds of files, two microphones each."""
        target = Path(target)
        texts = target / "dataset" / "slurp"
        people: dict[str, Any] = {}
        for place, split in enumerate(_ANNOTATIONS):
            synthetic = split == "train_synthetic"
            folder = target / "audio" / ("slurp_synth" if synthetic else "slurp_real")
            lines = []
            for number, (scenario, action, sentence) in enumerate(_FAKE):
                slurp_id = 1000 * (place + 1) + number
                stem = f"audio-{'synth-' if synthetic else ''}{1490000000 + slurp_id}"
                names = [f"{stem}.flac"] if synthetic else [f"{stem}-headset.flac", f"{stem}.flac"]
                for copy, name in enumerate(names):
                    write_spoken(folder / name, sentence, seed + slurp_id + copy)
                lines.append(json.dumps(_entry(slurp_id, scenario, action, sentence, names)))
                user = {"usrid": f"FE-{100 + number % 2 + 10 * place}", "status": "correct"}
                people[str(slurp_id)] = {"recordings": dict.fromkeys(names, user)}
            write_lines(texts / f"{split}.jsonl", lines)
        write_json(texts / "metadata.json", people)
        return target


def read_sentences(table: Path, problems: Problems) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield `(line number, entry)` of an annotation file.

    An entry has at least `slurp_id`, `sentence`, `scenario`, `action` and `recordings`;
    a line that has not is a problem.
    """
    for number, line in read_lines(table):
        where = f"{table}:{number}"
        try:
            entry = parse_json(line, where, line=False)
            lacking = [key for key in _KEYS if not entry.get(key) and entry.get(key) != 0]
            names = "".join(recording["file"] for recording in entry.get("recordings") or [])
            "".join(entry.get(key) or "" for key in _KEYS[1:4])  # are texts
        except (UserError, AttributeError, TypeError, KeyError):
            problems.add(f"{where}: not an entry of SLURP's annotations (cut off?)")
            continue
        if lacking:
            problems.add(f"{where}: no {lacking[0]} in this entry")
        elif "/" in names:
            problems.add(f"{where}: a recording's name must not hold a folder")
        else:
            yield number, entry


def _speakers(path: Path) -> dict[str, str]:
    """Recording -> speaker (`usrid`), from the corpus' metadata where it is there."""
    if not path.exists():
        return {}
    try:
        return {
            name: "-".join(recording["usrid"].split())
            for entry in read_json(path).values()
            for name, recording in entry["recordings"].items()
            if recording.get("usrid")
        }
    except (AttributeError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not SLURP's metadata.json; fetch it again") from error


def _entry(
    slurp_id: int, scenario: str, action: str, sentence: str, names: list[str]
) -> dict[str, Any]:
    words = sentence.split()
    return {
        "slurp_id": slurp_id,
        "sentence": sentence,
        "sentence_annotation": sentence,
        "intent": f"{scenario}_{action}",
        "action": action,
        "tokens": [{"surface": w, "id": i, "lemma": w, "pos": "NN"} for i, w in enumerate(words)],
        "scenario": scenario,
        "recordings": [
            {"file": name, "wer": 0.0, "ent_wer": 0.0, "status": "correct"} for name in names
        ],
        "entities": [],
    }


_FAKE = (
    ("alarm", "set", "get me out of bed at half past six"),
    ("alarm", "remove", "i do not want that alarm any longer"),
    ("play", "music", "put on something by the string quartet"),
    ("weather", "query", "is it dry enough for a picnic"),
    ("iot", "hue_lightoff", "no more light in the attic please"),
    ("audio", "volume_mute", "not another sound from you"),
)
