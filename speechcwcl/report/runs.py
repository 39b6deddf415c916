"""Reading experiment folders `exp/<tag>/`; nothing in one is required but scores.

`metrics.jsonl` (one JSON a finished epoch), `hparams.json`, `env.json` and
`eval/<set>/{corpus.json,<protocol>/scores.json}`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from typing_extensions import TypedDict  # pydantic wants it below Python 3.12

from speechcwcl.errors import UserError, closest, require
from speechcwcl.evaluation import metrics
from speechcwcl.evaluation.results import SCORES, ScoreFolder
from speechcwcl.evaluation.spotting import SPOTTING
from speechcwcl.files import read_json, read_text
from speechcwcl.jsons import of_kind

Card = dict[str, Any]  # what a corpus.json holds


class MtebScores(TypedDict):
    hf_subset: str
    main_score: float


class MtebResult(TypedDict):
    """What is read of a result of mteb."""

    task_name: str
    dataset_revision: str
    mteb_version: str
    scores: dict[str, list[MtebScores]]  # split -> ...


@dataclass
class RunDir:
    """One experiment."""

    path: Path  # `exp/<tag>`
    name: str  # how the report calls it; the folder's name by default
    # the lines of `metrics.jsonl`, the last one of each epoch, in order
    epochs: list[dict[str, Any]] = field(default_factory=list)
    hparams: dict[str, Any] = field(default_factory=dict)  # empty where the file is absent
    env: dict[str, Any] = field(default_factory=dict)
    # (set, protocol) -> score folder
    scores: dict[tuple[str, str], ScoreFolder] = field(default_factory=dict)
    corpora: dict[str, Card] = field(default_factory=dict)  # set -> its corpus card
    mteb: dict[str, dict[str, Any]] = field(default_factory=dict)  # task -> mteb's own result
    # (set, protocol) -> what its spotting.json holds
    spotting: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def open(
        cls, path: str | Path, name: str | None = None, *, must_be_scored: bool = True
    ) -> RunDir:
        """Read an experiment folder.

        Raises:
            UserError: no such folder, nothing scored in it, or a broken file.
        """
        path = Path(path)
        if must_be_scored and not path.is_dir():
            siblings = [p.name for p in path.parent.glob("*") if p.is_dir()]
            raise UserError(f"{path}: no such experiment folder{closest(path.name, siblings)}")
        run = cls(path=path, name=name or path.resolve().name)
        run.epochs = _read_metrics(path / "metrics.jsonl")
        run.hparams = read_mapping(path / "hparams.json")
        run.env = read_mapping(path / "env.json")
        for found in sorted(path.glob(f"eval/*/*/{SCORES}")):
            folder = ScoreFolder.open(found.parent)
            run.scores[folder.set_name, folder.protocol] = folder
            run.corpora[folder.set_name] = read_mapping(found.parent.parent / "corpus.json")
        for found in sorted(path.glob("mteb/*.json")):  # mteb writes NaN where there is no figure
            run.mteb[found.stem] = of_kind(found, None, read_text(found), MtebResult)
        for found in sorted(path.glob(f"eval/*/*/{SPOTTING}")):
            scores = read_json(found, dict)
            whole = scores.get("kind") == "spotting" and "together" in scores
            require(whole, f"{found}: not the scores of `speechcwcl evaluate`; score again")
            run.spotting[found.parent.parent.name, found.parent.name] = scores
        if must_be_scored and not run.scores and not run.mteb and not run.spotting:
            raise UserError(f"{path}: nothing is scored here (eval/*/*/scores.json); run stage 8")
        return run

    @property
    def seed(self) -> Any:
        """The training seed, if the hyperparameters tell one."""
        return self.hparams.get("seed")

    @property
    def seconds(self) -> float:
        """How long the training took; 0 where nothing tells."""
        return sum(epoch["seconds"] for epoch in self.epochs if is_number(epoch.get("seconds")))

    @property
    def words(self) -> list[str]:
        """The words of the command line that made the run, or none."""
        value = self.env.get("command", [])
        return [str(word) for word in value] if isinstance(value, list) else str(value).split()

    @property
    def command(self) -> str:
        """The command line, or an empty string."""
        return " ".join(self.words)

    @property
    def versions(self) -> list[str]:
        """`name version` of what it ran on."""
        value = self.env.get("versions", {})
        pairs = sorted(value.items()) if isinstance(value, dict) else []
        return [f"{name} {version}" for name, version in pairs]


@dataclass
class Test:
    """One (set, protocol) over several runs."""

    set_name: str
    protocol: str
    # run number -> its score folder; a run that was not scored on it is absent
    folders: dict[int, ScoreFolder]
    corpus: Card  # the set's card, from the first run that has one

    __test__ = False  # not a test case, whatever pytest thinks of the name

    @property
    def title(self) -> str:
        """`set · protocol`."""
        return f"{self.set_name} · {self.protocol}"

    @property
    def first(self) -> ScoreFolder:
        """The first run's folder: what all runs share is read from it."""
        return next(iter(self.folders.values()))

    @property
    def is_retrieval(self) -> bool:
        """Retrieval, or zero-shot classification?"""
        return self.first.is_retrieval

    @cached_property
    def mismatch(self) -> str:
        """Why the runs cannot be compared on this test, or an empty string."""
        folders = self.folders.values()
        if len({folder.is_retrieval for folder in folders}) > 1:
            return "the runs hold scores of different kinds under this name"
        if not self.is_retrieval and len({f.scores["protocol"]["hash"] for f in folders}) > 1:
            return "the runs were scored under different versions of this protocol"
        if len({tuple(sorted(_correct(folder))) for folder in folders}) > 1:
            return "the runs were scored on different utterances"
        return ""

    def headline(self, number: int) -> tuple[float, Sequence[float]] | None:
        """(accuracy or recall at 1, its interval) of a run; None where it was not scored."""
        if number not in self.folders:
            return None
        scores = self.folders[number].scores
        if scores["kind"] == "retrieval":
            return scores["speech_to_text"]["R@1"], scores["speech_to_text"]["R@1_interval"]
        return scores["top1"], scores["top1_interval"]

    def difference(self, first: int, second: int) -> tuple[float, float, float] | None:
        """Accuracy (or recall at 1) of run `second` minus that of `first`, with its interval.

        None where one is missing or the two are not comparable.
        """
        if first not in self.folders or second not in self.folders or self.mismatch:
            return None
        one, two = (_correct(self.folders[run]) for run in (first, second))
        ids = sorted(one)
        return metrics.paired_difference(
            np.asarray([one[i] for i in ids]), np.asarray([two[i] for i in ids])
        )


