"""Put a trained model into one folder to share: safetensors, plain JSON, label texts, model card.

Opening the folder (`Aligner.from_pretrained`) runs no code of it. The label texts are those of the
protocols that the run was scored under; `speechcwcl classify --protocol NAME` finds them in the
folder. The card is made from the run: results, corpora with their licences, command, versions,
citation.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from speechcwcl.errors import UserError
from speechcwcl.files import read_json, read_text, refuse_foreign
from speechcwcl.models.weights.catalogue import SOURCES

if TYPE_CHECKING:
    from speechcwcl.models.aligner import Aligner


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("expdir", type=Path, help="experiment folder")
    parser.add_argument("--out", type=Path, help="the folder to write; left out: EXPDIR/packed")
    parser.add_argument("--model", type=Path, help="a model folder; left out: EXPDIR/model")
    parser.add_argument(
        "--results", type=Path, help="a RESULTS.md for the card; left out: the run's own scores"
    )
    parser.add_argument(
        "--dumpdir", type=Path, default=Path("dump"), help="where the sets' corpus.json are"
    )
    parser.add_argument(
        "--licence", default="other", help="of the trained weights, as model hubs write it"
    )
    parser.add_argument("--push_to_hub", metavar="REPO", help="upload the folder to this hub repo")
    parser.add_argument(
        "--with_towers",
        action="store_true",
        help="put the frozen encoders in too, so that nothing is fetched",
    )


def run(args: argparse.Namespace) -> int:
    from speechcwcl.export.hub import push
    from speechcwcl.models.aligner import Aligner
    from speechcwcl.models.checkpoint import ours
    from speechcwcl.report.build import corpus_cards
    from speechcwcl.report.card import model_card, open_scored, protocols_of

    source = args.model or args.expdir / "model"
    if not args.model and not source.is_dir():
        raise UserError(f"{source}: no model there; train and average first (stages 5, 6)")
    aligner = Aligner.from_pretrained(source)
    out = args.out or args.expdir / "packed"
    if out.resolve() in (source.resolve(), *source.resolve().parents):
        raise UserError(f"{out}: packing there would overwrite the model itself; choose another")
    refuse_foreign(out, ours)  # before the card is made
    hparams = _read_or_empty(args.expdir / "hparams.json")
    results = read_text(args.results) if args.results else ""
    scored = open_scored(args.expdir)
    card = model_card(
        args.expdir.resolve().name,
        _encoders(aligner),
        _read_or_empty(args.expdir / "env.json"),
        hparams,
        run=scored,
        cards=corpus_cards([scored] if scored else [], args.dumpdir),
        results=results,
        repo=args.push_to_hub,
        licence=args.licence,
        towers=args.with_towers,
    )
    aligner.save_pretrained(
        out,
        with_towers=args.with_towers,
        info={"hparams": hparams},
        protocols=protocols_of(scored),
        card=card,
    )
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    print(f"packed: {out} ({size / 1e6:.1f} MB)")
    if args.push_to_hub:
        print(f"uploaded: {push(out, args.push_to_hub)}")
    return 0


def _encoders(aligner: Aligner) -> list[tuple[str, str, str]]:
    sources = (
        ("speech", aligner.speech_encoder.source),
        ("text, frozen", aligner.text.info.source),
    )
    found = []
    for role, source in sources:
        known = SOURCES.get(source)
        same = f"{source} (the same as {known.hub_id})" if known else _named(source)
        found.append((role, same, known.licence if known else "see its owner"))
    return found


def _named(source: str) -> str:
    """A folder of this machine by its name, a hub id as it is."""
    return Path(source).name if Path(source).expanduser().is_dir() else source


def _read_or_empty(path: Path) -> dict:
    return read_json(path) if path.exists() else {}
