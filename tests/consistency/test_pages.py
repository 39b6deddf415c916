"""What README and site say: links lead somewhere, figures stand where they were measured."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "docs"))
import boxed_model  # noqa: E402
import draw_front  # noqa: E402
import draw_losses  # noqa: E402

README = ROOT / "README.md"
MEASURED = (
    "egs/mini/cwcl1/RESULTS.md",
    "egs/release/cwcl1/RESULTS.md",
    "tools/benchmarks/README.md",
    "recipes/cwcl/README.md",
    "recipes/cwcl/ablation/RESULTS.md",
    "recipes/probe/README.md",
    "docs/mteb.md",  # its table is written by a tool
)
PAGES = sorted((ROOT / "docs").glob("*.md"))


def text_of(path):
    return path.read_text(encoding="utf-8")


def prose(text):
    """The words of a page without its tables, code, comments and the targets of its links."""
    text = re.sub(r"```.*?```|<!--.*?-->|`[^`\n]*`", " ", text, flags=re.S)
    text = re.sub(r"!\[([^]]*)\]\([^)]*\)|\[([^]]*)\]\([^)]*\)", r"\1\2", text)
    return "\n".join(line for line in text.splitlines() if not line.startswith("|"))


def tables(text):
    """Every table of a page: {(first cell of the row, name of the column): cell}."""
    for block in re.findall(r"(?:^\|.*\n)+", text + "\n", re.M):
        header, _, *rows = [[c.strip() for c in r.strip("|").split("|")] for r in block.split("\n")]
        yield {
            (row[0], name): cell
            for row in rows
            for name, cell in zip(header[1:], row[1:], strict=False)
        }


def table_with(path, column):
    return next(t for t in tables(text_of(path)) if any(name == column for _, name in t))


def test_the_readme_is_short_and_in_words():
    assert len(text_of(README).splitlines()) <= 120
    words = re.findall(r"[^\s]+", prose(text_of(README)))
    numbers = [word for word in words if re.search(r"\d", word)]
    assert len(numbers) / len(words) <= 0.025, numbers


def test_the_readme_table_of_the_demo_is_in_its_results():
    shown = table_with(README, "CWCL")
    rows = {"command words": "words", "intents, unseen sentences": "intents"}
    rows["retrieval among sentences, R@1"] = "sentences"
    found = table_with(ROOT / MEASURED[0], "text bound")
    columns = {"n": "n", "classes": "classes", "text bound": "text bound", "CWCL": "cwcl"}
    columns["CLIP"] = "clip"
    assert len(shown) == len(rows) * len(columns)
    for (row, column), cell in shown.items():
        theirs = [v for (r, c), v in found.items() if rows[row] in r and c == columns[column]]
        assert theirs == [cell], (row, column)


@pytest.mark.parametrize("page", boxed_model.PAGES, ids=lambda page: page.name)
def test_the_figures_of_the_boxed_model_are_in_its_results(page):
    shown = boxed_model.TABLE.findall(text_of(page))
    assert shown == [boxed_model.table()], "run: python docs/boxed_model.py"


def test_the_first_block_prints_what_stands_below_it():
    answer = boxed_model.answer(text_of(README))
    for page in boxed_model.PAGES:
        shown = boxed_model.BLOCK.search(text_of(page))[2]
        words, scores = zip(*(line.rsplit(" ", 1) for line in shown.splitlines()), strict=True)
        found = [line.rsplit(" ", 1) for line in answer.splitlines()]
        assert [word for word, _ in found] == list(words), "run: python docs/boxed_model.py"
        assert [float(x) for _, x in found] == pytest.approx([float(x) for x in scores], abs=0.02)


def test_the_readme_table_of_the_cascade_is_in_the_benchmarks():
    shown = table_with(README, "clips/s")
    page = ROOT / "tools/benchmarks/README.md"
    speed, right = table_with(page, "1 s, 1 thread"), table_with(page, "ours, ONNX int8")
    names = {"speechcwcl, ONNX int8": "ours, ONNX int8"}
    names["Whisper tiny.en + MiniLM"] = "Whisper tiny.en + MiniLM"
    sets = {"35 words, synthetic": "35 words, synthetic speech"}
    sets |= {"35 intents, synthetic": "35 intents, synthetic speech"}
    sets |= {"10 digits, real": "10 digits, real (FSDD)"}
    sets |= {"30 words, real": "30 words, real (Speech Commands)"}
    assert {row for row, _ in shown} == set(names)
    for (row, column), cell in shown.items():
        if column == "clips/s":
            assert speed[names[row], "1 s, 1 thread"].split()[0] == cell
        else:
            there = re.sub(r" \[.*?\]", "", right[sets[column], names[row]])
            assert there == cell.replace("*", ""), (row, column)


@pytest.mark.parametrize("page", [README, *PAGES], ids=lambda page: page.name)
def test_figures_of_a_page_were_measured(page):
    measured = set()
    for name in MEASURED:
        measured |= set(re.findall(r"(?<![\w.])\d+\.\d+(?![\w.])", text_of(ROOT / name)))
    bare = re.sub(r"```.*?```|`[^`\n]*`|\]\([^)]*\)", " ", text_of(page), flags=re.S)
    bare = re.sub(r"arXiv \d+\.\d+|version \d+\.\d+|\$.*?\$", " ", bare, flags=re.S)
    shown = set(re.findall(r"(?<![\w.])\d+\.\d+(?![\w.])", bare))
    assert shown <= measured, f"{page.name}: {sorted(shown - measured)} stand in no results"


def test_the_ablation_page_prints_what_its_results_hold():
    page, results = ROOT / "recipes/cwcl/README.md", ROOT / "recipes/cwcl/ablation/RESULTS.md"
    means = re.compile(r"\d+\.\d ± \d+\.\d")
    assert len(means.findall(text_of(page))) > 100
    assert set(means.findall(text_of(page))) <= set(means.findall(text_of(results)))
    rows = {"`loss: cwcl_matched`": "cwcl_matched (default)", "`loss: cwcl`": "cwcl, the paper's"}
    rows["`loss: clip`"] = "clip, learned scale"
    columns = zip(("SLURP intents", "TOPv2 intents", "R@1 of 800", "real words"),
                  draw_losses.TESTS, strict=True)  # fmt: skip
    shown, drawn = table_with(page, "R@1 of 800"), draw_losses.measured()
    for column, test in columns:
        for row, loss in rows.items():
            assert shown[row, column] == "{} ± {}".format(*drawn[loss][test]), (row, column)


def test_pictures_are_light(tmp_path):
    for script in (draw_losses, draw_front):
        script.draw(tmp_path / "picture.png")
        assert (tmp_path / "picture.png").stat().st_size > 10_000
    assert {len(cells) for cells in draw_front.measured().values()} == {8}
    sizes = {path.name: path.stat().st_size for path in (ROOT / "docs/pictures").iterdir()}
    assert max(sizes.values()) < 100_000, sizes


def test_drawings_are_as_their_scripts_make_them(tmp_path):
    for name in ("towers", "house"):
        made = tmp_path / f"{name}.svg"
        script = ROOT / f"docs/draw_{name}.py"
        subprocess.run([sys.executable, str(script), "--out", str(made)], check=True)
        assert text_of(made) == text_of(ROOT / f"docs/{name}.svg")


def test_the_page_of_encoders_names_all_that_there_are():
    from speechcwcl.models.encoders.families import FAMILIES
    from speechcwcl.models.weights.catalogue import ELSEWHERE, SOURCES

    page = text_of(ROOT / "docs/encoders.md")
    ours = [name for name, found in FAMILIES.items() if isinstance(found, str)]
    names = [*SOURCES, *ELSEWHERE, *ours]
    assert [n for n in names if f"`{n}`" not in page] == ["whisper-tiny.en-tokenizer"]


def test_anchors_of_links_exist():
    broken = []
    for path in [README, *PAGES]:
        for target, anchor in re.findall(r"\]\(([^)#\s:]*)#([\w-]+)\)", text_of(path)):
            page = path.parent / target if target else path
            heads = re.findall(r"^#+ (.+)$", text_of(page), re.M)
            slugs = {re.sub(r"[^\w -]", "", head).lower().replace(" ", "-") for head in heads}
            if anchor not in slugs:
                broken.append(f"{path.name}: {target}#{anchor}")
    assert not broken


def test_what_begins_with_an_interpreter_can_be_called():
    places = (
        p for f in ("docs", "egs", "examples", "recipes", "tools") for p in (ROOT / f).rglob("*")
    )
    scripts = [p for p in places if p.suffix in (".py", ".sh") and p.read_bytes()[:2] == b"#!"]
    assert len(scripts) > 40
    assert [str(p.relative_to(ROOT)) for p in scripts if not os.access(p, os.X_OK)] == []
