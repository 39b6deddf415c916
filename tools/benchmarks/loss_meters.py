"""Time, peak memory and a description of the machine, for the benchmark of the losses."""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import importlib.metadata
import platform
import time
from collections.abc import Callable
from pathlib import Path

import torch

Run = Callable[[], None]


def status_mb(key: str) -> float:
    """A figure of /proc/self/status in MiB, such as VmRSS or VmHWM (the most so far)."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(key):
            return float(line.split()[1]) / 1024
    raise OSError(key)


class Memory:
    """Peak memory of a stretch of code over what was there before, in MB."""

    def __init__(self, device: str) -> None:
        self.cuda = device.startswith("cuda")

    def measure(self, run: Run) -> float | None:
        """Run once; None where the system does not tell."""
        gc.collect()
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL("libc.so.6").malloc_trim(0)  # or memory freed by others would be reused
        if self.cuda:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            run()
            torch.cuda.synchronize()
            return (torch.cuda.max_memory_allocated() - before) / 2**20
        try:
            with open("/proc/self/clear_refs", "w", encoding="utf-8") as stream:  # noqa: PTH123
                stream.write("5")  # sets the high-water mark back to what is in use
            before = status_mb("VmRSS")
            run()
            return status_mb("VmHWM") - before
        except OSError:
            run()
            return None


def allocated_mb(run: Run) -> float:
    """Peak of what torch allocates in one run on a CPU, in MB, by its own profiler.

    What the process takes from the system depends on what it freed before, by tens of MB from one
    measurement to the next; this does not.
    """
    from torch.profiler import ProfilerActivity, profile

    with profile(
        activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True
    ) as profiled:
        run()
    events = [e for e in profiled.profiler.kineto_results.events() if e.name() == "[memory]"]
    total = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        total += event.nbytes()
        peak = max(peak, total)
    return peak / 2**20


def warm_allocator(device: str) -> None:
    """Let the C library keep freed memory, as it does in any process that has trained a step.

    It keeps twice the largest block that was freed, up to 64 MiB. In a fresh process matrices of a
    few MiB would go back to the system at every step, and their page faults would be timed.
    """
    if not device.startswith("cuda"):
        block = torch.ones(31 * 2**18)  # just under the 32 MiB above which nothing is kept
        del block


def timed(run: Run, device: str, clock: str) -> float:
    """Seconds of one run.

    On a GPU between two events in its own queue, so that neither the launch of the kernels before
    nor the wait after them counts; else wall clock, or this process's own time on the processor.
    """
    if device.startswith("cuda"):
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        start.record()
        run()
        stop.record()
        torch.cuda.synchronize()
        return start.elapsed_time(stop) / 1000
    now = time.process_time if clock == "cpu" else time.perf_counter
    begin = now()
    run()
    return now() - begin


def describe(options: argparse.Namespace, packages: list[str]) -> dict:
    """The machine, without its name."""
    kind = platform.machine()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                kind = line.split(":")[1].strip()
                break
    cuda = options.device.startswith("cuda")
    versions = {"torch": torch.__version__}
    for package in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return {
        "machine": torch.cuda.get_device_name() if cuda else kind,
        "device": options.device,
        "dtype": options.dtype,
        "threads": torch.get_num_threads(),
        "clock": "event" if cuda else options.clock,
        "limit": options.limit,
        "versions": versions,
        "command": "python tools/benchmarks/loss.py " + " ".join(options.words),
    }
