"""Classify recordings by labels written in words, with no training.

Recordings are files, folders (searched for audio) and `-` (paths on standard input, one a line).
Answers come in that order, as soon as they are there. A recording that cannot be read is named and
left out; the exit code then is 2, or 0 with --skip_bad.

Examples:
    speechcwcl classify --model exp/cwcl/model --labels "turn on the light;play music" a.wav dir/
    find . -name '*.flac' | speechcwcl classify --model M --protocol gsc_v2_35 --format tsv -

"None of these": without a threshold the best label is the answer, whatever is said. With one, the
answer is `unknown` where no label's cosine reaches it. Calibrate it once on recordings that say
none of the labels, and use it again; it holds for that model and those labels:
    speechcwcl classify --model M --labels "yes;no" --calibrate yes_no.json --negatives other/
    speechcwcl classify --model M --labels "yes;no" --threshold_file yes_no.json new/
Without --negatives, synthetic noises and the recordings themselves, played backwards, take their
place. The threshold is then stricter than it needs to be: more answers are unknown. Only negatives
of your own show the false accept rate that you will have.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

import speechcwcl
from speechcwcl.assets import DEFAULT_MODEL
from speechcwcl.data.audio import SAMPLE_RATE
from speechcwcl.data.audio.recordings import Reader, find_recordings
from speechcwcl.errors import UserError, require
from speechcwcl.models.weights.sources import locate
from speechcwcl.zeroshot.classifier import UNKNOWN, rank, speech_of, split_labels

if TYPE_CHECKING:
    import numpy as np

    from speechcwcl.zeroshot.threshold import Threshold

FAR = 0.05
_BACKWARDS = (300, 1800.0)  # recordings, and seconds of them, that are played backwards at most


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("audio", nargs="*", help="files, folders, or - for paths on stdin")
    parser.add_argument(
        "--model",
        default=DEFAULT_MODEL,
        help="a model folder (EXPDIR/model or a packed one), or a hub id; left out: %(default)s, "
        "which comes with the package",
    )
    parser.add_argument("--device", default="cpu", help="cpu, cuda:0, ...")
    parser.add_argument(
        "--onnx",
        action="store_true",
        help="run the model by onnxruntime: MODEL may be a folder of `speechcwcl export`; any "
        "other is exported to the cache once",
    )
    _add_label_arguments(parser)
    parser.add_argument("--top_k", type=int, default=3, help="labels to show of each recording")
    parser.add_argument(
        "--format",
        choices=("table", "json", "tsv"),
        default="table",
        help="table: for people; json: one object and line for each recording; tsv: one line for "
        "each recording and label",
    )
    parser.add_argument(
        "--skip_bad", action="store_true", help="exit 0 even if some cannot be read"
    )
    parser.add_argument(
        "--longest", type=float, default=300.0, metavar="S", help="refuse longer recordings"
    )
    group = parser.add_argument_group("unknown")
    chosen = group.add_mutually_exclusive_group()
    chosen.add_argument(
        "--threshold", type=float, metavar="COSINE", help="least cosine of an answer"
    )
    chosen.add_argument("--threshold_file", type=Path, metavar="FILE", help="a file of --calibrate")
    chosen.add_argument(
        "--calibrate", type=Path, metavar="FILE", help="set the threshold and write it there"
    )
    group.add_argument(
        "--negatives",
        action="append",
        metavar="PATH",
        help="file or folder of recordings that say none of the labels; may be repeated",
    )
    group.add_argument(
        "--far", type=float, metavar="SHARE", help=f"false accepts to aim at; left out: {FAR}"
    )
    group.add_argument("--unknown", default=UNKNOWN, help="the answer below the threshold")


def _add_label_arguments(parser: argparse.ArgumentParser) -> None:
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--labels", help='label texts, such as "turn on the light;play music"')
    source.add_argument(
        "--labels_file",
        type=Path,
        metavar="FILE",
        help="a file with one label a line, or a .yaml of `label: text` lines, or a protocol",
    )
    source.add_argument(
        "--protocol", metavar="NAME", help="the labels of a protocol, by name or path"
    )
    parser.add_argument(
        "--template",
        action="append",
        metavar="NAME",
        help="sentences to put the labels into: a template file by name or path, or a sentence "
        "with {} for the label; may be repeated; left out: the protocol's, or the label alone",
    )


def run(args: argparse.Namespace) -> int:
    from speechcwcl.models.folders import packed_protocols
    from speechcwcl.zeroshot.classifier import choose_labels

    _check(args)
    folder = locate(args.model)
    packed = packed_protocols(folder) if args.protocol and not args.onnx else None
    labels, templates = choose_labels(
        args.labels, args.labels_file, args.protocol, args.template or (), packed
    )
    stored = _stored(args.threshold_file) if args.threshold_file else None
    names, texts = split_labels(labels)
    single = args.threshold is None and stored is None and args.calibrate is None
    if len(names) < 2 and single:
        raise UserError(
            f"one label only ({names[0]!r}), so it is always the answer; separate several by ';' "
            "or give a threshold"
        )
    known = _listed(args.audio)  # a folder without audio is told before the model is loaded
    negatives = _listed(args.negatives or [])
    model = speechcwcl.load(folder, device=args.device, onnx=args.onnx)
    rows = model.encode_labels(texts, templates)
    threshold = stored.check(model, names, rows) if stored else args.threshold
    reader = Reader(args.longest, _complain)
    if args.calibrate:
        made = _calibrate(args, model, names, rows, templates, reader, negatives or known or [])
        threshold = made.cosine
        if not args.negatives:
            reader = Reader(args.longest, lambda line: None)  # they were named a moment ago
    answers = _answers(args, model, names, rows, threshold, reader, known)
    for line in _formatted(args.format, answers, known or [], [*names, args.unknown]):
        print(line, flush=True)
    return _verdict(args, reader)


def _stored(file: Path) -> Threshold:
    from speechcwcl.zeroshot.threshold import Threshold

    return Threshold.load(file)


def _check(args: argparse.Namespace) -> None:
    require(args.top_k >= 1, f"--top_k {args.top_k}: must be at least 1")
    require(args.longest > 0, f"--longest {args.longest:g}: must be above 0")
    for name in ("negatives", "far"):
        if getattr(args, name) is not None and not args.calibrate:
            raise UserError(f"--{name} serves --calibrate FILE; say where to write the threshold")
    if args.threshold is not None and not -1 <= args.threshold <= 1:
        raise UserError(f"--threshold {args.threshold:g}: a cosine lies between -1 and 1")
    require(
        bool(args.audio or args.negatives),
        "no recordings given: name files or folders, or - for paths on stdin",
    )
    if "-" in (args.negatives or []) or (args.calibrate and not args.negatives):
        require("-" not in args.audio, "--calibrate needs the recordings twice; - gives them once")
    require("-" not in (args.negatives or []), "--negatives: files and folders only")


def _listed(items: Sequence[str]) -> list[str] | None:
    """The paths, where they are known beforehand: standard input is read as it comes."""
    return None if "-" in items else list(find_recordings(items, on_omitted=_complain))


def _complain(line: str) -> None:
    with tqdm.external_write_mode(file=sys.stderr):
        print(f"speechcwcl classify: {line}", file=sys.stderr, flush=True)


def _bar(paths: list[str] | None, what: str) -> tqdm:
    few = paths is not None and len(paths) < 20
    return tqdm(
        total=None if paths is None else len(paths),
        desc=what,
        unit="clip",
        disable=few or not sys.stderr.isatty(),
        leave=False,
    )


def _calibrate(
    args: argparse.Namespace,
    model: Any,
    names: list[str],
    rows: np.ndarray,
    templates: Sequence[str],
    reader: Reader,
    paths: list[str],
) -> Threshold:
    """Set the threshold, write it, say what it is worth."""
    import numpy as np

    from speechcwcl.zeroshot.threshold import Threshold, best_cosines, surrogate_negatives

    far = FAR if args.far is None else args.far
    bar = _bar(paths, "calibrate")
    cosines, kept, seconds = [], [], 0.0
    for found, wavs in reader.chunks(paths):
        if args.negatives:
            cosines.append(best_cosines(model, wavs, rows))
        else:
            kept += wavs
            seconds += sum(map(len, wavs)) / SAMPLE_RATE
        bar.update(len(found))
        if len(kept) >= _BACKWARDS[0] or seconds >= _BACKWARDS[1]:
            break
    bar.close()
    if args.negatives:
        best = {"negatives": np.concatenate(cosines) if cosines else np.zeros(0)}
    else:
        best = surrogate_negatives(model, kept, rows)
    threshold = Threshold.fit(model, names, rows, templates, best, far)
    threshold.save(args.calibrate)
    kinds = ", ".join(
        f"{100 * entry['accepted']:.1f} % of {entry['n']} ({kind})"
        for kind, entry in threshold.negatives.items()
    )
    print(
        f"{args.calibrate}: threshold {threshold.cosine:.4f}; it lets through {kinds}",
        file=sys.stderr,
    )
    if not args.negatives:
        print(
            "no --negatives given: how many recordings of other words pass is not measured here",
            file=sys.stderr,
        )
    return threshold


def _answers(
    args: argparse.Namespace,
    model: Any,
    names: list[str],
    rows: np.ndarray,
    threshold: float | None,
    reader: Reader,
    known: list[str] | None,
) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """(path, ranking) of every recording that can be read, in order."""
    paths = find_recordings(args.audio, sys.stdin, _complain) if known is None else known
    with _bar(known, "classify") as bar:
        for found, wavs in reader.chunks(paths):
            ranked = rank(
                speech_of(model, wavs, threshold),
                rows,
                names,
                model.logit_scale,
                top_k=args.top_k,
                threshold=threshold,
                unknown=args.unknown,
            )
            with tqdm.external_write_mode(file=sys.stdout):
                yield from zip(found, ranked, strict=True)
            bar.update(len(found))


def _formatted(
    style: str,
    answers: Iterator[tuple[str, list[dict[str, Any]]]],
    known: list[str],
    names: list[str],
) -> Iterator[str]:
    if style == "tsv":
        from speechcwcl.evaluation.results import escape

        yield "\t".join(("audio", "rank", "label", "score", "cosine"))
    width = min(60, max(map(len, known), default=20))
    column = min(30, max(map(len, names)))
    for path, ranking in answers:
        if style == "json":
            yield json.dumps({"audio": path, "labels": ranking}, ensure_ascii=False)
        elif style == "tsv":
            for place, entry in enumerate(ranking, start=1):
                cells = (path, place, entry["label"])
                numbers = (f"{entry['score']:.6f}", f"{entry['cosine']:.6f}")
                yield "\t".join([*map(escape, cells), *numbers])
        else:
            shown = (f"{e['label']:<{column}} {100 * e['score']:3.0f} %" for e in ranking)
            yield f"{path:<{width}}  " + "   ".join(shown)


def _verdict(args: argparse.Namespace, reader: Reader) -> int:
    if not reader.read and not reader.bad:
        if not args.audio:  # only a calibration was asked for
            return 0
        raise UserError("no recordings given: standard input was empty")
    if not reader.bad:
        return 0
    print(
        f"speechcwcl classify: {reader.bad} of {reader.read + reader.bad} recordings could not be "
        "read" + ("" if args.skip_bad else "; the others are answered above"),
        file=sys.stderr,
    )
    return 0 if args.skip_bad and reader.read else 2
