"""Put a trained model into one folder to share: safetensors, plain JSON, a model card.

Opening the folder (`Aligner.from_pretrained`) runs no code of it. The card is made from the run:
results, configuration, command, versions, licence, citation.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from speechcwcl.errors import UserError
from speechcwcl.files import atomic_write, read_json, read_text
from speechcwcl.models.aligner import Aligner

CARD = """\
---
library_name: speechcwcl
pipeline_tag: zero-shot-audio-classification
license: apache-2.0
tags: [speech, zero-shot, cwcl]
---
# {name}

A speech encoder aligned to a frozen text encoder with speechcwcl. Any label that can be written in
words classifies speech with no further training:

```python
from speechcwcl.models.aligner import Aligner

model = Aligner.from_pretrained("{name}")
model.classify(["clip.wav"], ["turn on the light", "play music"])
```

| | |
|---|---|
| speech encoder | {speech} |
| text encoder (frozen) | {text} |
| loss | `{loss}` |
| command | `{command}` |
| versions | {versions} |

The licences of the two encoders and of the training corpora apply to the weights.

{results}

## Citation
CWCL: Cross-Modal Transfer with Continuously Weighted Contrastive Loss, NeurIPS 2023,
[arXiv 2309.14580](https://arxiv.org/abs/2309.14580).
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("expdir", type=Path, help="experiment folder")
    parser.add_argument("--out", type=Path, help="the folder to write; left out: EXPDIR/packed")
    parser.add_argument("--model", type=Path, help="a model folder; left out: EXPDIR/model")
    parser.add_argument("--results", type=Path, help="a RESULTS.md to put into the model card")
    parser.add_argument("--push_to_hub", metavar="REPO", help="upload the folder to this hub repo")
    parser.add_argument(
        "--with_towers",
        action="store_true",
        help="put the frozen encoders in too, so that nothing is fetched",
    )


def run(args: argparse.Namespace) -> int:
    aligner = Aligner.from_pretrained(args.model or args.expdir / "model")
    out = args.out or args.expdir / "packed"
    hparams = _read_or_empty(args.expdir / "hparams.json")
    aligner.save_pretrained(out, with_towers=args.with_towers, info={"hparams": hparams})
    with atomic_write(out / "README.md") as stream:
        stream.write(model_card(aligner, args.expdir, args.results))
    print(f"packed: {out}")
    if args.push_to_hub:
        print(f"uploaded: {push(out, args.push_to_hub)}")
    return 0


def model_card(aligner: Aligner, expdir: Path, results: Path | None) -> str:
    """The README.md of a packed model."""
    hparams = _read_or_empty(expdir / "hparams.json")
    env = _read_or_empty(expdir / "env.json")
    versions = ", ".join(f"{name} {number}" for name, number in env.get("versions", {}).items())
    return CARD.format(
        name=expdir.resolve().name,
        speech=aligner.speech_encoder.source,
        text=aligner.text_info.source,
        loss=json.dumps(hparams.get("loss", "unknown")),
        command=" ".join(env.get("command", ["unknown"])),
        versions=versions or "unknown",
        results=read_text(results) if results else "",
    )


def _read_or_empty(path: Path) -> dict:
    return read_json(path) if path.exists() else {}


def push(folder: Path, repo: str) -> str:
    """Upload a packed folder; the token is the one of `hf auth login`.

    Raises:
        UserError: no token, no permission, no network.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    api = HfApi()
    try:
        api.create_repo(repo, exist_ok=True)
        return str(api.upload_folder(repo_id=repo, folder_path=folder))
    except (HfHubHTTPError, LocalTokenNotFoundError, OSError) as error:
        why = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise UserError(f"{repo}: cannot upload: {why}; log in with `hf auth login`") from error
