"""Package metadata; the only place where versions are pinned."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+?)"', (ROOT / "speechcwcl/__init__.py").read_text()).group(
    1
)

# torchaudio 2.11 is the last release and its binary fits torch 2.11 only: a torch built for another
# CUDA version makes `import torchaudio`, and with it speechbrain, fail.
REQUIRES = [
    "torch>=2.11,<2.12",
    "torchaudio>=2.11,<2.12",
    "speechbrain>=1.1.2,<1.2",
    "transformers>=5.17,<6",
    "datasets>=5,<6",
    "soundfile>=0.13.1",
    "sentencepiece>=0.2",
    "safetensors>=0.5",
    "filelock>=3.12",
    "numpy>=1.26",
    "scipy>=1.11",
    "scikit-learn>=1.4",
    "pydantic>=2.7,<3",
    "matplotlib>=3.8",
    "jinja2>=3.1",
    "tqdm>=4.66",
    "braceexpand>=0.1.7",
    "packaging>=23",
    "pyyaml>=6",
]
EXTRAS = {
    "demo": [],
    "lora": ["peft>=0.17"],
    "tensorboard": ["tensorboard>=2.15"],
    "web": ["gradio>=6,<7"],  # the page of `speechcwcl demo`
    "mic": ["sounddevice>=0.5"],  # `speechcwcl listen` from a microphone
    "onnx": ["onnx>=1.17", "onnxruntime>=1.20", "onnxscript>=0.5"],
    "voices": ["onnxruntime>=1.17", "hibari-tts==0.2.1"],  # `--spoken`, and to make the mini corpus
    # the site; mkdocs 2 will know neither theme nor plugins
    "docs": [
        "mkdocs>=1.6,<2",
        "ruff",
        "mkdocs-material>=9.5,<10",
        "mkdocstrings[python]>=1",
        "mkdocstrings-python>=2",
    ],
    "service": [
        "fastapi>=0.110",
        "python-multipart>=0.0.9",
        "uvicorn>=0.29",
    ],  # examples/service.py
    # the field's harness, and audio models of sentence-transformers
    "mteb": ["mteb>=2.26,<3; python_version >= '3.11'", "sentence-transformers>=6"],
    "bench": [
        "open_clip_torch>=2.30",
        "sentence-transformers>=5",
        "accelerate>=1",
        "webdataset>=1",
    ],
}
EXTRAS["all"] = sorted(
    {
        line
        for name in ("lora", "tensorboard", "web", "mic", "onnx", "voices")
        for line in EXTRAS[name]
    }
)
EXTRAS["test"] = [
    *EXTRAS["all"],
    *EXTRAS["docs"],
    *EXTRAS["service"],
    *EXTRAS["mteb"],
    "httpx>=0.27",
    "ipykernel>=6",
    "nbclient>=0.10",
    "webdataset>=1",
    "pytest>=8",
    "pytest-xdist>=3.6",
    "hypothesis>=6.100",
    "ruff==0.17.6",
    "mypy==2.4.1",
    "types-PyYAML",
    "types-tqdm",
    "types-requests",
]

setup(
    name="speechcwcl",
    version=VERSION,
    description="Align a trainable speech encoder to a frozen text encoder (CWCL), then classify "
    "speech zero-shot",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=["speechcwcl", "speechcwcl.*"]),
    package_data={
        "speechcwcl": [
            "py.typed",
            "assets/*/*",
            "**/*.yaml",
            "**/*.html",
            "**/assets/*.md",
            "**/*.css",
            "**/*.js",
            "**/*.tsv",
        ]
    },
    install_requires=REQUIRES,
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["speechcwcl = speechcwcl.cli.main:main"]},
    classifiers=[
        "License :: OSI Approved :: Apache Software License",
        "Programming Language :: Python :: 3.10",
        "Topic :: Multimedia :: Sound/Audio :: Speech",
    ],
)
