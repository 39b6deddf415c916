"""Speech by text and text by speech: an index of a folder's recordings, kept on the disk.

An index is a folder. `index.json` says what it belongs to and which `index-N.npz` is current;
that holds a JSON line a recording (name, size, time of change, pieces, problem) and a row of the
embeddings a piece, in the same order. A search compares the question with every row. An update
writes what it embeds as `part-K.npz` as it goes, so that an interrupted one goes on; it ends by
writing a new `index-N.npz` and naming it. Who asks meanwhile gets the answers of the last update
that ended.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from typing_extensions import TypedDict

from speechcwcl.apps.recordings import (
    Cutting,
    Embedder,
    Recording,
    by_name,
    embed_recordings,
    read_embedded,
    scan,
    write_embedded,
)
from speechcwcl.errors import UserError, require
from speechcwcl.files import lock, read_json, sha256_file, write_json

VERSION = 2
META = "index.json"
_OLD_TABLE = "table.sqlite"  # of version 1


class Current(TypedDict):  # which file is searched
    name: str
    sha256: str


class Meta(TypedDict):  # what index.json holds
    format: str
    version: int
    root: str
    dim: int
    identity: str
    model: str
    cutting: tuple[float, float]
    number: int
    current: Current | None


Clip = tuple[str, float, float]  # name of the recording, start and end of the piece in seconds


class Hit(NamedTuple):
    """One answer: the recording, start and end of the piece in seconds, cosine to the question."""

    path: str
    start: float
    end: float
    score: float


@dataclass
class Update:
    """What an update did.

    Attributes:
        new: recordings that were not there.
        changed: recordings whose size or time of change differed.
        removed: recordings that are gone from the folder.
        kept: recordings that nothing was done for.
        broken: name and reason of those that cannot be read.
        clips: pieces in the index.
    """

    new: int = 0
    changed: int = 0
    removed: int = 0
    kept: int = 0
    broken: dict[str, str] = field(default_factory=dict)
    clips: int = 0


class SearchIndex:
    """An index on the disk; [`create`][] or [`open`][] it.

    Args:
        folder: where it lies.
        meta: what its `index.json` says.
    """

    def __init__(self, folder: Path, meta: Meta):
        self.folder = folder
        self.meta = meta
        self.dim: int = meta["dim"]
        self.root = Path(meta["root"])
        self.cutting = Cutting(*meta["cutting"])
        self._loaded: tuple[Current, list[Clip], np.ndarray] | None = None

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
            folder: of the index.
            root: of the recordings.
            dim: width of the embeddings.
            identity: [`Aligner.identity`][speechcwcl.models.aligner.Aligner.identity].
            model: where the model is, for later.
            cutting: how long recordings are cut.

        Raises:
            UserError: an index of other recordings, of another model or cut otherwise is there.
        """
        folder, root = Path(folder), Path(root).resolve()
        require(root.is_dir(), f"{root}: no such folder of recordings")
        if (folder / _OLD_TABLE).exists():
            cls.open(folder)  # says what to do
        foreign = folder.is_dir() and any(path.name != ".lock" for path in folder.iterdir())
        if foreign and not (folder / META).exists():
            raise UserError(f"{folder}: not empty and not an index; choose another folder")
        with lock(folder / ".lock"):
            if not (folder / META).exists():
                write_json(
                    folder / META,
                    {
                        "format": "speechcwcl-search",
                        "version": VERSION,
                        "root": str(root),
                        "dim": dim,
                        "identity": identity,
                        "model": model,
                        "cutting": [cutting.window, cutting.hop],
                        "number": 0,
                        "current": None,
                    },
                )
        index = cls.open(folder)
        index.check_model(identity, model)
        index._check_recordings(root, cutting)
        return index

    def _check_recordings(self, root: Path, cutting: Cutting) -> None:
        if self.cutting != cutting:
            was, now = self.cutting, cutting
            raise UserError(
                f"{self.folder}: was built with window {was.window:g} and hop {was.hop:g}, not "
                f"{now.window:g} and {now.hop:g}; give those, or another --index"
            )
        if self.root == root:
            return
        if self.root.is_dir():
            raise UserError(
                f"{self.folder}: is the index of {self.root}; give {root} an index of its own"
            )
        self.root = root  # the recordings have been moved
        self._write_meta(root=str(root))

    @classmethod
    def open(cls, folder: str | Path) -> SearchIndex:
        """Open an index.

        Raises:
            UserError: there is none, it is broken, or another version wrote it.
        """
        folder = Path(folder)
        path = folder / META
        if (folder / _OLD_TABLE).exists():
            raise UserError(
                f"{folder}: made by speechcwcl before 0.2; delete the folder and build the index "
                "again"
            )
        if not path.is_file():
            raise UserError(
                f"{folder}: no index there; make one with `speechcwcl search build RECORDINGS "
                f"--index {folder} --model MODEL`"
            )
        start = read_json(path, dict)
        ours = start.get("format") == "speechcwcl-search"
        require(ours, f"{path}: not an index of `speechcwcl search`")
        fits = start.get("version") == VERSION
        require(fits, f"{path}: written by another version of speechcwcl; build it again")
        return cls(folder, read_json(path, Meta))

    def _write_meta(self, **changed: Any) -> None:
        self.meta.update(changed)  # type: ignore[typeddict-item]
        write_json(self.folder / META, self.meta)

    def check_model(self, identity: str, model: str) -> None:
        """Refuse a model whose embeddings mean something else than those in the index."""
        if identity != self.meta["identity"]:
            raise UserError(
                f"{self.folder}: was built with another model ({self.meta['model']}), which "
                f"{model} is not; give that one, or build a new index with --index"
            )

    # -- keeping it up to date ------------------------------------------------------------------

    def update(
        self,
        embedder: Embedder,
        *,
        begin: Callable[[int], None] | None = None,
        step: Callable[[int], object] | None = None,
        waiting: Callable[[], None] | None = None,
    ) -> Update:
        """Embed what is new or changed below the folder of recordings, drop what is gone.

        Args:
            embedder: the model that the index belongs to (see [`check_model`][]).
            begin: told how many recordings will be embedded.
            step: told how many more are done.
            waiting: called once when another process is at it.

        Raises:
            UserError: no recordings there; nothing is dropped then.
        """
        with lock(self.folder / ".lock", waiting):
            self.meta = SearchIndex.open(self.folder).meta  # another process may have ended one
            require(
                embedder.dim == self.dim,
                f"{self.folder / META}: says dim {self.dim}, and the model gives "
                f"{embedder.dim}; delete the folder and build the index again",
            )
            found = scan(self.root)
            known = self._known()
            gone = known.keys() - found.keys()
            todo = [r for n, r in found.items() if n not in known or known[n][0][:3] != r[:3]]
            update = Update(removed=len(gone), kept=len(found) - len(todo))
            update.changed = sum(recording.name in known for recording in todo)
            update.new = len(todo) - update.changed
            if begin:
                begin(len(todo))
            for done, rows in embed_recordings(embedder, self.root, todo, self.cutting):
                self._write_part(done, rows)
                known.update(by_name(done, rows))
                if step:
                    step(len(done))
            kept = [known[name] for name in sorted(found)]
            if todo or gone or self.meta["current"] is None or self._parts():
                self._write_current(kept)
            self._sweep()
            update.broken = {r.name: r.problem for r, _ in kept if r.problem is not None}
            update.clips = sum(len(rows) for _, rows in kept)
            return update

    def _known(self) -> dict[str, tuple[Recording, np.ndarray]]:
        """What is embedded already: by the last update, and by one that did not end."""
        known: dict[str, tuple[Recording, np.ndarray]] = {}
        if self.meta["current"] is not None:
            try:
                known = by_name(*self._load(self.meta["current"]))
            except UserError:  # damaged: made again from the recordings
                self.meta["current"] = None
        for path in self._parts():
            with contextlib.suppress(UserError):
                known.update(by_name(*read_embedded(path, self.dim)))
        return known

    def _parts(self) -> list[Path]:
        return sorted(self.folder.glob("part-*.npz"))

    def _write_part(self, recordings: Sequence[Recording], rows: np.ndarray) -> None:
        parts = self._parts()
        number = int(parts[-1].stem[5:]) + 1 if parts else 0
        write_embedded(self.folder / f"part-{number:06d}.npz", recordings, rows)

    def _write_current(self, kept: Sequence[tuple[Recording, np.ndarray]]) -> None:
        number = self.meta["number"] + 1
        path = self.folder / f"index-{number}.npz"
        empty = np.zeros((0, self.dim), dtype=np.float32)
        rows = np.concatenate([empty, *(rows for _, rows in kept)])
        write_embedded(path, [recording for recording, _ in kept], rows)
        self._write_meta(current={"name": path.name, "sha256": sha256_file(path)}, number=number)

    def _sweep(self) -> None:
        """Delete earlier indexes and parts."""
        for pattern in ("index-*", "part-*"):
            for path in self.folder.glob(pattern):
                if self.meta["current"] is None or path.name != self.meta["current"]["name"]:
                    path.unlink(missing_ok=True)

    # -- asking ---------------------------------------------------------------------------------

    def _load(self, entry: Current) -> tuple[list[Recording], np.ndarray]:
        path = self.folder / entry["name"]
        what_to_do = f"run `speechcwcl search update {self.folder}`, which makes it again"
        require(path.is_file(), f"{path}: missing; {what_to_do}")
        sound = sha256_file(path) == entry["sha256"]
        require(sound, f"{path}: truncated or changed; {what_to_do}")
        return read_embedded(path, self.dim)

    def _current(self) -> tuple[list[Clip], np.ndarray]:
        """The pieces and the embeddings (pieces, dim) of the last update that ended."""
        entry = SearchIndex.open(self.folder).meta["current"]
        if entry is None:
            raise UserError(
                f"{self.folder}: its first build has not ended; run `speechcwcl search update "
                f"{self.folder}`, which goes on with it"
            )
        if self._loaded is None or self._loaded[0] != entry:
            try:
                loaded = self._load(entry)
            except UserError:
                newer = SearchIndex.open(self.folder).meta["current"]
                if newer is None or newer == entry:
                    raise
                entry, loaded = newer, self._load(newer)  # an update ended in this moment
            recordings, rows = loaded
            clips = [(r.name, start, end) for r in recordings for start, end in r.pieces]
            self._loaded = entry, clips, rows
        return self._loaded[1], self._loaded[2]

    def search(self, vectors: np.ndarray, top_k: int = 10) -> list[list[Hit]]:
        """The pieces nearest to some embeddings; of pieces that overlap only the best one.

        Args:
            vectors: (queries, dim) float32 unit norm, of texts or of speech.
            top_k: answers a query.
        """
        require(top_k >= 1, f"top_k: {top_k} is below 1")
        clips, rows = self._current()
        return [self._answer(clips, rows @ vector, top_k) for vector in vectors]

    def _answer(self, clips: list[Clip], cosines: np.ndarray, top_k: int) -> list[Hit]:
        count = top_k * 4 + 8  # more than are asked for: those that overlap fall away
        while True:
            count = min(count, len(clips))
            found = np.argpartition(-cosines, count - 1)[:count].tolist() if count else []
            taken: list[Clip] = []
            hits: list[Hit] = []
            for place in sorted(found, key=lambda i: (-cosines[i], i)):
                name, start, end = clips[place]
                if not any(name == n and start < e and s < end for n, s, e in taken):
                    taken.append(clips[place])
                    hits.append(self._hit(name, start, end, cosines[place]))
            if len(hits) >= top_k or count == len(clips):
                return hits[:top_k]
            count *= 4

    def texts_of(
        self, text_vectors: np.ndarray, texts: Sequence[str], top_k: int = 1
    ) -> Iterator[tuple[Hit, list[tuple[str, float]]]]:
        """Text by speech: for every piece in the index the texts nearest to it.

        Args:
            text_vectors: (texts, dim) float32 unit norm.
            texts: what they embed.
            top_k: texts a piece.

        Yields:
            The piece (its score is that of its best text) and pairs of text and cosine.
        """
        for clip, speech in zip(*self._current(), strict=True):
            pairs = nearest_texts(speech, text_vectors, texts, top_k)
            yield self._hit(*clip, pairs[0][1]), pairs

    def _hit(self, name: str, start: float, end: float, score: float) -> Hit:
        path = str(self.root / name)
        return Hit(path, round(start, 3), round(end, 3), round(float(score), 6))

    def describe(self) -> dict[str, Any]:
        """What is in it, as plain JSON."""
        entry = SearchIndex.open(self.folder).meta["current"]
        recordings, rows = self._load(entry) if entry else ([], np.zeros((0, self.dim)))
        broken = {r.name: r.problem for r in recordings if r.problem is not None}
        return {
            "recordings": len(recordings) - len(broken),
            "clips": len(rows),
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
