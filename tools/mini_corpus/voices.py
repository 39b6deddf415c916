"""Which voice speaks in which split, and the blended extra voices of the training split.

Two Kokoro voices count as close when the timbre halves of their style vectors (the first 128 of
256 numbers, averaged over rows 3 to 119) have a high cosine. The voices of test stay below 0.66
to every other voice of the same sex, those of valid below 0.75.
"""

from __future__ import annotations

import random
import re

import numpy as np

VALID_VOICES = ("af_sky", "am_adam", "bf_isabella", "bm_fable")
TEST_VOICES = ("af_sarah", "am_michael", "bf_emma", "bm_lewis")
TRAIN_VOICES = (
    "af_alloy", "af_aoede", "af_bella", "af_heart", "af_jessica", "af_kore", "af_nicole",
    "af_nova", "af_river", "am_echo", "am_eric", "am_fenrir", "am_liam", "am_onyx", "am_puck",
    "am_santa", "bf_alice", "bf_lily", "bm_daniel", "bm_george",
)  # fmt: skip
ALL_VOICES = tuple(sorted(TRAIN_VOICES + VALID_VOICES + TEST_VOICES))

# hibari is a small model taught by af_heart: the same speaker, so it is a training voice only.
# The number is the factor (in percent) by which pitch and formants are moved by resampling.
HIBARI_VOICES = ("hibari_p080", "hibari_p088", "hibari_p094", "hibari_p100", "hibari_p107")
HIBARI_SPEAKER = "af_heart"

STYLE_ROWS, STYLE_SIZE = 510, 256
MAX_CROSS_COSINE = {"test": 0.66, "valid": 0.75}
BLEND_SIGN = "+"


def rng_for(seed: int, *parts: object) -> random.Random:
    """A random generator that depends on the seed and on what it is for, and on nothing else."""
    return random.Random("|".join(str(part) for part in (seed, *parts)))


def blended_voices(seed: int, count: int) -> list[str]:
    """`count` names such as `af_bella+am_puck`: pairs of training voices, each pair once."""
    pairs = [(a, b) for a in TRAIN_VOICES for b in TRAIN_VOICES if a != b]
    rng_for(seed, "blends").shuffle(pairs)
    chosen: list[str] = []
    seen: set[frozenset[str]] = set()
    for first, second in pairs:
        if len(chosen) == count:
            break
        if frozenset((first, second)) not in seen:
            seen.add(frozenset((first, second)))
            chosen.append(f"{first}{BLEND_SIGN}{second}")
    return sorted(chosen)


def speakers_of(voice: str) -> set[str]:
    """The Kokoro speakers behind a voice name: one, or two for a blended voice."""
    if voice.startswith("hibari"):
        return {HIBARI_SPEAKER}
    return set(voice.split(BLEND_SIGN))


def is_british(voice: str) -> bool:
    """British spelling-to-sound rules are used where the (first) speaker is British."""
    return voice.startswith("b")


def pitch_factor(voice: str) -> int:
    """Percent by which a voice is moved in pitch, e.g. 80 for `hibari_p080`; mostly 100."""
    found = re.search(r"_p(\d+)$", voice)
    return int(found[1]) if found else 100


def timbre_cosines(styles: dict[str, np.ndarray]) -> dict[tuple[str, str], float]:
    """Cosine of the timbre halves for each unordered pair of voices of the same sex.

    Args:
        styles: voice name -> (510, 256) float32 style vectors, one row per phoneme count.
    """
    means = {name: table[3:120, :128].mean(axis=0) for name, table in styles.items()}
    units = {name: mean / np.linalg.norm(mean) for name, mean in means.items()}
    names = sorted(units)
    return {
        (a, b): float(units[a] @ units[b])
        for i, a in enumerate(names)
        for b in names[i + 1 :]
        if a[1] == b[1]
    }


def closest_across(styles: dict[str, np.ndarray], split: str) -> tuple[float, str, str]:
    """The closest same-sex pair with one voice in `split` (test or valid) and one outside."""
    inside = set(TEST_VOICES if split == "test" else VALID_VOICES)
    pairs = timbre_cosines(styles).items()
    cosine, pair = max((c, p) for p, c in pairs if (p[0] in inside) != (p[1] in inside))
    return cosine, pair[0], pair[1]
