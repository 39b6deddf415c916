"""Search a folder of recordings by what is said in them: what `speechcwcl search` does.

An index is a folder. `index.json` says what it belongs to; `index.npz` holds a JSON line a
recording (name, size, time of change, pieces, problem) and a row of the embeddings a piece, in the
same order. A search compares the question with every row. An update writes what it embeds as
`part-K.npz` as it goes, so that an interrupted one goes on, and ends by replacing `index.npz`.
Who asks meanwhile gets the answers of the last update that ended.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from tqdm import tqdm
from typing_extensions import TypedDict

from speechcwcl.apps.recordings import (
    Cutting,
    Embedded,
    Recording,
    by_name,
    embed_recordings,
    read_embedded,
    scan,
    write_embedded,
)
from speechcwcl.errors import UserError, require
from speechcwcl.files import lock, read_json, write_json

if TYPE_CHECKING:
    from speechcwcl.models.aligner import Aligner

FORMAT, VERSION = "speechcwcl-search", 3
META, CURRENT = "index.json", "index.npz"


Clip = tuple[str, float, float]  # name of the recording, start and end of the piece in seconds


class Meta(TypedDict):  # what index.json holds
    format: str
    version: int
    root: str
    dim: int
    identity: str
    model: str
    cutting: tuple[float, float]


class Hit(NamedTuple):
    """One answer: the recording, start and end of the piece in seconds, cosine to the question."""

    path: str
    start: float
    end: float
    score: float


@dataclass
class Update:
    """What an update did."""

    new: int = 0  # recordings that were not there
    changed: int = 0  # recordings whose size or time of change differed
    removed: int = 0  # recordings that are gone from the folder
    kept: int = 0  # recordings that nothing was done for
    # name and reason of those that cannot be read
    broken: dict[str, str] = field(default_factory=dict)
    clips: int = 0  # pieces in the index


class SearchIndex:
    """An index on the disk; `create` or `open` it."""

    def __init__(self, folder: Path, meta: Meta):
        self.folder, self.meta = folder, meta
        self.dim, self.root = meta["dim"], Path(meta["root"])
        self.cutting = Cutting(*meta["cutting"])
        self._loaded: tuple[Any, list[Recording], list[Clip], np.ndarray] | None = None

    @classmethod
    def create(
        cls,
        folder: str | Path,
        root: str | Path,
        *,
        dim: int,
        identity: str,
        model: str,
        cutting: Cutting,
    ) -> SearchIndex:
        """Open the index of a folder of recordings, or begin it.

        Args:
            identity: of the model, see `speechcwcl.models.aligner.Aligner.identity`.

        Raises:
            UserError: an index of other recordings, of another model or cut otherwise is there.
        """
        folder, root = Path(folder), Path(root).resolve()
        require(root.is_dir(), f"{root}: no such folder of recordings")
        wanted: Any = {"format": FORMAT, "version": VERSION, "root": str(root), "dim": dim}
        wanted |= {"identity": identity, "model": model}
        wanted |= {"cutting": [cutting.window, cutting.hop]}
        foreign = folder.is_dir() and any(path.name != ".lock" for path in folder.iterdir())
        if foreign and not (folder / META).exists():
            raise UserError(f"{folder}: not empty and not an index; choose another folder")
        with lock(folder / ".lock"):
            if not (folder / META).exists():
                write_json(folder / META, wanted)
        index = cls.open(folder)
        index.check_model(identity, model)
        was = index.cutting
        require(
            was == cutting,
            f"{folder}: was built with window {was.window:g} and hop {was.hop:g}, not "
            f"{cutting.window:g} and {cutting.hop:g}; give those, or another --index",
        )
        if index.root != root:
            require(
                not index.root.is_dir(),
                f"{folder}: is the index of {index.root}; give {root} an index of its own",
            )
            write_json(folder / META, {**index.meta, "root": str(root)})  # they have been moved
        return cls.open(folder)

    @classmethod
    def open(cls, folder: str | Path) -> SearchIndex:
        """Open an index.

        Raises:
            UserError: there is none, it is broken, or another version wrote it.
        """
        folder = Path(folder)
        path = folder / META
        require(
            path.is_file(),
            f"{folder}: no index there; make one with `speechcwcl search build RECORDINGS "
            f"--index {folder} --model MODEL`",
        )
        start = read_json(path, dict)
        require(
            (start.get("format"), start.get("version")) == (FORMAT, VERSION),
            f"{path}: not an index of this version of speechcwcl; delete the folder and build it "
            "again",
        )
        return cls(folder, read_json(path, Meta))

    def check_model(self, identity: str, model: str) -> None:
        """Refuse a model whose embeddings mean something else than those in the index."""
        require(
            identity == self.meta["identity"],
            f"{self.folder}: was built with another model ({self.meta['model']}), which "
            f"{model} is not; give that one, or build a new index with --index",
        )

    # -- keeping it up to date ------------------------------------------------------------------

    def update(self, embedder: Any) -> Update:
        """Embed what is new or changed below the folder of recordings, drop what is gone.

        Waits while another process does it.

        Args:
            embedder: the model that the index belongs to (see `check_model`).

        Raises:
            UserError: no recordings there; nothing is dropped then.
        """
        require(
            embedder.dim == self.dim,
            f"{self.folder / META}: says dim {self.dim}, and the model gives "
            f"{embedder.dim}; delete the folder and build the index again",
        )
        waiting = "another process is updating this index; waiting for it"
        with lock(self.folder / ".lock", lambda: print(waiting, file=sys.stderr)):
            found, known = scan(self.root), self._known()
            gone = known.keys() - found.keys()
            todo = [r for n, r in found.items() if n not in known or known[n][0][:3] != r[:3]]
            new = sum(recording.name not in known for recording in todo)
            update = Update(new, len(todo) - new, len(gone), len(found) - len(todo))
            with tqdm(desc="embed", unit="file", total=len(todo), disable=None) as bar:
                parts = embed_recordings(embedder, self.root, todo, self.cutting)
                for number, part in enumerate(parts, len(self._parts())):
                    write_embedded(self.folder / f"part-{number:06d}.npz", part)
                    known.update(part)
                    bar.update(len(part))
            kept = {name: known[name] for name in sorted(found)}
            if todo or gone or self._parts() or not (self.folder / CURRENT).exists():
                write_embedded(self.folder / CURRENT, kept)
            for path in self._parts():
                path.unlink(missing_ok=True)
        update.broken = {n: r.problem for n, (r, _) in kept.items() if r.problem is not None}
        update.clips = sum(len(rows) for _, rows in kept.values())
        return update

    def _parts(self) -> list[Path]:
        return sorted(self.folder.glob("part-*.npz"))

    def _known(self) -> Embedded:
        """What is embedded already: by the last update, and by one that did not end.

        What is damaged is made again from the recordings.
        """
        known: Embedded = {}
        for path in (self.folder / CURRENT, *self._parts()):
            with contextlib.suppress(UserError):
                recordings, rows = read_embedded(path, self.dim)
                known |= by_name(recordings, rows)
        return known

    def _current(self) -> tuple[list[Recording], list[Clip], np.ndarray]:
        """Recordings, their pieces, (pieces, dim) embeddings, of the last update that ended."""
        path = self.folder / CURRENT
        if not path.exists():
            raise UserError(
                f"{self.folder}: its first build has not ended; run `speechcwcl search update "
                f"{self.folder}`, which goes on with it"
            )
        state = path.stat().st_ino, path.stat().st_mtime_ns
        if self._loaded is None or self._loaded[0] != state:
            recordings, rows = read_embedded(path, self.dim)
            clips = [(r.name, start, end) for r in recordings for start, end in r.pieces]
            self._loaded = state, recordings, clips, rows
        return self._loaded[1:]

    def search(self, vectors: np.ndarray, top_k: int = 10) -> list[list[Hit]]:
        """The pieces nearest to some embeddings; of pieces that overlap only the best one.

        Args:
            vectors: (queries, dim) float32 unit norm, of texts or of speech.
            top_k: answers a query.
        """
        require(top_k >= 1, f"top_k: {top_k} is below 1")
        _, clips, rows = self._current()
        answers = []
        for cosines in np.asarray(vectors) @ rows.T:
            taken: list[Clip] = []
            hits: list[Hit] = []
            for place in np.argsort(-cosines, kind="stable"):
                name, start, end = clips[place]
                if not any(name == n and start < e and s < end for n, s, e in taken):
                    taken.append(clips[place])
                    hits.append(self._hit(clips[place], cosines[place]))
                if len(hits) == top_k:
                    break
            answers.append(hits)
        return answers

    def texts_of(
        self, text_vectors: np.ndarray, texts: Sequence[str], top_k: int = 1
    ) -> Iterator[tuple[Hit, list[tuple[str, float]]]]:
        """Text by speech: for every piece in the index the texts nearest to it.

        Args:
            text_vectors: (texts, dim) float32 unit norm.
            top_k: texts a piece.

        Yields:
            The piece (its score is that of its best text) and pairs of text and cosine.
        """
        _, clips, rows = self._current()
        for clip, speech in zip(clips, rows, strict=True):
            pairs = nearest_texts(speech, text_vectors, texts, top_k)
            yield self._hit(clip, pairs[0][1]), pairs

    def _hit(self, clip: Clip, score: float) -> Hit:
        name, start, end = clip
        path = str(self.root / name)
        return Hit(path, round(start, 3), round(end, 3), round(float(score), 6))

    def describe(self) -> dict[str, Any]:
        """What is in it, as plain JSON."""
        built = (self.folder / CURRENT).exists()
        recordings, clips, _ = self._current() if built else ([], [], None)
        broken = {r.name: r.problem for r in recordings if r.problem is not None}
        return {
            "recordings": len(recordings) - len(broken),
            "clips": len(clips),
            "broken": broken,
            "folder": self.meta["root"],
            "model": self.meta["model"],
            "window": self.cutting.window,
            "hop": self.cutting.hop,
            "dim": self.dim,
        }


def nearest_texts(
    speech: np.ndarray, text_vectors: np.ndarray, texts: Sequence[str], top_k: int
) -> list[tuple[str, float]]:
    """The texts nearest to an embedding, as pairs of text and cosine, the best first."""
    cosines = text_vectors @ speech
    best = np.argsort(-cosines, kind="stable")[:top_k]
    return [(texts[i], round(float(cosines[i]), 6)) for i in best]


def build(
    folder: Path, index: Path, model: str, window: float, hop: float, device: str = "cpu"
) -> tuple[SearchIndex, Aligner]:
    """Begin an index of a folder, or open the one that is there, with its model.

    Args:
        hop: seconds.
    """
    from speechcwcl.models.aligner import Aligner

    require(folder.is_dir(), f"{folder}: no such folder of recordings")
    cutting = Cutting(window, hop)
    aligner = Aligner.from_pretrained(model, device=device)
    path = Path(model).expanduser()
    name = str(path.resolve()) if path.is_dir() else model
    about: dict[str, Any] = {"dim": aligner.dim, "identity": aligner.identity, "model": name}
    return SearchIndex.create(index, folder, cutting=cutting, **about), aligner


def open_with_model(
    index: Path, model: str | None = None, device: str = "cpu"
) -> tuple[SearchIndex, Aligner]:
    """Open an index and its model; `model` says where the model is now, if it moved.

    Raises:
        UserError: no such index, its model is gone, or another model was given.
    """
    from speechcwcl.models.aligner import Aligner

    opened = SearchIndex.open(index)
    name = model or opened.meta["model"]
    if not model and Path(name).is_absolute() and not Path(name).is_dir():
        raise UserError(f"{index}: its model {name} is gone; say where it is with --model")
    aligner = Aligner.from_pretrained(name, device=device)
    opened.check_model(aligner.identity, name)
    return opened, aligner


def find_speech(
    index: SearchIndex,
    aligner: Aligner,
    texts: Iterable[str],
    audio: Sequence[Path] | None = None,
    top_k: int = 10,
) -> Iterator[tuple[str, list[Hit]]]:
    """Yield each question (a text or an audio file) with the pieces nearest to it."""
    for text in texts:
        yield text, index.search(aligner.encode_text([text]), top_k)[0]
    for path in audio or []:
        yield str(path), index.search(aligner.encode_speech([path]), top_k)[0]


def find_texts(
    index: SearchIndex,
    aligner: Aligner,
    texts: Sequence[str],
    audio: Sequence[Path] | None = None,
    top_k: int = 1,
) -> Iterator[tuple[str, float | None, float | None, list[tuple[str, float]]]]:
    """Yield the texts nearest to each file of `audio`, or to each piece of the index.

    Yields:
        Path, start and end in seconds (None for a whole file), pairs of text and cosine.
    """
    vectors = aligner.encode_text(texts)
    if audio:
        for path in audio:
            speech = aligner.encode_speech([path])[0]
            yield str(path), None, None, nearest_texts(speech, vectors, texts, top_k)
        return
    for hit, pairs in index.texts_of(vectors, texts, top_k):
        yield hit.path, hit.start, hit.end, pairs
