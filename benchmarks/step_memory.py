"""Peak memory of a training step over plain Adam's, on the model of step_time.py.

python benchmarks/step_memory.py [--tasks 2 4] [--steps 8] [--repeats 5] [--heap default mapped]

Every side runs in processes of its own, one a repeat, in turns. Memory is what a process's peak resident set grew by from when the model
stands until the last step; the table has medians with their range, since how far the default heap fragments differs from process to
process, and ratios of medians over plain Adam's with as many tasks and the same heap. `mapped` sets glibc's MALLOC_MMAP_THRESHOLD_ to 1 MiB for
the process, so that a large tensor's pages go back when it is freed; by default glibc raises that threshold to 32 MiB and the heap fragments.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import statistics
from pathlib import Path

import torch
from step_time import data, sides

NAMES = (
    "plain Adam",
    "floor + Adam",
    "equipoise pub",
    "equipoise pub compiled",
    "torchjd, one backward at a time",
)


def resident() -> float:
    """Return the resident set now, in MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def grown(name: str, num_tasks: int, steps: int, into: multiprocessing.Queue[float | None]) -> None:
    """Put the growth in MiB of one side's steps into a queue, None for a side that is not there."""
    torch.manual_seed(0)
    found = sides(num_tasks, sparse=False, only=name)
    if name not in found:
        into.put(None)
        return
    before = resident()
    for _ in range(steps):
        found[name](*data(num_tasks))
    into.put(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10 - before)


def measure(tasks: list[int], steps: int, repeats: int, heap: str) -> dict[int, dict[str, list[float]]]:
    """Return {T: {side: MiB of each repeat}} and print their medians."""
    os.environ.pop("MALLOC_MMAP_THRESHOLD_", None)
    if heap == "mapped":
        os.environ["MALLOC_MMAP_THRESHOLD_"] = str(2**20)  # read when the new process starts
    context = multiprocessing.get_context("spawn")
    result: dict[int, dict[str, list[float]]] = {}
    for num_tasks in tasks:
        mine: dict[str, list[float]] = {}
        for name in NAMES * repeats:
            queue: multiprocessing.Queue[float | None] = context.Queue()
            process = context.Process(target=grown, args=(name, num_tasks, steps, queue))
            process.start()
            found = queue.get()
            process.join()
            if found is not None:
                mine.setdefault(name, []).append(found)
        plain = statistics.median(mine["plain Adam"])
        for name, each in mine.items():
            middle = statistics.median(each)
            spread = f"{min(each):.0f} to {max(each):.0f}"
            print(
                f"| {heap} | T = {num_tasks} | {name} | {middle:.0f} MiB ({spread}) | {middle / plain:.2f} |",
                flush=True,
            )
        result[num_tasks] = mine
    return result


def main() -> None:
    """Print a table and one JSON object."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--heap", nargs="+", choices=("default", "mapped"), default=["default", "mapped"])
    chosen = parser.parse_args()
    result = {heap: measure(chosen.tasks, chosen.steps, chosen.repeats, heap) for heap in chosen.heap}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
