"""Frozen text encoders, and the text side of a model: its encoder, loaded late, and its space."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor, nn
from tqdm import tqdm

from speechcwcl.data.rows import is_text
from speechcwcl.errors import UserError, first_line
from speechcwcl.files import read_json, sha256_file, sha256_json
from speechcwcl.models.encoders.families import quiet
from speechcwcl.models.folders import TOKENIZER_FILES, TextInfo
from speechcwcl.models.towers import load_bert
from speechcwcl.models.weights.sources import resolve
from speechcwcl.models.wordpiece import WordPiece, open_wordpiece

_POOLINGS = ("mean", "cls", "max", "last")
_VOLATILE = ("_name_or_path", "transformers_version", "dtype", "torch_dtype", "architectures")


def describe_text(source: str | os.PathLike, pooling: str = "auto") -> TextInfo:
    """Read what a text encoder is, and hash its files, without loading its weights.

    Args:
        source: a transformers or sentence-transformers folder, one of our names, or a hub id.
        pooling: `auto` (what modules.json says, else mean), `mean`, `cls`, `max`, `last`.

    Raises:
        UserError: no such model, or a pipeline that needs more than pooling.
    """
    folder = resolve(source)
    config = read_json(folder / "config.json")
    where = os.fspath(source)
    if pooling not in ("auto", *_POOLINGS):
        raise UserError(f"text pooling: {pooling!r} is not auto, {', '.join(_POOLINGS)}")
    found = _declared_pooling(folder, where)
    pooling = found if pooling == "auto" else pooling
    dim = config.get("hidden_size") or config.get("d_model") or config.get("dim")
    if not isinstance(dim, int):
        raise UserError(f"{where}: config.json has no hidden_size: not a text encoder")
    max_tokens, lower = _limits(folder, config)
    kept = {key: value for key, value in config.items() if key not in _VOLATILE}
    names = [path.name for path in text_files(folder) if path.name != "config.json"]
    hashed = {name: sha256_file(folder / name) for name in names if (folder / name).is_file()}
    digest = sha256_json([kept, hashed, pooling, max_tokens, lower])
    return TextInfo(where, digest, dim, pooling, max_tokens, lower)


def text_files(folder: Path) -> list[Path]:
    """The files of a text encoder's folder that its embeddings depend on."""
    weights = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))
    index = sorted(folder.glob("*.safetensors.index.json"))
    if not weights:
        raise UserError(f"{folder}: no weights (model.safetensors) there")
    tokenizer = [folder / name for name in TOKENIZER_FILES if (folder / name).is_file()]
    return [folder / "config.json", *tokenizer, *index, *weights]


def _declared_pooling(folder: Path, where: str) -> str:
    """Pooling after sentence-transformers' modules.json; mean where there is none."""
    if not (folder / "modules.json").is_file():
        return "mean"
    pooling = "mean"
    for module in read_json(folder / "modules.json"):
        kind = module["type"].rsplit(".", 1)[-1]
        if kind == "Pooling":
            pooling = _pooling_mode(read_json(folder / module["path"] / "config.json"), where)
        elif kind not in ("Transformer", "Normalize"):
            raise UserError(
                f"{where}: its modules.json asks for a {kind} module, which speechcwcl does not "
                "have; choose another text encoder, or state the pooling (mean, cls, max, last)"
            )
    return pooling


def _pooling_mode(config: dict[str, Any], where: str) -> str:
    names = {
        "pooling_mode_mean_tokens": "mean",
        "pooling_mode_cls_token": "cls",
        "pooling_mode_max_tokens": "max",
        "pooling_mode_lasttoken": "last",
    }
    chosen = [key for key, on in config.items() if key.startswith("pooling_mode_") and on is True]
    modes = [names.get(key, key) for key in chosen]
    if not modes and isinstance(config.get("pooling_mode"), str):
        modes = [{"lasttoken": "last"}.get(config["pooling_mode"], config["pooling_mode"])]
    if len(modes) != 1 or modes[0] not in _POOLINGS:
        raise UserError(f"{where}: pooling {', '.join(modes) or 'unknown'} is not supported")
    return modes[0]


def _limits(folder: Path, config: dict[str, Any]) -> tuple[int, bool]:
    path = folder / "sentence_bert_config.json"
    declared = read_json(path) if path.is_file() else {}
    limits = [declared.get("max_seq_length"), config.get("max_position_embeddings")]
    if (folder / "tokenizer_config.json").is_file():
        limits.append(read_json(folder / "tokenizer_config.json").get("model_max_length"))
    known = [int(n) for n in limits if isinstance(n, int | float) and 0 < n < 1_000_000]
    return min(known, default=512), bool(declared.get("do_lower_case"))


