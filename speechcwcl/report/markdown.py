"""The tables: one line a test for the terminal, RESULTS.md, and a packed model with its card.

RESULTS.md has the runs and the corpora too; the card is the README.md that model hubs read.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, StrictUndefined

from speechcwcl.errors import UserError, first_line
from speechcwcl.evaluation.probe import PROBE_NOTE, probe_rows
from speechcwcl.evaluation.results import text_table
from speechcwcl.evaluation.spotting import WAYS
from speechcwcl.files import read_text, refuse_foreign
from speechcwcl.report.runs import (
    Card,
    RunDir,
    Test,
    corpus_cards,
    gather_tests,
    mteb_rows,
    open_runs,
)

if TYPE_CHECKING:
    from speechcwcl.models.aligner import Aligner

ASSETS = Path(__file__).parent / "assets"
Rows = tuple[list[str], list[list[str]]]  # header, rows


def percent(value: float | None, digits: int = 1) -> str:
    """`0.1234` -> `12.3 %`; None -> a dash."""
    return "–" if value is None else f"{100 * value:.{digits}f} %"


def interval(bounds: Sequence[float]) -> str:
    """`[0.1, 0.2]` -> `[10.0, 20.0]`, in percent."""
    return f"[{100 * bounds[0]:.1f}, {100 * bounds[1]:.1f}]"


def speech_kind(card: Card) -> str:
    """`synthetic speech`, `recorded speech`, or an empty string where the card is silent."""
    synthetic = card.get("synthetic_speech")
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
    """`summary_rows` as aligned text for a terminal."""
    opened = open_runs(runs)
    header, rows = summary_rows(opened, gather_tests(opened))
    for name, word in sorted({key for run in opened for key in run.spotting}):
        found = [run.spotting.get((name, word)) for run in opened]
        shown = ["–" if s is None else percent(s["together"]["recall"][0]["recall"]) for s in found]
        rows.append([f"{name}: {word}, recall at 0.5 false alarms an hour", *[""] * 4, *shown])
    rows += [[f"mteb: {row[0]}", row[1], "", "", "", *row[3:]] for row in mteb_rows(opened)]
    rule = ["-" * max(map(len, column)) for column in zip(header, *rows, strict=True)]
    return text_table([header, rule, *rows], numbers_from=1)


def results_markdown(
    runs: Sequence[RunDir],
    tests: Sequence[Test],
    cards: dict[str, Card],
    title: str,
    *,
    whole: bool = True,
) -> str:
    """The text of RESULTS.md; without the runs when not `whole`."""
    header, rows = summary_rows(runs, tests)
    for test, row in zip(tests, rows, strict=True):
        row[0] += f" ({kind})" if (kind := speech_kind(test.corpus)) else ""
    environment = template_environment()
    template = environment.from_string(read_text(ASSETS / "RESULTS.md"))
    classified = [test for test in tests if not test.is_retrieval]
    return template.render(
        title=title,
        runs=runs,
        tests=tests,
        summary=(header, rows),
        classified=classified,
        reference=_reference_rows(runs, classified),
        retrieved=[test for test in tests if test.is_retrieval],
        spotted=[
            (" · ".join(key), spotting_rows(runs, key))
            for key in sorted({key for run in runs for key in run.spotting})
        ],
        probe_note=PROBE_NOTE,
        cards=sorted(cards.items()),
        mteb=mteb_rows(runs),
        whole=whole,
    )


def spotting_rows(runs: Sequence[RunDir], key: tuple[str, str]) -> Rows:
    """Recall at false alarms an hour of one (set, protocol), a row a run and way."""
    header: list[str] = []
    rows = []
    for run in runs:
        scores = run.spotting.get(key, {})
        for way in (way for way in WAYS if way in scores):
            recall = scores[way]["recall"]
            header = [
                "run",
                "labels",
                *(f"recall at {one['per_hour']:g} an hour" for one in recall),
            ]
            cells = [f"{percent(one['recall'])} {interval(one['interval'])}" for one in recall]
            rows.append([run.name, WAYS[way], *cells])
    return header, rows


def template_environment(**options: Any) -> Environment:
    """What the templates of the page and of RESULTS.md share."""
    environment = Environment(
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        **options,
    )
    environment.filters.update(pct=percent, interval=interval, kind=speech_kind)
    environment.filters.update(cell=_cell, facts=card_facts)
    environment.globals.update(table=markdown_table)
    return environment


def card_facts(card: Card, unknown: str) -> list[str]:
    """Name, version, licence and kind of speech of a corpus."""
    known = (card.get(key) for key in ("name", "version", "licence"))
    return [str(value or unknown) for value in (*known, speech_kind(card))]


def _reference_rows(runs: Sequence[RunDir], tests: Sequence[Test]) -> Rows | None:
    header: list[str] = []
    rows = []
    for test in tests:
        for number, folder in test.folders.items():
            if folder.probe:
                names, found = probe_rows(folder.probe)
                header = ["test", "run", "trained on", *names]
                where = [test.title, runs[number].name, folder.probe["train_set"]]
                rows += [[*where, *row] for row in found]
    return (header, rows) if rows else None


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; no cell can break out of it."""
    lines = ["| " + " | ".join(map(_cell, header)) + " |", "|" + "---|" * len(header)]
    lines += ["| " + " | ".join(map(_cell, row)) + " |" for row in rows]
    return "\n".join(lines)


