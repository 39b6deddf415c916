"""The unit that everything here is made of."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from speechcwcl.data.audio import SAMPLE_RATE, load_audio


@dataclass(slots=True)
class Utterance:
    """One stretch of speech.

    Attributes:
        id: unique in its set, without blanks.
        audio: path of the recording (or, before stage 2 and only if allowed, a command and `|`).
        text: what is said; None where the set has labels only.
        speaker: who says it.
        start: first moment in the recording, seconds; None is its beginning.
        end: last moment, seconds; None is its end.
        duration: length in seconds; None until it was measured.
        labels: label fields by name, such as `{"label": "alarm_set"}`.
    """

    id: str
    audio: str
    text: str | None = None
    speaker: str = ""
    start: float | None = None
    end: float | None = None
    duration: float | None = None
    labels: dict[str, str] = field(default_factory=dict)

    def load(self, sample_rate: int = SAMPLE_RATE) -> np.ndarray:
        """Decode it: `(samples,)` float32 mono at `sample_rate` Hz."""
        return load_audio(self.audio, self.start, self.end, sample_rate)
