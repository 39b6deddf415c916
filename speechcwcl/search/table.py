"""The table of an index: which recordings it holds, in which pieces, with which embeddings.

An SQLite file, because a commit of it either happened or did not, whatever interrupts it, and any
number of processes may read it meanwhile.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from speechcwcl.errors import UserError, require
from speechcwcl.search.recordings import Recording

_WAIT = 60.0  # seconds that a reader waits for a commit
# A recording, its pieces as start and end in seconds, and their embeddings (pieces, dim) float32;
# or, for one that cannot be read, no pieces and the reason.
Entry = tuple[Recording, list[tuple[float, float]], np.ndarray | str]
_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE files (
    id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE,
    size INTEGER NOT NULL, mtime INTEGER NOT NULL, problem TEXT
);
CREATE TABLE clips (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    file INTEGER NOT NULL REFERENCES files (id) ON DELETE CASCADE,
    start REAL NOT NULL, stop REAL NOT NULL, vector BLOB NOT NULL
);
CREATE INDEX clips_of_file ON clips (file);
"""


@dataclass(frozen=True)
class Clip:
    """A recording or a piece of one.

    Attributes:
        name: of the recording, below the folder.
        start: in seconds.
        end: in seconds.
    """

    name: str
    start: float
    end: float


class Table:
    """Opened by :meth:`create` or :meth:`open`; close it, or use it in a ``with`` statement."""

    def __init__(self, path: Path, connection: sqlite3.Connection):
        self.path = path
        self._db = connection

    @classmethod
    def create(cls, path: Path, meta: dict[str, Any]) -> Table:
        """Begin a table that does not exist yet (the caller holds the index's lock)."""
        with _explained(path):
            table = cls(path, _connect(path, "rwc"))
            with table._db as db:
                # One transaction: a table that was interrupted while being made has no meta.
                db.execute("BEGIN IMMEDIATE")
                for statement in _SCHEMA.split(";"):
                    db.execute(statement)
                table._set(meta)
            return table

    @classmethod
    def open(cls, path: Path) -> Table:
        """Open a table.

        Raises:
            UserError: it is not one, or broken.
        """
        with _explained(path):
            table = cls(path, _connect(path, "rw"))
            table.meta()
            return table

    def close(self) -> None:
        """Let the file go."""
        self._db.close()

    def __enter__(self) -> Table:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    # -- meta ---------------------------------------------------------------------------------

    def meta(self) -> dict[str, Any]:
        """Everything that was kept by :meth:`set_meta`."""
        with _explained(self.path):
            rows = self._db.execute("SELECT key, value FROM meta").fetchall()
            return {key: json.loads(value) for key, value in rows}

    def set_meta(self, **values: Any) -> None:
        """Keep plain JSON values by name."""
        with _explained(self.path), self._db:
            self._set(values)

    def _set(self, values: dict[str, Any]) -> None:
        rows = [(key, json.dumps(value)) for key, value in values.items()]
        self._db.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", rows)

    # -- files --------------------------------------------------------------------------------

    def files(self) -> dict[str, tuple[Recording, str | None]]:
        """Every recording by name, with what is wrong with it or None."""
        with _explained(self.path):
            rows = self._db.execute("SELECT name, size, mtime, problem FROM files ORDER BY name")
            return {row[0]: (Recording(*row[:3]), row[3]) for row in rows}

    def remove(self, names: Iterable[str]) -> None:
        """Take recordings and their clips out."""
        with _explained(self.path), self._db as db:
            db.executemany("DELETE FROM files WHERE name = ?", [(name,) for name in names])

    def put(self, entries: Sequence[Entry]) -> None:
        """Put recordings in, each in the place of what the table had of it, all in one commit."""
        with _explained(self.path), self._db as db:
            for recording, times, vectors in entries:
                db.execute("DELETE FROM files WHERE name = ?", (recording.name,))
                problem = vectors if isinstance(vectors, str) else None
                cursor = db.execute(
                    "INSERT INTO files (name, size, mtime, problem) VALUES (?, ?, ?, ?)",
                    (recording.name, recording.size, recording.mtime, problem),
                )
                if problem is None:
                    rows = [
                        (cursor.lastrowid, start, end, row.astype("<f4").tobytes())
                        for (start, end), row in zip(times, vectors, strict=True)
                    ]
                    db.executemany(
                        "INSERT INTO clips (file, start, stop, vector) VALUES (?, ?, ?, ?)", rows
                    )

    # -- clips --------------------------------------------------------------------------------

    def keys(self) -> np.ndarray:
        """(clips,) uint64, ascending; a key is never used twice."""
        with _explained(self.path):
            rows = self._db.execute("SELECT id FROM clips ORDER BY id").fetchall()
            return np.array([row[0] for row in rows], dtype=np.uint64)

    def clips(self, keys: Iterable[int]) -> dict[int, Clip]:
        """The clips of these keys; those that are no longer there are left out."""
        found = {}
        query = (
            "SELECT files.name, start, stop FROM clips JOIN files ON files.id = clips.file "
            "WHERE clips.id = ?"
        )
        with _explained(self.path):
            for key in keys:
                row = self._db.execute(query, (int(key),)).fetchone()
                if row:
                    found[int(key)] = Clip(*row)
        return found

    def vectors_of(self, keys: Iterable[int], dim: int) -> dict[int, np.ndarray]:
        """The embeddings, (dim,) float32, of those of these keys that are still there."""
        found = {}
        with _explained(self.path):
            for key in keys:
                query = "SELECT vector FROM clips WHERE id = ?"
                row = self._db.execute(query, (int(key),)).fetchone()
                if row:
                    require(len(row[0]) == 4 * dim, _broken(self.path))
                    found[int(key)] = np.frombuffer(row[0], dtype="<f4")
        return found

    def vectors(
        self, dim: int, after: int = 0, rows: int = 8192
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Keys above ``after`` and their embeddings, some thousand at a time, ascending."""
        query = "SELECT id, vector FROM clips WHERE id > ? ORDER BY id LIMIT ?"
        while True:
            with _explained(self.path):
                found = self._db.execute(query, (after, rows)).fetchall()
            if not found:
                return
            keys = np.array([key for key, _ in found], dtype=np.uint64)
            joined = b"".join(vector for _, vector in found)
            if len(joined) != len(found) * dim * 4:
                raise UserError(_broken(self.path))
            yield keys, np.frombuffer(joined, dtype="<f4").reshape(len(found), dim)
            after = int(keys[-1])


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    uri = f"{path.resolve().as_uri()}?mode={mode}"
    connection = sqlite3.connect(uri, uri=True, timeout=_WAIT)
    connection.execute("PRAGMA foreign_keys = ON")
    return connection


def _broken(path: Path) -> str:
    return f"{path}: not an index's table, or broken; delete the folder and build the index again"


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    """SQLite's complaints as one line that says what to do."""
    try:
        yield
    except sqlite3.OperationalError as error:
        reason = str(error)
        if "no such table" in reason or "no such column" in reason:
            raise UserError(_broken(path)) from error
        raise UserError(
            f"{path}: cannot be used: {reason}; is the disk full, or the folder write-protected?"
        ) from error
    except (sqlite3.DatabaseError, json.JSONDecodeError) as error:
        raise UserError(_broken(path)) from error