def _cell(text: object) -> str:
    """Text that cannot break out of a Markdown table or become markup; `code` stays code."""
    text = " ".join(str(text).split())
    if len(text) > 2 and text[0] == text[-1] == "`":
        return "`" + text[1:-1].replace("`", "'").replace("|", "\\|") + "`"
    for character in "\\|<*`":
        text = text.replace(character, "\\" + character)
    return text.replace("](", "]\\(")


# -- a model to share ----------------------------------------------------------------------------

_DESCRIBED = ("description", "hash", "labels", "templates")  # of a protocol, for who opens it


@dataclass(frozen=True)
class Sharing:
    """How a model is shared."""

    licence: str = "other"  # of the trained weights, as model hubs write it
    repo: str | None = None  # the hub repository that it goes to, if any
    with_towers: bool = False  # put the frozen encoders in too
    results: Path | None = None  # a RESULTS.md to show instead of the run's own results


def pack_model(
    expdir: Path, out: Path, dumpdir: Path, sharing: Sharing, model: Path | None = None
) -> float:
    """Write a model, the label texts of the protocols it was scored under, and the card.

    Raises:
        UserError: no model, or `out` is the model itself or holds files that are not ours.
    """
    from speechcwcl.models.aligner import Aligner
    from speechcwcl.models.folders import ours

    source = model or expdir / "model"
    if not model and not source.is_dir():
        raise UserError(f"{source}: no model there; train and average first (stages 5, 6)")
    aligner = Aligner.from_pretrained(source)
    if out.resolve() in (source.resolve(), *source.resolve().parents):
        raise UserError(f"{out}: packing there would overwrite the model itself; choose another")
    refuse_foreign(out, ours)  # before the card is made
    run = RunDir.open(expdir, must_be_scored=False)
    described = [f.scores["protocol"] for f in run.scores.values() if not f.is_retrieval]
    aligner.save_pretrained(
        out,
        with_towers=sharing.with_towers,
        info={"hparams": run.hparams},
        protocols={
            protocol["name"]: {key: protocol[key] for key in _DESCRIBED} for protocol in described
        },
        card=model_card(run, _encoders(aligner), corpus_cards([run], dumpdir), sharing),
    )
    return sum(path.stat().st_size for path in out.rglob("*") if path.is_file())


