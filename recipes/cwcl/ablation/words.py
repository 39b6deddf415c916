#!/usr/bin/env python3
"""Sets for `fixed.yaml`: no single words, words cut from read sentences, the same words spoken.

From a training manifest of the release (egs/release/cwcl1), as manifests under DUMP:
  words_none    all that has more than one word in its text
  words_cut     words_none and the single words that were cut from sentences
  words_spoken  words_none and the same words, each as often, by synthetic voices of the release
  words_both    all of these
  words_more    words_both, each word also slower and faster, and cut words also cut closer
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
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "tools"))
from cut_speech import tight
from make_intent_speech import Plan, speak, utterances
from mini_corpus import UserError as ToolError
from mini_corpus.voices import rng_for
from release_speech import ENGINES, WEIGHTS

from speechcwcl.data.audio import load_audio
from speechcwcl.data.effects import change_speed
from speechcwcl.data.utterance import Utterance
from speechcwcl.errors import UserError, require
from speechcwcl.files import atomic_path, atomic_write

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
        both = cut + spoken
        more = both + [closer(row) for row in cut]
        for speed in (0.85, 1.2):
            more += [at_speed(row, speed, args.work) for row in tqdm(both, desc=f"speed {speed}")]
        sets = {"none": [], "cut": cut, "spoken": spoken, "both": both, "more": more}
        for name, words in sets.items():
            with atomic_write(args.dump / f"words_{name}" / "manifest.jsonl") as stream:
                for row in several + words:
                    stream.write(json.dumps(row, ensure_ascii=False) + "\n")
            print(f"words_{name:7} {len(several):6} utterances and {len(words)} words")
    except (UserError, ToolError) as error:
        print(f"words: {error}", file=sys.stderr)
        return 2
    return 0


def closer(row: dict) -> dict:
    """A cut word once more, with up to 60 ms less at each end."""
    found = tight(Utterance(row["id"], row["audio"], start=row["start"], end=row["end"]))
    length = round(found.end - found.start, 3)
    return row | {"id": found.id, "start": found.start, "end": found.end, "duration": length}


def at_speed(row: dict, speed: float, work: Path) -> dict:
    """A word once more at another speed; its pitch changes too."""
    path = work.resolve() / f"speed_{speed}" / f"{row['id']}.flac"
    if not path.exists():
        wav = change_speed(load_audio(row["audio"], row["start"], row["end"]), speed)
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as target:
            soundfile.write(target, wav, 16000, format="FLAC")
    new = {"id": f"{row['id']}-{speed}", "audio": str(path), "start": None, "end": None}
    return row | new | {"duration": soundfile.info(path).duration}


def own(row: dict) -> bool:
    """Whether it comes from the mini corpus, whose words are synthetic."""
    return row["id"].startswith("train-")


if __name__ == "__main__":
    sys.exit(main())
