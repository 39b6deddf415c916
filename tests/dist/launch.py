"""Ranks as torchrun starts them, but forked from a process that has the imports.

python launch.py MODULE COUNTS WORDS...: the module's `main(*words)` on so many ranks, for each of
the counts ("2,4") in turn.
"""

import importlib
import sys

from torch.distributed.launcher.api import LaunchConfig, elastic_launch

if __name__ == "__main__":
    module, counts, *words = sys.argv[1:]
    main = importlib.import_module(module).main
    for count in map(int, counts.split(",")):
        config = LaunchConfig(
            1, 1, count, run_id=f"{module}{count}", max_restarts=0, start_method="fork",
            rdzv_backend="c10d", rdzv_endpoint="localhost:0",
        )  # fmt: skip
        elastic_launch(config, main)(*words)
