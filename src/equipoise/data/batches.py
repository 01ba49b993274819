"""Prepared arrays -> batches: shuffled in windows of whole blocks, read through memory maps, resumable."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

BLOCK = 2**16
"""Rows that are read together; a multiple of 8, so that a validity bitmap is cut at whole bytes."""

WINDOW = 8
"""Blocks that are shuffled among each other: a log of up to 8 * 65,536 rows is shuffled as a whole."""


@dataclass
class Ragged:
    """A multi-valued feature: row b holds `values[offsets[b]:offsets[b + 1]]`.

    Attributes:
        values: int32 [nnz] ids. offsets: int64 [B + 1]. weights: float32 [nnz] or None.
    """

    values: Tensor
    offsets: Tensor
    weights: Tensor | None = None

    def to(self, device: torch.device | str) -> Ragged:
        """Return the same on `device`."""
        return Ragged(
            self.values.to(device),
            self.offsets.to(device),
            None if self.weights is None else self.weights.to(device),
        )

    def part(self, start: int, stop: int) -> Ragged:
        """Return rows start .. stop - 1; views, not copies, but for the offsets."""
        first, last = int(self.offsets[start]), int(self.offsets[stop])  # synchronises
        weights = None if self.weights is None else self.weights[first:last]
        return Ragged(self.values[first:last], self.offsets[start : stop + 1] - first, weights)


@dataclass
class Batch:
    """B rows of a log.

    Attributes:
        ids: int32 [B, F], columns as `schema.categorical`; 0 is unseen.
        numerical: float32 [B, D], columns as `schema.numerical`, standardised.
        multi: {feature: Ragged}.
        labels: {task: float32 [B]} in the labels' own units, 0 where not known.
        masks: {task: bool [B]}, True where the label is known.
        row: int64 [B], the row's number in its split.
        weight: float32 [B] sample weights or None. group: int64 [B] codes or None.
        truth: {task: float32 [B]} true probabilities of a simulated log, else {}.
    """

    ids: Tensor
    numerical: Tensor
    multi: dict[str, Ragged]
    labels: dict[str, Tensor]
    masks: dict[str, Tensor]
    row: Tensor
    weight: Tensor | None = None
    group: Tensor | None = None
    truth: dict[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.row)

    def to(self, device: torch.device | str) -> Batch:
        """Return the same on `device`."""

        def move(value: Any) -> Any:
            if isinstance(value, dict):
                return {name: move(v) for name, v in value.items()}
            return value if value is None else value.to(device)

        return replace(self, **{f.name: move(getattr(self, f.name)) for f in fields(self)})

    def part(self, start: int, stop: int) -> Batch:
        """Return rows start .. stop - 1 as a batch; views, not copies.

        Raises:
            ValueError: no rows there.
        """
        if not 0 <= start < stop <= len(self):
            raise ValueError(f"part must lie within the {len(self)} rows, got {start} to {stop}")

        def cut(value: Any) -> Any:
            if isinstance(value, dict):
                return {name: cut(v) for name, v in value.items()}
            if isinstance(value, Ragged):
                return value.part(start, stop)
            return value if value is None else value[start:stop]

        return replace(self, **{f.name: cut(getattr(self, f.name)) for f in fields(self)})


Arrays = Mapping[str, np.ndarray[Any, Any]]


def batches(
    arrays: Arrays,
    tasks: list[str],
    multi: list[str],
    batch_size: int,
    *,
    shuffle: bool = False,
    seed: int = 0,
    epoch: int = 0,
    start: int = 0,
    drop_last: bool = False,
) -> Iterator[Batch]:
    """Yield batches of a split; the order depends on (seed, epoch) only, and `start` skips that many batches.

    Blocks of 65,536 rows come in a random order, eight at a time are read and their rows permuted.

    Args:
        arrays: the split's memory maps by name (see `store.py`).
        tasks, multi: names in the order of the label columns, and of the multi-valued features.
        drop_last: leave out a last batch of fewer rows.

    Raises:
        ValueError: batch_size < 1 or start < 0.
    """
    if batch_size < 1 or start < 0:
        raise ValueError(f"batch_size must be >= 1 and start >= 0, got {batch_size} and {start}")
    num_rows = len(arrays["row"])
    skip = start * batch_size
    left: list[Batch] = []
    for begin, rows in _windows(num_rows, shuffle, seed, epoch):
        if begin + len(rows) <= skip:
            continue
        window = _read(arrays, np.unique(rows // BLOCK), tasks, multi)
        at = max(0, skip - begin)
        position = window.position(rows)
        held = sum(len(part) for part in left)
        while at < len(rows):
            take = position[at : at + batch_size - held]
            at += len(take)
            part = window.take(take)
            if held + len(part) < batch_size:
                left.append(part)
                break
            yield _concatenate([*left, part])
            left, held = [], 0
    if left and not drop_last:
        yield _concatenate(left)


def _windows(
    num_rows: int, shuffle: bool, seed: int, epoch: int
) -> Iterator[tuple[int, np.ndarray[Any, Any]]]:
    """Yield (rows before this window, the window's row numbers in order)."""
    order = np.arange(-(-num_rows // BLOCK))
    generator = np.random.default_rng([seed, epoch])
    if shuffle:
        generator.shuffle(order)
    begin = 0
    for first in range(0, len(order), WINDOW):
        chosen = order[first : first + WINDOW]
        rows = np.concatenate([np.arange(b * BLOCK, min((b + 1) * BLOCK, num_rows)) for b in chosen])
        if shuffle:
            generator.shuffle(rows)
        yield begin, rows
        begin += len(rows)


@dataclass
class _Window:
    """Whole blocks in memory, one after the other: rows `blocks[i] * BLOCK ...` of the split from `i * BLOCK` on."""

    columns: dict[str, np.ndarray[Any, Any]]
    multi: dict[str, list[np.ndarray[Any, Any]]]
    blocks: np.ndarray[Any, Any]
    tasks: list[str]

    def position(self, rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Return where the split's rows lie in this window (only a split's last block is short, and it comes last)."""
        return np.asarray(np.searchsorted(self.blocks, rows // BLOCK) * BLOCK + rows % BLOCK)

    def take(self, at: np.ndarray[Any, Any]) -> Batch:
        """Return the rows at these positions as a batch (`np.take`: `column[at]` takes twice as long)."""
        found = {name: torch.from_numpy(np.take(column, at, axis=0)) for name, column in self.columns.items()}
        multi = {}
        for name, (values, offsets) in self.multi.items():
            lengths = (offsets[1:] - offsets[:-1])[at]
            ends = np.concatenate([[0], np.cumsum(lengths)])
            picked = np.repeat(offsets[:-1][at] - ends[:-1], lengths) + np.arange(ends[-1])
            multi[name] = Ragged(torch.from_numpy(values[picked]), torch.from_numpy(ends))
        truth = found.get("truth")
        return Batch(
            ids=found["ids"],
            numerical=found["numerical"],
            multi=multi,
            labels={task: found["labels"][:, t].contiguous() for t, task in enumerate(self.tasks)},
            masks={task: found["valid"][:, t].contiguous() for t, task in enumerate(self.tasks)},
            row=found["row"],
            weight=found.get("weight"),
            group=found.get("group"),
            truth={} if truth is None else {t: truth[:, i].contiguous() for i, t in enumerate(self.tasks)},
        )


def _read(arrays: Arrays, blocks: np.ndarray[Any, Any], tasks: list[str], multi: list[str]) -> _Window:
    """Copy whole blocks out of the memory maps."""
    num_rows = len(arrays["row"])
    spans = [(int(b) * BLOCK, min((int(b) + 1) * BLOCK, num_rows)) for b in blocks]
    columns = {}
    for name, array in arrays.items():
        if "." in name:
            continue
        if name == "valid":
            parts = [
                np.unpackbits(array[:, a // 8 : -(-b // 8)], axis=1, count=b - a).T.astype(bool, order="C")
                for a, b in spans
            ]
        else:
            parts = [np.asarray(array[a:b]) for a, b in spans]
        columns[name] = np.concatenate(parts)
    ragged = {}
    for name in multi:
        offsets, values = arrays[f"{name}.offsets"], arrays[f"{name}.values"]
        lengths = np.concatenate([np.diff(offsets[a : b + 1]) for a, b in spans])
        ragged[name] = [
            np.concatenate([np.asarray(values[offsets[a] : offsets[b]]) for a, b in spans]),
            np.concatenate([[0], np.cumsum(lengths)]),
        ]
    return _Window(columns, ragged, blocks, tasks)


def _concatenate(parts: list[Batch]) -> Batch:
    """Return several batches as one."""
    if len(parts) == 1:
        return parts[0]

    def join(values: list[Any]) -> Any:
        if values[0] is None:
            return None
        if isinstance(values[0], dict):
            return {name: join([v[name] for v in values]) for name in values[0]}
        if isinstance(values[0], Ragged):
            lengths = torch.cat([v.offsets.diff() for v in values])
            offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
            return Ragged(torch.cat([v.values for v in values]), offsets)
        return torch.cat(values)

    return Batch(**{f.name: join([getattr(p, f.name) for p in parts]) for f in fields(Batch)})
