#!/usr/bin/env python3
"""Full fine-tuning of Whisper tiny.en: our loop beside a plain transformers Trainer loop.

Both train the same encoder in float32 on the same utterances of the mini corpus, with the same
batch size, against the same stored text embeddings under the plain contrastive loss. The Trainer
does what one would write first: log-mel features of 30 s windows (made beforehand, not timed),
mean of the frames, a linear layer. Ours decodes in the loop and pools by attention.

The cost of one epoch is half of what three epochs cost more than one, so that starting up does not
count; processor time, because others may share the machine. The peak memory is that of the whole
process, torch and the text encoder with it. Example:
    python tools/benchmarks/training.py --utterances 64 --batch 16 --threads 1 --write
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from bench_page import machine, write_section
from loss_meters import status_mb

from speechcwcl.corpora import get_corpus
from speechcwcl.data.compiling import compile_manifest
from speechcwcl.data.kaldi import Utterance, write_datadir
from speechcwcl.data.manifest import Manifest
from speechcwcl.data.tables import Problems
from speechcwcl.models.text_side import TextEncoder
from speechcwcl.models.weights.sources import resolve
from speechcwcl.training.config import TrainConfig
from speechcwcl.training.run import train

SPEECH, TEXT = "whisper-tiny.en", "all-MiniLM-L6-v2"


def utterances(count: int) -> list[Utterance]:
    """`count` utterances spread evenly over the training set of the mini corpus."""
    corpus = get_corpus("mini")
    source = corpus.download(Path("."))
    everything = list(corpus.utterances(source, "train", Problems()))
    return everything[:: max(1, len(everything) // count)][:count]


def ours(manifest: Path, work: Path, args: argparse.Namespace) -> Callable[[int], None]:
    """Our loop, as `speechcwcl train` runs it; the function trains so many epochs."""
    number = iter(range(1000))

    def run(epochs: int) -> None:
        config = TrainConfig(
            speech_encoder=args.speech, text_encoder=args.text, freeze="none", loss="clip",
            batch_size=args.batch, epochs=epochs, threads=args.threads, keep_checkpoints=1,
        )  # fmt: skip
        train(
            config, train=manifest, expdir=work / f"exp{next(number)}", dumpdir=work / "dump",
            device="cpu",
        )  # fmt: skip

    return run


class Plain(torch.nn.Module):
    """Encoder, mean of the frames, linear layer, symmetric contrastive loss."""

    def __init__(self, folder: Path, dim: int):
        super().__init__()
        from transformers import WhisperModel

        whisper = WhisperModel.from_pretrained(folder, dtype=torch.float32)
        self.encoder = whisper.get_encoder()
        self.project = torch.nn.Linear(whisper.config.d_model, dim)

    def forward(self, input_features: torch.Tensor, text: torch.Tensor) -> dict[str, Any]:
        """(batch, mels, frames), (batch, dim) unit norm -> the loss."""
        pooled = self.encoder(input_features).last_hidden_state.mean(dim=1)
        speech = torch.nn.functional.normalize(self.project(pooled), dim=1)
        logits = 20 * speech @ text.T
        wanted = torch.arange(len(logits))
        entropy = torch.nn.functional.cross_entropy
        return {"loss": (entropy(logits, wanted) + entropy(logits.T, wanted)) / 2}


def trainer(manifest: Path, work: Path, args: argparse.Namespace) -> Callable[[int], None]:
    """transformers' Trainer; the function trains so many epochs."""
    from transformers import Trainer, TrainingArguments, WhisperFeatureExtractor

    items = list(Manifest(manifest))
    text = torch.from_numpy(TextEncoder.from_pretrained(args.text).encode([u.text for u in items]))
    features = WhisperFeatureExtractor(feature_size=80)
    data = [
        {"input_features": torch.tensor(features(u.load(), sampling_rate=16000).input_features[0]),
         "text": row} for u, row in zip(items, text, strict=True)
    ]  # fmt: skip

    def collate(rows: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        return {key: torch.stack([row[key] for row in rows]) for key in rows[0]}

    def run(epochs: int) -> None:
        options = TrainingArguments(
            output_dir=str(work / "trainer"), per_device_train_batch_size=args.batch,
            num_train_epochs=epochs, learning_rate=1e-4, report_to=[], save_strategy="no",
            logging_strategy="no", disable_tqdm=True, use_cpu=True, remove_unused_columns=False,
        )  # fmt: skip
        model = Plain(resolve(args.speech), text.shape[1])
        Trainer(model, options, train_dataset=data, data_collator=collate).train()

    return run


LOOPS = {"ours": ours, "Trainer": trainer}
# which operations belong together in the profile, by a part of their names
PARTS = {
    "matrix products": ("mm", "linear", "scaled_dot_product", "flash_attention"),
    "convolutions": ("conv", "mkldnn"),
    "spectrogram": ("stft", "fft"),
    "activations, norms, softmax": ("gelu", "norm", "softmax", "dropout"),
    "optimizer": ("foreach", "adam", "addcdiv", "addcmul", "lerp"),
}


def cost(job: tuple[str, Path, Path, argparse.Namespace]) -> dict[str, float]:
    """One epoch, processor and wall seconds, once warm; and the peak memory of the process."""
    name, manifest, work, args = job
    torch.set_num_threads(args.threads)
    run = LOOPS[name](manifest, work, args)
    run(1)  # imports, stored text embeddings, first touches of memory
    spent = []
    for epochs in (1, 3):
        started = (time.process_time(), time.perf_counter())
        run(epochs)
        spent.append((time.process_time() - started[0], time.perf_counter() - started[1]))
    (cpu_one, wall_one), (cpu_three, wall_three) = spent
    return {
        "cpu": (cpu_three - cpu_one) / 2,
        "wall": (wall_three - wall_one) / 2,
        "peak": status_mb("VmHWM"),
    }


def profile(job: tuple[str, Path, Path, argparse.Namespace]) -> dict[str, float]:
    """Share of the processor time of torch's operations in one epoch, by the PARTS."""
    name, manifest, work, args = job
    torch.set_num_threads(args.threads)
    run = LOOPS[name](manifest, work, args)
    run(1)  # what is done once is not to be seen
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as seen:
        run(1)
    shares = dict.fromkeys([*PARTS, "other"], 0.0)
    for event in seen.key_averages():
        if "::" in event.key:
            names = (part for part, keys in PARTS.items() if any(k in event.key for k in keys))
            shares[next(names, "other")] += event.self_cpu_time_total
    total = sum(shares.values())
    return {part: share / total for part, share in shares.items()}


def measure(args: argparse.Namespace) -> tuple[dict[str, list[dict]], dict[str, dict], float]:
    """The costs round by round and the profile of each loop, and the seconds of speech."""
    context = multiprocessing.get_context("spawn")  # each loop in a process of its own
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        folder = write_datadir(
            work / "data", utterances(args.utterances), corpus={"name": "benchmark"}
        )
        manifest = work / "dump" / "train" / "manifest.jsonl"
        compile_manifest(folder, manifest)
        speech = float(sum(Manifest(manifest).durations))
        costs: dict[str, list[dict]] = {name: [] for name in LOOPS}
        profiles = {}
        for turn in range(args.rounds + 1):
            for loop in LOOPS:
                place = work / f"{loop}{turn}"
                with context.Pool(1) as pool:
                    job = (loop, manifest, place, args)
                    if turn < args.rounds:
                        costs[loop].append(pool.apply(cost, (job,)))
                    else:
                        profiles[loop] = pool.apply(profile, (job,))
    return costs, profiles, speech


def page(
    costs: dict[str, list[dict]], profiles: dict[str, dict], speech: float, args: argparse.Namespace
) -> str:
    """The section of the README."""

    def median(loop: str, key: str) -> float:
        return statistics.median(found[key] for found in costs[loop])

    ratio = statistics.median(
        b["cpu"] / a["cpu"] for a, b in zip(costs["ours"], costs["Trainer"], strict=True)
    )
    rows = [
        f"| {loop} | {median(loop, 'cpu'):.1f} | {speech / median(loop, 'cpu'):.1f} | "
        f"{median(loop, 'cpu') / median(loop, 'wall') / args.threads:.0%} | "
        f"{median(loop, 'peak'):,.0f} |"
        for loop in costs
    ]
    parts = [*PARTS, "other"]
    return "\n".join([
        f"{machine()}, {args.threads} thread(s), float32, torch {torch.__version__}; "
        f"{args.utterances} utterances ({speech:.0f} s of synthetic speech), "
        f"batches of {args.batch}.",
        "",
        f"    python tools/benchmarks/training.py --utterances {args.utterances} "
        f"--batch {args.batch} --rounds {args.rounds} --threads {args.threads} --write",
        "",
        "| loop | processor s an epoch | hours of speech an hour | processor in use | peak MiB |",
        "|---|---:|---:|---:|---:|", *rows, "",
        f"Ours trains **{ratio:.1f} times** as fast (median ratio of {args.rounds} interleaved "
        "round(s)). Where torch's operations spend the time of an epoch (torch.profiler):",
        "",
        "| loop | " + " | ".join(parts) + " |", "|---|" + "---:|" * len(parts),
        *(f"| {loop} | " + " | ".join(f"{shares[part]:.0%}" for part in parts) + " |"
          for loop, shares in profiles.items()),
    ])  # fmt: skip


def main() -> None:
    """Measure and print; with --write also into the README."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--utterances", type=int, default=64, help="an epoch (default: 64)")
    parser.add_argument("--batch", type=int, default=16, help="utterances a batch (default: 16)")
    parser.add_argument("--rounds", type=int, default=3, help="interleaved (default: 3)")
    parser.add_argument("--threads", type=int, default=1, help="of torch (default: 1)")
    parser.add_argument("--speech", default=SPEECH, help=f"a Whisper (default: {SPEECH})")
    parser.add_argument("--text", default=TEXT, help=f"text encoder (default: {TEXT})")
    parser.add_argument("--write", action="store_true", help="into README.md beside this file")
    args = parser.parse_args()
    text = page(*measure(args), args)
    print(text)
    if args.write:
        write_section("training", "## Training", text)


if __name__ == "__main__":
    main()
