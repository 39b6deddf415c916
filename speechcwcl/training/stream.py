"""Training from a stream: batches out of bounded blocks, texts embedded in the loop, places kept.

Every batch follows from the seed, the reader and its place, so a run that was interrupted goes on
with the batches that it would have had.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from speechbrain.utils.checkpoints import mark_as_loader, mark_as_saver, register_checkpoint_hooks
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from speechcwcl.data.augment import Augmenter
from speechcwcl.data.stream import Place, StreamClip, StreamReader, open_pieces
from speechcwcl.data.stream_spec import NAME, StreamSpec
from speechcwcl.errors import UserError, require
from speechcwcl.files import read_json
from speechcwcl.losses import world_size
from speechcwcl.models.aligner import Aligner
from speechcwcl.models.encoders.frames import pad
from speechcwcl.training.config import TrainConfig
from speechcwcl.training.dataset import Batch, TrainingData, augmenter, batch_sampler, say

# Unique texts, the first of the stream, whose mean embedding `center_text` takes out.
CENTER_TEXTS = 2000
# Of text embeddings that are kept for texts that come again.
MEMORY_BYTES = 64 << 20


def stream_data(config: TrainConfig, aligner: Aligner, spec: StreamSpec) -> TrainingData:
    """A training set that is read as it goes.

    Raises:
        UserError: an option that needs the whole set; no such dataset, shards or column.
    """
    check_config(config)
    rank = torch.distributed.get_rank() if world_size() > 1 else 0
    dataset = StreamSet(spec, config, rank=rank, ranks=world_size(), augment=augmenter(config))
    texts = TextMemory(aligner)
    if config.center_text:
        count = center_on(aligner, dataset)
        say(f"center_text: the mean of the first {count} unique texts of the stream")
    if aligner.speech_encoder.cacheable:
        say(
            f"freeze: {config.freeze}: a stream has no feature cache, so the frozen part runs in "
            "the loop, every time"
        )

    def loader(brain: Any) -> StreamLoader:
        brain.checkpointer.add_recoverable("stream", dataset)
        brain.train_dataset = dataset
        return StreamLoader(dataset, config)

    def before_checkpoint() -> None:
        dataset.meet()
        texts.clear()

    assert config.steps_per_epoch is not None  # check_config
    return TrainingData(texts, config.steps_per_epoch, loader, before_checkpoint=before_checkpoint)


def check_config(config: TrainConfig) -> None:
    """Refuse what a stream cannot do, a line each."""
    require(
        config.steps_per_epoch is not None,
        "steps_per_epoch: the length of a stream is not known; say how many optimizer steps an "
        "epoch has, e.g. --steps_per_epoch 1000",
    )
    require(
        not config.text_bank,
        "text_bank: holds every training text, and those of a stream are not known before; set "
        "it to false",
    )
    require(
        not config.augment_copies and not config.augment_share,
        "augment_copies and augment_share: are of the feature cache, which a stream does not have; "
        "set them to 0: with `augment` every clip of every pass is augmented anew",
    )
    require(
        not (config.feature_mask and config.freeze == "none" and not config.lora),
        "feature_mask: masks frozen features, and with freeze: none there are none; set it to null",
    )


def center_on(aligner: Aligner, dataset: StreamSet) -> int:
    """Set the text mean from the first unique texts of a stream, the same ones on every rank."""
    found: dict[str, None] = {}
    for _, clip in dataset.reader(0, 1).rows():
        if clip.text:
            found[clip.text] = None
        if len(found) == CENTER_TEXTS:
            break
    require(bool(found), f"{NAME}: no text in it")
    raw = torch.from_numpy(aligner.text_encoder.encode(list(found)))
    aligner.set_text_mean(raw.mean(dim=0))
    return len(found)


class TextMemory:
    """Embeds texts as they come; those that came lately are remembered, in `limit` bytes."""

    def __init__(self, aligner: Aligner, limit: int = MEMORY_BYTES) -> None:
        self.aligner = aligner
        self.most = max(1, limit // (4 * aligner.dim))
        self.known: OrderedDict[str, np.ndarray] = OrderedDict()

    def __call__(self, batch: Batch, device: Any) -> torch.Tensor:
        """`(batch, dim)` unit-norm, on the device."""
        texts = batch.texts or []
        encoder = self.aligner.text_encoder
        new = [text for text in dict.fromkeys(texts) if text not in self.known]
        if new:
            # in full precision, whatever the training has: stored texts are embedded so too
            with torch.autocast(torch.device(device).type, enabled=False):
                rows = encoder.to(device).encode(new)
            self.known.update((text, row.copy()) for text, row in zip(new, rows, strict=True))
        for text in texts:
            self.known.move_to_end(text)
        raw = torch.from_numpy(np.stack([self.known[text] for text in texts]))
        while len(self.known) > self.most:
            self.known.popitem(last=False)
        return self.aligner.transform_text(raw.to(device))

    def clear(self) -> None:
        """Forget all, as a run that goes on from a checkpoint has: which texts are embedded
        together shows in the last digit, and the two runs must not differ by it."""
        self.known.clear()


@register_checkpoint_hooks
@dataclass(eq=False)
class StreamSet(IterableDataset):
    """The batches of one rank, up to the end of the epoch, from where training is.

    Each worker of the loader reads a share of its own (`speechcwcl.data.stream.share`), and
    gives every `num_workers`-th batch.
    """

    spec: StreamSpec
    config: TrainConfig  # batches, steps and seed
    _: KW_ONLY
    rank: int = 0  # which process, of how many
    ranks: int = 1
    augment: Augmenter | None = None  # drawn anew on every pass
    epoch: int = 0
    given: int = 0  # batches handed out since the beginning
    # worker -> its place and the next batch there
    places: dict[int, tuple[int, int, int, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.workers = max(1, self.config.num_workers)
        self.pieces = open_pieces(self.spec)  # now: a mistake shows before anything heavy is done
        self.total = (self.config.steps_per_epoch or 1) * self.config.grad_accumulation
        self.everyones = [self.places]

    def __len__(self) -> int:
        return self.total

    def __iter__(self) -> Iterator[tuple[int, tuple[int, ...], Batch] | UserError]:
        info = get_worker_info()
        number = info.id if info else 0
        if info:
            import fsspec.asyn

            fsspec.asyn.reset_lock()  # or a forked worker may wait for ever for remote files
        end = (self.given // self.total + 1) * self.total
        # the loader asks its workers in turn, beginning with the first, wherever training is
        worker = (self.given + number) % self.workers
        turns = range(self.given + number, end, self.workers)
        try:
            if turns:
                for _, item in zip(turns, self._batches(worker), strict=False):
                    yield item
        except UserError as error:
            yield error  # raised in a worker it would come with its traceback

    def reader(self, part: int, parts: int) -> StreamReader:
        """One of so many readers of the set."""
        size = self.config.batch_size
        return StreamReader(
            self.spec,
            part,
            parts,
            block=max(size, self.spec.shuffle // self.workers),
            ahead=size,
            seed=self.config.seed,
            pieces=self.pieces,
        )

    def _batches(self, worker: int) -> Iterator[tuple[int, tuple[int, ...], Batch]]:
        """Without end: the worker, where it goes on afterwards, and the batch."""
        reader = self.reader(self.rank * self.workers + worker, self.ranks * self.workers)
        *start, first = self.places.get(worker, (0, 0, 0, 0))
        for begins, after, clips in reader.blocks((start[0], start[1], start[2])):
            plan = self._plan(clips, reader.part, begins)
            for number in range(first, len(plan)):
                last = number == len(plan) - 1
                following = (*after, 0) if last else (*begins, number + 1)
                batch = self._batch([clips[i] for i in plan[number]], begins[0], reader)
                if batch is not None:
                    yield worker, following, batch
            first = 0
            del clips  # before the next block is read

    def _plan(self, clips: list[StreamClip], part: int, begins: Place) -> list[list[int]]:
        """The batches of a block; no clip is left out, but one that is alone in its block."""
        if len(clips) < 2:
            return []
        draw = np.random.default_rng((self.config.seed, part, *begins))
        seed = int(draw.integers(2**31))
        sampler = batch_sampler([clip.duration for clip in clips], self.config, seed)
        plan = [list(batch) for batch in sampler]
        for index in sorted(set(range(len(clips))) - {i for batch in plan for i in batch}):
            min(plan, key=len).append(index)  # was a batch of one
        return plan

    def _batch(self, clips: list[StreamClip], turn: int, reader: StreamReader) -> Batch | None:
        waves, texts = [], []
        for clip in clips:
            try:
                wav: Any = clip.load()
            except UserError as error:
                reader.skip(error)
                continue
            if self.augment is not None:
                wav = self.augment(wav, clip.id, turn + 1)
            waves.append(wav)
            texts.append(clip.text)
        if not waves or len(waves) == 1 < len(clips):  # nothing left to contrast it with
            return None
        rows = torch.tensor([text_number(text) for text in texts])
        return Batch(*pad(waves), rows, cached=False, texts=texts)

    def note(self, worker: int, place: tuple[int, int, int, int]) -> None:
        """A batch was handed to the training loop."""
        self.given += 1
        self.places[worker] = place

    def meet(self) -> None:
        """Tell all ranks' places to the one that writes the checkpoint."""
        self.everyones = [self.places]
        if self.ranks > 1:
            self.everyones = [{} for _ in range(self.ranks)]
            torch.distributed.all_gather_object(self.everyones, self.places)

    @mark_as_saver
    def save(self, path: str | Path) -> None:
        """Write where every reader is."""
        state = {
            "stream": self.spec.hash,
            "readers": [self.ranks, self.workers],
            "given": self.given,
            "places": self.everyones,
        }
        Path(path).write_text(json.dumps(state), encoding="utf-8")

    @mark_as_loader
    def load(self, path: str | Path, end_of_epoch: bool) -> None:
        """Go on there."""
        del end_of_epoch
        state = read_json(path)
        require(
            state["stream"] == self.spec.hash,
            f"{NAME}: changed since this run began, so its place in it is lost; put it back or "
            "give another folder (run.sh: --tag NAME)",
        )
        ranks, workers = state["readers"]
        require(
            (ranks, workers) == (self.ranks, self.workers),
            f"num_workers: this run began with {workers} on each of {ranks} process(es), which "
            f"share the stream out, now {self.workers} on {self.ranks}; go on as it began or give "
            "another folder (run.sh: --tag NAME)",
        )
        self.given = state["given"]
        places = state["places"][self.rank]
        self.places = {int(worker): tuple(place) for worker, place in places.items()}


class StreamLoader(DataLoader):
    """The batches of a `StreamSet`; notes each that the training loop takes."""

    def __init__(self, dataset: StreamSet, config: TrainConfig) -> None:
        self.stream_set = dataset
        super().__init__(
            dataset,
            batch_size=None,
            num_workers=config.num_workers,
            collate_fn=_as_it_is,
            # its own generator: making an iterator must not draw from the global one
            generator=torch.Generator().manual_seed(config.seed),
        )

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        for item in super().__iter__():
            if isinstance(item, UserError):
                raise item
            worker, place, batch = item
            self.stream_set.note(worker, place)
            yield batch


def _as_it_is(item: Any) -> Any:
    return item


def text_number(text: str) -> int:
    """A number of 63 bits that is the same for equal texts on every rank, and for no others."""
    return int.from_bytes(hashlib.sha256(text.encode("utf-8")).digest()[:8], "big") >> 1
