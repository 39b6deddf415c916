#!/usr/bin/env python3
"""The release's table: a model and the cascade on the same test clips, with 95 % intervals.

Takes the compiled sets of tools/make_release_sets.py. The cascade (Whisper tiny.en, then MiniLM on
the transcript as it is, or spelt as labels are where that is better) is slow: --limit clips a set,
always the same, and the model is scored on them as well as on all. Transcripts are kept.
Single words and wake phrases are also told by their sound (`classify --spoken`), with the synthetic
voices that are installed. --heard makes the clips worse first, for both: through a telephone (300
to 3,400 Hz and mu-law) or in pink noise of 10 dB.

Example:
  tools/release_table.py --model exp/en-tiny/model --dump dump --out exp/table --limit 100
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from long_speech import questions
from make_release_sets import PROTOCOLS
from tqdm import tqdm

from speechcwcl.data.effects import add_noise, band, coloured_noise, mulaw
from speechcwcl.data.manifest import Manifest
from speechcwcl.errors import UserError
from speechcwcl.evaluation.metrics import accuracy_interval
from speechcwcl.evaluation.scores import build_classifier
from speechcwcl.files import atomic_write, read_json, write_json
from speechcwcl.models.aligner import Aligner
from speechcwcl.models.peers import Cascade, spell
from speechcwcl.zeroshot.enrolment import encode_spoken
from speechcwcl.zeroshot.protocol import load_protocol

EncodeText = Callable[[Sequence[str]], np.ndarray]
SPOKEN = ("digits", "commands", "wake", "cut", "words")
SETS = [name for name in PROTOCOLS if name.startswith("test_")]
CASCADE = "Whisper tiny.en + MiniLM"


def heard_as(clip: Any, how: str) -> np.ndarray:
    """The clip's waveform (samples,), made worse as `how` says; noise by the clip's name."""
    wav = clip.load()
    if how == "telephone":
        return mulaw(band(wav, 300.0, 3400.0))
    if how == "noise":
        rng = np.random.default_rng(list(clip.id.encode()))
        return add_noise(wav, coloured_noise(len(wav), 1.0, rng), 10.0)
    return wav


def answers(name: str, clips: list[Any], encode_text: EncodeText) -> Callable[..., np.ndarray]:
    """A function of embeddings (n, dim) and positions in `clips` -> (n,) whether right.

    Retrieval is always among the texts of all clips; the choice is made by cosine.
    """
    if name.endswith("_long"):
        asked = dict(questions(clips))
        texts = {row: encode_text(phrases) for row, phrases in asked.items()}
        return lambda rows, where: np.array(
            [_best(texts[w], row) == 0 for row, w in zip(rows, where, strict=True)]
        )
    if PROTOCOLS[name]:
        protocol = load_protocol(PROTOCOLS[name])
        wanted, classes = np.full(len(clips), -1), build_classifier(protocol, encode_text)
        kept, columns = protocol.assign(clips)
        wanted[kept] = columns
    else:
        unique = sorted({clip.text for clip in clips})
        wanted = np.array([unique.index(clip.text) for clip in clips])
        classes = encode_text(unique)
    return lambda rows, where: np.argmax(rows @ classes.T, axis=1) == wanted[where]


def _best(texts: np.ndarray, row: np.ndarray) -> int:
    """The nearest text to (dim,) or, of (parts, dim), to the best part."""
    return int(np.argmax((np.atleast_2d(row) @ texts.T).max(axis=0)))


def positions(name: str, clips: list[Any], limit: int | None) -> np.ndarray:
    """Which clips are scored, in a fixed random order."""
    asked = [row for row, _ in questions(clips)] if name.endswith("_long") else range(len(clips))
    return np.random.default_rng(0).permutation(np.array(list(asked)))[:limit]


def cell(right: np.ndarray) -> str:
    """`91.2 (89.0 to 93.1)`, in per cent."""
    low, high = accuracy_interval(right)
    return f"{100 * right.mean():.1f} ({100 * low:.1f} to {100 * high:.1f})"


def score_set(
    name: str,
    model: Aligner,
    cascade: Cascade | None,
    args: argparse.Namespace,
    known: dict,
    done: dict[str, np.ndarray],
) -> dict[str, Any]:
    """All figures of one set; `done` keeps embeddings for sets that share clips."""
    clips = list(Manifest(args.dump / name / "manifest.jsonl"))
    where, few = positions(name, clips, args.most), positions(name, clips, args.limit)
    right = answers(name, clips, model.encode_text)
    long = name.endswith("_long") and model.windows
    new = [i for i in where if long or clips[i].id not in done]  # windows are not kept
    wavs = [heard_as(clips[i], args.heard) for i in new]
    rows = model.encode_parts(wavs) if long else list(model.encode_speech(wavs))
    done |= {clips[i].id: row for i, row in zip(new, rows, strict=True)} if not long else {}
    found = right(rows if long else np.stack([done[clips[i].id] for i in where]), where)
    row: dict[str, Any] = {"set": name, "n": len(where), "ours": cell(found)}
    row["same"] = f"{100 * found[: len(few)].mean():.1f}"
    if name.partition("_")[2] in SPOKEN:
        sound = answers(name, clips, partial(encode_spoken, model))
        told = sound(np.stack([done[clips[i].id] for i in where]), where)
        row |= {"sound": cell(told), "same_sound": f"{100 * told[: len(few)].mean():.1f}"}
    if all(clips[i].text for i in where):
        words = right(model.encode_text([clips[i].text for i in where]), where)
        row["bound"] = f"{100 * words.mean():.1f}"
    if cascade:
        heard = [known.get(clips[i].id) for i in few]
        for at, i in enumerate(tqdm(few, desc=name, mininterval=30)):
            if heard[at] is None:
                heard[at] = known[clips[i].id] = cascade.transcribe(heard_as(clips[i], args.heard))
        judge = answers(name, clips, cascade.encode_text)
        forms = [heard, [spell(text) for text in heard]]
        best = max((judge(cascade.encode_text(form), few) for form in forms), key=np.mean)
        row |= {"few": len(few), "cascade": cell(best)}
    return row


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown."""
    ours, sound = "en-tiny", "by sound"
    head = ["test set", "clips", f"{ours}, all clips", sound, "text bound"]
    head += ["clips", ours, sound, CASCADE]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    keys = ("set", "n", "ours", "sound", "bound", "few", "same", "same_sound", "cascade")
    lines += ["| " + " | ".join(str(row.get(key, "")) for key in keys) + " |" for row in rows]
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Run; exit code 2 for what the user can put right."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True, help="a model folder")
    parser.add_argument("--dump", type=Path, required=True, help="the compiled sets")
    parser.add_argument("--out", type=Path, required=True, help="figures and transcripts go here")
    parser.add_argument("--sets", nargs="*", default=SETS, choices=list(PROTOCOLS))
    parser.add_argument("--limit", type=int, default=100, help="clips a set for the cascade")
    parser.add_argument("--most", type=int, help="clips a set for the model; default: all")
    parser.add_argument("--no_cascade", action="store_true")
    parser.add_argument("--heard", choices=("clean", "telephone", "noise"), default="clean")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    path, rows = args.out / f"transcripts-{args.heard}.json", []
    done: dict[str, np.ndarray] = {}
    try:
        known = read_json(path) if path.exists() else {}
        model = Aligner.from_pretrained(args.model)
        cascade = None if args.no_cascade else Cascade()
        for name in args.sets:
            rows.append(score_set(name, model, cascade, args, known, done))
            write_json(path, known)
            print(rows[-1], flush=True)
        with atomic_write(args.out / f"table-{args.heard}.md") as stream:
            stream.write(table(rows) + "\n")
        print(table(rows))
        return 0
    except UserError as error:
        print(f"release_table: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
