"""Training sets that stay where they are: `stream.json` names a dataset or shards to read from.

Nothing of the audio is written to the disk. A split is read in pieces (files, row groups, shards);
`StreamReader` takes its share of them, in another order on every pass, and gives blocks of
clips, so that memory is bounded by a block and any place can be come back to.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from speechcwcl.data import remote
from speechcwcl.data.audio import SAMPLE_RATE, audio_info, decode_audio, load_audio
from speechcwcl.data.audio.resampling import resample
from speechcwcl.data.rows import audio_of, hub_file, no_column, on_the_hub, one_text, one_word
from speechcwcl.data.shards import open_shard, shard_paths
from speechcwcl.data.stream_spec import NAME, StreamSpec, check_spec, expand, write_stream
from speechcwcl.data.tables import replaced_datadir
from speechcwcl.errors import UserError, require

Place = tuple[int, int, int]
"""Where a reader is: pass, number of the piece in the pass' order, rows read of that piece."""


def write_streamed(folder: Path, spec: StreamSpec, corpus: dict[str, Any]) -> Path:
    """Check a set and write its data folder: `stream.json` and `corpus.json`."""
    check_spec(spec, NAME)
    check_stream(spec)
    with replaced_datadir(Path(folder), corpus) as temporary:
        write_stream(temporary / NAME, spec)
    return Path(folder)


def stream_shards(words: list[str], out: Path, shuffle: int) -> Path:
    """Write the data folder of a set that is read from shards: folders, paths or URLs.

    Raises:
        UserError: a manifest instead of shards; else as `check_stream`.
    """
    for word in words:
        require(
            not word.endswith(".jsonl"),
            f"{word}: a manifest; pack it first (the same command without --stream), then stream "
            "the folder of shards",
        )
    places = [word if "://" in word else str(Path(word).resolve()) for word in words]
    spec = StreamSpec(shards=places, shuffle=shuffle)
    return write_streamed(out, spec, {"name": out.name, "title": words[0]})


@dataclass(slots=True)
class StreamClip:
    """A row of a stream, not decoded yet."""

    id: str  # unique in the set
    text: str  # what is said
    # an encoded file, the path of one (here or on the hub), or `(samples,)` float32 at 16 kHz
    audio: bytes | str | np.ndarray
    name: str  # for messages
    problem: str = ""  # why it cannot be used, if so; a whole message
    duration: float = 0.0  # seconds, once it was measured

    def measure(self) -> StreamClip:
        """Find out its duration from the header.

        Raises:
            UserError: no text, no audio, or audio that cannot be read.
        """
        require(not self.problem, self.problem)
        require(bool(self.text), f"{self.name}: has no text")
        if isinstance(self.audio, str) and on_the_hub(self.audio):
            self.audio = hub_file(self.audio)
        if isinstance(self.audio, np.ndarray):
            self.duration = len(self.audio) / SAMPLE_RATE
        else:
            file = (self.audio,) if isinstance(self.audio, str) else (self.name, self.audio)
            self.duration = audio_info(*file).duration
        return self

    def load(self) -> np.ndarray:
        """`(samples,)` float32 at 16 kHz."""
        if isinstance(self.audio, np.ndarray):
            return self.audio
        if isinstance(self.audio, str):
            return load_audio(self.audio)
        return decode_audio(self.audio, self.name)


Piece = Callable[[], Iterator[StreamClip]]


def open_pieces(spec: StreamSpec) -> list[Piece]:
    """Functions that open the pieces of a set, the same ones at every call.

    Raises:
        UserError: no such dataset, split, folder, shard or column.
    """
    if spec.shards:
        only = spec.shards[0] if len(spec.shards) == 1 else spec.shards
        return [functools.partial(_clips_of_shard, shard) for shard in shard_list(only)]
    if spec.dataset:
        name = spec.dataset
        records = remote.hub_records(name, spec.split, spec.config, spec.revision)
    else:
        name = spec.folder
        require(Path(name).is_dir(), f"{name}: no such folder")
        records = remote.local_records(Path(name), spec.split, spec.config)
    for role in ("audio", "text", "id"):
        column = getattr(spec, role)
        require(
            column in records.columns or (role == "id" and not column),
            f"{name}: {role}: {no_column(column, records.columns)}",
        )
    return [
        functools.partial(_clips_of_rows, rows, spec, f"{name}:{spec.split}:{at}", records)
        for at, rows in enumerate(records.pieces())
    ]


def shard_list(shards: str | Path | Sequence[str]) -> list[str]:
    """The shards that a folder, a path, a URL or a list of such means; braces are expanded."""
    found = []
    for word in [shards] if isinstance(shards, str | Path) else shards:
        text = str(word)
        if os.path.isdir(text):
            found += [str(path) for path in shard_paths(Path(text))]
        elif os.path.isfile(text):
            found.append(text)
        else:
            found += expand(text)
    return found


def _clips_of_shard(shard: str) -> Iterator[StreamClip]:
    for utterance, data in open_shard(shard):
        yield StreamClip(utterance.id, utterance.text or "", data, utterance.audio)


