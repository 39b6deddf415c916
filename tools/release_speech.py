"""The synthetic part of the release's sets: which sentence or word is spoken by which voice."""

from __future__ import annotations

import argparse
from pathlib import Path

from make_intent_speech import (
    ESPEAK_VOICES,
    FLITE_VOICES,
    Plan,
    clean,
    sampled,
    slurp_rows,
    topv2_rows,
)
from mini_corpus.voices import HIBARI_VOICES, rng_for

from speechcwcl.models.weights.sources import resolve
from speechcwcl.zeroshot.protocol import load_protocol

# Voices whose licence lets their speech be redistributed: no MBROLA, no RHVoice of CC BY-NC-ND, and
# no slt, whom flite, the engine of the tests, has too.
PITCHES = ("086", "093", "100", "108")
PICO = tuple(f"pico_{name}_p{pitch}" for name in ("en-US", "en-GB") for pitch in PITCHES)
RHVOICE = tuple(f"rhvoice_{name}_p{pitch}" for name in ("alan", "bdl", "clb") for pitch in PITCHES)
CHEAP = (*PICO, *HIBARI_VOICES)
WEIGHTS = (9, 1, 5, 3)  # how often an engine is drawn
BEFORE = ("", "", "", "", "hey ", "okay ")
WAKE = str(Path(__file__).resolve().parents[1] / "egs/release/cwcl1/protocols/wake_phrases.yaml")
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
        (topv2_rows(text / "topv2", "eval"), args.topv2, args.twice),
        (clean((t, {}) for t in snips), args.snips, args.twice),
        ([(t, {"word": t}) for t in dictionary()] if args.dictionary else [], args.dictionary, 0.0),
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


def dictionary() -> list[str]:
    """Words of pocketsphinx's dictionary that the text encoder's vocabulary holds whole.

    A third stands after "hey" or "okay", as names do that wake a device. The words of the wake
    phrases are left out, so that these stay names that training did not hear.
    """
    from pocketsphinx import get_model_path
    from transformers import AutoTokenizer

    file = Path(get_model_path("en-us/cmudict-en-us.dict"))
    lines = file.read_text(encoding="utf-8").splitlines()
    known = AutoTokenizer.from_pretrained(resolve("all-MiniLM-L6-v2")).get_vocab().keys()
    wake = {word for text in load_protocol(WAKE).texts.values() for word in text.split()}
    words = sorted({line.split()[0] for line in lines} & known - wake)
    words = [word for word in words if word.isalpha() and len(word) > 2]
    return [rng_for(0, "before a name", w).choice(BEFORE) + w for w in words]
