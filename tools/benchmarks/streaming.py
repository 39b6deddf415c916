#!/usr/bin/env python3
"""Peak memory of training from a stream: the buffer decides it, not the set.

Shards of synthetic clips (a second of noise as FLAC, 400 different texts) in two sizes of set; one
pass over each, in a process of its own, with a Whisper of two narrow layers. Example:
    python tools/benchmarks/streaming.py --clips 2000 20000 --shuffle 1000 4000
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
import webdataset
from bench_page import machine, write_section
from transformers import WhisperConfig, WhisperModel

from speechcwcl.data.audio import encode_audio
from speechcwcl.data.stream_spec import StreamSpec, write_stream
from speechcwcl.training.config import TrainConfig
from speechcwcl.training.run import train

PER_SHARD, DIFFERENT = 1000, 400


def make_shards(folder: Path, clips: int) -> None:
    """`clips` samples in shards; what differs is their keys and texts."""
    folder.mkdir()
    draw = np.random.default_rng(0)
    waves = [encode_audio(0.1 * draw.standard_normal(16000)) for _ in range(DIFFERENT)]
    for start in range(0, clips, PER_SHARD):
        with webdataset.TarWriter(str(folder / f"shard-{start // PER_SHARD:06d}.tar")) as writer:
            for number in range(start, min(clips, start + PER_SHARD)):
                text = f"sentence number {number % DIFFERENT}"
                sample = {"flac": waves[number % DIFFERENT], "txt": text}
                writer.write({"__key__": f"{number:08d}", **sample})


def make_tower(folder: Path) -> None:
    """A Whisper whose encoder costs next to nothing."""
    options = {"d_model": 32, "encoder_attention_heads": 2, "encoder_ffn_dim": 64}
    options |= {"encoder_layers": 2, "decoder_layers": 1, "vocab_size": 64}
    options |= {"decoder_attention_heads": 2, "decoder_ffn_dim": 64, "decoder_start_token_id": 1}
    torch.manual_seed(0)
    tokens = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    WhisperModel(WhisperConfig(**options, **tokens)).save_pretrained(folder)


def measure(work: Path, clips: int, shuffle: int, args: argparse.Namespace) -> None:
    """One pass; prints a row of the table."""
    where = work / f"stream-{clips}-{shuffle}.json"
    write_stream(where, StreamSpec(shards=[str(work / f"shards-{clips}")], shuffle=shuffle))
    config = TrainConfig(
        speech_encoder=str(work / "tower"), text_encoder=args.text, freeze="none", epochs=1,
        batch_size=args.batch, steps_per_epoch=clips // args.batch, threads=1,
    )  # fmt: skip
    expdir = work / f"exp-{clips}-{shuffle}"
    train(config, train=where, expdir=expdir, dumpdir=work / "dump", device="cpu")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    audio = sum(path.stat().st_size for path in (work / f"shards-{clips}").iterdir()) / 2**20
    print(f"| {clips} | {audio:.0f} MiB | {shuffle} | {peak:.0f} MiB |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--clips", type=int, nargs="+", default=[2000, 20000], help="sizes of set")
    parser.add_argument("--shuffle", type=int, nargs="+", default=[1000, 4000], help="buffers")
    parser.add_argument("--batch", type=int, default=64, help="clips in a batch")
    parser.add_argument("--text", default="all-MiniLM-L6-v2", help="text encoder")
    parser.add_argument("--write", action="store_true", help="put the table into README.md")
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        measure(args.work, args.clips[0], args.shuffle[0], args)
        return
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        make_tower(work / "tower")
        for clips in args.clips:
            make_shards(work / f"shards-{clips}", clips)
        rows = ["| clips | audio | shuffle | peak memory |", "|---:|---:|---:|---:|"]
        for clips in args.clips:
            for shuffle in args.shuffle:
                rows.append(measured(folder, clips, shuffle, args))
                print(rows[-1], flush=True)
    if args.write:
        words = " ".join(sys.argv[1:])
        text = (
            f"{machine()}, one thread, torch {torch.__version__}; `num_workers: 0`, batches of "
            f"{args.batch}; most of the memory is torch, transformers and the text encoder.\n\n"
            f"    python tools/benchmarks/streaming.py {words}\n\n" + "\n".join(rows)
        )
        write_section("streaming", "## Memory of training from a stream", text)


def measured(folder: str, clips: int, shuffle: int, args: argparse.Namespace) -> str:
    """The row of one run, made in a process of its own."""
    words = ["--work", folder, "--clips", str(clips), "--shuffle", str(shuffle)]
    words += ["--batch", str(args.batch), "--text", args.text]
    done = subprocess.run([sys.executable, __file__, *words], capture_output=True, text=True)
    row = [line for line in done.stdout.splitlines() if line.startswith("|")]
    if not row:
        raise SystemExit(done.stdout + done.stderr)
    return row[0]


if __name__ == "__main__":
    main()
