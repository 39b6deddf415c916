#!/usr/bin/env python3
"""Train on WebDataset shards that stay where they are, on the disk or the web.

  python examples/stream.py "https://host/train-{000000..000999}.tar" --work work --steps 1000

A sample of a shard is an audio file and a `.txt` of the same name. Nothing of the audio is
written to the disk, and a run that was interrupted goes on at its place in the stream.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import speechcwcl
from speechcwcl.data.stream_spec import StreamSpec, check_spec, write_stream


def train(shards: list[str], work: Path, steps: int, **config: object) -> list[dict]:
    """Describe the stream, then train on it; `steps` say how long an epoch is."""
    spec = StreamSpec(shards=shards, shuffle=1000)  # clips held in memory, to mix them
    check_spec(spec, "shards")
    path = work / "data/train/stream.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_stream(path, spec)
    settings = {"steps_per_epoch": steps, "epochs": 8, "num_workers": 0}
    run = speechcwcl.train(
        settings | config, train=path, expdir=work / "exp", dumpdir=work / "dump"
    )
    return run.metrics


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shards", nargs="+", help="tars: paths or URLs, {000..999} allowed")
    parser.add_argument("--work", type=Path, default=Path("work"))
    parser.add_argument("--steps", type=int, required=True, help="of an epoch")
    options = parser.parse_args()
    for epoch in train(options.shards, options.work, options.steps):
        print(f"epoch {epoch['epoch']}: loss {epoch['train']['loss']:.3f}")


if __name__ == "__main__":
    main()
