"""Writes `corpus.json` and the data card `README.md` of the corpus."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .clips import PEAK
from .fetch import sha256_of
from .pack import Segment
from .plan import LIST_FILES, SPLIT_OF_SET, Settings
from .voices import ALL_VOICES, HIBARI_VOICES, TEST_VOICES, TRAIN_VOICES, VALID_VOICES

VERSION = "1.0.0"
LICENCE = "Apache-2.0"


def summary(segments: list[Segment]) -> dict[str, dict[str, Any]]:
    """Clips, hours, voices and texts of each set."""
    rows: dict[str, list[Segment]] = defaultdict(list)
    for segment in segments:
        rows[segment.set].append(segment)
    return {
        name: {
            "split": split,
            "clips": len(rows[name]),
            "hours": round(sum(row.end - row.start for row in rows[name]) / 3600, 3),
            "texts": len({row.text for row in rows[name]}),
            "labels": len({row.label for row in rows[name]} - {"-"}),
            "voices": sorted({row.voice for row in rows[name]}),
        }
        for name, split in SPLIT_OF_SET.items()
    }


def write_corpus_json(
    out: Path, lists: Path, segments: list[Segment], settings: Settings, bitrate: int
) -> dict[str, Any]:
    """Writes `corpus.json`; the sha256 of the lists are included when they lie in `out`."""
    files = [out / "segments.tsv", *sorted((out / "audio").rglob("*.ogg"))]
    if lists.is_relative_to(out):
        files += [lists / name for name in LIST_FILES.values()]
    corpus = {
        "name": "mini",
        "version": VERSION,
        "licence": LICENCE,
        "synthetic_speech": True,
        "language": "en",
        "sample_rate": 16000,
        "made_with": ["Kokoro-82M int8 (Apache-2.0)", "hibari-tts 0.2.1 (Apache-2.0)"],
        "settings": {**asdict(settings), "bitrate": bitrate},
        "sets": summary(segments),
        "sha256": {str(path.relative_to(out)): sha256_of(path) for path in sorted(files)},
    }
    text = json.dumps(corpus, indent=1, ensure_ascii=False) + "\n"
    (out / "corpus.json").write_text(text, encoding="utf-8")
    return corpus


def count_table(sets: dict[str, dict[str, Any]]) -> str:
    """The counts as a Markdown table."""
    lines = ["| set | split | clips | hours | texts | labels | voices |",
             "|---|---|---:|---:|---:|---:|---:|"]  # fmt: skip
    for name, row in sets.items():
        lines.append(
            f"| `{name}` | {row['split']} | {row['clips']:,} | {row['hours']:.2f} "
            f"| {row['texts']:,} | {row['labels'] or '-'} | {len(row['voices'])} |"
        )
    clips, hours = (sum(row[key] for row in sets.values()) for key in ("clips", "hours"))
    return "\n".join([*lines, f"| all | | {clips:,} | {hours:.2f} | | | |"])


CARD = """# Mini corpus (synthetic speech)

**Every clip here is synthetic.** No person was recorded. The corpus is small enough to be part of
this repository, so that the mini recipe, the demo and the tests need no download; it shows that
training works and compares methods, and says little about real recordings.

| | |
|---|---|
| content | isolated words, short phrases, sentences and spoken intents, English |
| format | 16 kHz mono Ogg/Opus, about {kbits:g} kbit/s, many clips in one file for each voice |
| version | {version}, sha256 of every file in `corpus.json` |
| made by | `tools/make_mini_corpus.py`, seed {seed} |

## Counts

{table}

Clips of training: {kinds}.

## Files
- `segments.tsv`: `id file start end split set voice kind label text`, one clip a row. `start` and
  `end` are seconds within `file` (three decimals, exact: clips begin and end on whole
  milliseconds). `label` is the word for `*_words` and words of `train`, the intent id for
  `*_intents`, and `-` otherwise. Clips are at least 0.25 s of silence apart and carry up to 0.08 s
  before and 0.10 s after the speech.
- `audio/<split>/<voice>.ogg`: read a clip with
  `soundfile.read(file, start=round(start * 16000), stop=round(end * 16000))`.
