"""A trained model in one folder to share, with its model card: README.md as model hubs read it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from speechcwcl.errors import UserError, first_line
from speechcwcl.files import read_text, refuse_foreign
from speechcwcl.report.markdown import ASSETS, card_facts, markdown_table, results_markdown
from speechcwcl.report.runs import Card, RunDir, corpus_cards, gather_tests

if TYPE_CHECKING:
    from speechcwcl.models.aligner import Aligner

_DESCRIBED = ("description", "hash", "labels", "templates")  # of a protocol, for who opens it


@dataclass(frozen=True)
class Sharing:
    """How a model is shared."""

    licence: str = "other"  # of the trained weights, as model hubs write it
    repo: str | None = None  # the hub repository that it goes to, if any
    with_towers: bool = False  # put the frozen encoders in too
    results: Path | None = None  # a RESULTS.md to show instead of the run's own results


def pack(
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
