"""The index of a folder of recordings: made, kept up to date, asked.

A folder with ``table.sqlite`` (the truth: recordings, pieces, embeddings) and one
``vectors-<n>.usearch`` (what is searched; made from the table whenever an update ends). Who asks
while an update runs, or after one that was interrupted, gets the answers of the last update that
ended.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from speechcwcl.errors import UserError
from speechcwcl.files import cannot_write
from speechcwcl.search import vectors as store
from speechcwcl.search.embedding import Embedder, embed_recordings
from speechcwcl.search.recordings import Cutting, scan
from speechcwcl.search.table import Clip, Table

VERSION = 1
TABLE = "table.sqlite"


@dataclass
class Update:
    """What an update did.

    Attributes:
        new: recordings that were not there.
        changed: recordings whose size or time of change differed.
        removed: recordings that are gone from the folder.
        kept: recordings that nothing was done for.
        broken: name and reason of those that cannot be read, now or in an earlier update.
        clips: pieces in the index.
    """

    new: int = 0
    changed: int = 0
    removed: int = 0
    kept: int = 0
    broken: dict[str, str] = field(default_factory=dict)
    clips: int = 0


@dataclass(frozen=True)
class Hit:
    """One answer.

    Attributes:
        path: the recording.
        start: of the piece, in seconds.
        end: in seconds.
        score: cosine of question and piece.
    """

    path: str
    start: float
    end: float
    score: float


class SearchIndex:
    """An index on the disk; :meth:`create` or :meth:`open` it.

    Args:
        folder: where it lies.
        meta: what its table says about it.
    """

    def __init__(self, folder: Path, meta: dict[str, Any]):
        self.folder = folder
        self.meta = meta
        self.dim: int = meta["dim"]
        self.root = Path(meta["root"])
        self.cutting = Cutting(*meta["cutting"])
        self._loaded: tuple[dict[str, Any], Any] | None = None

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
            identity: of the model, see :func:`speechcwcl.models.identity.model_identity`.
            model: where the model is, for later.
            cutting: how long recordings are cut.

        Raises:
            UserError: an index of other recordings, of another model or cut otherwise is there.
        """
        folder, root = Path(folder), Path(root).resolve()
        if not root.is_dir():
            raise UserError(f"{root}: no such folder of recordings")
        try:
            if folder.is_dir() and not (folder / TABLE).exists() and _others(folder):
                raise UserError(f"{folder}: not empty and not an index; choose another folder")
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(cannot_write(folder, error)) from error
        meta = {
            "format": "speechcwcl-search",
            "version": VERSION,
            "root": str(root),
            "dim": dim,
            "identity": identity,
            "model": model,
            "cutting": [cutting.window, cutting.hop],
            "number": 0,
            "snapshot": None,
        }
        with _locked(folder):
            if not (folder / TABLE).exists() or (folder / TABLE).stat().st_size == 0:
                Table.create(folder / TABLE, meta).close()
        index = cls.open(folder)
        index.check_model(identity, model)
        if index.cutting != cutting:
            was, now = index.cutting, cutting
            raise UserError(
                f"{folder}: was built with window {was.window:g} and hop {was.hop:g}, not "
                f"{now.window:g} and {now.hop:g}; give those, or another --index"
            )
        if index.root != root:
            index._move(root)
        return index

    def _move(self, root: Path) -> None:
        """Note that the recordings have been moved."""
        if self.root.is_dir():
            raise UserError(
                f"{self.folder}: is the index of {self.root}; give {root} an index of its own"
            )
        with Table.open(self.folder / TABLE) as table:
            table.set_meta(root=str(root))
        self.root = root

    @classmethod
    def open(cls, folder: str | Path) -> SearchIndex:
        """Open an index.

        Raises:
            UserError: there is none, it is broken, or a newer version wrote it.
        """
        folder = Path(folder)
        if not (folder / TABLE).is_file():
            raise UserError(
                f"{folder}: no index there; make one with `speechcwcl search build RECORDINGS "
                f"--index {folder} --model MODEL`"
            )
        with Table.open(folder / TABLE) as table:
            meta = table.meta()
        if meta.get("format") != "speechcwcl-search" or not isinstance(meta.get("version"), int):
            raise UserError(f"{folder / TABLE}: not an index of `speechcwcl search`")
        if meta["version"] > VERSION:
            raise UserError(f"{folder}: written by a newer speechcwcl; pip install -U speechcwcl")
        return cls(folder, meta)

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
        step: Callable[[int], None] | None = None,
        waiting: Callable[[], None] | None = None,
    ) -> Update:
        """Embed what is new or changed below the folder of recordings, drop what is gone.

        Args:
            embedder: the model that the index belongs to (see :meth:`check_model`).
            begin: told how many recordings will be embedded.
            step: told how many more are done.
            waiting: called once when another process is at it.

        Raises:
            UserError: no recordings there; nothing is dropped then.
        """
        with _locked(self.folder, waiting), Table.open(self.folder / TABLE) as table:
            found, known = scan(self.root), table.files()
            gone = sorted(known.keys() - found.keys())
            todo = [r for name, r in found.items() if name not in known or known[name][0] != r]
            update = Update(removed=len(gone), kept=len(found) - len(todo))
            update.changed = sum(recording.name in known for recording in todo)
            update.new = len(todo) - update.changed
            table.remove(gone)
            if begin:
                begin(len(todo))
            for done in embed_recordings(embedder, self.root, todo, self.cutting):
                table.put(done)
                if step:
                    step(len(done))
            update.broken = {n: why for n, (_, why) in table.files().items() if why is not None}
            update.clips = self._refresh(table)
            return update

    def _refresh(self, table: Table) -> int:
        """Bring the file that is searched into step with the table."""
        meta = table.meta()
        entry = meta["snapshot"]
        index, sound = store.empty(self.dim), False
        if entry:
            with contextlib.suppress(UserError):  # made again from the table
                index, sound = store.load(self.folder, entry, self.dim, writable=True), True
        moved = store.bring_up_to_date(index, table, self.dim)
        if moved or not sound:
            number = meta["number"] + 1
            entry = store.save(index, self.folder, number)
            table.set_meta(snapshot=entry, number=number)
        for path in self.folder.glob("vectors-*.usearch"):
            if path.name != entry["name"]:
                with contextlib.suppress(OSError):
                    path.unlink()
        for path in self.folder.glob(".vectors.*"):  # of a process that was killed
            with contextlib.suppress(OSError):
                path.unlink()
        return len(index)

    # -- asking ---------------------------------------------------------------------------------

    def search(
        self, vectors: np.ndarray, top_k: int = 10, *, exact: bool | None = None, threads: int = 1
    ) -> list[list[Hit]]:
        """The pieces nearest to some embeddings; of pieces that overlap only the best one.

        Args:
            vectors: (queries, dim) float32 unit norm, of texts or of speech.
            top_k: answers a query.
            exact: compare with every piece, or (False) along the graph; ``None``: every piece in
                any but a huge index.
            threads: processor threads.
        """
        if top_k < 1:
            raise UserError(f"top_k: {top_k} is below 1")
        with Table.open(self.folder / TABLE) as table:
            index = self._open_vectors(table)
            return [self._answer(table, index, v, top_k, exact, threads) for v in vectors]

    def _answer(
        self,
        table: Table,
        index: Any,
        vector: np.ndarray,
        top_k: int,
        exact: bool | None,
        threads: int,
    ) -> list[Hit]:
        # More than are asked for: usearch keeps half precision, so the order among those close to
        # each other is made from the table's float32; and pieces that overlap fall away.
        count = top_k * 4 + 8
        while True:
            found = store.search(index, vector[None], count, exact, threads)[0]
            rows = table.vectors_of((key for key, _ in found), self.dim)
            scores = {key: float(row @ vector) for key, row in rows.items()}
            clips = table.clips(scores)
            taken: list[tuple[Clip, float]] = []
            for key, score in sorted(scores.items(), key=lambda item: (-item[1], item[0])):
                clip = clips.get(key)  # None: dropped since the last update ended
                if clip and not any(_overlap(clip, other) for other, _ in taken):
                    taken.append((clip, score))
            if len(taken) >= top_k or count >= len(index):
                return [self._hit(clip, score) for clip, score in taken[:top_k]]
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
        with Table.open(self.folder / TABLE) as table:
            names: list[tuple[str, float, Hit, list[tuple[str, float]]]] = []
            for keys, rows in table.vectors(self.dim):
                clips = table.clips(keys)
                for key, cosines in zip(keys, rows @ text_vectors.T, strict=True):
                    best = np.argsort(-cosines, kind="stable")[:top_k]
                    pairs = [(texts[i], float(cosines[i])) for i in best]
                    clip = clips.get(int(key))
                    if clip:
                        names.append((clip.name, clip.start, self._hit(clip, pairs[0][1]), pairs))
        for _, _, hit, pairs in sorted(names, key=lambda item: item[:2]):
            yield hit, pairs

    def _hit(self, clip: Clip, score: float) -> Hit:
        path = str(self.root / clip.name)
        return Hit(path, round(clip.start, 3), round(clip.end, 3), round(score, 6))

    def _open_vectors(self, table: Table) -> Any:
        entry = table.meta()["snapshot"]
        if entry is None:
            raise UserError(
                f"{self.folder}: its first build has not ended; run `speechcwcl search update "
                f"{self.folder}`, which goes on with it"
            )
        if self._loaded is None or self._loaded[0] != entry:
            try:
                index = store.load(self.folder, entry, self.dim)
            except UserError:
                newer = table.meta()["snapshot"]  # an update may have ended in this moment
                if newer == entry:
                    raise
                entry, index = newer, store.load(self.folder, newer, self.dim)
            self._loaded = (entry, index)
        return self._loaded[1]

    def describe(self) -> dict[str, Any]:
        """What is in it, as plain JSON."""
        with Table.open(self.folder / TABLE) as table:
            files, clips, meta = table.files(), len(table.keys()), table.meta()
        broken = {name: why for name, (_, why) in files.items() if why is not None}
        snapshot = meta["snapshot"]
        return {
            "recordings": len(files) - len(broken),
            "clips": clips,
            "searchable": snapshot["count"] if snapshot else 0,
            "broken": broken,
            "folder": meta["root"],
            "model": meta["model"],
            "window": self.cutting.window,
            "hop": self.cutting.hop,
            "dim": self.dim,
        }


def _overlap(a: Clip, b: Clip) -> bool:
    return a.name == b.name and a.start < b.end and b.start < a.end


def _others(folder: Path) -> bool:
    return any(path.name != ".lock" for path in folder.iterdir())


@contextlib.contextmanager
def _locked(folder: Path, waiting: Callable[[], None] | None = None) -> Iterator[None]:
    """One process at a time changes an index; the lock goes with the process that holds it."""
    lock = FileLock(folder / ".lock")
    try:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            if waiting:
                waiting()
            lock.acquire()
    except OSError as error:
        raise UserError(cannot_write(folder, error)) from error
    try:
        yield
    finally:
        lock.release()
