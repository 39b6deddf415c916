"""The tables: one line a test for the terminal, and RESULTS.md with the runs and the corpora."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from speechcwcl.evaluation.probe import PROBE_NOTE, probe_rows
from speechcwcl.report.runs import Card, RunDir, Test, gather_tests, open_runs

Rows = tuple[list[str], list[list[str]]]  # header, rows


def percent(value: float | None, digits: int = 1) -> str:
    """``0.1234`` -> ``12.3 %``; None -> a dash."""
    return "–" if value is None else f"{100 * value:.{digits}f} %"


def interval(bounds: Sequence[float]) -> str:
    """``[0.1, 0.2]`` -> ``[10.0, 20.0]``, in percent."""
    return f"[{100 * bounds[0]:.1f}, {100 * bounds[1]:.1f}]"


def speech_kind(card: Card) -> str:
    """``synthetic speech``, ``recorded speech``, or an empty string where the card is silent."""
    synthetic = card.get("synthetic_speech", card.get("made_speech"))  # as older cards say it
    return "" if synthetic is None else "synthetic speech" if synthetic else "recorded speech"


def summary_rows(runs: Sequence[RunDir], tests: Sequence[Test]) -> Rows:
    """One row a test: n, classes (texts, for retrieval), chance, the text upper bound, and for
    each run top-1 accuracy (recall at 1, for retrieval) with its 95 % interval."""
    header = ["test", "n", "classes", "chance", "text bound", *(run.name for run in runs)]
    rows = []
    for test in tests:
        scores = test.first.scores
        if test.is_retrieval:
            cells = [f"{test.set_name}: retrieval, R@1", str(scores["n"]), str(scores["texts"])]
            cells += [percent(scores["speech_to_text"]["chance"]), "–"]
        else:
            bound = scores["text_bound"]
            cells = [f"{test.set_name}: {test.protocol}", str(scores["n"]), str(scores["classes"])]
            cells += [percent(scores["chance"]), percent(bound["top1"] if bound else None)]
        for number in range(len(runs)):
            value = test.headline(number)
            cells.append("–" if value is None else f"{percent(value[0])} {interval(value[1])}")
        rows.append(cells)
    return header, rows


def results_table(runs: Iterable[RunDir | str | Path]) -> str:
    """:func:`summary_rows` as aligned text for a terminal."""
    opened = open_runs(runs)
    header, rows = summary_rows(opened, gather_tests(opened))
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = [
        "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]).rstrip()
        for line in (header, *rows)
    ]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def results_markdown(
    runs: Sequence[RunDir], tests: Sequence[Test], cards: dict[str, Card], title: str
) -> str:
    """The text of RESULTS.md."""
    header, rows = summary_rows(runs, tests)
    for test, row in zip(tests, rows, strict=True):
        row[0] += f" ({kind})" if (kind := speech_kind(test.corpus)) else ""
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
    retrieved = [test for test in tests if test.is_retrieval]
    if classified:
        parts += ["## Classification", markdown_table(*_detail_rows(runs, classified))]
        reference = _reference_rows(runs, classified)
        if reference[1]:
            parts += ["## Supervised reference", PROBE_NOTE, markdown_table(*reference)]
    if retrieved:
        parts += ["## Retrieval", markdown_table(*_retrieval_rows(runs, retrieved))]
    parts += ["## Runs", markdown_table(*_run_rows(runs))]
    if cards:
        header = ["set", "corpus", "version", "licence", "speech"]
        rows = [[name, *card_facts(card, "–")] for name, card in sorted(cards.items())]
        parts += ["## Corpora", markdown_table(header, rows)]
    return "\n\n".join(parts) + "\n"


def card_facts(card: Card, unknown: str) -> list[str]:
    """Name, version, licence and kind of speech of a corpus."""
    known = (card.get(key) for key in ("name", "version", "licence"))
    return [str(value or unknown) for value in (*known, speech_kind(card))]


def _detail_rows(runs: Sequence[RunDir], tests: Sequence[Test]) -> Rows:
    header = ["test", "run", "top-1", "top-5", "macro-F1", "majority", "cosine to its text"]
    header += ["templates alone: min / mean / max", "protocol hash"]
    rows = []
    for test in tests:
        for number, folder in test.folders.items():
            s = folder.scores
            alone, cosine = s["templates"], s["cosine_to_text"]
            spread = " / ".join(percent(alone[key]) for key in ("min", "mean", "max"))
            rows.append(
                [
                    test.title,
                    runs[number].name,
                    f"{percent(s['top1'])} {interval(s['top1_interval'])}",
                    *(percent(s[key]) for key in ("top5", "macro_f1", "majority")),
                    f"{cosine['median']:.3f}" if cosine else "–",
                    f"{spread} ({len(alone['each'])})",
                    f"`{s['protocol']['hash'][:12]}`",
                ]
            )
    return header, rows


def _reference_rows(runs: Sequence[RunDir], tests: Sequence[Test]) -> Rows:
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


def _retrieval_rows(runs: Sequence[RunDir], tests: Sequence[Test]) -> Rows:
    header = ["test", "run", "direction", "n", "R@1", "R@5", "R@10", "median rank"]
    ways = {"speech_to_text": "speech → text", "text_to_speech": "text → speech"}
    rows = []
    for test in tests:
        for number, folder in test.folders.items():
            for key, name in ways.items():
                way = folder.scores[key]
                recalls = [percent(way[f"R@{k}"]) for k in (1, 5, 10)]
                row = [test.title, runs[number].name, name, str(way["n"]), *recalls]
                rows.append([*row, f"{way['median_rank']:g}"])
    return header, rows


def _run_rows(runs: Sequence[RunDir]) -> Rows:
    header = ["run", "loss", "seed", "epochs", "versions", "command"]
    rows = []
    for run in runs:
        loss, seed = str(run.hparams.get("loss", "–")), "–" if run.seed is None else str(run.seed)
        command = f"`{run.command}`" if run.command else "–"
        epochs, versions = str(len(run.epochs) or "–"), ", ".join(run.versions) or "–"
        rows.append([run.name, loss, seed, epochs, versions, command])
    return header, rows


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
