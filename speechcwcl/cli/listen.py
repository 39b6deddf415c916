"""Spot keywords, any that can be written in words, in a microphone's stream or in a long file.

Examples:
  speechcwcl listen meeting.flac --model MODEL --labels "go;stop;turn left"
  speechcwcl listen --model MODEL --labels "go;stop"                      # the microphone
  arecord -q -f S16_LE -r 16000 -c 1 -t raw | speechcwcl listen - --model MODEL --labels "go;stop"

It prints one line for each event: start and end in seconds, label, score.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from speechcwcl.assets import DEFAULT_MODEL
from speechcwcl.data.audio import audio_blocks, audio_info
from speechcwcl.errors import UserError, require
from speechcwcl.files import read_text

if TYPE_CHECKING:
    import numpy as np

    from speechcwcl.apps.listen.listener import Event


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from speechcwcl.apps.listen.listener import Options

    defaults = Options()
    parser.add_argument(
        "audio", nargs="?", help="a file of any length; - : raw 16-bit mono samples at 16 kHz on "
        "the standard input; left out: the microphone",
    )  # fmt: skip
    parser.add_argument(
        "--model",
        default=DEFAULT_MODEL,
        help="a model folder or hub id (default: %(default)s)",
    )
    parser.add_argument("--labels", help="what to listen for, separated by semicolons")
    parser.add_argument("--labels_file", type=Path, help="a file of labels, one a line")
    parser.add_argument(
        "--template", action="append", help="a sentence with {} for the label; may be repeated"
    )
    parser.add_argument(
        "--threshold",
        type=float,
        default=defaults.threshold,
        help="0 to 1; a higher one gives fewer events, and fewer wrong ones",
    )
    parser.add_argument("--window", type=float, default=defaults.window, help="seconds of a window")
    parser.add_argument("--hop", type=float, default=defaults.hop, help="seconds between windows")
    parser.add_argument(
        "--gate",
        type=float,
        default=defaults.gate,
        help="windows that stand out of the noise by fewer dB are skipped; -1 skips none",
    )
    parser.add_argument(
        "--format", choices=("text", "json"), default="text", help="json: one object a line"
    )
    parser.add_argument("--microphone", help="number or part of the name of an input device")
    parser.add_argument("--device", default="cpu", help="where the model runs: cpu, cuda:0, ...")


def run(args: argparse.Namespace) -> int:
    from speechcwcl.apps.listen.listener import Listener, Options
    from speechcwcl.apps.listen.scoring import Scorer
    from speechcwcl.models.aligner import Aligner

    labels = _labels(args)
    options = Options(window=args.window, hop=args.hop, threshold=args.threshold, gate=args.gate)
    blocks = _blocks(args)
    aligner = Aligner.from_pretrained(args.model, device=args.device)
    listener = Listener(aligner, Scorer(aligner, labels, args.template or ["{}"]), options)
    live = args.audio in (None, "-")
    if live:
        print(f"listening for: {'; '.join(labels)} (Ctrl-C ends it)", file=sys.stderr)
    try:
        for block in blocks:
            for event in listener.push(block):
                _show(event, args.format)
    except KeyboardInterrupt:
        if not live:
            raise
    for event in listener.finish():
        _show(event, args.format)
    return 0


def _labels(args: argparse.Namespace) -> list[str]:
    lines = read_text(args.labels_file).splitlines() if args.labels_file else []
    given = [*(args.labels or "").split(";"), *lines]
    labels = [label.strip() for label in given if label.strip()]
    require(bool(labels), "no labels: give words to listen for, as in --labels 'go;stop'")
    return labels


def _blocks(args: argparse.Namespace) -> Iterable[np.ndarray]:
    """The audio; a file or a device that is missing is noticed before the model is loaded."""
    from speechcwcl.apps.listen.sources import microphone, raw_samples

    if args.audio == "-":
        return raw_samples(sys.stdin.buffer)
    if args.audio is not None:
        if args.microphone:
            raise UserError("--microphone: there is a file to listen to already")
        audio_info(args.audio)
        return audio_blocks(args.audio)
    device = args.microphone
    return microphone(int(device) if device and device.isdigit() else device)


def _show(event: Event, form: str) -> None:
    if form == "json":
        print(json.dumps(asdict(event), ensure_ascii=False), flush=True)
    else:
        print(f"{event.start:.2f} {event.end:.2f} {event.label} {event.score:.3f}", flush=True)
