"""The vectors of an index as usearch keeps them: searched exactly, or along its graph (HNSW)."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from speechcwcl.errors import UserError
from speechcwcl.files import cannot_write, sha256_file
from speechcwcl.search.table import Table

# Up to here every vector is looked at: 100,000 of width 384 take some milliseconds on one core
# (tools/benchmarks/search.py), and what is found is what there is.
EXACT_UP_TO = 300_000


def usearch_index() -> Any:
    """The class ``usearch.index.Index``.

    Raises:
        UserError: usearch is not installed.
    """
    try:
        from usearch.index import Index
    except ImportError as error:
        raise UserError(
            "search needs the package usearch: pip install 'speechcwcl[search]'"
        ) from error
    return Index


def empty(dim: int) -> Any:
    """A new index of unit-norm vectors: half precision, inner product."""
    return usearch_index()(ndim=dim, metric="ip", dtype="f16")


def search(
    index: Any, vectors: np.ndarray, count: int, exact: bool | None = None, threads: int = 1
) -> list[list[tuple[int, float]]]:
    """The nearest vectors.

    Args:
        index: of usearch.
        vectors: (queries, dim) float32, unit norm.
        count: neighbours a query.
        exact: look at every vector; ``None``: as long as there are at most ``EXACT_UP_TO``.
        threads: processor threads.

    Returns:
        For each query pairs of key and cosine, the best first.
    """
    count = min(count, len(index))
    if count == 0:
        return [[] for _ in vectors]
    exact = len(index) <= EXACT_UP_TO if exact is None else exact
    result = []
    for vector in np.ascontiguousarray(vectors, dtype=np.float32):
        found = index.search(vector, count, exact=exact, threads=threads)
        cosines = 1.0 - np.asarray(found.distances, dtype=np.float64)
        result.append([(int(k), float(c)) for k, c in zip(found.keys, cosines, strict=True)])
    return result


def bring_up_to_date(index: Any, table: Table, dim: int) -> int:
    """Take keys out that the table no longer has, put the new ones in; return how many moved."""
    wanted = table.keys()
    present = np.fromiter(index.keys, dtype=np.uint64, count=len(index)) if len(index) else []
    present = np.asarray(present, dtype=np.uint64)
    gone = np.setdiff1d(present, wanted)
    for key in gone:
        index.remove(int(key))
    new = np.setdiff1d(wanted, present)
    if len(new):
        for keys, rows in table.vectors(dim, after=int(new[0]) - 1):
            chosen = np.isin(keys, new)
            if chosen.any():
                index.add(keys[chosen], np.ascontiguousarray(rows[chosen]), threads=0)
    return len(gone) + len(new)


def save(index: Any, folder: Path, number: int) -> dict[str, Any]:
    """Write an index beside its final name and rename it there.

    Returns:
        What :func:`load` must be told: name, bytes, sha256.
    """
    path = folder / f"vectors-{number}.usearch"
    scratch = None
    try:
        handle, scratch = tempfile.mkstemp(prefix=".vectors.", dir=folder)
        os.close(handle)
        index.save(scratch)
        with open(scratch, "rb+") as stream:  # noqa: PTH123
            os.fsync(stream.fileno())
        entry = {
            "name": path.name,
            "bytes": os.path.getsize(scratch),
            "sha256": sha256_file(scratch),
            "count": len(index),
        }
        os.replace(scratch, path)
        scratch = None
    except (OSError, RuntimeError) as error:
        reason = error if isinstance(error, OSError) else OSError(str(error))
        raise UserError(cannot_write(path, reason)) from error
    finally:
        if scratch:
            with contextlib.suppress(OSError):
                os.unlink(scratch)
    return entry


def load(folder: Path, entry: dict[str, Any], dim: int, writable: bool = False) -> Any:
    """Open what :func:`save` wrote; usearch itself does not notice a changed file.

    Raises:
        UserError: missing, truncated or changed.
    """
    path = folder / entry["name"]
    what_to_do = f"run `speechcwcl search update {folder}`, which makes it again"
    if not path.is_file():
        raise UserError(f"{path}: missing; {what_to_do}")
    if path.stat().st_size != entry["bytes"] or sha256_file(path) != entry["sha256"]:
        raise UserError(f"{path}: truncated or changed; {what_to_do}")
    index = empty(dim)
    try:
        if writable:
            index.load(str(path))
        else:
            index.view(str(path))
    except Exception as error:
        raise UserError(f"{path}: usearch cannot open it ({error}); {what_to_do}") from error
    return index
