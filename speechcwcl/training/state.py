"""What a resumed run needs beyond weights and optimizer: whole checkpoints, and random states."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from speechbrain.utils.checkpoints import (
    METAFNAME,
    Checkpointer,
    mark_as_loader,
    mark_as_saver,
    register_checkpoint_hooks,
)
from speechbrain.utils.distributed import ddp_barrier, if_main_process, main_process_only

from speechcwcl.files import writing


class WholeCheckpointer(Checkpointer):
    """SpeechBrain's Checkpointer, safe against a kill at any moment, and on several ranks.

    SpeechBrain writes the meta file, which makes a folder a checkpoint, before the weights, so a
    process killed between the two leaves half a checkpoint that the next run would load. Here the
    meta file gets its name last (and loses it first), all files are on the disk before that, and
    folders without one are swept away at the start.

    SpeechBrain also lets every rank list the folder and then waits for all ranks once for each
    checkpoint that it deletes: ranks that see the folder at different moments wait for ever. Here
    the first rank alone decides what is loaded and what is deleted.
    """

    def __init__(self, checkpoints_dir: str | Path, **options: Any) -> None:
        super().__init__(str(checkpoints_dir), **options)
        if if_main_process():
            for folder in Path(checkpoints_dir).glob("CKPT+*"):
                if not (folder / METAFNAME).exists():
                    shutil.rmtree(folder, ignore_errors=True)

    def _save_checkpoint_metafile(
        self, fpath: Path, meta_to_include: dict | None = None, end_of_epoch: bool = True
    ) -> dict:
        partial = Path(fpath).with_suffix(".partial")
        return super()._save_checkpoint_metafile(partial, meta_to_include or {}, end_of_epoch)

    def save_checkpoint(self, *args: Any, **options: Any) -> Any:
        """Save as SpeechBrain does; the checkpoint counts only when all of it is written."""
        with writing(self.checkpoints_dir):
            saved = super().save_checkpoint(*args, **options)
            if saved is not None:
                meta = Path(saved.path) / METAFNAME
                for file in meta.parent.iterdir():
                    _flush(file)
                meta.with_suffix(".partial").replace(meta)
                _flush(meta.parent)
        ddp_barrier()  # no rank goes on, and dies or looks, before the checkpoint counts
        return saved

    def find_checkpoints(self, *args: Any, **options: Any) -> list[Any]:
        """What the first rank finds, on every rank."""
        return main_process_only(super().find_checkpoints)(*args, **options)

    def delete_checkpoints(
        self,
        *,
        num_to_keep: int = 1,
        max_keys: list[str] | None = None,
        ckpt_predicate: Any = None,
        **_: Any,
    ) -> None:
        """Delete all but the latest `num_to_keep` and as many of the best by each key."""

        def delete() -> None:
            orders: list[dict[str, Any]] = [{}, *({"max_key": key} for key in max_keys or [])]
            found = [self.find_checkpoints(ckpt_predicate=ckpt_predicate, **o) for o in orders]
            kept = {checkpoint.path for order in found for checkpoint in order[:num_to_keep]}
            for path in [c.path for c in found[0] if c.path not in kept]:
                (path / METAFNAME).unlink()  # first: what a kill leaves is then no checkpoint
                shutil.rmtree(path)

        main_process_only(delete)()


def _flush(path: Path) -> None:
    """Have a file or folder on the disk, so that not even a power cut leaves half of it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def random_states() -> dict[str, Any]:
    """The states of all generators that encoders and augmentation draw from.

    NumPy and Python are among them: transformers draws the time masks of wav2vec2-like models from
    NumPy.
    """
    gpu = torch.cuda.is_available() and torch.cuda.is_initialized()
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if gpu else [],
    }


def set_random_states(states: dict[str, Any]) -> None:
    """Put them back; those of GPUs where there are as many as there were."""
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])
    torch.set_rng_state(states["torch"])
    if states["cuda"] and torch.cuda.device_count() == len(states["cuda"]):
        torch.cuda.set_rng_state_all(states["cuda"])


@register_checkpoint_hooks
class RandomState:
    """The random states in checkpoints, so that a resumed run draws what it would have drawn."""

    @mark_as_saver
    def save(self, path: str | Path) -> None:
        """Write them; NumPy's keys as a tensor, which is read without unpickling."""
        states = random_states()
        name, keys, *rest = states["numpy"]
        states["numpy"] = (name, torch.from_numpy(keys.astype(np.int64)), *rest)
        torch.save(states, path)

    @mark_as_loader
    def load(self, path: str | Path, end_of_epoch: bool) -> None:
        """Put them back."""
        del end_of_epoch
        states = torch.load(path, weights_only=True)
        name, keys, *rest = states["numpy"]
        states["numpy"] = (name, keys.numpy().astype(np.uint32), *rest)
        set_random_states(states | {"python": _as_tuples(states["python"])})


def _as_tuples(value: Any) -> Any:
    return tuple(_as_tuples(v) for v in value) if isinstance(value, (list, tuple)) else value
