"""RESULTS.md: the tables, the runs and the corpora as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from speechcwcl.evaluation.probe import PROBE_NOTE, probe_rows
from speechcwcl.report.runs import RunDir, Test
from speechcwcl.report.summary import interval, percent, speech_kind, summary_rows


def results_markdown(
    runs: Sequence[RunDir],
    tests: Sequence[Test],
    cards: dict[str, dict[str, Any]],
    title: str,
) -> str:
    """The text of RESULTS.md."""
    header, rows = summary_rows(runs, tests)
    for test, row in zip(tests, rows, strict=True):
        row[0] += _speech_note(test.corpus)
    parts = [
        f"# {_cell(title)}",
        "Top-1 accuracy (recall at 1 for retrieval) with its 95 % bootstrap interval. No label was"
        " used in training: the texts of the labels are the classifier. *Text bound*: the true"
        " words through the same frozen text encoder, so what is missing to 100 % there is the"
        " wording of the labels, and what is missing to the bound is the speech side.",
        markdown_table(header, rows),
    ]
    parts += [f"**{t.title}**: not comparable: {t.mismatch}." for t in tests if t.mismatch]
    classified = [test for test in tests if not test.is_retrieval]
    if classified:
        parts += ["## Classification", markdown_table(*_detail_rows(runs, classified))]
    probed = [test for test in classified if any(f.probe for f in test.folders.values())]
    if probed:
        parts += [
            "## Supervised reference",
            PROBE_NOTE,
            markdown_table(*_reference_rows(runs, probed)),
        ]
    retrieved = [test for test in tests if test.is_retrieval]
    if retrieved:
        parts += ["## Retrieval", markdown_table(*_retrieval_rows(runs, retrieved))]
    parts += ["## Runs", markdown_table(*_run_rows(runs))]
    if cards:
        parts += ["## Corpora", markdown_table(*_card_rows(cards))]
    return "\n\n".join(parts) + "\n"


def _detail_rows(runs: Sequence[RunDir], tests: Sequence[Test]) -> tuple[list[str], list[list]]:
    header = ["test", "run", "top-1", "top-5", "macro-F1", "majority", "cosine to its text"]
    header += ["templates alone: min / mean / max", "protocol hash"]
    rows = []
    for test in tests:
        for number, folder in test.folders.items():
            s = folder.scores
            alone = s["templates"]
            spread = " / ".join(percent(alone[key]) for key in ("min", "mean", "max"))
            cosine = s["cosine_to_text"]
            rows.append(
                [
                    test.title,
                    runs[number].name,
                    f"{percent(s['top1'])} {interval(s['top1_interval'])}",
                    percent(s["top5"]),
                    percent(s["macro_f1"]),
                    percent(s["majority"]),
                    f"{cosine['median']:.3f}" if cosine else "–",
                    f"{spread} ({len(alone['each'])})",
                    f"`{s['protocol']['hash'][:12]}`",
                ]
            )
    return header, rows


def _reference_rows(
    runs: Sequence[RunDir], tests: Sequence[Test]
) -> tuple[list[str], list[list[str]]]:
    header: list[str] = []
    rows = []
    for test in tests:
        for number, folder in test.folders.items():
            if folder.probe:
                names, found = probe_rows(folder.probe)
                header = ["test", "run", "trained on", *names]
                where = [test.title, runs[number].name, folder.probe["train_set"]]
                rows += [[*where, *row] for row in found]
    return header, rows


def _retrieval_rows(runs: Sequence[RunDir], tests: Sequence[Test]) -> tuple[list[str], list[list]]:
    header = ["test", "run", "direction", "n", "R@1", "R@5", "R@10", "median rank"]
    rows = []
    for test in tests:
        for number, folder in test.folders.items():
            for key, name in (
                ("speech_to_text", "speech → text"),
                ("text_to_speech", "text → speech"),
            ):
                way = folder.scores[key]
                recalls = [percent(way[f"R@{k}"]) for k in (1, 5, 10)]
                row = [test.title, runs[number].name, name, str(way["n"]), *recalls]
                rows.append([*row, f"{way['median_rank']:g}"])
    return header, rows


def _run_rows(runs: Sequence[RunDir]) -> tuple[list[str], list[list]]:
    header = ["run", "loss", "seed", "epochs", "versions", "command"]
    rows = []
    for run in runs:
        versions = ", ".join(f"{name} {version}" for name, version in sorted(run.versions.items()))
        command = f"`{run.command}`" if run.command else "–"
        seed = "–" if run.seed is None else str(run.seed)
        loss = str(run.hparams.get("loss", "–"))
        epochs = str(len(run.epochs) or "–")
        rows.append([run.name, loss, seed, epochs, versions or "–", command])
    return header, rows


def _card_rows(cards: dict[str, dict[str, Any]]) -> tuple[list[str], list[list]]:
    header = ["set", "corpus", "version", "licence", "speech"]
    rows = []
    for name, card in sorted(cards.items()):
        known = [str(card.get(key) or "–") for key in ("name", "version", "licence")]
        rows.append([name, *known, speech_kind(card) or "–"])
    return header, rows


def _speech_note(card: dict[str, Any]) -> str:
    return f" ({speech_kind(card)})" if speech_kind(card) else ""


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; no cell can break out of it."""
    lines = ["| " + " | ".join(map(_cell, header)) + " |", "|" + "---|" * len(header)]
    lines += ["| " + " | ".join(map(_cell, row)) + " |" for row in rows]
    return "\n".join(lines)


def _cell(text: str) -> str:
    """Text that cannot break out of a Markdown table or become markup; `code` stays code."""
    text = " ".join(str(text).split())
    if len(text) > 2 and text[0] == text[-1] == "`":
        return "`" + text[1:-1].replace("`", "'").replace("|", "\\|") + "`"
    for character in "\\|<*`":
        text = text.replace(character, "\\" + character)
    return text.replace("](", "]\\(")