class TextEncoder(nn.Module):
    """A frozen text encoder in float32; every embedding has unit norm.

    Args:
        model: a transformers encoder, or the same in plain torch.
    """

    def __init__(self, model: nn.Module, tokenizer: Any, info: TextInfo):
        super().__init__()
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.info = info

    @classmethod
    def from_pretrained(cls, source: str | os.PathLike, pooling: str = "auto") -> TextEncoder:
        """Load a text encoder; never runs a repository's code.

        Args:
            source: a transformers or sentence-transformers folder, one of our names, or a hub id.
            pooling: see [`describe_text`][].

        Raises:
            UserError: no such model, or it cannot be loaded.
        """
        info = describe_text(source, pooling)
        folder = resolve(source)
        wordpiece = open_wordpiece(folder)
        bert = load_bert(folder) if wordpiece is not None else None
        if bert is not None:
            return cls(bert, wordpiece, info)
        from transformers import AutoTokenizer

        try:
            with quiet():
                tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
                model = _load_model(folder)
        except Exception as error:
            why = first_line(error)
            raise UserError(f"{os.fspath(source)}: cannot load the text encoder: {why}") from error
        return cls(model, tokenizer, info)

    @property
    def dim(self) -> int:
        """Width of an embedding."""
        return self.info.dim

    @property
    def hash(self) -> str:
        """Changes with anything that changes an embedding."""
        return self.info.hash

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    def train(self, mode: bool = True) -> TextEncoder:
        """Stay in evaluation mode: the text encoder is frozen."""
        return super().train(False)

    @torch.no_grad()
    def encode(
        self, texts: Sequence[str], batch_size: int = 64, progress: bool = False
    ) -> np.ndarray:
        """Embed texts, in batches of similar length; equal texts are embedded once.

        Returns:
            (texts, dim) float32, unit norm, in the order given.
        """
        texts = list(texts)
        for index, text in enumerate(texts):
            if not isinstance(text, str) or not text.strip():
                raise UserError(f"text {index + 1} of {len(texts)} is empty or not text: {text!r}")
            if not is_text(text):
                raise UserError(
                    f"text {index + 1} of {len(texts)} is not UTF-8: {text!r}; save or type it as "
                    "UTF-8 (in a locale that has it, such as LC_ALL=C.UTF-8)"
                )
        unique = sorted(dict.fromkeys(texts), key=lambda text: (len(text), text))
        rows = np.zeros((len(unique), self.dim), dtype=np.float32)
        with tqdm(total=len(unique), desc="embed text", unit="text", disable=not progress) as bar:
            for start in range(0, len(unique), batch_size):
                batch = unique[start : start + batch_size]
                rows[start : start + len(batch)] = self._embed(batch).cpu().numpy()
                bar.update(len(batch))
        place = {text: index for index, text in enumerate(unique)}
        return rows[[place[text] for text in texts]]

    def _embed(self, texts: list[str]) -> Tensor:
        if self.info.lower:
            texts = [text.lower() for text in texts]
        most = self.info.max_tokens
        if isinstance(self.tokenizer, WordPiece):
            found = self.tokenizer.encode(texts, most)
            tokens = {name: torch.from_numpy(ids) for name, ids in found.items()}
        else:
            tokens = self.tokenizer(
                texts, padding=True, truncation=True, max_length=most, return_tensors="pt"
            )
        return self.embed_tokens({name: ids.to(self.device) for name, ids in tokens.items()})

    def embed_tokens(self, tokens: Mapping[str, Tensor]) -> Tensor:
        """(texts, dim) unit norm of what the tokenizer gives for a padded batch."""
        hidden = self.model(**tokens).last_hidden_state
        pooled = _pool(hidden, tokens["attention_mask"], self.info.pooling)
        return nn.functional.normalize(pooled.float(), dim=-1)


