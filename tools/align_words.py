"""Where each word of a read sentence begins and ends: forced alignment by pocketsphinx.

    pip install pocketsphinx hibari-tts==0.2.1

The acoustic model is the one of pocketsphinx's wheel (16 kHz, US English). Words that its
dictionary lacks are spelt by hibari's grapheme-to-phoneme rules.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np

FRAME = 0.01  # seconds
# hibari's alphabet -> that of the acoustic model; what is not here (stress, length) has no sound
PHONES = {
    "A": "EY", "I": "AY", "O": "OW", "Q": "OW", "W": "AW", "Y": "OY", "b": "B", "d": "D", "f": "F",
    "h": "HH", "i": "IY", "j": "Y", "k": "K", "l": "L", "m": "M", "n": "N", "p": "P", "s": "S",
    "t": "T", "u": "UW", "v": "V", "w": "W", "z": "Z", "æ": "AE", "a": "AE", "ð": "DH", "ŋ": "NG",
    "ɑ": "AA", "ɒ": "AA", "ɔ": "AO", "ə": "AH", "ᵊ": "AH", "ɐ": "AH", "ɛ": "EH", "e": "EH",
    "ɜ": "ER", "ɚ": "ER", "ɡ": "G", "ɪ": "IH", "ᵻ": "IH", "ɹ": "R", "ɾ": "T", "ʃ": "SH", "ʊ": "UH",
    "ʌ": "AH", "ʒ": "ZH", "ʤ": "JH", "ʧ": "CH", "θ": "TH", "T": "T",
}  # fmt: skip


def plain_words(text: str) -> list[str]:
    """Lower-case words without marks."""
    return [w for w in re.sub(r"[^a-z']+", " ", text.lower()).split() if re.search("[a-z]", w)]


class WordAligner:
    """Aligns recordings with what is said in them; one decoder, used again and again."""

    def __init__(self) -> None:
        from hibari.g2p import G2P
        from pocketsphinx import Decoder

        self.decoder = Decoder(lm=None, loglevel="FATAL")
        self.spell = G2P(british=False)

    def __call__(self, wav: np.ndarray, text: str) -> list[tuple[str, float, float]]:
        """Align one recording.

        Args:
            wav: (samples,) float32 at 16 kHz.
            text: what is said.

        Returns:
            (word, start, end) each, in seconds; empty where no path was found.
        """
        words = plain_words(text)
        self._learn(words)
        samples = np.round(np.clip(wav, -1, 1) * 32767).astype(np.int16).tobytes()
        try:
            self.decoder.set_align_text(" ".join(words))
            self.decoder.start_utt()
            self.decoder.process_raw(samples, full_utt=True)
            self.decoder.end_utt()
        except RuntimeError:
            return []
        found = list(self._segments())
        return found if [w for w, *_ in found] == words else []

    def _learn(self, words: list[str]) -> None:
        for word in set(words):
            if self.decoder.lookup_word(word) is None:
                sounds = [PHONES[s] for s in self.spell(word) if s in PHONES]
                self.decoder.add_word(word, " ".join(sounds or ["AH"]), True)

    def _segments(self) -> Iterator[tuple[str, float, float]]:
        segments: Any = self.decoder.seg() or []
        for part in segments:
            word = re.sub(r"\(\d+\)$", "", part.word)
            if not word.startswith(("<", "[", "(")) and word != "(NULL)":
                yield word, part.start_frame * FRAME, (part.end_frame + 1) * FRAME
