#!/usr/bin/env python3
"""Sets for `fixed.yaml`: no single words, words cut from read sentences, the same words spoken.

From a training manifest of the release (egs/release/cwcl1), as manifests under DUMP:
  words_none    all that has more than one word in its text
  words_cut     words_none and the single words that were cut from sentences
  words_spoken  words_none and the same words, each as often, by synthetic voices of the release
  words_both    all of these
Finished clips stay in WORK: run again to go on. Needs what tools/make_release_sets.py needs.

Example:
  recipes/cwcl/ablation/words.py dump/train_6h/manifest.jsonl --dump dump --work exp/words
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import soundfile

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "tools"))
from make_intent_speech import Plan, speak, utterances
from mini_corpus import UserError as ToolError
from mini_corpus.voices import rng_for
from release_speech import ENGINES, WEIGHTS

from speechcwcl.errors import UserError, require
from speechcwcl.files import atomic_write

SET = "intents_train"  # a training set of the corpus' plan: its voices and speeds


def main() -> int:
    """Run; exit code 2 for what the user can put right."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("manifest", type=Path, help="of training")
    parser.add_argument("--dump", type=Path, required=True, help="the manifests go here")
    parser.add_argument("--work", type=Path, required=True, help="clips go here")
    parser.add_argument("--jobs", type=int, default=2, help="processes (default: %(default)s)")
    args = parser.parse_args()
    args.out = args.work
    try:
        require(args.manifest.is_file(), f"{args.manifest}: no such file")
        rows = [json.loads(line) for line in args.manifest.open(encoding="utf-8")]
        several = [row for row in rows if " " in row["text"]]
        cut = [row for row in rows if " " not in row["text"] and row["end"] and not own(row)]
        plan = Plan()
        for row in cut:
            rng = rng_for(0, "words", row["id"])
            engine = rng.choices(list(ENGINES), weights=WEIGHTS, k=1)[0]
            plan.add(SET, ENGINES[engine], (row["text"], {"word": row["text"]}), rng)
        clips = speak(plan.clips, args.work, args.jobs)
        spoken = [
            {"id": u.id, "audio": u.audio, "start": 0.0, "end": None, "text": u.text,
             "duration": soundfile.info(u.audio).duration, "speaker": u.speaker, "labels": {}}
            for u in utterances(clips, plan.labels, args)
        ]  # fmt: skip
        for name, words in (("none", []), ("cut", cut), ("spoken", spoken), ("both", cut + spoken)):
            with atomic_write(args.dump / f"words_{name}" / "manifest.jsonl") as stream:
                for row in several + words:
                    stream.write(json.dumps(row, ensure_ascii=False) + "\n")
            print(f"words_{name:7} {len(several):6} utterances and {len(words)} words")
    except (UserError, ToolError) as error:
        print(f"words: {error}", file=sys.stderr)
        return 2
    return 0


def own(row: dict) -> bool:
    """Whether it comes from the mini corpus, whose words are synthetic."""
    return row["id"].startswith("train-")


if __name__ == "__main__":
    sys.exit(main())
