#!/usr/bin/env python3
"""Score models with mteb on the real recordings at hand, and write the table of docs/mteb.md.

--data is a folder with fsdd/*.wav (Free Spoken Digit Dataset) and gsc_v1_mini/<word>/*.wav (Speech
Commands); of either, what is there is used. FSDD is split as its authors do (recordings 0 to 4 are
the test set, the rest may train), so its test set is the official one, of 300 clips.

Example:
  tools/mteb_table.py --data DIR --out exp/mteb --page docs/mteb.md
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from speechcwcl.errors import UserError, require
from speechcwcl.files import atomic_write, read_text
from speechcwcl.report.markdown import markdown_table

COMMANDS = ["Yes", "No", "Up", "Down", "Left", "Right", "On", "Off", "Stop", "Go"]
CASCADE = "cascade:whisper-tiny.en+all-MiniLM-L6-v2"
MODELS = {
    "en-tiny": "en-tiny",
    "Whisper tiny.en + MiniLM": CASCADE,
    "the same, spelt as labels are": f"{CASCADE}+spelt",
}
MARK = "<!-- table: python tools/mteb_table.py -->"


def write_tasks(data: Path, out: Path) -> dict[str, int]:
    """Write the folders of the tasks that `data` has clips for; task -> clips scored."""
    import datasets

    def parquet(task: str, split: str, clips: list[tuple[Path, int]]) -> None:
        audio = [{"bytes": path.read_bytes(), "path": path.name} for path, _ in clips]
        table = datasets.Dataset.from_dict({"audio": audio, "label": [n for _, n in clips]})
        (out / task).mkdir(parents=True, exist_ok=True)
        table.to_parquet(out / task / f"{split}.parquet")

    found = {}
    if digits := sorted((data / "fsdd").glob("*.wav")):
        tests = [path for path in digits if int(path.stem.split("_")[2]) < 5]
        rest = [path for path in digits if path not in set(tests)]
        for split, paths in (("test", tests), ("train", rest)):
            parquet("FSDD", split, [(path, int(path.name[0])) for path in paths])
        found["FSDD"] = len(tests)
    folder = data / "gsc_v1_mini"
    words = [(p, n) for n, w in enumerate(COMMANDS) for p in sorted(folder.glob(f"{w.lower()}/*"))]
    if words:
        parquet("SpeechCommandsZeroshotv0.01", "test", words)
        found["SpeechCommandsZeroshotv0.01"] = len(words)
    require(bool(found), f"{data}: neither fsdd/*.wav nor gsc_v1_mini/<word>/*.wav")
    return found


def main(argv: list[str] | None = None) -> int:
    """Run; exit code 2 for what the user can put right."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with real recordings")
    parser.add_argument("--out", type=Path, required=True, help="tasks and results go here")
    parser.add_argument("--page", type=Path, help="the page whose table is replaced")
    parser.add_argument("--models", nargs="*", default=list(MODELS), help="titles or names")
    parser.add_argument("--tasks", nargs="*", help="only these; the cascade is slow")
    args = parser.parse_args(argv)
    try:
        from mteb import TaskResult

        from speechcwcl.integrations.mteb import evaluate_tasks

        tasks, rows = write_tasks(args.data, args.out / "data"), []
        for number, title in enumerate(args.models):
            model, expdir = MODELS.get(title, title), args.out / f"model{number}"
            files = {task: expdir / "mteb" / f"{task}.json" for task in tasks}
            missing = [t for t, f in files.items() if t in (args.tasks or tasks) and not f.exists()]
            if missing:
                scored = evaluate_tasks(expdir, missing, data=args.out / "data", model=model)
                for line in scored:
                    print(f"{title}: {line}", flush=True)
            row = [title]
            for path in files.values():
                score = TaskResult.from_disk(path).get_score() if path.exists() else None
                row.append("not run" if score is None else f"{100 * score:.1f} %")
            rows.append(row)
        header = ["model", *(f"{task}, {n} clips" for task, n in tasks.items())]
        table = markdown_table(header, rows)
        print(table)
        if args.page:
            text = read_text(args.page)
            require(text.count(MARK) == 2, f"{args.page}: the line {MARK!r} must stand in it twice")
            before, _, after = text.split(MARK)
            with atomic_write(args.page) as stream:
                stream.write(f"{before}{MARK}\n{table}\n{MARK}{after}")
        return 0
    except UserError as error:
        print(f"mteb_table: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