def _encoders(aligner: Aligner) -> list[list[str]]:
    """Role, source and licence of each."""
    from speechcwcl.models.weights.catalogue import SOURCES

    rows = []
    for role, source in (
        ("speech", aligner.speech_encoder.source),
        ("text, frozen", aligner.text.info.source),
    ):
        if known := SOURCES.get(source):
            rows.append([role, f"{source} (the same as {known.hub_id})", known.licence])
        else:  # a folder of this machine by its name, a hub id as it is
            is_folder = Path(source).expanduser().is_dir()
            rows.append([role, Path(source).name if is_folder else source, "see its owner"])
    return rows


def model_card(
    run: RunDir, encoders: list[list[str]], cards: Mapping[str, Card], sharing: Sharing
) -> str:
    """The text of README.md.

    Args:
        cards: set -> corpus card; those of sets that the run trained, chose or tested on are shown.
    """
    facts = [
        ["loss", f"`{json.dumps(run.hparams.get('loss', 'unknown'))}`"],
        ["seed", str(run.hparams.get("seed", "unknown"))],
        ["command", f"`{' '.join(map(_short, run.words)) or 'unknown'}`"],
        ["versions", ", ".join(run.versions) or "unknown"],
    ]
    fetched = "; the two encoders are fetched by name and checked by hash"
    return read_text(ASSETS / "card.md").format(
        name=run.name,
        repo=sharing.repo or "path/to/this/folder",
        licence=sharing.licence,
        fetched="" if sharing.with_towers else fetched,
        encoders=markdown_table(["encoder", "source", "licence"], encoders),
        facts=markdown_table(["", ""], facts),
        corpora=_corpora(run, cards),
        results=_results(run, sharing.results),
    )


def _short(word: str) -> str:
    """A path of the machine it was made on tells more than it should: its end is enough."""
    path = Path(word)
    return "/".join(path.parts[-2:]) if path.is_absolute() else word


def _corpora(run: RunDir, cards: Mapping[str, Card]) -> str:
    roles: dict[str, str] = {}
    for option, role in (("--train", "training"), ("--valid", "choosing the epoch")):
        for word in _values(run.words, option):
            of_file = word.endswith((".jsonl", ".json"))  # a manifest, a stream
            name = Path(word).parent.name if of_file else word.rpartition(":")[0]
            roles.setdefault(name, role)
    for name, _ in run.scores:
        roles.setdefault(name, "test")
    if not roles:
        return ""
    rows = [
        [name, role, *card_facts(cards.get(name, {}), "unknown")] for name, role in roles.items()
    ]
    header = ["set", "used for", "corpus", "version", "licence", "speech"]
    return (
        f"## Corpora\n\n{markdown_table(header, rows)}\n\n"
        "The licences of the corpora and of the two encoders apply to the weights.\n"
    )


def _values(command: list[str], option: str) -> list[str]:
    """The words behind an option, up to the next one."""
    found: list[str] = []
    inside = False
    for word in command:
        inside = word == option or (inside and not word.startswith("--"))
        if inside and word != option:
            found.append(word)
    return found


def _results(run: RunDir, given: Path | None) -> str:
    if given:
        text = read_text(given)
    elif run.scores:
        # how it was made is told above
        text = results_markdown([run], gather_tests([run]), {}, "Results", whole=False)
    else:
        return "## Results\n\nNothing was scored when this was packed.\n"
    lines = text.strip().split("\n")
    return "\n".join(f"#{line}" if line.startswith("#") else line for line in lines) + "\n"


def push(folder: Path, repo: str) -> str:
    """Upload a packed folder; the token is the one of `hf auth login`.

    Raises:
        UserError: no token, no permission, no network, not the name of a repository.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError

    api = HfApi()
    hint = "check the network, and log in with `hf auth login`"
    try:
        api.create_repo(repo, exist_ok=True)
        message = "Packed with speechcwcl"
        return str(api.upload_folder(repo_id=repo, folder_path=folder, commit_message=message))
    except HFValidationError as error:
        raise UserError(f"{repo}: not the name of a hub repository (owner/name)") from error
    except Exception as error:  # its HTTP client, and so the errors, change between versions
        why = first_line(error)
        raise UserError(f"{repo}: cannot upload: {why}; {hint}") from error