- `lists/`: the texts, and the label texts of the intents.
- `corpus.json`: name, version, licence, settings, counts, sha256.

## Voices and splits
Splits are disjoint in voices and in texts; {voices} Kokoro voices are used.
- test: {test}
- valid: {valid}
- train: {train}
- train, made from these: {blends} blends of two of them (the mean of their style vectors, named
  `a+b`); and hibari, a small model taught by `af_heart` (so it counts as that speaker), at
  {hibari} settings of pitch and formants (`hibari_p080` is moved to 80 %).

Every voice of test has a timbre cosine below 0.66 to each voice of its sex in other splits, of
valid below 0.75 (first half of the style vectors; between training voices it goes up to 0.84).
Voice and speaking speed (0.8 to 1.25) are drawn for each clip from the seed. Peak level is {peak}.

## How to make it again
```
pip install numpy scipy soundfile pyyaml tqdm onnx onnxruntime hibari-tts==0.2.1
python tools/make_mini_corpus.py --work WORK   {options}
python tools/make_mini_corpus.py --check --thorough
```
The first command takes {minutes}; finished clips stay in
`WORK`, so it can be interrupted. The same lists and seed give the same voices, speeds and splits;
the sound may differ in the last bits with other versions of onnxruntime or libopus.

## Licences
- Kokoro-82M by hexgrad (model and voices): Apache-2.0; its int8 ONNX export by thewh1teagle
  (kokoro-onnx): MIT.
- hibari-tts by Maureese Williams (a voice, and the grapheme-to-phoneme code for all): Apache-2.0.
- The texts were written for this project. Texts and sound are given under this repository's
  Apache-2.0; as far as the texts are concerned, CC0-1.0 may be chosen instead.

## Known limits
- Clean, studio-like, synthetic speech: no noise, no rooms, no hesitation, few accents (American and
  British). A result here is not a result on real recordings.
- A word alone is the hardest thing for this model. {words_note}
- The blended voices are not people, and hibari's five settings are one speaker.
- Opus at {kbits:g} kbit/s can be told from the original in a direct comparison.
- Most training clips are hibari's, because it is fast; Kokoro's training voices and the
  blends speak the smaller part. More of them: raise `--kokoro_words`, `--kokoro_phrases` and
  `--kokoro_sentences` (Kokoro makes about 1.6 seconds of sound a second and core).
"""
WORDS_NOTE = """Whisper tiny.en (4 s windows, after coding)
  choosing among the 35 command words is right on 95 of 100 random clips of `test_words` (39 of 40
  real recordings of such words); writing freely, on 65 (31 of 40). `bf_emma` is the least clear
  (18 of 23; `off`, `four`, `wow`, `up`), and has a faint click after some words."""


def write_card(out: Path, corpus: dict[str, Any], segments: list[Segment]) -> None:
    """Writes the data card `README.md`."""
    sets, settings = corpus["sets"], corpus["settings"]
    kinds: dict[str, int] = defaultdict(int)
    for row in segments:
        if row.set == "train":
            engine = "hibari" if row.voice.startswith("hibari") else "Kokoro"
            kinds[f"{row.kind}s by {engine}"] += 1
    defaults = asdict(Settings())
    options = [f"--{key} {settings[key]}" for key in defaults if settings[key] != defaults[key]]
    text = CARD.format(
        kbits=settings["bitrate"] / 1000,
        version=corpus["version"],
        seed=settings["seed"],
        table=count_table(sets),
        kinds=", ".join(f"{count:,} {name}" for name, count in sorted(kinds.items())),
        voices=len(ALL_VOICES),
        test=", ".join(f"`{name}`" for name in TEST_VOICES),
        valid=", ".join(f"`{name}`" for name in VALID_VOICES),
        train=", ".join(f"`{name}`" for name in TRAIN_VOICES),
        blends=settings["blends"],
        hibari=len(HIBARI_VOICES),
        peak=PEAK,
        options=" ".join(options),
        minutes="about 45 minutes (estimated) on two free cores",
        words_note=WORDS_NOTE,
    )
    lines = [line.rstrip() for line in text.splitlines()]
    (out / "README.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
