#!/usr/bin/env python3
"""Write recipes/README.md: which method on which corpus, by which command, with what result.

Methods are the YAML files of recipes/cwcl/hparams, corpora the folders of egs; the first line of
either says what it is. A result is what egs/<corpus>/cwcl1/RESULTS.md holds; what peers print, with
its source, is what recipes/peers.yaml holds.

Example:
    python tools/make_recipes_table.py --write
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

import yaml

from speechcwcl.files import atomic_write

ROOT = Path(__file__).resolve().parents[1]
HEAD = """\
# Recipes

This page is generated: `python tools/make_recipes_table.py --write`.

- `cwcl/`: train under CWCL, or CLIP, SigLIP, SupCon, cosine: `train.py`, `hparams/`, `ablation/`.
- `zeroshot/`: protocols, label wordings and their text upper bounds.
- `probe/`: the supervised reference: linear probe and few shots ([measured](probe/README.md)).

A method is a training YAML. A corpus is a folder of `egs/`. Any method runs on any corpus:

    egs/CORPUS/cwcl1/run.sh --train_config ../../../recipes/cwcl/hparams/METHOD.yaml

## Methods
| method | what |
|---|---|
"""

CORPORA = """
## Corpora, what each command scores, and what others print
`egs/CORPUS/cwcl1/run.sh` trains on a corpus, scores the sets of its row under the protocols named
with them, and writes `exp/RESULTS.md`. This scores a model that is there already: `en-tiny`, a
folder, or [a model of others](../docs/mteb.md#models-of-others):

    speechcwcl evaluate EXPDIR --model NAME --evals SET:PROTOCOL

*Not measured*: the corpus was not at hand here. Figures of peers come from other protocols,
often from training on the labels. Only those that could be read at their source are here.

| corpus | what its command scores | ours | what peers print |
|---|---|---|---|
"""


def first_line(path: Path) -> str:
    """The first line of a file without its comment sign."""
    return path.read_text(encoding="utf-8").splitlines()[0].lstrip("# ").strip()


def measured(folder: Path) -> str:
    """A link to the results, or that there are none."""
    results = folder / "RESULTS.md"
    if not results.exists() or "No result was measured here" in results.read_text("utf-8"):
        return "not measured"
    return f"[RESULTS.md](../{results.relative_to(ROOT).as_posix()})"


def scored(run: Path) -> str:
    """The sets and protocols that a recipe ends with."""
    found = re.search(r'--test_evals "([^"]*)"', run.read_text(encoding="utf-8"))
    return ", ".join(f"`{pair}`" for pair in found[1].split()) if found else "–"


def printed(rows: list[dict[str, str]] | None) -> str:
    """What peers print, each with its source."""
    return "; ".join(
        f"{row['figure']}: {row['model']} ([{row['by']}]({row['source']}))" for row in rows or []
    )


def build() -> str:
    """The page."""
    lines = [HEAD.rstrip("\n")]
    for path in sorted((ROOT / "recipes/cwcl/hparams").glob("*.yaml")):
        lines.append(f"| [{path.stem}](cwcl/hparams/{path.name}) | {first_line(path)} |")
    lines += [CORPORA.rstrip("\n")]
    peers = yaml.safe_load((ROOT / "recipes/peers.yaml").read_text(encoding="utf-8"))
    for run in sorted(ROOT.glob("egs/*/cwcl1/run.sh")):
        name = run.parent.parent.name
        if name != "TEMPLATE":
            cells = [f"[{name}](../egs/{name}/cwcl1/README.md)", scored(run), measured(run.parent)]
            lines.append(f"| {' | '.join([*cells, printed(peers.get(name)) or '–'])} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Print the page, or write it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true", help="write it instead of printing it")
    page = build()
    if parser.parse_args().write:
        with atomic_write(ROOT / "recipes/README.md") as stream:
            stream.write(page)
    else:
        print(page, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
