"""Embedded once: manifests, by a cache of the frozen part, and unique texts, by a store."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from speechcwcl.cache.features import FeatureCache
from speechcwcl.data.audio import SAMPLE_RATE
from speechcwcl.data.augment import Augmenter
from speechcwcl.data.manifest import Manifest
from speechcwcl.errors import UserError
from speechcwcl.files import atomic_write, lock, read_json, sha256_json, write_json
from speechcwcl.models.aligner import Aligner
from speechcwcl.models.audio_input import batches
from speechcwcl.models.encoders.frames import pad
from speechcwcl.models.encoders.speech import SpeechEncoder

# Seconds of padded speech in one forward pass: large enough for speed, small enough for any memory.
BATCH_SECONDS = 60.0


def feature_cache(
    encoder: SpeechEncoder,
    manifest: Manifest,
    folder: str | Path,
    *,
    copies: int = 0,
    augment: Augmenter | None = None,
    share: float = 0.0,
) -> FeatureCache:
    """Open the cache of an encoder's frozen features of a manifest; compute what is missing.

    Args:
        encoder: its part below the cut is what is cached.
        folder: holds caches of any number of keys (encoder, cut, manifest, augmentation).
        copies: augmented copies beside the first one (copy 0).
        augment: makes the copies; needed when there are any.
        share: of the utterances whose copy 0 is augmented instead of clean, which costs nothing.
    """
    changed = [augment.hash, share] if augment and (copies or share) else None
    key = sha256_json([encoder.cache_key, manifest.state, changed])

    encoding = threading.Lock()  # one batch at a time, with all cores

    def version(utterance_id: str, copy: int) -> int:
        """Which augmented version it is; 0 is clean. Copies count on after the first."""
        first = bool(augment) and int(sha256_json(utterance_id)[:8], 16) < share * 2**32
        return copy + 1 if first else copy

    def extract(utterances: list[Any], copy: int) -> list[np.ndarray]:
        wavs = [u.load() for u in utterances]
        versions = [version(u.id, copy) for u in utterances]
        if augment:
            wavs = [
                augment(wav, u.id, number)
                for wav, u, number in zip(wavs, utterances, versions, strict=True)
            ]
        wav, lengths = pad(wavs)
        with encoding:
            feats, frames = encoder.frozen_features(
                wav.to(encoder.device), lengths.to(encoder.device)
            )
        rows = feats.cpu().numpy()
        return [rows[i, : int(n)] for i, n in enumerate(frames)]

    return FeatureCache.build(
        Path(folder) / "feats",
        manifest,
        extract,
        key,
        batch_seconds=BATCH_SECONDS,
        copies=copies + 1,
    )


@torch.no_grad()
def embed_manifest(
    aligner: Aligner,
    manifest: Manifest,
    cache: FeatureCache | None = None,
    *,
    progress: str | None = None,
) -> np.ndarray:
    """Embed every utterance of a manifest, in its order.

    Args:
        cache: frozen features of this manifest, or None to go from the waveforms.
        progress: what the progress bar says; None = no bar.

    Returns:
        `(len(manifest), dim)` unit-norm float32.
    """
    was_training = aligner.training
    aligner.eval()
    sizes = np.rint(np.asarray(manifest.durations) * SAMPLE_RATE).tolist()
    out = np.zeros((len(manifest), aligner.dim), dtype=np.float32)
    bar = tqdm(total=len(manifest), desc=progress, disable=progress is None, dynamic_ncols=True)
    for rows in batches(sizes, BATCH_SECONDS * (1 if cache is None else 8)):
        if cache is not None:
            inputs, lengths = pad([cache.get(i) for i in rows])
            found = aligner.embed_features(inputs.to(aligner.device), lengths.to(aligner.device))
        else:
            inputs, lengths = pad([manifest[i].load() for i in rows])
            found = aligner.embed_speech(inputs.to(aligner.device), lengths.to(aligner.device))
        out[rows] = found.float().cpu().numpy()
        bar.update(len(rows))
    bar.close()
    aligner.train(was_training)
    return out


# -- texts ---------------------------------------------------------------------------------------

FOLDER = "text"  # where the stores of an experiment are, below its dump folder
_VERSION = 1


class TextStore:
    """Embeddings of unique texts: `<folder>/<start of the hash>/` holds numbered parts.

    A part is two files, `00000.npy` (rows) and then `00000.json` (texts); a part without its
    second file does not count, so that an interrupted run loses at most one part and goes on.
    Open one with `open`.

    Attributes:
        folder: of the parts.
    """

    def __init__(self, folder: Path, encoder_hash: str):
        self.folder = folder
        self._hash = encoder_hash
        self._rows: dict[str, np.ndarray] = {}  # text -> (dim,) float32, unit norm
        self._parts = 0
        self._refresh()

    @classmethod
    def open(cls, folder: str | Path, encoder_hash: str) -> TextStore:
        """Open the store of one encoder, or begin it."""
        inner = Path(folder) / encoder_hash[:16]
        meta, wanted = inner / "meta.json", {"version": _VERSION, "encoder": encoder_hash}
        if not meta.is_file():
            write_json(meta, wanted)
        elif read_json(meta) != wanted:
            raise UserError(f"{meta}: not a text store of this encoder; delete the folder")
        return cls(inner, encoder_hash)

    def _stem(self) -> Path:
        return self.folder / f"{self._parts:05d}"

    def _refresh(self) -> None:
        while (path := self._stem().with_suffix(".json")).is_file():
            texts = read_json(path, list[str])
            data = path.with_suffix(".npy")
            try:
                rows = np.load(data, allow_pickle=False)
            except (OSError, ValueError, EOFError, MemoryError) as error:
                raise UserError(f"{data}: broken; delete the folder {self.folder}") from error
            width = next((row.shape for row in self._rows.values()), rows.shape[1:])
            sound = rows.dtype == np.float32 and rows.ndim == 2 and rows.shape[1:] == width
            if not sound or len(rows) != len(texts):
                raise UserError(f"{data}: does not fit its texts; delete the folder {self.folder}")
            self._append(texts, rows)

    def _append(self, texts: list[str], rows: np.ndarray) -> None:
        self._rows.update(zip(texts, rows, strict=True))
        self._parts += 1

    def __len__(self) -> int:
        return len(self._rows)

    def add(
        self,
        texts: Sequence[str],
        encoder: Any,
        *,
        part: int = 8192,
        progress: bool = False,
    ) -> int:
        """Embed the texts that are not there yet, writing part by part."""
        if encoder.hash != self._hash:
            raise UserError(f"{self.folder}: holds the embeddings of another text encoder")
        with lock(self.folder / ".lock"):
            self._refresh()  # another process may have been here
            new = self.missing(texts)
            for start in range(0, len(new), part):
                chosen = new[start : start + part]
                rows = encoder.encode(chosen, progress=progress)
                rows, stem = rows.astype(np.float32), self._stem()
                with atomic_write(stem.with_suffix(".npy"), "wb") as stream:
                    np.save(stream, rows, allow_pickle=False)
                write_json(stem.with_suffix(".json"), chosen)
                self._append(chosen, rows)
        return len(new)

    def missing(self, texts: Sequence[str]) -> list[str]:
        """The unique texts that are not there yet, in the order given."""
        return [text for text in dict.fromkeys(texts) if text not in self._rows]

    def lookup(self, texts: Sequence[str]) -> np.ndarray:
        """(texts, dim) float32 embeddings, in the order given."""
        if missing := self.missing(texts):
            raise UserError(
                f"{self.folder}: {len(missing)} texts are not embedded, e.g. {missing[0]!r}; "
                "run stage 4 (embed-text) again"
            )
        return np.stack([self._rows[text] for text in texts])


def embed_stored(
    aligner: Aligner, store: TextStore, texts: Sequence[str], progress: bool = False
) -> np.ndarray:
    """(texts, dim) as the aligner's text encoder gives them; it is loaded only if a text is new."""
    if store.missing(texts):
        store.add(texts, aligner.text_encoder, progress=progress)
    return store.lookup(texts)


def stored_encoder(aligner: Aligner, folder: str | Path) -> Callable[[Sequence[str]], np.ndarray]:
    """`aligner.encode_text` through the store in `folder`, which is read once.

    What any model with the same text encoder has embedded before is not embedded again.
    """
    store = TextStore.open(folder, aligner.text.hash)

    def encode(texts: Sequence[str]) -> np.ndarray:
        return aligner.transform_text(embed_stored(aligner, store, texts)).numpy()

    return encode
