"""Reading an experiment folder ``exp/<tag>/`` for the report; nothing in it is required but scores.

``metrics.jsonl`` (one JSON a finished epoch), ``hparams.json``, ``env.json``,
``model/config.json`` and ``eval/<set>/{corpus.json,<protocol>/scores.json}``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from speechcwcl.errors import UserError, closest
from speechcwcl.evaluation import metrics
from speechcwcl.evaluation.results import SCORES, ScoreFolder
from speechcwcl.files import read_json, read_text


@dataclass
class RunDir:
    """One experiment.

    Attributes:
        path: ``exp/<tag>``.
        name: how the report calls it; the folder's name by default.
        epochs: the lines of ``metrics.jsonl``, the last one of each epoch, in order.
        hparams, env, config: the JSON files, empty where absent.
        scores: (set, protocol) -> score folder.
        corpora: set -> its corpus card.
    """

    path: Path
    name: str
    epochs: list[dict[str, Any]] = field(default_factory=list)
    hparams: dict[str, Any] = field(default_factory=dict)
    env: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    scores: dict[tuple[str, str], ScoreFolder] = field(default_factory=dict)
    corpora: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def open(cls, path: str | Path, name: str | None = None) -> RunDir:
        """Read an experiment folder.

        Raises:
            UserError: no such folder, nothing scored in it, or a broken file.
        """
        path = Path(path)
        if not path.is_dir():
            siblings = [p.name for p in path.parent.glob("*") if p.is_dir()]
            raise UserError(f"{path}: no such experiment folder{closest(path.name, siblings)}")
        run = cls(path=path, name=name or path.resolve().name)
        run.epochs = _read_metrics(path / "metrics.jsonl")
        run.hparams = _read_mapping(path / "hparams.json")
        run.env = _read_mapping(path / "env.json")
        run.config = _read_mapping(path / "model" / "config.json")
        for found in sorted(path.glob(f"eval/*/*/{SCORES}")):
            folder = ScoreFolder.open(found.parent)
            run.scores[folder.set_name, folder.protocol] = folder
            card = found.parent.parent / "corpus.json"
            run.corpora[folder.set_name] = _read_mapping(card)
        if not run.scores:
            raise UserError(f"{path}: nothing is scored here (eval/*/*/scores.json); run stage 8")
        return run

    @property
    def seed(self) -> Any:
        """The training seed, if the hyperparameters tell one."""
        return self.hparams.get("seed")

    @property
    def command(self) -> str:
        """The command line that made the run, or an empty string."""
        value = self.env.get("command", "")
        return " ".join(map(str, value)) if isinstance(value, list) else str(value)

    @property
    def versions(self) -> dict[str, str]:
        """Versions of what it ran on."""
        value = self.env.get("versions", {})
        return {str(k): str(v) for k, v in value.items()} if isinstance(value, dict) else {}


@dataclass
class Test:
    """One (set, protocol) over several runs.

    Attributes:
        set_name, protocol: which.
        folders: run number -> its score folder; a run that was not scored on it is absent.
        corpus: the set's card, from the first run that has one.
    """

    set_name: str
    protocol: str
    folders: dict[int, ScoreFolder]
    corpus: dict[str, Any]

    __test__ = False  # not a test case, whatever pytest thinks of the name

    @property
    def title(self) -> str:
        """``set · protocol``."""
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
        scores = [folder.scores for folder in self.folders.values()]
        if len({s["kind"] for s in scores}) > 1:
            return "the runs hold scores of different kinds under this name"
        if not self.is_retrieval and len({s["protocol"]["hash"] for s in scores}) > 1:
            return "the runs were scored under different versions of this protocol"
        if len({s["n"] for s in scores}) > 1 or len(set(map(_id_key, self.folders.values()))) > 1:
            return "the runs were scored on different utterances"
        return ""

    def difference(self, first: int, second: int) -> tuple[float, float, float] | None:
        """Accuracy (or recall at 1) of run ``second`` minus that of ``first``, with its interval.

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
    keys = {key for run in runs for key in run.scores}
    tests = []
    for set_name, protocol in sorted(keys):
        folders = {
            number: run.scores[set_name, protocol]
            for number, run in enumerate(runs)
            if (set_name, protocol) in run.scores
        }
        cards = [runs[number].corpora.get(set_name) for number in folders]
        corpus = next((card for card in cards if card), {})
        tests.append(Test(set_name, protocol, folders, corpus))
    return sorted(tests, key=lambda t: (t.is_retrieval, t.set_name, t.protocol))


def open_runs(runs: Iterable[RunDir | str | Path]) -> list[RunDir]:
    """Open what is not open yet; equal names get their parent folder in front.

    Raises:
        UserError: no run at all, or one of them cannot be read.
    """
    opened = [run if isinstance(run, RunDir) else RunDir.open(run) for run in runs]
    if not opened:
        raise UserError("a report needs at least one experiment folder (exp/<tag>)")
    names = [run.name for run in opened]
    for run in opened:
        if names.count(run.name) > 1:
            parent = run.path.resolve().parent.name
            run.name = f"{parent}/{run.name}"
    seen: dict[str, int] = {}
    for run in opened:
        seen[run.name] = seen.get(run.name, 0) + 1
        if seen[run.name] > 1:
            run.name = f"{run.name} ({seen[run.name]})"
    return opened


def _correct(folder: ScoreFolder) -> dict[str, bool]:
    if folder.is_retrieval:
        return {row["id"]: float(row["rank"]) <= 1 for row in folder.predictions}
    return {row["id"]: row["correct"] == "1" for row in folder.predictions}


def _id_key(folder: ScoreFolder) -> tuple[str, ...]:
    return tuple(sorted(row["id"] for row in folder.predictions))


def _read_mapping(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    value = read_json(path)
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected a JSON object")
    return value


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
            epochs[int(value["epoch"])] = value
        except (ValueError, KeyError, TypeError) as error:
            if number == lines[-1][0]:
                break
            raise UserError(f"{path}:{number}: not a JSON line with an 'epoch'") from error
    return [epochs[epoch] for epoch in sorted(epochs)]
