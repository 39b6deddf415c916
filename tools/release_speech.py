"""The synthetic part of the release's sets: which sentence is spoken by which voice."""

from __future__ import annotations

import argparse
from pathlib import Path

from make_intent_speech import (
    ESPEAK_VOICES,
    FLITE_VOICES,
    Plan,
    clean,
    mini_train,
    sampled,
    slurp_rows,
    topv2_rows,
)
from mini_corpus.voices import HIBARI_VOICES, rng_for

# Voices whose licence lets their speech be redistributed: no MBROLA, no RHVoice of CC BY-NC-ND, and
# no slt, whom flite, the engine of the tests, has too.
PITCHES = ("086", "093", "100", "108")
PICO = tuple(f"pico_{name}_p{pitch}" for name in ("en-US", "en-GB") for pitch in PITCHES)
RHVOICE = tuple(f"rhvoice_{name}_p{pitch}" for name in ("alan", "bdl", "clb") for pitch in PITCHES)
CHEAP = (*PICO, *HIBARI_VOICES)
WEIGHTS = (9, 1, 5, 3)  # how often an engine is drawn
ENGINES = {"pico": PICO, "rhvoice": RHVOICE, "hibari": HIBARI_VOICES, "espeak": ESPEAK_VOICES}


def release_plan(args: argparse.Namespace) -> Plan:
    """All clips: training sentences and words, synthetic validation, synthetic tests."""
    text, found = args.data / "text", Plan()
    test_topv2 = sampled(topv2_rows(text / "topv2", "test"), args.tests, "test_topv2")
    valid_topv2 = sampled(topv2_rows(text / "topv2", "eval"), args.valid, "valid_topv2")
    devel, test = slurp_rows(text / "slurp/devel.jsonl"), slurp_rows(text / "slurp/test.jsonl")
    for name, rows, voices in (
        ("test_slurp", sampled(test, args.tests, "test_slurp"), FLITE_VOICES),
        ("test_topv2", test_topv2, FLITE_VOICES),
        ("valid_slurp", sampled(devel, args.valid, "valid_slurp"), CHEAP),
        ("valid_topv2", valid_topv2, CHEAP),
    ):
        for row in rows:
            found.add(name, voices, row, rng_for(0, "voice", name, row[0]))
    taken = {t for rows in (test_topv2, valid_topv2, devel, test) for t, _ in rows}
    snips = (text / "snips/train/seq.in").read_text(encoding="utf-8").splitlines()
    known = set(taken)
    for rows, count, twice in (
        (slurp_rows(text / "slurp/train_reconstructed.jsonl"), args.slurp, args.twice),
        (topv2_rows(text / "topv2", "eval"), args.topv2, 0.0),
        (clean((t, {}) for t in snips), args.snips, 0.0),
        ([(t, {"word": t}) for t in sorted(single_words(args.out))], args.spoken_words, 0.0),
    ):
        fresh = [row for row in rows if row[0] not in known]
        for row in sampled(fresh, count, "release"):
            rng = rng_for(0, "release voice", row[0])
            engines = rng.choices(list(ENGINES), weights=WEIGHTS, k=1)
            if rng.random() < twice:
                others = [name for name in ENGINES if name not in engines]
                engines.append(rng.choice(others))
            for number, engine in enumerate(engines):
                name = ("intents_train", "voices_train")[number]
                found.add(name, ENGINES[engine], row, rng)
            known.add(row[0])
    return found


def single_words(out: Path) -> set[str]:
    """The isolated words of the mini corpus' training set."""
    return {u.text for u in mini_train(out) if u.text and " " not in u.text}
