"""Every odd file is read with the right content, or refused with the right line.

One table: name, maker (see :mod:`files`), reader, what must come out. A new odd file is one row.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import files
import foreign
import numpy as np
import pytest
from files import Refused

from speechcwcl.data.audio import audio_blocks, audio_info, load_audio
from speechcwcl.errors import UserError


def heard(path: Path) -> list[int]:
    """The tone of each half second, in Hz to the next 100."""
    return _tones(load_audio(path))


def heard_in_blocks(path: Path) -> list[int]:
    """The same, through the reader of long recordings."""
    return _tones(np.concatenate(list(audio_blocks(path, 0.3))))


def seconds(path: Path) -> float:
    """The length that is read without decoding, to a tenth of a second."""
    return round(audio_info(path).duration, 1)


def _tones(wav: np.ndarray) -> list[int]:
    found = []
    for at in range(0, len(wav) - 4000, 8000):
        part = wav[at + 1000 : at + 7000]
        spectrum = np.abs(np.fft.rfft(part * np.hanning(len(part))))
        found.append(round(int(np.argmax(spectrum)) * 160 / len(part)) * 100)
    return found


TABLE: list[tuple[str, files.Maker, Any, Any]] = [
    # rates: exact at every one that a recording can have
    *[
        (f"{suffix} at {rate} Hz", files.at_rate(suffix, rate), heard, [300, 600])
        for suffix, rate in [
            ("wav", 11127), ("wav", 47999), ("wav", 1999), ("wav", 16001), ("wav", 96000),
            ("wav", 192000), ("wav", 767999), ("flac", 44099), ("flac", 37800),
        ]
    ],
    ("wav at 11127 Hz, in blocks", files.at_rate("wav", 11127), heard_in_blocks, [300, 600]),
    ("wav at 1 Hz", files.wav_that_says_rate(1), heard, Refused("sample rate of 1 Hz; 1,000 to")),
    ("wav at 0 Hz", files.wav_that_says_rate(0), heard, Refused("rate.wav: ")),
    ("wav at 2 GHz", files.wav_that_says_rate(2**31 - 1), heard, Refused("rate of 2147483647 Hz")),
    ("wav at 4 GHz", files.wav_that_says_rate(2**32 - 1), heard, Refused("rate.wav: ")),
    # headers that promise too much
    ("flac of 2^30 frames", files.flac_of_frames(2**30), heard, Refused("hours at once")),
    ("flac of 2^36 frames", files.flac_of_frames(2**36 - 1), heard, Refused("hours at once")),
    ("flac of 2^28 frames", files.flac_of_frames(2**28), heard, Refused("corrupt or truncated")),
    ("flac of 2^30 frames, probed", files.flac_of_frames(2**30), seconds, Refused("truncated")),
    (
        "flac of 2^30 frames, in blocks",
        files.flac_of_frames(2**30),
        heard_in_blocks,
        Refused("truncated"),
    ),
    ("wav of 1024 channels", files.wav_that_says_channels(1024), seconds, 0.0),
    ("wav of no channel", files.wav_that_says_channels(0), heard, Refused("channels.wav: ")),
    (
        "clip of 10^12 bytes in a tar",
        files.shard_address(10**12),
        heard,
        Refused("truncated shard: 1000000000000 bytes of x.wav announced, 9728 there"),
    ),
]  # fmt: skip


TABLE += foreign.ROWS


@pytest.mark.parametrize("name, make, read, expected", TABLE, ids=[row[0] for row in TABLE])
def test_odd(name, make, read, expected, tmp_path):
    source = make(tmp_path)
    if not isinstance(expected, Refused):
        assert read(source) == expected
        return
    with pytest.raises(UserError) as caught:
        read(source)
    message = str(caught.value).removesuffix("\n(skip_bad leaves these out and lists them)")
    assert re.search(expected.line, message), message
    assert "\n" not in message
