"""Which of ten phrases is in this long sentence? The questions of tools/release_table.py.

For every sentence one phrase is drawn from its text (one to three words that end in a rare one) and
nine from other sentences, none of whose rare words it says. The answer is the phrase nearest to
the speech.
"""

from __future__ import annotations

from collections import Counter
from random import Random

from speechcwcl.data.utterance import Utterance

CHOICES = 10


def phrase_of(text: str, count: Counter[str], rng: Random) -> str | None:
    """One to three words that end in a rare long one; None where there is none."""
    words = text.split()
    ends = [i for i, w in enumerate(words) if len(w) >= 5 and count[w] <= 3]
    if not ends:
        return None
    last = rng.choice(ends)
    return " ".join(words[max(0, last + 1 - rng.randint(1, 3)) : last + 1])


def questions(utterances: list[Utterance]) -> list[tuple[int, list[str]]]:
    """(position, ten phrases, the right one first) of each sentence that has a phrase."""
    texts = [u.text or "" for u in utterances]
    count = Counter(w for text in texts for w in text.split())
    found = [(i, phrase_of(t, count, Random(f"phrase {t}"))) for i, t in enumerate(texts)]
    asked = [(i, phrase) for i, phrase in found if phrase]
    made = []
    for i, phrase in asked:
        said = set(texts[i].split())
        others = [p for k, p in asked if k != i and p.split()[-1] not in said]
        made.append((i, [phrase, *Random(f"others {texts[i]}").sample(others, CHOICES - 1)]))
    return made
