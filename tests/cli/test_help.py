"""What a user meets first is quick: the package's import and every verb's --help."""

import json
import os
import subprocess
import sys

import pytest

from speechcwcl.cli.main import VERBS

HEAVY = {"torch", "transformers", "speechbrain", "datasets", "pandas", "sklearn", "gradio"}
HEAVY |= {"scipy", "matplotlib", "onnxruntime"}
_RUN = """
import json, resource, sys
begun = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
{code}
used = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
found = [name for name in {heavy} if name in sys.modules]
print(json.dumps({{"all": used, "own": used - begun, "heavy": found}}), file=sys.stderr)
"""


def measured(code):
    """Processor seconds of an interpreter that runs `code`, and the heavy packages in it."""
    script = _RUN.format(code=code, heavy=sorted(HEAVY))
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True,
        env={**os.environ, "COLUMNS": "100"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads(done.stderr.splitlines()[-1])


@pytest.mark.parametrize("words", [["--help"], *([verb, "--help"] for verb in VERBS)], ids=" ".join)
def test_help_is_quick_and_imports_nothing_heavy(words):
    code = f"from speechcwcl.cli.main import main\ntry: main({words!r})\nexcept SystemExit: pass"
    text, found = measured(code)
    assert found["heavy"] == [], words
    assert text.startswith(f"usage: speechcwcl {words[0] if len(words) > 1 else ''}".rstrip())
    assert found["all"] < 0.5, found


def test_importing_the_package_is_quick():
    _, found = measured("import speechcwcl; assert speechcwcl.load and speechcwcl.train")
    assert found["heavy"] == [] and found["own"] < 0.1, found
