"""BERT's tokenizer straight from tokenizer.json, without transformers; no torch either."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from speechcwcl.errors import UserError
from speechcwcl.files import read_json

_CLASSES = ("BertTokenizer", "BertTokenizerFast")
_NORMALISE = {
    "type": "BertNormalizer",
    "clean_text": True,
    "handle_chinese_chars": True,
    "strip_accents": None,
}


class WordPiece:
    """Texts to padded batches of token ids."""

    def __init__(self, tokenizer: Any, pad: tuple[int, str]):
        self._tokenizer = tokenizer
        tokenizer.enable_padding(pad_id=pad[0], pad_token=pad[1])

    def encode(self, texts: Sequence[str], max_tokens: int) -> dict[str, np.ndarray]:
        """`input_ids`, `token_type_ids`, `attention_mask`: (texts, tokens) int64 each."""
        self._tokenizer.enable_truncation(max_tokens)
        found = self._tokenizer.encode_batch(list(texts))
        columns = {
            "input_ids": [one.ids for one in found],
            "token_type_ids": [one.type_ids for one in found],
            "attention_mask": [one.attention_mask for one in found],
        }
        return {name: np.array(rows, dtype=np.int64) for name, rows in columns.items()}


def open_wordpiece(folder: Path) -> WordPiece | None:
    """The tokenizer of a folder, if it is exactly BERT's; None leaves it to transformers."""
    try:
        whole = read_json(folder / "tokenizer.json", dict)
        config = read_json(folder / "tokenizer_config.json", dict)
    except UserError:
        return None
    lower = config.get("do_lower_case", True)
    model, pad = whole.get("model"), config.get("pad_token", "[PAD]")
    if config.get("tokenizer_class") not in _CLASSES or not isinstance(pad, str):
        return None
    plain = (
        isinstance(model, dict)
        and model.get("type") == "WordPiece"
        and model.get("unk_token") == "[UNK]"
        and whole.get("normalizer") == {**_NORMALISE, "lowercase": lower}
        and whole.get("pre_tokenizer") == {"type": "BertPreTokenizer"}
        and config.get("tokenize_chinese_chars", True) is True
        and config.get("strip_accents") is None
        and "added_tokens_decoder" not in config
        and config.get("padding_side", "right") == config.get("truncation_side", "right") == "right"
        and _cls_sep(whole.get("post_processor"))
        and {token["content"] for token in whole.get("added_tokens", ())}
        <= {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"}
    )
    if not plain:
        return None
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    number = tokenizer.token_to_id(pad)
    return None if number is None else WordPiece(tokenizer, (number, pad))


def _cls_sep(processor: Any) -> bool:
    if not isinstance(processor, dict):
        return False
    if processor.get("type") == "BertProcessing":
        return True
    single = [next(iter(part.items())) for part in processor.get("single", ())]
    marks = [value.get("id") for _, value in single]
    return processor.get("type") == "TemplateProcessing" and marks == ["[CLS]", "A", "[SEP]"]
