"""Embedding whole manifests: through the cache of frozen features when there is a frozen part."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from speechcwcl.cache.features import FeatureCache
from speechcwcl.data.audio import SAMPLE_RATE
from speechcwcl.data.augment import Augmenter
from speechcwcl.data.manifest import Manifest
from speechcwcl.files import sha256_json
from speechcwcl.models.aligner import Aligner
from speechcwcl.models.audio_input import batches, pad
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
            embed, arrays = aligner.embed_features, [cache.get(i) for i in rows]
        else:
            embed, arrays = aligner.embed_speech, [manifest[i].load() for i in rows]
        found = embed(*(part.to(aligner.device) for part in pad(arrays)))
        out[rows] = found.float().cpu().numpy()
        bar.update(len(rows))
    bar.close()
    aligner.train(was_training)
    return out
