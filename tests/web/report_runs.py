"""Made experiment folders for the tests of the report: no model, a bag of words for an encoder."""

from __future__ import annotations

import functools
import hashlib
import json
from pathlib import Path

import numpy as np

from speechcwcl.data.audio import write_audio
from speechcwcl.data.utterance import Utterance
from speechcwcl.evaluation.results import write_embeddings
from speechcwcl.evaluation.retrieval import evaluate_retrieval
from speechcwcl.evaluation.scores import evaluate_zeroshot
from speechcwcl.files import write_json
from speechcwcl.zeroshot.protocol import Protocol, load_protocol

DIM = 96


def encode_text(texts: list[str]) -> np.ndarray:
    """(n, DIM) unit-norm: the sum of a fixed random vector for each word."""
    return np.stack([_bag(text) for text in texts])


def _bag(text: str) -> np.ndarray:
    total = np.zeros(DIM)
    for word in text.lower().replace(".", " ").split():
        total += _word(word)
    return (total / np.linalg.norm(total)).astype(np.float32)


@functools.cache
def _word(word: str) -> np.ndarray:
    seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:4], "little")
    return np.random.default_rng(seed).standard_normal(DIM)


def heard(texts: list[str], noise: float, seed: int) -> np.ndarray:
    """(n, DIM) float32: what a speech encoder would make of the texts, with that much noise."""
    random = np.random.default_rng(seed).standard_normal((len(texts), DIM))
    return (encode_text(texts) + noise * random / np.sqrt(DIM)).astype(np.float32)


def utterances(protocol: Protocol, each: int, audio: Path | None) -> list[Utterance]:
    """`each` utterances a label; in `audio` each label gets a recording (a tone)."""
    said = []
    for number, (label, texts) in enumerate(protocol.labels.items()):
        if audio is not None:
            time = np.arange(8000) / 16000
            tone = (0.1 * np.sin(2400 * time * (1 + number))).astype(np.float32)
            write_audio(audio / f"{number}.flac", tone)
        for copy in range(each):
            path = ""
            if audio is not None:
                path = str(audio / f"{number}.flac")
            said.append(
                Utterance(
                    id=f"{protocol.name}-{number:03d}-{copy:02d}",
                    labels={protocol.label_field: label},
                    text=texts[0] if copy % 2 else f"{texts[0]} now please",
                    audio=path,
                    speaker=f"speaker {copy}",
                )
            )
    return said


def make_run(
    exp: Path,
    name: str,
    *,
    noise: float,
    protocols: tuple[str, ...] = ("mini_words", "mini_intents"),
    each: int = 6,
    audio: bool = True,
    epochs: int = 6,
    seed: int = 0,
) -> Path:
    """Write `exp/<name>` as the training and evaluation stages would."""
    run = exp / name
    said: list[Utterance] = []
    for word in protocols:
        protocol = load_protocol(word)
        said = utterances(protocol, each, exp / "audio" / protocol.name if audio else None)
        speech = heard([u.text for u in said], noise, seed + len(said))
        folder = run / "eval" / f"test_{protocol.name.removeprefix('mini_')}"
        card = {"name": "mini", "version": "1", "licence": "Apache-2.0", "synthetic_speech": True}
        write_embeddings(folder, [u.id for u in said], speech, card)
        evaluate_zeroshot(speech, said, protocol, encode_text, folder / protocol.name)
    texts = [u.text for u in said]
    ids = [u.id for u in said]
    folder = run / "eval" / "test_sentences"
    write_embeddings(folder, ids, heard(texts, noise, seed))
    evaluate_retrieval(heard(texts, noise, seed), texts, encode_text, folder / "retrieval", ids=ids)
    write_json(run / "hparams.json", {"seed": 1, "loss": name, "lr": 0.001, "layers": [1, 2]})
    versions = {"speechcwcl": "0.1.0", "torch": "2.11.0"}
    command = ["speechcwcl", "train", f"{name}.yaml"]
    write_json(run / "env.json", {"command": command, "versions": versions, "machine": "Linux"})
    lines = []
    for epoch in range(1, epochs + 1):
        train = {"loss": 9 / epoch + noise, name: 5 / epoch, "cl": 4 / epoch, "accuracy": epoch / 9}
        valid = {"score": epoch / 10, "valid_words:mini_words_valid": epoch / 10, "loss": 8 / epoch}
        lines.append(json.dumps({"epoch": epoch, "train": train, "valid": valid, "seconds": 3.2}))
    (run / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    return run
