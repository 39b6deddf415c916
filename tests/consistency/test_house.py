"""The house rules that a machine can check."""

import ast
import graphlib
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "speechcwcl"

# The plan is 17,500 lines and 120 files; until it is reached, the house must not grow again.
MOST_LINES, MOST_FILES = 26_833, 132

# who may import whom, top to bottom; errors and files are everybody's
ALLOWED = {
    "cli": {
        "apps",
        "export",
        "cache",
        "training",
        "evaluation",
        "report",
        "zeroshot",
        "models",
        "losses",
        "data",
        "corpora",
        "integrations",
    },
    "training": {"evaluation", "cache", "models", "losses", "zeroshot", "data"},
    "report": {"evaluation", "models", "zeroshot", "data"},
    "evaluation": {"cache", "models", "zeroshot", "data"},
    "export": {"models", "zeroshot", "data"},
    "cache": {"models", "data"},
    "models": {"zeroshot", "data"},
    "corpora": {"data"},
    "integrations": {"cache", "models", "zeroshot", "data"},
    "apps": {"cache", "export", "models", "report", "evaluation", "zeroshot", "data"},
    "zeroshot": {"data"},
    "losses": set(),
    "data": set(),
}
EVERYBODYS = {"assets", "errors", "files", "jsons", "stages", "yamls"}


def tracked(pattern):
    names = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", pattern],
        cwd=ROOT, capture_output=True, text=True,
    ).stdout.split()  # fmt: skip
    return [ROOT / name for name in names if (ROOT / name).is_file()]


def imports_of(path):
    """Every module that a file imports when it runs, at any depth of its code."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for_types = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if node in for_types:
            continue
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def test_the_house_does_not_grow(capsys):
    rooms = {}
    for module, path in MODULES.items():
        room = (module.split(".") + [""])[1]
        files, lines = rooms.get(room, (0, 0))
        count = len(path.read_text(encoding="utf-8").splitlines())
        rooms[room] = (files + 1, lines + count)
    files, lines = (sum(figures) for figures in zip(*rooms.values(), strict=True))
    with capsys.disabled():
        print(f"\nspeechcwcl/: {lines:,} lines in {files} Python files")
        for room, (of_files, of_lines) in sorted(rooms.items(), key=lambda item: -item[1][1]):
            print(f"  {room:12} {of_lines:6,} lines {of_files:4} files")
    assert lines <= MOST_LINES and files <= MOST_FILES


def test_no_file_imports_itself_by_a_circle():
    graph = {
        module: {name for name in imports_of(path) if name in MODULES} - {module, "speechcwcl"}
        for module, path in MODULES.items()
    }
    for package in [name for name, path in MODULES.items() if path.name == "__init__.py"]:
        for module in graph:  # files of a package name their neighbours through the package
            if module.startswith(package + "."):
                graph[module].discard(package)
    list(graphlib.TopologicalSorter(graph).static_order())  # CycleError names the circle


@pytest.mark.parametrize("room", sorted(ALLOWED))
def test_imports_go_downwards_only(room):
    wrong = []
    for path in (PACKAGE / room).rglob("*.py"):
        for module in imports_of(path):
            parts = module.split(".")
            if module in MODULES and len(parts) > 1:
                target = parts[1]
                if target != room and target not in ALLOWED[room] | EVERYBODYS:
                    wrong.append(f"{path.relative_to(ROOT)} imports {module}")
    assert not wrong


def test_losses_know_torch_only():
    known = {"torch", "numpy", "speechcwcl", "__future__"}
    standard = set(__import__("sys").stdlib_module_names)
    for path in (PACKAGE / "losses").rglob("*.py"):
        assert {m.split(".")[0] for m in imports_of(path)} <= known | standard, path


def test_one_room_alone_decodes_audio():
    decoding = re.compile(r"soundfile\.read|SoundFile\(|torchaudio\.load|librosa")
    users = [
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if decoding.search(path.read_text(encoding="utf-8"))
    ]
    assert "data/audio/opening.py" in users
    assert all(name.startswith("data/audio/") for name in users), users


def test_files_and_functions_stay_readable():
    long = []
    for path in tracked("*.py"):
        text = path.read_text(encoding="utf-8")
        if len(text.splitlines()) > 400:
            long.append(f"{path.relative_to(ROOT)}: {len(text.splitlines())} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno + 1 > 60:
                long.append(f"{path.relative_to(ROOT)}:{node.lineno}: {node.name}")
    assert not long


def test_no_unsafe_loading():
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert "trust_remote_code=True" not in text and "import pickle" not in text, path
        for call in re.findall(r"torch\.load\([^)]*\)", text):
            assert "weights_only=True" in call, f"{path}: {call}"


def test_docstrings_speak_one_dialect():
    """Google sections and Markdown: no roles, no double backticks, no fields of Sphinx."""
    sphinx = re.compile(
        r":(?:func|class|meth|mod|data|attr|exc):`|``|^\s*:(?:param|return)|::$|Example:\n\s*>>>",
        re.M,
    )
    wrong = []
    for path in tracked("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                found = sphinx.search(ast.get_docstring(node) or "")
                if found and "```" not in (ast.get_docstring(node) or ""):
                    where = getattr(node, "lineno", 1)
                    wrong.append(f"{path.relative_to(ROOT)}:{where}: {found[0].strip()}")
    assert not wrong


def test_links_in_markdown_lead_somewhere():
    broken = []
    for path in tracked("*.md"):
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", path.read_text(encoding="utf-8")):
            if not re.match(r"[a-z]+:", target) and not (path.parent / target).exists():
                broken.append(f"{path.relative_to(ROOT)}: {target}")
    assert not broken


def test_every_script_is_sound_shell():
    for path in tracked("*.sh"):
        assert subprocess.run(["bash", "-n", str(path)]).returncode == 0, path


def test_shell_computes_nothing():
    for path in tracked("egs/*.sh"):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"(^|[;|&(]\s*)(eval|awk|sed|bc)\s|python3? -c", text, re.M), path
