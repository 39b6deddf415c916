"""Many checkpoints saved and deleted by ranks that do not keep step (see launch.py)."""

import random
import time
from pathlib import Path

import torch
import torch.distributed as dist

from speechcwcl.training.state import WholeCheckpointer


def main(folder, count):
    count = int(count)
    dist.init_process_group("gloo")
    model = torch.nn.Linear(4, 4)
    checkpointer = WholeCheckpointer(folder, recoverables={"model": model})
    draw = random.Random(dist.get_rank())
    for number in range(count):
        checkpointer.save_and_keep_only(
            meta={"score": (number * 7) % 5, "number": number}, max_keys=["score"], num_to_keep=2
        )
        if draw.random() < 0.3:
            time.sleep(0.01 * draw.random())
        if number % 3 == 0:  # as between the ends of epochs
            checkpointer.save_and_keep_only(
                meta={"within": True, "number": number}, end_of_epoch=False, num_to_keep=1,
                ckpt_predicate=lambda c: "within" in c.meta,
            )  # fmt: skip
    checkpointer = WholeCheckpointer(folder, recoverables={"model": model})
    assert checkpointer.recover_if_possible().meta["number"] == count - 1
    kept = [c.meta["number"] for c in checkpointer.find_checkpoints()]
    everyones = [None] * dist.get_world_size()
    dist.all_gather_object(everyones, kept)
    assert all(numbers == everyones[0] for numbers in everyones), everyones
    if dist.get_rank() == 0:
        (Path(folder) / "kept.txt").write_text(" ".join(map(str, kept)), encoding="utf-8")
    dist.destroy_process_group()
