"""One training run of a comparison: what it is, doing it in a process of its own, and its file on disk."""

from __future__ import annotations

import hashlib
import json
import math
import sys
import zipfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_all_start_methods, get_context
from pathlib import Path
from typing import Any

import numpy as np

from equipoise.config import TrainConfig, finite, write_text
from equipoise.data.store import Log
from equipoise.evaluation import monitored, predict
from equipoise.progress import Progress

Array = np.ndarray[Any, Any]
UNTOUCHED = ("study", "cli")
"""Folders of the package that no training run passes through."""
TRAINING_STUDY = ("cells.py", "spaces.py", "tuning.py")


class Halted(RuntimeError):
    """Runs cannot go on, for a reason that lies outside them; what is finished stays."""


@dataclass(frozen=True)
class Job:
    """A training run.

    Attributes:
        log: folder of the prepared log. config: options of TrainConfig, without data. final: keep what it scores on the
            test split; tuning runs never see one.
    """

    log: str
    config: dict[str, Any]
    final: bool = False

    @property
    def name(self) -> str:
        """Name of its files: readable first, then what makes it the only one."""
        c = self.config
        own = "+".join(c.get("tasks") or []) or "all"
        text = json.dumps([self.log, c, self.final], sort_keys=True)
        plain = "".join(
            x if x.isalnum() or x in "+-._" else "_" for x in f"{c['model']}-{c['method']}-{own}"[:80]
        )
        return f"{plain}-{c['lr']:g}-s{c['seed']}-{hashlib.sha256(text.encode()).hexdigest()[:10]}"


@dataclass(frozen=True)
class Outcome:
    """A finished run.

    Attributes:
        value: the monitor on validation, signed so that higher is better; -inf where training failed.
        metrics: {"valid": {task: {...}}, "test": {...}} (test of final runs only). seconds, steps: of training.
        memory: peak memory of the run's process in bytes, None where it shared one; on the host: what a GPU holds is not in it.
        failed: why there is no model, or None.
        scores: npz file of a final run's test predictions {task: float64 [N]}, or None.
        parts: the outcomes of which this is the mean, one a rolling origin; their test rows follow each other.
    """

    value: float
    metrics: dict[str, Any]
    seconds: float
    steps: int
    memory: int | None
    failed: str | None
    scores: str | None
    parts: tuple[Outcome, ...] = ()

    def read(self, task: str) -> Array:
        """Return the test predictions [N] of a task."""
        if self.parts:
            return np.concatenate([part.read(task) for part in self.parts])
        assert self.scores is not None
        with np.load(self.scores, allow_pickle=False) as file:
            found: Array = file[task]
        return found


def finished(job: Job, work: Path) -> Outcome | None:
    """Return a job's outcome when an earlier call has written it whole, else None."""
    file = work / "runs" / f"{job.name}.json"
    if not file.is_file():
        return None
    content = json.loads(file.read_text(encoding="utf-8"))
    if content["value"] is None:  # JSON has no -inf
        content["value"] = -math.inf
    outcome = Outcome(**content)
    if outcome.failed is not None:
        return outcome
    if outcome.scores is not None:
        outcome = Outcome(**{**outcome.__dict__, "scores": str(work / "runs" / outcome.scores)})
        if not zipfile.is_zipfile(str(outcome.scores)):
            return None
    return outcome