def _clips_of_rows(
    rows: remote.Rows, spec: StreamSpec, where: str, records: remote.Records
) -> Iterator[StreamClip]:
    for number, row in enumerate(rows()):
        name = f"{where}:{number}"
        clip = StreamClip(name, "", b"", name)
        try:
            clip.id = one_word(row[spec.id], name, "id") if spec.id else name
            clip.text = one_text(records.value(row, spec.text), name, clip.id) or ""
            audio = audio_of(row[spec.audio], local=records.local)
            if audio is None:
                raise UserError(f"{name}: has no audio")
            clip.audio = resample(*audio, SAMPLE_RATE) if isinstance(audio, tuple) else audio
        except UserError as error:
            text = str(error)
            clip.problem = text if text.startswith(name) else f"{name}: {text}"
        yield clip


def check_stream(spec: StreamSpec, rows: int = 8) -> int:
    """Read and decode the first rows of a set, so that a mistake shows at once.

    Raises:
        UserError: as `open_pieces`, or a row without text or readable audio.
    """
    pieces = open_pieces(spec)
    clips = (clip for piece in pieces for clip in piece())
    seen = 0
    for clip in islice(clips, rows):
        clip.measure().load()
        seen += 1
    require(seen > 0, f"{spec.dataset or spec.folder or spec.shards[0]}: holds no clip")
    return len(pieces)


def share(pieces: int, part: int, parts: int) -> list[tuple[int, int, int]]:
    """What one of several readers reads: no row goes to two of them, and none to nobody.

    Whole pieces where there are enough of them; otherwise several readers open the same piece,
    and each takes every `step`-th row of it.

    Args:
        part: which reader, from 0.

    Returns:
        `(piece, step, offset)`.
    """
    if pieces >= parts:
        return [(piece, 1, 0) for piece in range(part, pieces, parts)]
    piece = part % pieces
    return [(piece, len(range(piece, parts, pieces)), part // pieces)]


@dataclass
class StreamReader:
    """One reader's share of a set, over and over, in blocks of clips.

    The order of the pieces follows from the seed and the pass; the blocks, from the order and their
    size. So a reader that begins at the place where a block began gives that block again.
    """

    spec: StreamSpec
    part: int  # which reader, of how many; see `share`
    parts: int
    _: KW_ONLY
    block: int  # rows in a block
    ahead: int  # a last block of a pass with fewer rows is joined to the one before
    seed: int = 0  # of the order of the pieces
    pieces: list[Piece] = field(default_factory=list)  # those of the set, if they are open already
    skipped: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self.pieces = self.pieces or open_pieces(self.spec)
        require(len(self.pieces) > 0, f"{self._name}: holds no clip")

    @property
    def _name(self) -> str:
        return self.spec.dataset or self.spec.folder or self.spec.shards[0]

    def rows(self, start: Place = (0, 0, 0)) -> Iterator[tuple[Place, StreamClip]]:
        """The rows of one pass from a place on, each with the place behind it."""
        turn, first, skip = start
        mine = share(len(self.pieces), self.part, self.parts)
        order = np.random.default_rng((self.seed, turn, self.part)).permutation(len(mine))
        for at in range(first, len(mine)):
            number, step, offset = mine[order[at]]
            for row, clip in enumerate(self.pieces[number]()):
                if row >= skip and row % step == offset:
                    yield (turn, at, row + 1), clip
            skip = 0

    def blocks(self, start: Place = (0, 0, 0)) -> Iterator[tuple[Place, Place, list[StreamClip]]]:
        """Blocks without end: where each begins, where the next one begins, and its sound clips.

        Raises:
            UserError: a clip that cannot be read (unless `skip_bad`), or a whole pass of nothing.
        """
        begins = start
        while True:
            held: list[tuple[Place, StreamClip]] = []
            whole, kept, turn = begins[1:] == (0, 0), 0, begins[0]
            for item in self.rows(begins):
                held.append(item)
                if len(held) == self.block + self.ahead:
                    after, clips = held[self.block - 1][0], self._sound(held[: self.block])
                    kept, held = kept + len(clips), held[self.block :]
                    yield begins, after, clips
                    del clips  # or there would be two blocks in memory while the next one is read
                    begins = after
            clips = self._sound(held)
            kept += len(clips)
            yield begins, (turn + 1, 0, 0), clips
            del clips, held
            require(
                kept > 0 or not whole,
                f"{self._name}: reader {self.part + 1} of {self.parts} (processes x num_workers) "
                f"found no clip of {self.spec.min_duration:g} to {self.spec.max_duration:g} s; "
                "take fewer workers or other limits",
            )
            begins = (turn + 1, 0, 0)

    def _sound(self, held: list[tuple[Place, StreamClip]]) -> list[StreamClip]:
        """Those that can be used, measured."""
        found = []
        for _, clip in held:
            try:
                duration = clip.measure().duration
            except UserError as error:
                self.skip(error)
                continue
            if self.spec.min_duration <= duration <= self.spec.max_duration:
                found.append(clip)
        return found

    def skip(self, error: UserError) -> None:
        """Pass over what cannot be read and say so, ten times at most; or stop with the error."""
        if not self.spec.skip_bad:
            raise UserError(f'{error} ("skip_bad": true in {NAME} skips such clips)') from error
        self.skipped += 1
        if self.skipped <= 10:
            more = "; further ones are not listed" if self.skipped == 10 else ""
            print(f"skipped: {error}{more}", file=sys.stderr, flush=True)
