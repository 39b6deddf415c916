#!/usr/bin/env python3
"""Full fine-tuning of Whisper tiny.en: our loop beside a plain transformers Trainer loop.

Both train the same encoder in float32 on the same utterances of the mini corpus, with the same
batch size, against the same stored text embeddings under the plain contrastive loss. The Trainer
does what one would write first: log-mel features of 30 s windows (made beforehand, not timed),
mean of the frames, a linear layer. Ours decodes in the loop and pools by attention.

The cost of one epoch is that of two epochs less that of one, so that starting up does not count;
processor time, because others may share the machine. Example:
    python tools/benchmarks/training.py --utterances 64 --batch 16 --threads 1 --write
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from bench_page import machine, write_section

from speechcwcl.corpora import get_corpus
from speechcwcl.data.datadir import Utterance, write_datadir
from speechcwcl.data.manifest import Manifest, compile_manifest
from speechcwcl.data.problems import Problems
from speechcwcl.models.sources import resolve
from speechcwcl.models.text import TextEncoder
from speechcwcl.training.config import TrainConfig
from speechcwcl.training.run import train

SPEECH, TEXT = "whisper-tiny.en", "all-MiniLM-L6-v2"


def utterances(count: int) -> list[Utterance]:
    """``count`` utterances spread evenly over the training set of the mini corpus."""
    corpus = get_corpus("mini")
    source = corpus.download(Path("."))
    everything = list(corpus.utterances(source, "train", Problems()))
    return everything[:: max(1, len(everything) // count)][:count]


def ours(manifest: Path, work: Path, args: argparse.Namespace) -> Callable[[int], None]:
    """Our loop, as ``speechcwcl train`` runs it; the function trains so many epochs."""
    number = iter(range(1000))

    def run(epochs: int) -> None:
        config = TrainConfig(
            speech_encoder=args.speech, text_encoder=args.text, freeze="none", loss="clip",
            batch_size=args.batch, epochs=epochs, threads=args.threads, keep_checkpoints=1,
        )  # fmt: skip
        train(
            config, manifest, work / f"exp{next(number)}", dumpdir=work / "dump",
            validate=lambda _: lambda _: {"score": 0.0}, device="cpu",
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


def cost(run: Callable[[int], None]) -> float:
    """Processor seconds of one epoch: of two epochs less those of one."""
    spent = []
    for epochs in (1, 2):
        started = time.process_time()
        run(epochs)
        spent.append(time.process_time() - started)
    return spent[1] - spent[0]


def measure(args: argparse.Namespace) -> tuple[dict[str, list[float]], float]:
    """Processor seconds an epoch, round by round, and the seconds of speech in an epoch."""
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        folder = write_datadir(
            work / "data", utterances(args.utterances), corpus={"name": "benchmark"}
        )
        manifest = work / "dump" / "train" / "manifest.jsonl"
        compile_manifest(folder, manifest)
        speech = float(sum(Manifest(manifest).durations))
        loops = {"ours": ours(manifest, work, args), "Trainer": trainer(manifest, work, args)}
        seconds: dict[str, list[float]] = {name: [] for name in loops}
        for _ in range(args.rounds):
            for name, run in loops.items():
                seconds[name].append(cost(run))
    return seconds, speech


def page(seconds: dict[str, list[float]], speech: float, args: argparse.Namespace) -> str:
    """The section of the README."""
    ratio = statistics.median(
        b / a for a, b in zip(seconds["ours"], seconds["Trainer"], strict=True)
    )
    rows = [
        f"| {name} | {statistics.median(values):.1f} | {speech / statistics.median(values):.1f} |"
        for name, values in seconds.items()
    ]
    return "\n".join([
        f"{machine()}, {args.threads} thread(s), float32, torch {torch.__version__}; "
        f"{args.utterances} utterances ({speech:.0f} s of made speech), batches of {args.batch}.",
        "",
        f"    python tools/benchmarks/training.py --utterances {args.utterances} "
        f"--batch {args.batch} --rounds {args.rounds} --threads {args.threads} --write",
        "",
        "| loop | processor s an epoch | hours of speech an hour |", "|---|---:|---:|", *rows, "",
        f"Ours trains **{ratio:.1f} times** as fast (median ratio of {args.rounds} interleaved "
        "round(s)).",
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
