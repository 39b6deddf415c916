"""Names and locales that are not UTF-8: read, and written with a backslash where they must be."""

import os
import subprocess
import sys
from pathlib import Path

import files
import torch

from speechcwcl.models.aligner import Aligner

# All verbs in one process, which is as slow to start as each of them would be.
RUN = """
import sys
from speechcwcl.cli.main import main
model, clips, data, out = sys.argv[1:]
print(main(["classify", "--model", model, "--labels", "yes;no", clips]))
print(main(["classify", "--model", model, "--labels", "yes;n\\udce9", clips]))
print(main(["search", "build", clips, "--index", out + "/ix", "--model", model]))
print(main(["search", "query", out + "/ix", "--text", "yes"]))
print(main(["format", data, out + "/manifest.jsonl"]))
print(main(["search", "build", clips + "/\\udce9", "--index", out + "/ix2", "--model", model]))
print(main(["check", clips]))
"""
LOCALE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def test_names_and_locales_that_are_not_utf8(tmp_path, tiny_speech, tiny_text):
    torch.manual_seed(0)
    Aligner.build(tiny_speech, tiny_text, projection={"hidden": [16]}).save_pretrained(
        tmp_path / "model"
    )
    clips = os.fsencode(tmp_path / "clips")
    os.makedirs(clips + b"/\xe9")
    for name in (b"\xe9.wav", "\u20ac.wav".encode(), b"\xe9/1.wav"):
        path = Path(os.fsdecode(clips + b"/" + name))
        path.write_bytes(files.sound("wav", 300, 600))
    data = files.data_folder(text="a \u20ac\nb two\n")(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(tmp_path / "model"), clips, str(data), str(tmp_path)],
        capture_output=True, env={**os.environ, **LOCALE, "HF_HUB_OFFLINE": "1"}, timeout=300,
    )  # fmt: skip
    out, err = done.stdout.decode("latin-1"), done.stderr.decode("latin-1")
    codes = [line for line in out.splitlines() if line in "0123456789"]
    assert codes == ["0", "2", "0", "0", "0", "2", "2"], out + err
    assert "Traceback" not in err and out.count("\\udce9.wav") == 2, out + err
    assert "text 2 of 2 is not UTF-8: 'n\\udce9'; save or type it as UTF-8" in err
    assert "3 clips of 3 recordings: 3 new" in out
    assert "ix2/index.json: cannot write" in err and "not UTF-8; rename that file or folder" in err
    assert "\u20ac" in (tmp_path / "manifest.jsonl").read_text("utf-8")
