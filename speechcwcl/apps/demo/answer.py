"""The function behind the page: a recording and typed labels in, ranked labels out."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from speechcwcl.apps.demo.ask import Labels, Limits, check_size, parse_labels, parse_templates
from speechcwcl.data.audio import SAMPLE_RATE, audio_info, load_audio
from speechcwcl.errors import UserError
from speechcwcl.models.aligner import Aligner
from speechcwcl.zeroshot.classifier import prompt_means, rank, unit_rows
from speechcwcl.zeroshot.enrolment import background_of, clip_vector
from speechcwcl.zeroshot.keywords import Keywords, check_apart, join, level_of_share

SHORTEST = 0.05  # seconds: less is a click, not a word
SILENT = 0.01  # a peak below this share of full scale
_FORMATS = "use wav, flac, ogg, opus or mp3"


@dataclass(frozen=True)
class Upload:
    """A recording, decoded and checked."""

    name: str  # of the file, without its folder
    wav: np.ndarray  # (samples,) float32 at 16 kHz

    @property
    def seconds(self) -> float:
        """Its length."""
        return len(self.wav) / SAMPLE_RATE

    @property
    def silent(self) -> bool:
        """Nothing is heard in it."""
        return float(np.abs(self.wav).max()) < SILENT


def read_upload(path: str | os.PathLike | None, limits: Limits) -> Upload:
    """Decode a file that a stranger gave us.

    Raises:
        UserError: there is none; it is too large, too long or too short, not audio, or corrupt.
            The message names the file without its folder.
    """
    if path is None:
        raise UserError("There is no recording. Record or upload one first.")
    path = Path(path)
    try:
        size = path.stat().st_size
    except OSError:
        raise UserError("The recording is gone from the server. Upload it again.") from None
    if size > limits.bytes:
        raise UserError(
            f"{path.name} has {size / 2**20:.1f} MB; at most {limits.megabytes:g} MB are allowed."
        )
    try:
        seconds = audio_info(path).duration  # before decoding: an hour of silence is a small file
        if seconds > limits.seconds:
            raise UserError(
                f"{path.name} lasts {seconds:.1f} s; at most {limits.seconds:g} s are allowed."
            )
        wav = load_audio(path)
    except UserError as error:
        message = str(error).replace(str(path), path.name)
        hint = f"; {_FORMATS}" if "not audio" in message else ""
        raise UserError(message + hint) from error
    if len(wav) < SHORTEST * SAMPLE_RATE:
        raise UserError(f"{path.name} lasts {len(wav) / SAMPLE_RATE:.3f} s; that is too short.")
    return Upload(path.name, wav)


@dataclass(frozen=True)
class Embedded:
    """A recording as a model has it; all of unit norm."""

    whole: np.ndarray  # (dim,) compared with thresholds
    parts: np.ndarray  # (parts, dim) compared where there are none; of a short recording the whole
    example: np.ndarray  # (dim,) as an example of a label


class Judge:
    """A model with a name, ready to answer; labels that were asked before cost nothing."""

    def __init__(self, aligner: Aligner, name: str):
        self.aligner = aligner
        self.name = name
        self._rows = functools.lru_cache(maxsize=16)(self._embed_labels)

    @property
    def about(self) -> dict[str, Any]:
        """The encoders, by name (a folder without the folders above it), and the dimension."""
        return {
            "speech_encoder": _without_folder(self.aligner.speech_encoder.source),
            "text_encoder": _without_folder(self.aligner.text.info.source),
            "dim": self.aligner.dim,
        }

    def warm_up(self) -> None:
        """Load what is loaded late, so that the first answer is as quick as the others."""
        self.embed(np.zeros(SAMPLE_RATE, dtype=np.float32))
        self.aligner.encode_text(["warm up"])
        assert len(self.ordinary)

    def embed(self, wav: np.ndarray) -> Embedded:
        """Embed (samples,) at 16 kHz."""
        [parts] = self.aligner.encode_parts([wav])
        whole = parts if len(parts) == 1 else self.aligner.encode_speech([wav])
        return Embedded(whole[0], parts, clip_vector(self.aligner, wav))

    @functools.cached_property
    def ordinary(self) -> np.ndarray:
        """(windows, dim) of the ordinary speech in the package."""
        return background_of(self.aligner)

    def decide(
        self,
        heard: Embedded,
        labels: Labels,
        templates: Sequence[str],
        far: float,
        examples: Mapping[str, Sequence[Embedded]] | None = None,
    ) -> dict[str, Any]:
        """Rank the labels for a recording; as `classify` does with the same labels.

        Args:
            labels: label -> texts.
            far: the answer is None where no label reaches its threshold; about this share of
                clips that say none of them gets one. 0: there is always an answer.
            examples: label -> recordings that stand beside its texts.

        Returns:
            `{"model", "speech_encoder", "text_encoder", "dim", "answer", "unknown", "labels":
            [{"label", "score", "cosine", "by_template"}]}`, the best label first; `answer` is None
            for "unknown", `unknown` the score of that, `score` the softmax over the labels,
            `by_template` the cosine with each template alone.
        """
        rows, alone = self._rows(tuple(labels.values()), tuple(templates))
        names = list(labels)
        given = [np.array([e.example for e in (examples or {}).get(name, [])]) for name in names]
        rows = join(rows, given)
        if any(map(len, given)):
            check_apart(names, rows, given)
        speech, limit = heard.parts, None
        if far > 0:
            speech = heard.whole[None]
            level = level_of_share(far, len(names), None)
            against = Keywords.against(names, rows, "", self.ordinary, level=level)
            limit = against.thresholds(speech)
        by_template = dict(zip(names, (alone @ speech.T).max(axis=-1).T.tolist(), strict=True))
        ranked = rank([speech], rows, names, self.aligner.logit_scale, threshold=limit)[0]
        answer = ranked[0]["label"] if ranked[0]["label"] in names else None
        unknown = [row["score"] for row in ranked if row["label"] not in names]
        ranked = [row for row in ranked if row["label"] in names]
        for row in ranked:
            row["by_template"] = by_template[row["label"]]
        said = {"answer": answer, "unknown": sum(unknown), "labels": ranked}
        return {"model": self.name, **self.about, **said}

    def _embed_labels(
        self, texts: tuple[tuple[str, ...], ...], templates: tuple[str, ...]
    ) -> tuple[np.ndarray, np.ndarray]:
        """(labels, dim) over all templates, and (templates, labels, dim) for each alone."""
        means = prompt_means(texts, templates, self.aligner.encode_text)
        return unit_rows(means.mean(axis=0)), unit_rows(means)


def _without_folder(source: str) -> str:
    """A hub id stays, of a folder only its name is told to strangers."""
    is_folder = os.path.isabs(source) or os.path.isdir(source)
    return Path(source).name if is_folder else source


def open_judges(folders: Sequence[str | os.PathLike], device: str = "cpu") -> list[Judge]:
    """Open models under names that tell them apart: the end of their paths.

    Raises:
        UserError: a folder is given twice, or holds no model, or there is no such device.
    """
    paths = [Path(folder).expanduser() for folder in folders]
    whole = [path.resolve().parts if path.is_dir() else path.parts for path in paths]
    for number, parts in enumerate(whole):
        if parts in whole[:number]:
            raise UserError(f"--model {folders[number]}: given twice; name two different models")
    length = 2
    while len({parts[-length:] for parts in whole}) < len(whole):
        length += 1
    names = ["/".join(parts[-length:]) for parts in whole]
    return [
        Judge(Aligner.from_pretrained(folder, device=device), name)
        for folder, name in zip(folders, names, strict=True)
    ]


def decide_all(
    judges: Sequence[Judge],
    heard: Sequence[Embedded],
    typed_labels: str,
    typed_templates: str,
    far: float,
    limits: Limits,
    examples: Mapping[str, Sequence[Sequence[Embedded]]] | None = None,
) -> list[dict[str, Any]]:
    """What each model says of a recording that it has embedded, see `Judge.decide`.

    Args:
        heard: the recording, embedded by each of them.
        examples: label -> recordings that are kept as examples, each embedded by each model.

    Raises:
        UserError: something that was typed cannot be used, or labels cannot be told apart.
    """
    labels = parse_labels(typed_labels, limits, far)
    templates = parse_templates(typed_templates)
    check_size(labels, templates)
    return [
        judge.decide(
            one,
            labels,
            templates,
            far,
            {label: [each[number] for each in kept] for label, kept in (examples or {}).items()},
        )
        for number, (judge, one) in enumerate(zip(judges, heard, strict=True))
    ]


def classify(
    judges: Sequence[Judge],
    path: str | os.PathLike | None,
    typed_labels: str,
    typed_templates: str = "{}",
    far: float = 0.0,
    limits: Limits | None = None,
) -> dict[str, Any]:
    """One recording by labels in words, as plain JSON: what the endpoint `/classify` returns.

    Returns:
        `{"name", "seconds", "templates", "models": [...]}`, see `Judge.decide`.
    """
    limits = limits or Limits()
    parse_labels(typed_labels, limits, far)  # before the costly part
    upload = read_upload(path, limits)
    heard = [judge.embed(upload.wav) for judge in judges]
    return {
        "name": upload.name,
        "seconds": round(upload.seconds, 3),
        "templates": list(parse_templates(typed_templates)),
        "models": decide_all(judges, heard, typed_labels, typed_templates, far, limits),
    }