def _load_model(folder: Path) -> nn.Module:
    from transformers import AutoConfig, AutoModel, AutoModelForTextEncoding
    from transformers.models.auto.modeling_auto import MODEL_FOR_TEXT_ENCODING_MAPPING

    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    # Of an encoder-decoder only the encoder embeds text: T5 and its kin have a class for that,
    # BART and its kin are cut after loading.
    both = getattr(config, "is_encoder_decoder", False)
    alone = both and type(config) in MODEL_FOR_TEXT_ENCODING_MAPPING
    cls = AutoModelForTextEncoding if alone else AutoModel
    _refuse_oversized(folder, cls, config)
    model, info = cls.from_pretrained(
        folder,
        config=config,
        dtype=torch.float32,
        trust_remote_code=False,
        output_loading_info=True,
    )
    # A pooler may be absent: none of the poolings here reads it.
    missing = sorted(key for key in info["missing_keys"] if "pooler" not in key)
    if missing:
        raise UserError(f"{len(missing)} tensors are missing from the weights, e.g. {missing[0]}")
    return model.get_encoder() if both and not alone else model


def _refuse_oversized(folder: Path, cls: Any, config: Any) -> None:
    """Raise where a configuration asks for a larger tensor than any that the weights hold.

    transformers would allocate it before it compares.
    """
    largest = 0
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            shapes = [file.get_slice(name).get_shape() for name in file.keys()]  # noqa: SIM118
        largest = max([largest, *map(math.prod, shapes)])
    with torch.device("meta"):
        sizes = {name: p.numel() for name, p in cls.from_config(config).named_parameters()}
    name = max(sizes, key=sizes.__getitem__)
    if largest and sizes[name] > largest:
        raise UserError(
            f"config.json asks for {sizes[name]} numbers in {name}; no tensor has as many"
        )


def _pool(hidden: Tensor, mask: Tensor, pooling: str) -> Tensor:
    """(batch, tokens, dim), (batch, tokens) -> (batch, dim)."""
    if pooling == "cls":
        return hidden[torch.arange(len(hidden), device=hidden.device), mask.argmax(dim=1)]
    if pooling == "last":
        positions = torch.arange(mask.shape[1], device=mask.device)
        rows = torch.arange(len(hidden), device=hidden.device)
        return hidden[rows, (positions * mask).argmax(dim=1)]
    weights = mask[:, :, None].to(hidden.dtype)
    if pooling == "max":
        return hidden.masked_fill(weights == 0, -torch.inf).amax(dim=1)
    return (hidden * weights).sum(dim=1) / weights.sum(dim=1)


class TextSide:
    """A frozen text encoder that is known from its files and loaded when it is first needed.

    Not a module: its weights are in no checkpoint and do not move with the model they belong to.

    Args:
        text: a source (see [`describe_text`][]), a description, or a loaded encoder.

    Attributes:
        info: the description.
    """

    def __init__(self, text: str | os.PathLike | TextInfo | TextEncoder):
        self._loaded = text if isinstance(text, TextEncoder) else None
        if isinstance(text, TextEncoder):
            text = text.info
        self.info = text if isinstance(text, TextInfo) else describe_text(text)

    @property
    def hash(self) -> str:
        """Hash of the encoder; known without loading it."""
        return self.info.hash

    def encoder(self, device: torch.device | str = "cpu") -> TextEncoder:
        """The encoder on a device.

        Raises:
            UserError: it cannot be fetched or is not the one that was described (its hash differs).
        """
        if self._loaded is None:
            self._loaded = TextEncoder.from_pretrained(self.info.source, self.info.pooling)
            if self._loaded.hash != self.info.hash:
                self._loaded = None
                raise UserError(
                    f"text encoder {self.info.source!r}: not the one this model was trained with "
                    "(its hash differs)"
                )
        return self._loaded.to(device)

    def drop(self) -> None:
        """Let the encoder's memory go; it is loaded again when it is needed."""
        self._loaded = None

    def encode(self, texts: Sequence[str], mean: Tensor, *, batch_size: int = 64) -> np.ndarray:
        """Embed texts into the aligned space.

        Args:
            mean: (dim,) of [`centred`][]; the encoder computes where it lies.

        Returns:
            (texts, dim) float32 unit norm.
        """
        raw = self.encoder(mean.device).encode(texts, batch_size=batch_size)
        return centred(raw, mean).numpy()


def centred(raw: Tensor | np.ndarray, mean: Tensor) -> Tensor:
    """(texts, dim) of the encoder -> (texts, dim) `raw - mean` re-normalised: the aligned space.

    Args:
        raw: unit-norm embeddings.
        mean: (dim,); zero leaves the text space as it is.
    """
    raw = torch.as_tensor(raw)
    return nn.functional.normalize(raw - mean.to(raw.device), dim=-1)
