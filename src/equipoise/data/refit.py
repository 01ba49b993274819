"""Another scale for numbers that are stored standardised: what was learned on all days, and the shards of before rewritten to it."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from equipoise.data.encode import BLOCK, CUT, column_of, numbers
from equipoise.data.encoder import Chunks, Spread
from equipoise.data.store import Log

Array = np.ndarray[Any, Any]
Scaling = Mapping[str, tuple[float, float]]
FILE = "numerical.npy"


def refitted(log: Log, training: Chunks, splits: Sequence[str]) -> dict[str, tuple[float, float]]:
    """Return {feature: (mean, standard deviation)} over the log's rows of these splits and new training rows.

    Rows of before are taken from what is stored: numbers that were cut at +-10 count as that. A stored 0 is the mean or a missing number;
    as many as the notes count are missing.

    Args:
        log: before. training: the new training rows. splits: those that are training from now on.

    Raises:
        ValueError: a label of way d2q, whose buckets are edges in the old scale.
    """
    schema = log.schema
    if d2q := [y.name for y in schema.labels if y.way == "d2q"]:
        raise ValueError(
            f"refit=True (--refit) is not possible with label {d2q[0]!r} of way d2q, whose duration buckets are in the old scale; prepare "
            "both tables together into a new log"
        )
    found: dict[str, tuple[float, float]] = dict(log.manifest["scaling"])
    scaled = _scaled(log)
    if not scaled:
        return found
    spreads = {name: Spread() for name in scaled}
    for name, at in scaled.items():
        mean, std = log.manifest["scaling"][name]
        for split in splits:
            missing = log.manifest["notes"]["missing_numbers"][split].get(name, 0)
            for part in log.split(split).parts:
                for start in range(0, len(part["numerical"]), BLOCK):
                    z = np.asarray(part["numerical"][start : start + BLOCK, at], np.float64)
                    out = min(missing, int((z == 0).sum()))
                    missing -= out
                    known = np.concatenate([z[z != 0], np.zeros(int((z == 0).sum()) - out)])
                    spreads[name].add(mean + std * known)
    for chunk in training():
        for n in schema.numerical:
            if n.name in spreads:
                values = numbers(column_of(chunk, n.column or n.name, f"feature {n.name!r}"), n)
                spreads[n.name].add(values[~np.isnan(values)])
    for name, spread in spreads.items():
        mean, std = spread.found((0.0, 1.0))
        found[name] = mean, std if std > 0 else 1.0
    return found


def _scaled(log: Log) -> dict[str, int]:
    """Return {standardised feature: its column}."""
    return {n.name: at for at, n in enumerate(log.schema.numerical) if n.scale == "standard"}


def rescale(log: Log, scaling: Scaling, name: str, into: str) -> tuple[dict[str, int], dict[str, str], int]:
    """Write a shard again under another name, with numbers in another scale; return ({file: bytes}, {file: SHA-256}, numbers that were cut before).

    All other arrays are hard links, copies where the disk has none. A stored 0 stays 0 where the feature has missing numbers.
    """
    old, new = log.path / name, log.path / into
    new.mkdir()
    files = dict(log.manifest["files"][name])
    for file in files:
        if file != FILE:
            _link(old / file, new / file)
    numbers = np.load(old / FILE, mmap_mode="r", allow_pickle=False)
    held = np.lib.format.open_memmap(new / FILE, mode="w+", dtype=np.float32, shape=numbers.shape)
    scaled, cut = _scaled(log), 0
    missing = {n for counts in log.manifest["notes"]["missing_numbers"].values() for n in counts}
    for start in range(0, len(numbers), BLOCK):
        z = np.array(numbers[start : start + BLOCK], np.float64)
        for feature, at in scaled.items():
            (mean, std), (middle, spread) = log.manifest["scaling"][feature], scaling[feature]
            column = z[:, at]
            cut += int((np.abs(column) >= CUT).sum())
            moved = np.clip((mean + std * column - middle) / spread, -CUT, CUT)
            z[:, at] = np.where(column == 0, 0.0, moved) if feature in missing else moved
        held[start : start + BLOCK] = z
    held.flush()
    del held
    files[FILE] = (new / FILE).stat().st_size
    digests = {f"{into}/{file}": log.manifest["sha256"][f"{name}/{file}"] for file in files if file != FILE}
    with (new / FILE).open("rb") as whole:
        digests[f"{into}/{FILE}"] = hashlib.file_digest(whole, "sha256").hexdigest()
    return files, digests, cut


def _link(old: Path, new: Path) -> None:
    try:
        os.link(old, new)
    except OSError:
        shutil.copyfile(old, new)
