"""Text embeddings on disk, one per unique string, for one text encoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from filelock import FileLock

from speechcwcl.errors import UserError, closest
from speechcwcl.files import atomic_write, cannot_write, read_json, write_json

if TYPE_CHECKING:
    from speechcwcl.models.aligner import Aligner

FOLDER = "text"  # where the stores of an experiment are, below its dump folder
_VERSION = 1


class _Encoder(Protocol):
    hash: str
    dim: int

    def encode(self, texts: Sequence[str], batch_size: int, progress: bool) -> np.ndarray: ...


class TextStore:
    """Embeddings of unique texts: ``<folder>/<start of the hash>/`` holds numbered parts.

    A part is two files, ``00000.npy`` (rows) and then ``00000.json`` (texts); a part without its
    second file does not count, so that an interrupted run loses at most one part and goes on.
    Open one with :meth:`open`.
    """

    def __init__(self, folder: Path, encoder_hash: str):
        self.folder = folder
        self.encoder_hash = encoder_hash
        self._texts: list[str] = []
        self._rows: dict[str, int] = {}
        self._matrices: list[np.ndarray] = []
        self._parts = 0
        self._refresh()

    @classmethod
    def open(cls, folder: str | Path, encoder_hash: str) -> TextStore:
        """Open the store of one encoder, or begin it.

        Args:
            folder: holds the stores of any number of encoders.
            encoder_hash: ``TextEncoder.hash`` (or ``describe_text(...).hash``).
        """
        inner = Path(folder) / encoder_hash[:16]
        meta = inner / "meta.json"
        if meta.is_file():
            found = read_json(meta)
            if found != {"version": _VERSION, "encoder": encoder_hash}:
                raise UserError(f"{meta}: not a text store of this encoder; delete the folder")
        else:
            write_json(meta, {"version": _VERSION, "encoder": encoder_hash})
        return cls(inner, encoder_hash)

    def _refresh(self) -> None:
        while (self.folder / f"{self._parts:05d}.json").is_file():
            stem = self.folder / f"{self._parts:05d}"
            texts = read_json(stem.with_suffix(".json"))
            try:
                rows = np.load(stem.with_suffix(".npy"), allow_pickle=False)
            except (OSError, ValueError, EOFError) as error:
                raise UserError(f"{stem}.npy: broken; delete the folder {self.folder}") from error
            self._append(texts, rows, stem)

    def _append(self, texts: list[str], rows: np.ndarray, stem: Path) -> None:
        if rows.ndim != 2 or len(rows) != len(texts):
            raise UserError(f"{stem}.npy: does not fit its texts; delete the folder {self.folder}")
        for text in texts:
            self._rows[text] = len(self._texts)
            self._texts.append(text)
        self._matrices.append(rows)
        self._parts += 1

    def __len__(self) -> int:
        return len(self._texts)

    def __contains__(self, text: str) -> bool:
        return text in self._rows

    @property
    def unique(self) -> list[str]:
        """The texts, in the order of :attr:`matrix`."""
        return self._texts

    @property
    def matrix(self) -> np.ndarray:
        """(unique texts, dim) float32, unit norm."""
        if len(self._matrices) > 1:
            self._matrices = [np.concatenate(self._matrices)]
        return self._matrices[0] if self._matrices else np.zeros((0, 0), dtype=np.float32)

    def add(
        self,
        texts: Sequence[str],
        encoder: _Encoder,
        *,
        batch_size: int = 64,
        part: int = 8192,
        progress: bool = False,
    ) -> int:
        """Embed the texts that are not there yet, writing part by part.

        Args:
            texts: any texts, repeated or not.
            encoder: the encoder this store belongs to.
            batch_size: texts a batch.
            part: texts a file.
            progress: show a progress bar.

        Returns:
            How many were new.
        """
        if encoder.hash != self.encoder_hash:
            raise UserError(f"{self.folder}: holds the embeddings of another text encoder")
        try:
            with FileLock(self.folder / ".lock"):
                self._refresh()  # another process may have been here
                new = self.missing(texts)
                for start in range(0, len(new), part):
                    chosen = new[start : start + part]
                    rows = encoder.encode(chosen, batch_size=batch_size, progress=progress)
                    self._write(chosen, rows.astype(np.float32))
        except OSError as error:
            raise UserError(cannot_write(self.folder, error)) from error
        return len(new)

    def _write(self, texts: list[str], rows: np.ndarray) -> None:
        stem = self.folder / f"{self._parts:05d}"
        with atomic_write(stem.with_suffix(".npy"), "wb") as stream:
            np.save(stream, rows, allow_pickle=False)
        write_json(stem.with_suffix(".json"), texts)
        self._append(texts, rows, stem)

    def missing(self, texts: Sequence[str]) -> list[str]:
        """The unique texts that are not there yet, in the order given."""
        return [text for text in dict.fromkeys(texts) if text not in self._rows]

    def rows(self, texts: Sequence[str]) -> np.ndarray:
        """(texts,) int64 row numbers in :attr:`matrix`: equal texts have equal numbers."""
        missing = self.missing(texts)
        if missing:
            # Comparing against every stored text would take minutes on a large store.
            near = closest(missing[0], self._texts[:2000])
            raise UserError(
                f"{self.folder}: {len(missing)} texts are not embedded, e.g. {missing[0]!r}{near}; "
                "run stage 4 (embed-text) again"
            )
        return np.array([self._rows[text] for text in texts], dtype=np.int64)

    def lookup(self, texts: Sequence[str]) -> np.ndarray:
        """(texts, dim) float32 embeddings, in the order given."""
        return self.matrix[self.rows(texts)]

    def describe(self) -> dict[str, Any]:
        """Counts for reports."""
        return {"texts": len(self), "encoder": self.encoder_hash, "parts": self._parts}


def embed_stored(
    aligner: Aligner, store: TextStore, texts: Sequence[str], progress: bool = False
) -> np.ndarray:
    """(texts, dim) as the aligner's text encoder gives them; it is loaded only if a text is new."""
    if store.missing(texts):
        store.add(texts, aligner.text_encoder, progress=progress)
    return store.lookup(texts)


def stored_encoder(aligner: Aligner, folder: str | Path) -> Callable[[Sequence[str]], np.ndarray]:
    """``aligner.encode_text`` through the store in ``folder``, which is read once.

    What any model with the same text encoder has embedded before is not embedded again.
    """
    store = TextStore.open(folder, aligner.text.hash)

    def encode(texts: Sequence[str]) -> np.ndarray:
        return aligner.transform_text(embed_stored(aligner, store, texts)).numpy()

    return encode