def gather_tests(runs: Sequence[RunDir]) -> list[Test]:
    """All (set, protocol) pairs of the runs: classification first, then retrieval, by name."""
    tests = []
    for key in sorted({key for run in runs for key in run.scores}):
        folders = {n: run.scores[key] for n, run in enumerate(runs) if key in run.scores}
        cards = (runs[number].corpora[key[0]] for number in folders)
        tests.append(Test(*key, folders, next(filter(None, cards), {})))
    return sorted(tests, key=lambda test: test.is_retrieval)


def mteb_rows(runs: Sequence[RunDir]) -> list[list[str]]:
    """One row a task of mteb and its data: both, mteb's version, the main score of each run.

    The score is the mean over splits and languages, as mteb takes it.
    """
    found: dict[tuple[str, str, str], dict[int, float]] = {}
    for number, run in enumerate(runs):
        for task, result in sorted(run.mteb.items()):
            scores = [one["main_score"] for split in result["scores"].values() for one in split]
            key = task, result["dataset_revision"], result["mteb_version"]
            found.setdefault(key, {})[number] = float(np.mean(scores))
    return [
        [*key, *(f"{100 * by[n]:.1f} %" if n in by else "–" for n in range(len(runs)))]
        for key, by in sorted(found.items())
    ]


def open_runs(runs: Iterable[RunDir | str | Path]) -> list[RunDir]:
    """Open what is not open yet; equal names get their parent folder in front.

    Raises:
        UserError: no run at all, or one of them cannot be read.
    """
    opened = [run if isinstance(run, RunDir) else RunDir.open(run) for run in runs]
    if not opened:
        raise UserError("a report needs at least one experiment folder (exp/<tag>)")
    names = Counter(run.name for run in opened)
    for run in opened:
        if names[run.name] > 1:
            run.name = f"{run.path.resolve().parent.name}/{run.name}"
    seen: Counter[str] = Counter()
    for run in opened:
        seen[run.name] += 1
        if seen[run.name] > 1:
            run.name = f"{run.name} ({seen[run.name]})"
    return opened


def corpus_cards(runs: Sequence[RunDir], dumpdir: str | Path | None = None) -> dict[str, Card]:
    """Set name -> its `corpus.json`, from the runs and from `dumpdir`."""
    paths = sorted(Path(dumpdir).glob("*/corpus.json")) if dumpdir else []
    cards = {path.parent.name: read_mapping(path) for path in paths}
    for run in runs:
        cards.update({name: card for name, card in run.corpora.items() if card})
    return cards


def read_mapping(path: Path) -> dict[str, Any]:
    """A JSON object; empty where there is no such file."""
    return read_json(path, dict) if path.is_file() else {}


def is_number(value: Any) -> bool:
    """A finite number, of a size that can be drawn?"""
    return isinstance(value, int | float) and abs(value) < 1e300


def _correct(folder: ScoreFolder) -> dict[str, bool]:
    if folder.is_retrieval:
        return {row["id"]: float(row["rank"]) <= 1 for row in folder.predictions}
    return {row["id"]: row["correct"] == "1" for row in folder.predictions}


def _read_metrics(path: Path) -> list[dict[str, Any]]:
    """The epochs in order. A run that was killed may leave half a line at the end, and one that
    went on from a checkpoint may tell an epoch twice: the half is dropped, the later one counts."""
    if not path.is_file():
        return []
    lines = [(n, line) for n, line in enumerate(read_text(path).split("\n"), 1) if line.strip()]
    epochs: dict[int, dict[str, Any]] = {}
    for number, line in lines:
        try:
            value = json.loads(line)
            parts = [value.get(part, {}) for part in ("train", "valid")]
            if not is_number(value["epoch"]) or not all(isinstance(p, dict) for p in parts):
                raise TypeError
            epochs[int(value["epoch"])] = value
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            if number == lines[-1][0]:
                break
            raise UserError(f"{path}:{number}: not a JSON line with an 'epoch'") from None
    return [epochs[epoch] for epoch in sorted(epochs)]
