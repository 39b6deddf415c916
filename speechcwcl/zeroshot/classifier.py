"""The classifier made of label texts, and the ranking by it: the one place that does either.

`class vector = mean over templates and synonyms of the unit-norm text embeddings, re-normalised`
(the prompt ensemble of CLIP); `cosine = speech @ class vector`. Plain arrays: any model that
embeds speech and text into one space will do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from speechcwcl.errors import UserError, closest, require
from speechcwcl.files import read_text

if TYPE_CHECKING:  # labels in words need no pydantic
    from speechcwcl.zeroshot.keywords import Keywords
    from speechcwcl.zeroshot.protocol import LabelTexts

    Wording = tuple[LabelTexts, tuple[str, ...]]  # label -> its texts, templates

UNKNOWN = "unknown"
PLAIN = ("{}",)  # the template of a label as it is
Labels = Sequence[str] | Mapping[str, str | Sequence[str]]
EncodeText = Callable[[Sequence[str]], np.ndarray]  # texts -> (texts, dim)


class Embedder(Protocol):
    """What [`classify`][] needs of a model."""

    @property
    def logit_scale(self) -> Any:
        """1 / temperature of the softmax over labels."""

    def encode_speech(self, audio: Sequence[Any], *, sample_rate: int = 16000) -> np.ndarray:
        """(recordings, dim) unit norm."""

    def encode_text(self, texts: Sequence[str]) -> np.ndarray:
        """(texts, dim) unit norm."""


def prompt_means(
    texts: Sequence[str | Sequence[str]], templates: Sequence[str], encode_text: EncodeText
) -> np.ndarray:
    """Mean embedding of each label in each template, not normalised; each text is embedded once.

    Args:
        texts: a text, or several that mean the same, for each label.
        templates: each with one `{}`, where the text goes.
        encode_text: texts -> (texts, dim), of unit norm.

    Returns:
        (templates, labels, dim) float64. [`unit_rows`][] of it is the classifier of each
        template alone; of its mean over the templates, the classifier of them together.
    """
    if not templates:
        raise UserError("no template given; '{}' is the label as it is")
    for template in templates:
        if template.count("{}") != 1:
            raise UserError(f"template {template!r}: needs exactly one {{}}")
    groups = [[text] if isinstance(text, str) else list(text) for text in texts]
    if not all(groups):
        raise UserError("a label has no text at all")
    flat = [t.replace("{}", text) for t in templates for group in groups for text in group]
    rows = np.asarray(encode_text(flat), dtype=np.float64)
    rows = rows.reshape(len(templates), -1, rows.shape[1])
    counts = np.array([len(group) for group in groups])
    starts = np.cumsum(counts) - counts
    return np.add.reduceat(rows, starts, axis=1) / counts[:, None]


def class_vectors(
    texts: Sequence[str | Sequence[str]],
    encode_text: EncodeText,
    templates: Sequence[str] = PLAIN,
) -> np.ndarray:
    """(labels, dim) unit-norm float64: the classifier; see [`prompt_means`][]."""
    return unit_rows(prompt_means(texts, templates, encode_text).mean(axis=0))


def unit_rows(rows: np.ndarray) -> np.ndarray:
    """`rows` (..., dim) at length one."""
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def split_labels(labels: Labels) -> tuple[list[str], list[str | Sequence[str]]]:
    """Names and texts of labels given either way.

    Raises:
        UserError: none, one of them empty, or one given twice (upper case apart).
    """
    if isinstance(labels, str):
        raise UserError(f"classify: the labels are one text, {labels!r}; give a list of texts")
    names = list(labels)
    if not names:
        raise UserError("classify: no labels given")
    seen: set[str] = set()
    for name in names:
        if not isinstance(name, str) or not name.strip():
            raise UserError(f"classify: label {name!r} is empty or not text")
        if name.casefold() in seen:
            raise UserError(f"classify: label {name!r} is given twice")
        seen.add(name.casefold())
    texts: list[str | Sequence[str]] = list(names)
    if isinstance(labels, Mapping):
        texts = [labels[name] for name in names]
    return names, texts


def speech_and_limit(
    model: Any,
    audio: Sequence[Any],
    keywords: Keywords | None,
    threshold: float | None,
    sample_rate: int = 16000,
) -> tuple[np.ndarray | list[np.ndarray], float | np.ndarray | None]:
    """Embeddings to rank labels by, and the threshold for [`rank`][].

    Without a threshold long recordings are taken in parts where the model has them. With one every
    recording is one whole, as those are that a threshold is set on.

    Returns:
        (recordings, dim), or (parts, dim) of each recording; a cosine, or (recordings, labels).
    """
    thresholds = threshold is not None or (keywords is not None and keywords.level is not None)
    if not thresholds and getattr(model, "windows", None):
        return model.encode_parts(audio, sample_rate=sample_rate), None
    speech = model.encode_speech(audio, sample_rate=sample_rate)
    limit = keywords.thresholds(speech) if keywords and threshold is None else threshold
    return speech, limit


def rank(
    speech: np.ndarray | list[np.ndarray],
    rows: np.ndarray,
    names: Sequence[str],
    scale: Any,
    *,
    top_k: int | None = None,
    threshold: Any = None,
    unknown: str = UNKNOWN,
) -> list[list[dict[str, Any]]]:
    """The labels of each recording, the best first.

    Args:
        speech: (recordings, dim) unit norm; or of each recording (parts, dim), the best part of
            which counts for each label.
        rows: (labels, dim) unit norm.
        scale: 1 / temperature of the softmax, a number or a model's `logit_scale`.
        top_k: labels to return; all when `None`.
        threshold: the cosine of one more label, `unknown`; none when `None`. One for each
            label and recording, (recordings, labels): labels are then ranked by how far they are
            above their own, and `unknown` has the mean of them.
        unknown: its name.

    Returns:
        For each recording `[{"label", "score", "cosine"}, ...]`; `score` is the softmax over
        the labels.
    """
    if top_k is not None and top_k < 1:
        raise UserError(f"top_k: {top_k} is not at least 1")
    whole = isinstance(speech, np.ndarray)
    cosine = speech @ rows.T if whole else np.stack([(p @ rows.T).max(axis=0) for p in speech])
    names, offset = list(names), np.zeros(cosine.shape)
    if threshold is not None:
        if unknown.casefold() in {name.casefold() for name in names}:
            raise UserError(
                f"classify: with a threshold, {unknown!r} is the answer below it and cannot be a "
                "label too; word the label differently"
            )
        names = [*names, unknown]
        limits = np.broadcast_to(threshold, cosine.shape)
        mean = limits.mean(axis=1, keepdims=True)
        offset = np.c_[limits - mean, np.zeros(len(cosine))]
        cosine = np.c_[cosine, mean.astype(cosine.dtype)]
    scale = scale.detach() if hasattr(scale, "detach") else scale
    above = cosine.astype(np.float64) - offset
    logits = above * float(scale)
    scores = np.exp(logits - logits.max(axis=1, keepdims=True))
    scores /= scores.sum(axis=1, keepdims=True)
    return [
        [
            {"label": names[k], "score": float(s[k]), "cosine": float(c[k])}
            for k in np.argsort(-a, kind="stable")[:top_k]
        ]
        for s, c, a in zip(scores, cosine, above, strict=True)
    ]


def encode_labels(
    model: Embedder, labels: Sequence[str | Sequence[str]], templates: Sequence[str] = PLAIN
) -> np.ndarray:
    """(labels, dim) unit-norm float32: the class vectors of a model; a method of each model.

    Args:
        labels: a text, or several texts, for each label.
    """
    return class_vectors(labels, model.encode_text, templates).astype(np.float32)


def classify(
    model: Embedder,
    audio: Sequence[Any],
    labels: Labels | Keywords | None = None,
    templates: Sequence[str] | str | None = None,
    top_k: int | None = None,
    *,
    sample_rate: int = 16000,
    threshold: float | None = None,
    unknown: str = UNKNOWN,
    candidate_labels: Labels | None = None,
    hypothesis_template: Sequence[str] | str | None = None,
) -> list[list[dict[str, Any]]]:
    """Classify recordings by labels written in words, with no training; a method of each model.

    Args:
        audio: files, or one-dimensional arrays or tensors; see `encode_speech`.
        labels: the texts, `{label: text or texts}`, or what `enrol` made, which brings its own
            thresholds.
        templates: sentences with one `{}` to put the label into; the label as it is when left
            out.
        top_k: labels to return; all when `None`.
        sample_rate: of the arrays, in Hz.
        threshold: cosine that a label must reach, else the answer is `unknown`.
        unknown: the name of that answer.
        candidate_labels: `labels` in the words of transformers' pipeline.
        hypothesis_template: `templates` in the words of transformers' pipeline.

    Returns:
        See [`rank`][]. With a threshold, `unknown` competes as one more label, whose cosine is
        the threshold.
    """
    labels = _one_of("labels", labels, "candidate_labels", candidate_labels)
    given = _one_of("templates", templates, "hypothesis_template", hypothesis_template)
    templates = PLAIN if given is None else (given,) if isinstance(given, str) else given
    if labels is not None and not isinstance(labels, Sequence | Mapping):
        labels.check(model)
        names, rows = labels.labels, labels.rows
    else:
        names, texts = split_labels([] if labels is None else labels)
        rows, labels = encode_labels(model, texts, templates), None
    speech, limit = speech_and_limit(model, audio, labels, threshold, sample_rate)
    return rank(
        speech, rows, names, model.logit_scale, top_k=top_k, threshold=limit, unknown=unknown
    )


def _one_of(name: str, value: Any, other_name: str, other: Any) -> Any:
    if value is not None and other is not None:
        raise UserError(f"classify: {name} and {other_name} mean the same; give one of them")
    return other if value is None else value


def choose_labels(
    labels: str | None = None,
    file: Path | None = None,
    protocol: str | None = None,
    templates: Sequence[str] = (),
    packed: Mapping[str, Wording] | None = None,
) -> Wording:
    """The labels that one of the first three says.

    Args:
        labels: texts, separated by `;`.
        file: labels one a line, or a `.yaml`: `label: text` lines, or a protocol.
        protocol: a name in `packed` or of the package, or the path of a `.yaml`.
        templates: template files by name or path, or sentences with `{}`; when there are none,
            the protocol's, or the label alone.
        packed: name -> what the model's folder brings along.

    Raises:
        UserError: no labels, one twice, an unknown name, a file that cannot be read as labels.
    """
    own: tuple[str, ...] | None = None
    if labels is not None:
        found = _plain(labels.split(";"), "--labels")
    elif file is not None and file.suffix.lower() in (".yaml", ".yml"):
        from speechcwcl.zeroshot.protocol import load_labels

        found, own = load_labels(file)
    elif file is not None:
        found = _plain(read_text(file).splitlines(), str(file))
    elif protocol is not None:
        found, own = _of_protocol(protocol, packed or {})
    else:
        raise UserError('no labels given; say --labels "a;b;c", --labels_file or --protocol')
    if templates:
        own = tuple(dict.fromkeys(t for given in templates for t in _templates(given)))
    return found, own or PLAIN


def _plain(texts: Sequence[str], where: str) -> LabelTexts:
    names = [" ".join(text.split()) for text in texts if text.strip()]
    require(bool(names), f"{where}: no labels in it")
    try:
        split_labels(names)
    except UserError as error:
        raise UserError(f"{where}: {str(error).removeprefix('classify: ')}") from error
    return {name: (name,) for name in names}


def _of_protocol(name: str, packed: Mapping[str, Wording]) -> Wording:
    from speechcwcl.zeroshot.protocol import list_protocols, load_protocol

    if name in packed:
        return packed[name]
    known = [*packed, *list_protocols()]
    plain = name.partition("@")[0]  # a language may stand behind it
    if plain not in known and not plain.endswith((".yaml", ".yml")):
        raise UserError(
            f"no protocol is called {name!r}{closest(name, known)}; known: {', '.join(known)}"
        )
    protocol = load_protocol(name)
    return protocol.named, protocol.templates


def _templates(given: str) -> tuple[str, ...]:
    if "{}" in given:
        require(given.count("{}") == 1, f"--template {given!r}: {{}} must be in it exactly once")
        return (given,)
    from speechcwcl.zeroshot.protocol import load_templates

    return load_templates(given)
