"""The unit that everything here is made of."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from speechcwcl.data.audio import SAMPLE_RATE, load_audio


@dataclass(slots=True)
class Utterance:
    """One stretch of speech."""

    id: str  # unique in its set, without blanks
    audio: str  # path of the recording (or, before stage 2 and only if allowed, a command and `|`)
    text: str | None = None  # what is said; None where the set has labels only
    speaker: str = ""  # who says it
    start: float | None = None  # first moment in the recording, seconds; None is its beginning
    end: float | None = None  # last moment, seconds; None is its end
    duration: float | None = None  # length in seconds; None until it was measured
    # label fields by name, such as `{"label": "alarm_set"}`
    labels: dict[str, str] = field(default_factory=dict)

    def load(self, sample_rate: int = SAMPLE_RATE) -> np.ndarray:
        """Decode it: `(samples,)` float32 mono at `sample_rate` Hz."""
        return load_audio(self.audio, self.start, self.end, sample_rate)