def perform(job: Job, work: Path, threads: int | None = None, expected: str | None = None) -> Outcome:
    """Train, write the outcome beside and rename it, and return it; read it when it is there.

    Args:
        threads: of torch; None leaves them as they are, and says that the process is shared with others.
        expected: fingerprint of the training code that the run is to be made with.

    Raises:
        Halted: the package's source is another now, as a fresh process imports it anew.
    """
    if (known := finished(job, work)) is not None:
        return known
    if expected is not None and (now := code()) != expected:
        raise Halted(
            f"training code changed while runs were under way ({expected} at the start, {now} now); runs of different code are never "
            "mixed: put the source back and give the command again, or start again in another folder"
        )
    import torch

    from equipoise.training import fit

    if threads is not None:
        torch.set_num_threads(threads)
    log = Log.open(job.log)
    config = TrainConfig.read({**job.config, "data": job.log})
    if config.tasks:
        log = log.only(config.tasks)
    folder = work / "runs"
    folder.mkdir(parents=True, exist_ok=True)
    content: dict[str, Any]
    try:
        with Progress(quiet=True) as silent:
            result = fit(config, log, None, silent)
    except (ValueError, FloatingPointError) as error:
        content = {
            "value": -math.inf,
            "metrics": {},
            "seconds": 0.0,
            "steps": 0,
            "failed": str(error),
            "scores": None,
        }
    else:
        kept = {"valid": result.metrics["valid"]}
        scores = None
        if job.final:
            kept["test"] = result.metrics["test"]
            assert not isinstance(result.model, dict)
            found = predict(result.model, log.split("test"), device=config.device)
            scores = f"{job.name}.npz"
            beside = folder / f".{job.name}.new.npz"
            np.savez(beside, **found)  # type: ignore[arg-type]
            beside.replace(folder / scores)
        content = {
            "value": monitored(log.schema, kept["valid"], config.monitor),
            "metrics": kept,
            "seconds": result.metrics["seconds"],
            "steps": result.metrics["steps"],
            "failed": None,
            "scores": scores,
        }
    content["memory"] = None if threads is None else _peak()
    write_text(folder / f"{job.name}.json", json.dumps(finite(content)))
    outcome = finished(job, work)
    assert outcome is not None
    return outcome


def perform_all(
    jobs: Sequence[Job],
    work: Path,
    workers: int,
    tell: Callable[[int], None] = lambda count: None,
    expected: str | None = None,
) -> dict[str, Outcome]:
    """Return {job name: outcome}; runs that are there already are read.

    Args:
        workers: processes at once, each run in a fresh one, so that its peak memory is its own, with its share of the threads that torch has
            here (`OMP_NUM_THREADS`); 0 runs all in this one.
        tell: called with 1 after each run. expected: see `perform`.

    Raises:
        Halted: the package's source changed; a run's process was killed from outside.
        KeyboardInterrupt: what is finished stays; the next call goes on from there.
    """
    found: dict[str, Outcome] = {}
    waiting: dict[str, Job] = {}
    for job in jobs:
        if job.name in found or job.name in waiting:
            continue
        if (known := finished(job, work)) is not None:
            found[job.name] = known
            tell(1)
        else:
            waiting[job.name] = job
    if workers == 0:
        for name, job in waiting.items():
            found[name] = perform(job, work, expected=expected)
            tell(1)
        return found
    try:
        with _pool(workers) as pool:
            threads = _threads(workers)
            futures = {
                pool.submit(perform, job, work, threads, expected): name for name, job in waiting.items()
            }
            for future in as_completed(futures):
                found[futures[future]] = future.result()
                tell(1)
    except BrokenProcessPool:
        raise Halted(
            "the process of a run was killed from outside, most often because memory ran out; finished runs stay: give the command again with "
            "fewer runs at once (--jobs 1), smaller batches (--batch-size) or fewer rows (--max-rows)"
        ) from None
    return found


@contextmanager
def _pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Yield a pool whose processes do one run each; an error or Ctrl-C drops what has not begun.

    They are forked from a server that has loaded torch once (2.5 s, as much as a short run trains); where the system has no
    fork, each loads it itself. polars and pyarrow are not loaded there: their threads would not outlive a fork.
    """
    forks = "forkserver" in get_all_start_methods()
    context = get_context("forkserver" if forks else "spawn")
    if forks:
        context.set_forkserver_preload(["torch", "torch._dynamo"])
    pool = ProcessPoolExecutor(workers, mp_context=context, max_tasks_per_child=1)
    try:
        yield pool
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in list((pool._processes or {}).values()):
            process.terminate()
        raise
    pool.shutdown()


def code() -> str:
    """Return a fingerprint of the package's source that training runs pass through."""
    import equipoise

    root = Path(str(equipoise.__file__)).parent
    digest = hashlib.sha256()
    for file in sorted(root.rglob("*.py")):
        part = file.relative_to(root)
        if part.parts[0] not in UNTOUCHED or part.name in TRAINING_STUDY:
            digest.update(part.as_posix().encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def _peak() -> int | None:
    """Return this process's peak resident memory in bytes, None where the system does not tell."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak) if sys.platform == "darwin" else int(peak) * 1024


def _threads(workers: int) -> int:
    """Return torch's threads of each of so many processes: the cores' share, and no more than this process has (OMP_NUM_THREADS)."""
    import torch

    return min(torch.get_num_threads(), max(1, _cores() // workers))


def _cores() -> int:
    import os

    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
