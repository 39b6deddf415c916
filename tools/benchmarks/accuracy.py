#!/usr/bin/env python3
"""Zero-shot accuracy of a model, of its ONNX and int8 forms, and of the cascade, on the same clips.

    python tools/benchmarks/accuracy.py --model DIR --onnx DIR --int8 DIR --data DIR --json FILE

Sets: the test words and intents of the mini corpus (synthetic speech), and with --data the real
recordings that tools/real_speech.py knows (spoken digits, Speech Commands words). Figures are
added to the JSON file by contender, so that it can be filled in several runs;
tools/benchmarks/inference.py puts them into its table. Transcripts are kept in it too.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rivals import SETTINGS, Cascade, spell
from tqdm import tqdm

from speechcwcl.corpora.mini import Mini
from speechcwcl.data.audio import load_audio
from speechcwcl.data.tables import Problems
from speechcwcl.errors import UserError
from speechcwcl.evaluation.scores import score_zeroshot
from speechcwcl.files import read_json, write_json
from speechcwcl.models.aligner import Aligner
from speechcwcl.zeroshot.protocol import load_protocol

# name -> (title, protocol)
SETS = {
    "mini_words": ("35 words, synthetic speech", "mini_words"),
    "mini_intents": ("35 intents, synthetic speech", "mini_intents"),
    "digits": ("10 digits, real (FSDD)", "digits_10"),
    "words": ("30 words, real (Speech Commands)", "gsc_v1_30"),
}
# name -> (title, the option that gives it)
CONTENDERS = {
    "ours": ("ours", "model"),
    "onnx": ("ours, ONNX", "onnx"),
    "int8": ("ours, ONNX int8", "int8"),
    "cascade": ("Whisper tiny.en + MiniLM", "cascade"),
}


def utterances(name: str, data: Path | None, limit: int | None) -> list[Any]:
    """The clips of a set, shuffled with a fixed seed; with `limit` the first of them."""
    if name.startswith("mini"):
        corpus, problems = Mini(), Problems()
        found = list(corpus.utterances(corpus.download(Path()), f"test_{name[5:]}", problems))
    else:
        found = list(_real_speech().SETS[name][0](data))
    return [found[row] for row in np.random.default_rng(0).permutation(len(found))[:limit]]


def _real_speech() -> Any:
    """tools/real_speech.py, which knows how the real recordings are laid out."""
    path = Path(__file__).parents[1] / "real_speech.py"
    spec = importlib.util.spec_from_file_location("real_speech", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def load(clips: Sequence[Any]) -> list[np.ndarray]:
    """Decode clips: (samples,) float32 at 16 kHz each."""
    return [load_audio(clip.audio, clip.start, clip.end) for clip in clips]


def figures(speech: np.ndarray, clips: Sequence[Any], protocol: str, encode_text: Any) -> dict:
    """Top-1 and its 95 % interval under a protocol, as `speechcwcl evaluate` takes them."""
    scores = score_zeroshot(speech, clips, load_protocol(protocol), encode_text).scores
    return {key: scores[key] for key in ("n", "classes", "top1", "top1_interval")}


def transcribe(
    cascade: Cascade, clips: Sequence[Any], known: dict[str, str], save: Callable[[], None]
) -> list[str]:
    """The cascade's transcripts; those that `known` holds (by clip) are not made again."""
    missing = [clip for clip in clips if clip.id not in known]
    for number, clip in enumerate(tqdm(missing, desc="transcribe", mininterval=30), 1):
        known[clip.id] = cascade.transcribe(load([clip])[0])
        if number % 20 == 0:
            save()
    return [known[clip.id] for clip in clips]


def score_cascade(name: str, clips: list[Any], heard: list[str], cascade: Cascade) -> dict:
    """Score the cascade: transcripts as they are, and spelt as labels are (see `spell`)."""
    protocol = SETS[name][1]
    row = figures(cascade.encode_text(heard), clips, protocol, cascade.encode_text)
    spelt = cascade.encode_text([spell(text) for text in heard])
    row["spelt"] = figures(spelt, clips, protocol, cascade.encode_text)
    return row | {"settings": SETTINGS}


def open_models(args: argparse.Namespace) -> dict[str, Any]:
    """The contenders that are asked for."""
    models: dict[str, Any] = {}
    if args.model:
        models["ours"] = Aligner.from_pretrained(args.model)
    for key in ("onnx", "int8"):
        if getattr(args, key):
            from speechcwcl.export.onnx_model import OnnxAligner

            models[key] = OnnxAligner.from_pretrained(getattr(args, key), threads=args.threads)
    return models


def main(argv: Sequence[str] | None = None) -> int:
    """Run; exit code 2 for what the user can put right."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, help="a model folder")
    parser.add_argument("--onnx", type=Path, help="a folder of `speechcwcl export`")
    parser.add_argument("--int8", type=Path, help="a folder of `speechcwcl export --int8`")
    parser.add_argument("--cascade", action="store_true", help="score Whisper + MiniLM")
    parser.add_argument("--data", type=Path, help="folder with real recordings")
    parser.add_argument("--sets", nargs="*", choices=list(SETS), default=list(SETS))
    parser.add_argument("--limit", type=int, help="clips a set, always the same; default: all")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, required=True, help="the file to fill")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    try:
        found = read_json(args.json) if args.json.exists() else {}
        found.setdefault("accuracy", {})
        found.setdefault("transcripts", {})
        models, cascade = open_models(args), Cascade() if args.cascade else None
        for name in args.sets:
            if not name.startswith("mini") and args.data is None:
                continue
            clips = utterances(name, args.data, args.limit)
            waves = load(clips) if models else []
            for key, model in models.items():
                row = figures(model.encode_speech(waves), clips, SETS[name][1], model.encode_text)
                found["accuracy"].setdefault(name, {})[key] = row
            if cascade:
                known = found["transcripts"].setdefault(name, {})
                heard = transcribe(cascade, clips, known, lambda: write_json(args.json, found))
                row = score_cascade(name, clips, heard, cascade)
                found["accuracy"].setdefault(name, {})["cascade"] = row
            write_json(args.json, found)
            for key, row in found["accuracy"][name].items():
                print(f"{name}: {key} {100 * row['top1']:.1f} % of {row['n']}", flush=True)
    except UserError as error:
        print(f"accuracy: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
