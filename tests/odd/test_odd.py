"""Every odd file is read with the right content, or refused with the right line.

One table: name, maker (see `files`), reader, what must come out. A new odd file is one row.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import files
import foreign
import numpy as np
import pytest
from files import Refused

from speechcwcl.data.audio import audio_blocks, audio_info, load_audio
from speechcwcl.data.audio.recordings import audio_files
from speechcwcl.data.compiling import compile_manifest
from speechcwcl.data.manifest import Manifest
from speechcwcl.errors import UserError
from speechcwcl.models.audio_input import load_one
from speechcwcl.models.encoders.frames import pad


def heard(path: Path) -> list[int]:
    """The tone of each half second, in Hz to the next 100."""
    return _tones(load_audio(path))


def heard_in_blocks(path: Path) -> list[int]:
    """The same, through the reader of long recordings."""
    return _tones(np.concatenate(list(audio_blocks(path, 0.3))))


def seconds(path: Path) -> float:
    """The length that is read without decoding, to a tenth of a second."""
    return round(audio_info(path).duration, 1)


def clips(folder: Path) -> tuple[list[str], str]:
    """The audio files below a folder, and what is said of the others."""
    said: list[str] = []
    found = [os.path.relpath(path, folder) for path in audio_files(folder, said.append)]
    return found, said[0].partition(": ")[2] if said else ""


def rows(folder: Path) -> list[str]:
    """The utterances of a Kaldi folder after stage 2, and what is cut."""
    out = folder.parent / "manifest.jsonl"
    summary = compile_manifest(folder, out, progress=False)
    found = [
        f"{u.id}|{u.text}|{u.duration:.2f}|{','.join(sorted(u.labels))}" for u in Manifest(out)
    ]
    return [*found, f"{summary.cut} cut"] if summary.cut else found


def array(values: np.ndarray) -> np.ndarray:
    """What a model is given of an array."""
    return pad([load_one(values, 0, 16000)])[0][0].numpy()


def _tones(wav: np.ndarray) -> list[int]:
    found = []
    for at in range(0, len(wav) - 4000, 8000):
        part = wav[at + 1000 : at + 7000]
        spectrum = np.abs(np.fft.rfft(part * np.hanning(len(part))))
        found.append(round(int(np.argmax(spectrum)) * 160 / len(part)) * 100)
    return found


JOINED = [300, 600, 900, 1200, 1500]
NFC, NFD = "caf\u00e9", "cafe\u0301"

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
    # files one after the other (cat a b > c): all of them are heard
    *[
        (f"joined {kind}, {read.__name__}", files.joined(kind, kind), read, expected)
        for kind in ("wav", "flac", "ogg", "opus", "mp3", "aiff", "au", "w64", "rf64", "caf")
        for read, expected in ((heard, JOINED), (heard_in_blocks, JOINED), (seconds, 2.5))
    ],
    ("joined nist", files.joined("nist", "nist"), heard, JOINED),
    ("three joined flac", files.joined("flac", "flac", "flac"), seconds, 4.0),
    (
        "one and the same ogg twice",
        files.holding("x.ogg", lambda: 2 * files.sound("ogg", 300, 600)),
        heard,
        [300, 600, 300, 600],
    ),
    (
        "joined mp3 with a tag between",
        files.holding(
            "x.mp3",
            lambda: files.sound("mp3", 300, 600) + files.id3() + files.sound("mp3", 900, 1200),
        ),
        heard,
        [300, 600, 900, 1200],
    ),
    (
        "joined wav of two rates",
        files.holding(
            "x.wav", lambda: files.sound("wav", 300) + files.sound("wav", 600, rate=8000)
        ),
        heard,
        Refused("several recordings in one file, at 16000 and 8000 Hz; take them apart"),
    ),
    *[
        (
            f"{first} and {second} in one file",
            files.joined(first, second),
            read,
            Refused("several recordings of different kinds in one file; take them apart"),
        )
        for first, second in [
            ("wav", "mp3"), ("mp3", "wav"), ("flac", "ogg"), ("ogg", "wav"), ("flac", "mp3"),
            ("ogg", "mp3"), ("aiff", "mp3"),
        ]  # fmt: skip
        for read in (heard, seconds)
    ],
    (
        "flac that keeps the header of its wav",
        files.flac_with_foreign_header(),
        heard,
        [300, 600],
    ),
    (
        "a cut wav, then a whole one",
        files.holding(
            "x.wav", lambda: files.sound("wav", 300, 600)[:-100] + files.sound("wav", 900)
        ),
        heard,
        [300, 600, 900],
    ),
    (
        "half a wav, then a whole one",
        files.holding(
            "x.wav", lambda: files.sound("wav", 300, 600)[:-16000] + files.sound("wav", 900)
        ),
        heard,
        Refused("truncated: 32000 bytes of samples announced, 16000 there"),
    ),
    (
        "half a wav, then a flac",
        files.holding(
            "x.wav", lambda: files.sound("wav", 300, 600)[:-16000] + files.sound("flac", 900)
        ),
        heard,
        Refused("several recordings of different kinds in one file; take them apart"),
    ),
    (
        "a whole wav, then a cut one",
        files.holding(
            "x.wav", lambda: files.sound("wav", 300, 600) + files.sound("wav", 900, 1200)[:9000]
        ),
        heard,
        Refused("truncated: 32000 bytes of samples announced, 8956 there"),
    ),
    ("wav, rubbish", files.holding("x.wav", files.sound("wav", 300) + b"\0" * 999), heard, [300]),
    # tags in front
    *[
        (f"{kind} behind ID3", files.with_id3(kind), heard, [300, 600])
        for kind in (
            "wav", "flac", "ogg", "opus", "mp3", "aiff", "au", "w64", "rf64", "caf", "nist",
        )
    ],
    ("flac behind ID3, probed", files.with_id3("flac"), seconds, 1.0),
    # lengths never filled in: what is there is read
    *[
        (f"wav of lengths {riff:x}, {size:x}", files.unfinished_wav(riff, size), heard, [300, 600])
        for riff, size in [
            (0, 0), (36, 0), (32036, 0), (2**32 - 1, 0), (0, 2**32 - 1), (2**32 - 1, 2**32 - 1),
            (2**31 - 1, 2**31 - 37), (2**31, 2**31 - 36),
        ]
    ],
    *[
        (f"unfinished {kind}", files.unfinished(kind), heard, [300, 600])
        for kind in ("aiff", "au", "w64", "rf64")
    ],
    ("au of 2 GiB", files.au_of_bytes(2**31), heard, [300, 600]),
    ("caf of unknown length", files.caf_of_bytes(2**64 - 1), heard, [300, 600]),
    ("caf of no length", files.caf_of_bytes(0), heard_in_blocks, [300, 600]),
    ("caf of 2^62 bytes", files.caf_of_bytes(2**62), heard, Refused("malformed")),
    (
        "mp3 cut within its length header",
        files.holding("x.mp3", b"\xff\xf32147483648\x88\xc4" + bytes(9) + b"Xing"),
        heard,
        Refused("x.mp3: "),
    ),
    ("a wav that is empty", files.empty_wav_with_a_chunk(), heard, Refused("no samples in it")),
    ("flac of unknown length", files.flac_of_frames(0), heard, [300, 600]),
    ("flac of unknown length, probed", files.flac_of_frames(0), seconds, 1.0),
    ("flac of unknown length, in blocks", files.flac_of_frames(0), heard_in_blocks, [300, 600]),
    # floats at another scale
    ("floats at 16-bit scale", files.float_wav(32768), heard, Refused("divide 16-bit .* by 32768")),
    ("floats at 24-bit scale", files.float_wav(2**23), seconds, Refused("24-bit by 8388608")),
    ("quiet floats at 16-bit scale", files.float_wav(300), heard, Refused("by 32768")),
    ("doubles at 16-bit scale", files.float_wav(9000, "DOUBLE"), heard_in_blocks, Refused("32768")),
    ("floats a little too loud", files.float_wav(3), heard, [300, 600]),
    (
        "an array at 16-bit scale",
        lambda folder: files.tones(300) * 20000,
        array,
        Refused("recording 1: samples up to .* divide 16-bit numbers by 32768"),
    ),
    # what is no audio file
    *[
        (f"{name} called wav", files.holding("x.wav", head + b" " * 900), heard, Refused(line))
        for name, head, line in [
            ("m4a", b"\0\0\0\x20ftypM4A ", "convert it: ffmpeg -i .*x.wav out.wav"),
            ("webm", b"\x1aE\xdf\xa3", "convert it: ffmpeg -i"),
            ("a web page", b"<html>", "a web page; fetch the file again"),
            ("a pointer", b"version https://git-lfs.github.com/spec/v1", "git lfs pull"),
            ("gz", b"\x1f\x8b\x08", "a packed file; unpack it"),
            ("rubbish", b"rubbish", "not audio that can be read: "),
        ]
    ],
    ("shorten .sph", files.shorten_sph(), heard, Refused("sph2pipe -f wav .*x.sph out.wav")),
    ("a place in an ark", lambda d: d / "wav.ark:5", heard, Refused("Kaldi archive, and arks are")),
    ("NUL in a path", lambda d: str(d) + "/a\0.wav", heard, Refused("NUL byte in a path")),
    ("NFD name, NFC on the disk", files.named(f"{NFD}.wav", f"{NFC}.wav"), heard, [300, 600]),
    ("NFC name, NFD on the disk", files.named(f"{NFC}.wav", f"{NFD}.wav"), heard, [300, 600]),
    # folders
    (
        "linked folders",
        files.folder_with_links(),
        clips,
        (
            ["a.wav", "deep/c.CAF", "linked/b.flac"],
            "1 file(s) left out, by their endings no audio: .txt 1",
        ),
    ),
    ("hidden clips", files.folder_of("a.wav", "._a.wav", ".b/c.wav"), clips, (["a.wav"], "")),
    (
        "no audio",
        files.folder_of("a.m4a"),
        clips,
        Refused(r"no audio in this folder \(endings looked for: .wav"),
    ),
    # Kaldi tables
    ("a plain data folder", files.data_folder(), rows, ["a|one|1.00|", "b|two|1.00|"]),
    (
        "backups and other toolkits' tables",
        files.data_folder(**{
            "utt2spk.bak": "x y\n", "utt2label~": "x y\n", "utt2num_frames": "a 5\nb 5\n",
            "utt2uniq": "a a\nb b\n", ".utt2label.swp": "x", "utt2label": "a yes\nb no\n",
        }),
        rows,
        ["a|one|1.00|label", "b|two|1.00|label"],
    ),
    (
        "NFC and NFD ids",
        files.data_folder(
            **{"wav.scp": f"{NFC} AUDIO/a.wav\n", "text": f"{NFD} one\n", "utt2spk": f"{NFC} s\n"}
        ),
        rows,
        [f"{NFC}|one|1.00|"],
    ),
    (
        "a place in an ark in wav.scp",
        files.data_folder(**{"wav.scp": "a wav.ark:5\nb AUDIO/b.wav\n"}),
        rows,
        Refused(r"wav.scp:1: 'wav.ark:5' is a place in a Kaldi archive, and arks are not read"),
    ),
    (
        "a command in wav.scp",
        files.data_folder(**{"wav.scp": "a cat x |\nb AUDIO/b.wav\n"}),
        rows,
        Refused("wav.scp:1: 'a' is a command; `check` and `format` take commands with --allow"),
    ),
    (
        "segments that overshoot",
        files.data_folder(
            segments="a a 0 1.5\nb b 0.5 1.12\n", text="a one\nb two\n",
        ),
        rows,
        ["a|one|1.00|", "b|two|0.50|", "2 cut"],
    ),
    (
        "a segment far behind the end",
        files.data_folder(segments="a a 0 1.6\nb b 0 1\n"),
        rows,
        Refused("stretch 0 s to 1.6 s is outside the recording, which has 1.000 s"),
    ),
    (
        "NaN in segments",
        files.data_folder(segments="a a 0 nan\nb b 0 1\n"),
        rows,
        Refused("segments:1: no stretch from 0 s to nan s"),
    ),
    (
        "deep corpus.json",
        files.data_folder(**{"corpus.json": "[" * 5000}),
        rows,
        Refused("corpus.json"),
    ),
    (
        "corpus.json is a list",
        files.data_folder(**{"corpus.json": "[]"}),
        rows,
        Refused("corpus.json"),
    ),
    (
        "UTF-16 text",
        files.data_folder(text="a one\nb two\n".encode("utf-16")),
        rows,
        Refused("text:1: UTF-16; save the file as UTF-8"),
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
