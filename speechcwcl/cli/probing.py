"""What `evaluate --probe` does: vectors of a training set and a test set, from the model."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from speechcwcl.data.manifest import Manifest
from speechcwcl.evaluation.evals import eval_folder, manifest_of
from speechcwcl.evaluation.probe import ProbeSet, evaluate_probe, probe_rows
from speechcwcl.evaluation.results import read_embeddings, write_embeddings
from speechcwcl.evaluation.texts import EncodeText
from speechcwcl.evaluation.zeroshot import build_classifier
from speechcwcl.models.aligner import Aligner
from speechcwcl.models.embed import embed_manifest, feature_cache
from speechcwcl.models.encoders.speech import SpeechEncoder
from speechcwcl.zeroshot.protocol import Protocol


class Prober:
    """Probes one model; each set is embedded once.

    Args:
        aligner: the model.
        expdir: the experiment folder.
        dumpdir: manifests and caches.
        train_set: the set whose labels are learned from.
        encode_text: the model's text side.
    """

    def __init__(
        self,
        aligner: Aligner,
        expdir: Path,
        dumpdir: Path,
        train_set: str,
        encode_text: EncodeText,
    ) -> None:
        self.aligner, self.expdir, self.dumpdir = aligner, expdir, dumpdir
        self.train_set, self.encode_text = train_set, encode_text
        self._vectors: dict[str, dict[str, np.ndarray]] = {}
        self._encoder: SpeechEncoder | None = None

    def run(self, name: str, protocol: Protocol) -> str:
        """Probe a test set under a protocol, write the files, return the table."""
        train, test = (self._set(s, protocol) for s in (self.train_set, name))
        classifier = build_classifier(protocol, self.encode_text)
        out = eval_folder(self.expdir, name) / protocol.name
        header, rows = probe_rows(evaluate_probe(train, test, classifier, out))
        widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
            for line in (header, *rows)
        ]
        return "\n".join(lines)

    def _set(self, name: str, protocol: Protocol) -> ProbeSet:
        utterances = list(manifest_of(self.dumpdir, name))
        kept, columns = protocol.assign(utterances)
        vectors = self._all_vectors(name)
        return ProbeSet(
            name,
            [utterances[i].id for i in kept],
            [utterances[i].speaker for i in kept],
            columns,
            {kind: rows[kept] for kind, rows in vectors.items()},
        )

    def _all_vectors(self, name: str) -> dict[str, np.ndarray]:
        """Kind -> (utterances, dim): the model's embeddings, the frozen encoder's mean frames."""
        if name not in self._vectors:
            manifest = manifest_of(self.dumpdir, name)
            encoder = self._pretrained()
            cache = feature_cache(encoder, manifest, self.dumpdir / name)
            frames = [np.asarray(cache.get(i), np.float32) for i in range(len(manifest))]
            means = np.stack([f.mean(axis=0).reshape(-1) for f in frames])
            self._vectors[name] = {"embedding": self._embeddings(name, manifest), "encoder": means}
        return self._vectors[name]

    def _embeddings(self, name: str, manifest: Manifest) -> np.ndarray:
        folder = eval_folder(self.expdir, name)
        if (folder / "speech.npy").exists():
            ids, speech = read_embeddings(folder)
            if ids == manifest.ids:
                return speech
        own = self.aligner.speech_encoder
        cache = feature_cache(own, manifest, self.dumpdir / name) if own.cacheable else None
        speech = embed_manifest(self.aligner, manifest, cache, progress=f"embed {name}")
        write_embeddings(folder, manifest.ids, speech)
        return speech

    def _pretrained(self) -> SpeechEncoder:
        """The speech encoder as it was before training, all of it frozen."""
        own = self.aligner.speech_encoder
        if own.freeze == "all":
            return own
        if self._encoder is None:
            options = {**own.options(), "freeze": "all", "lora": None}
            loaded = SpeechEncoder.from_pretrained(own.source, **options)
            self._encoder = loaded.to(own.device).eval()
        return self._encoder
