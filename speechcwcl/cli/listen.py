"""Spot keywords in a microphone's stream, on the standard input, or in a long file.

Examples:
  speechcwcl listen meeting.flac --labels "go;stop;turn left"
  speechcwcl listen --examples mine/ --false_alarms_per_hour 0.5         # the microphone
  arecord -q -f S16_LE -r 16000 -c 1 -t raw | speechcwcl listen - --keywords mine.json --format json

One line an event: start and end in seconds, label, score (0 to 1). Thresholds are set so that
ordinary speech gives about so many false alarms an hour. The model runs as ONNX in 8-bit weights,
without PyTorch; it is exported to the cache once.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING

from speechcwcl.assets import DEFAULT_MODEL
from speechcwcl.cli.classify import add_label_arguments, enrolled, labels_of, read_keywords
from speechcwcl.errors import require

if TYPE_CHECKING:
    from speechcwcl.apps.sound import Block
    from speechcwcl.zeroshot.spotting import Event

RATE = 1.0  # false alarms an hour


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "audio",
        nargs="?",
        help="a file of any length; - : raw 16-bit mono samples at 16 kHz on the standard input; "
        "left out: the microphone",
    )
    parser.add_argument(
        "--model",
        default=DEFAULT_MODEL,
        help="a model folder, a folder of `speechcwcl export`, or a hub id (default: %(default)s)",
    )
    add_label_arguments(parser)
    parser.add_argument(
        "--score",
        type=float,
        metavar="S",
        help="0 to 1: tell events of this score and more; takes the place of the thresholds",
    )
    parser.add_argument(
        "--gate",
        type=float,
        default=6.0,
        help="dB over the noise below which nothing is computed; -1: compute always",
    )
    parser.add_argument(
        "--format", choices=("text", "json"), default="text", help="json: one object a line"
    )
    parser.add_argument("--microphone", help="number or part of the name of an input device")
    parser.add_argument("--torch", action="store_true", help="run by PyTorch, not by ONNX")
    parser.add_argument("--device", default="cpu", help="with --torch: cpu, cuda:0, ...")


def run(args: argparse.Namespace) -> int:
    import speechcwcl
    from speechcwcl.zeroshot.keywords import level_of_confidence
    from speechcwcl.zeroshot.spotting import Spotter

    level = None if args.score is None else level_of_confidence(args.score)
    saved = read_keywords(args)
    labels, templates = (saved.labels, ()) if saved else labels_of(args)
    blocks = _blocks(args)
    how = {"device": args.device} if args.torch else {"onnx": True, "int8": True, "threads": 1}
    model = speechcwcl.load(args.model, **how)
    if args.false_alarms_per_hour is None and (not saved or saved.level is None):
        args.false_alarms_per_hour = RATE
    keywords = enrolled(args, model, saved, labels, templates, _say)
    live = args.audio in (None, "-")
    if live:
        _say(f"listening for: {'; '.join(keywords.labels)} (Ctrl-C ends it)")
    spotter = Spotter(model, keywords, level=level, gate=args.gate)
    found = 0
    try:
        for block in blocks:
            if block.gap:  # what was said before it and after it are not one word
                found += _show(spotter.finish(), args.format)
                _say(f"no sound for {block.gap:.1f} s; listening again")
                spotter = Spotter(
                    model, keywords, level=level, gate=args.gate, began=spotter.now + block.gap
                )
            found += _show(spotter.push(block.wav), args.format)
    except KeyboardInterrupt:
        if not live:
            raise
    if not found + _show(spotter.finish(), args.format):
        _say("nothing found; with --score 0.2, say, it also tells what it is less sure of")
    return 0


def _say(line: str) -> None:
    print(f"speechcwcl listen: {line}", file=sys.stderr, flush=True)


def _blocks(args: argparse.Namespace) -> Iterable[Block]:
    """The sound; a file or a device that cannot be had is noticed before the model is loaded."""
    from speechcwcl.apps.sound import file_blocks, microphone, raw_samples

    if args.audio == "-":
        return raw_samples(sys.stdin.buffer, _say)
    if args.audio is not None:
        require(not args.microphone, "--microphone: there is a file to listen to already")
        return file_blocks(args.audio)
    device = args.microphone
    return microphone(int(device) if device and device.isdigit() else device, _say)


def _show(events: list[Event], form: str) -> int:
    for event in events:
        if form == "json":
            print(json.dumps(asdict(event), ensure_ascii=False), flush=True)
        else:
            print(f"{event.start:.2f} {event.end:.2f} {event.label} {event.score:.3f}", flush=True)
    return len(events)
