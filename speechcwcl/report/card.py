"""The model card of a packed model: README.md with the header that model hubs read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from speechcwcl.evaluation.results import SCORES
from speechcwcl.report.markdown import markdown_table, results_markdown
from speechcwcl.report.runs import RunDir, gather_tests
from speechcwcl.report.summary import speech_kind

_HEAD = """\
---
library_name: speechcwcl
pipeline_tag: zero-shot-audio-classification
license: {licence}
tags: [speech, zero-shot, cwcl]
---
# {name}

A speech encoder aligned to a frozen text encoder with speechcwcl. Any label that can be written in
words classifies speech with no further training:

```python
from speechcwcl.models.aligner import Aligner

model = Aligner.from_pretrained("{repo}")
model.classify(["clip.wav"], ["turn on the light", "play music"])
```

In a shell: `speechcwcl classify --model {repo} --labels "turn on the light;play music" clip.wav`;
in transformers, after `speechcwcl.register()`:
`pipeline("zero-shot-audio-classification", model="{repo}")`. Opening the folder runs no code of
it{fetched}.
"""
_CITATION = """\
## Citation

```bibtex
@inproceedings{cwcl2023,
  title = {{CWCL}: Cross-Modal Transfer with Continuously Weighted Contrastive Loss},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2023},
  url = {https://arxiv.org/abs/2309.14580}
}
```
"""


def open_scored(expdir: str | Path) -> RunDir | None:
    """The run, or None where nothing is scored yet."""
    path = Path(expdir)
    return RunDir.open(path) if any(path.glob(f"eval/*/*/{SCORES}")) else None


def protocols_of(run: RunDir | None) -> dict[str, Any]:
    """The label texts of the protocols that a run was scored under, ready to be packed."""
    scored = run.scores.values() if run else []
    described = [f.scores["protocol"] for f in scored if not f.is_retrieval]
    return {
        protocol["name"]: {
            "description": protocol["description"],
            "hash": protocol["hash"],
            "labels": protocol["labels"],
            "templates": protocol["templates"],
        }
        for protocol in described
    }


def model_card(
    name: str,
    encoders: Sequence[tuple[str, str, str]],
    env: Mapping[str, Any],
    hparams: Mapping[str, Any],
    *,
    run: RunDir | None = None,
    cards: Mapping[str, Mapping[str, Any]] | None = None,
    results: str = "",
    repo: str | None = None,
    licence: str = "other",
    towers: bool = False,
) -> str:
    """The text of README.md.

    Args:
        name: the heading.
        encoders: (role, source, licence) of each.
        env, hparams: ``env.json`` and ``hparams.json`` of the run, or empty.
        run: its scores.
        cards: set -> corpus card; those of sets that the run trained, chose or tested on are shown.
        results: Markdown to show instead of the run's own results.
        repo: the hub repository to open it by, if it goes to one.
        licence: of the trained weights, as model hubs write it.
        towers: are the encoders inside?
    """
    fetched = "" if towers else "; the two encoders are fetched by name and checked by hash"
    command = [str(word) for word in env.get("command", [])]
    parts = [
        _HEAD.format(
            name=name, repo=repo or "path/to/this/folder", licence=licence, fetched=fetched
        )
    ]
    facts = [[role, source, known] for role, source, known in encoders]
    parts.append("## How it was made\n")
    parts.append(markdown_table(["encoder", "source", "licence"], facts) + "\n")
    versions = ", ".join(f"{key} {value}" for key, value in env.get("versions", {}).items())
    rows = [
        ["loss", f"`{json.dumps(hparams.get('loss', 'unknown'))}`"],
        ["seed", str(hparams.get("seed", "unknown"))],
        ["command", f"`{' '.join(map(_short, command)) or 'unknown'}`"],
        ["versions", versions or "unknown"],
    ]
    parts.append(markdown_table(["", ""], rows) + "\n")
    parts.append(_corpora(command, run, cards or {}))
    parts.append(_results(run, results))
    parts.append(_CITATION)
    return "\n".join(part for part in parts if part)


def _short(word: str) -> str:
    """A path of the machine it was made on tells more than it should: its end is enough."""
    path = Path(word)
    return "/".join(path.parts[-2:]) if path.is_absolute() else word


def _corpora(
    command: Sequence[str], run: RunDir | None, cards: Mapping[str, Mapping[str, Any]]
) -> str:
    roles: dict[str, str] = {}
    for option, role in (("--train", "training"), ("--valid", "choosing the epoch")):
        for word in _values(command, option):
            of_file = word.endswith((".jsonl", ".json"))  # a manifest, a stream
            name = Path(word).parent.name if of_file else word.rpartition(":")[0]
            roles.setdefault(name, role)
    for name, _ in run.scores if run else []:
        roles.setdefault(name, "test")
    rows = []
    for name, role in roles.items():
        card = cards.get(name, {})
        known = [str(card.get(key) or "unknown") for key in ("name", "version", "licence")]
        rows.append([name, role, *known, speech_kind(dict(card)) or "unknown"])
    if not rows:
        return ""
    header = ["set", "used for", "corpus", "version", "licence", "speech"]
    return (
        f"## Corpora\n\n{markdown_table(header, rows)}\n\n"
        "The licences of the corpora and of the two encoders apply to the weights.\n"
    )


def _values(command: Sequence[str], option: str) -> list[str]:
    """The words behind an option, up to the next one."""
    found: list[str] = []
    for place, word in enumerate(command):
        if word == option:
            for value in command[place + 1 :]:
                if value.startswith("--"):
                    break
                found.append(value)
    return found


def _results(run: RunDir | None, results: str) -> str:
    if not results and run is not None:
        whole = results_markdown([run], gather_tests([run]), {}, "Results")
        results = whole.split("\n## Runs\n")[0]  # how it was made is told above
    if not results:
        return "## Results\n\nNothing was scored when this was packed.\n"
    lines = results.strip().split("\n")
    return "\n".join(f"#{line}" if line.startswith("#") else line for line in lines) + "\n"
