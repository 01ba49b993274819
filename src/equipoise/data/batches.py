"""Prepared arrays -> batches: shuffled in windows of whole blocks, read through memory maps, resumable."""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from equipoise.data.check import check_lengths
from equipoise.transfer import waits

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


class _Counted:
    """Counts of labels that `Batch.to` knows, in a slot: no field, so that a batch made of another's fields, with other masks, is
    not taken to have them."""

    __slots__ = ("_counts",)
    _counts: dict[str, float]

    @property
    def counts(self) -> dict[str, float]:
        """{task: sum of `weights_of`}, taken before the batch went to a device, where reading them would wait; else {}."""
        return getattr(self, "_counts", {})


@dataclass
class Batch(_Counted):
    """B rows of a log.

    Attributes:
        ids: int32 [B, F], columns as `schema.categorical`; 0 is unseen.
        numerical: float32 [B, D], columns as `schema.numerical`, standardised.
        multi: {feature: Ragged}.
        labels: {task: float32 [B]} in the labels' own units, 0 where not known.
        masks: {task: bool [B]}, True where the label is known.
        row: int64 [B], the row's number in its split.
        weight: float32 [B] sample weights, {task: float32 [B]} where tasks differ, or None. group: int64 [B] codes or None.
        truth: {task: float32 [B]} true probabilities of a simulated log, else {}.
        seen: {task: float32 [B]} share of events that are known by now (see `data/seen.py`), {} where no label has a correction.
    """

    ids: Tensor
    numerical: Tensor
    multi: dict[str, Ragged]
    labels: dict[str, Tensor]
    masks: dict[str, Tensor]
    row: Tensor
    weight: Tensor | dict[str, Tensor] | None = None
    group: Tensor | None = None
    truth: dict[str, Tensor] = field(default_factory=dict)
    seen: dict[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.row)

    def weights_of(self, task: str) -> Tensor:
        """Return [B], the sample weight where the task's label is known, else 0."""
        mask = self.masks[task]
        if self.weight is None:
            return mask.float()
        return mask * (self.weight[task] if isinstance(self.weight, dict) else self.weight)

    def to(self, device: torch.device | str) -> Batch:
        """Return the same on `device`."""

        def move(value: Any) -> Any:
            if isinstance(value, dict):
                return {name: move(v) for name, v in value.items()}
            return value if value is None else value.to(device)

        moved = replace(self, **{f.name: move(getattr(self, f.name)) for f in fields(self)})
        moved._counts = self.counts
        if waits(torch.device(device)) and not waits(self.row.device):
            moved._counts = {task: float(self.weights_of(task).sum()) for task in self.masks}
        return moved

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
    parts: Sequence[Arrays],
    tasks: list[str],
    multi: list[str],
    batch_size: int,
    *,
    shuffle: bool = False,
    seed: int = 0,
    epoch: int = 0,
    start: int = 0,
    drop_last: bool = False,
    rank: int = 0,
    world_size: int = 1,
) -> Iterator[Batch]:
    """Yield batches of a split; the order depends on (seed, epoch) only, and `start` skips that many batches.

    Blocks of 65,536 rows come in a random order, eight at a time are read and their rows permuted.

    With `world_size` W, rank r takes rows r, r + W, r + 2W ... of that one order: all ranks together see every row once an epoch,
    their counts differ by one row at most. With `drop_last` all ranks have the same number of batches; without, a rank may have one more.

    Args:
        parts: the memory maps by name of each shard (see `store.py`), which follow each other.
        tasks, multi: names in the order of the label columns, and of the multi-valued features.
        drop_last: leave out a last batch of fewer rows.
        rank, world_size: this reader among those that share the epoch: ranks of a distributed run, workers of a loader, or both.

    Raises:
        ValueError: batch_size < 1, start < 0, a rank that is not in 0 .. world_size - 1.
    """
    if batch_size < 1 or start < 0:
        raise ValueError(f"batch_size must be >= 1 and start >= 0, got {batch_size} and {start}")
    if not 0 <= rank < world_size:
        raise ValueError(f"rank must be in 0 .. world_size - 1, got {rank} of {world_size}")
    blocks = _Blocks(parts)
    skip = start * batch_size
    end = blocks.num_rows // world_size // batch_size * batch_size if drop_last else blocks.num_rows
    left: list[Batch] = []
    begin = seen = 0
    for chosen, rows in _windows(blocks, shuffle, seed, epoch):
        own = rows[(rank - seen) % world_size :: world_size]
        seen += len(rows)
        rows = own[: max(0, end - begin)]
        if begin + len(rows) <= skip:
            begin += len(rows)
            continue
        window = _read(parts, blocks, np.sort(chosen), tasks, multi)
        if len(blocks) > WINDOW:
            _release(parts)
        at = max(0, skip - begin)
        begin += len(rows)
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


class _Blocks:
    """The blocks of a split: `part[i]` is the shard, `offset[i]` the first row in it, `first[i]` in the split, `length[i]` the rows."""

    def __init__(self, parts: Sequence[Arrays]) -> None:
        part, offset, length = [], [], []
        for at, arrays in enumerate(parts):
            rows = len(arrays["labels"])
            for begin in range(0, rows, BLOCK):
                part.append(at)
                offset.append(begin)
                length.append(min(BLOCK, rows - begin))
        self.part, self.offset = np.array(part, np.int64), np.array(offset, np.int64)
        self.length = np.array(length, np.int64)
        self.first = np.cumsum(self.length) - self.length
        self.num_rows = int(self.length.sum())

    def __len__(self) -> int:
        return len(self.part)


def _windows(
    blocks: _Blocks, shuffle: bool, seed: int, epoch: int
) -> Iterator[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]:
    """Yield (blocks of this window, its row numbers in order)."""
    order = np.arange(len(blocks))
    generator = np.random.default_rng([seed, epoch])
    if shuffle:
        generator.shuffle(order)
    for begin in range(0, len(order), WINDOW):
        chosen = order[begin : begin + WINDOW]
        rows = np.concatenate([blocks.first[b] + np.arange(blocks.length[b]) for b in chosen])
        if shuffle:
            generator.shuffle(rows)
        yield chosen, rows


@dataclass
class _Window:
    """Whole blocks in memory, one after the other: those whose first row in the split is `first[i]` lie from `start[i]` on."""

    columns: dict[str, np.ndarray[Any, Any]]
    multi: dict[str, tuple[np.ndarray[Any, Any], ...]]
    first: np.ndarray[Any, Any]
    start: np.ndarray[Any, Any]
    tasks: list[str]

    def position(self, rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Return where the split's rows lie in this window."""
        block = np.searchsorted(self.first, rows, side="right") - 1
        return np.asarray(self.start[block] + rows - self.first[block])

    def take(self, at: np.ndarray[Any, Any]) -> Batch:
        """Return the rows at these positions as a batch (`np.take`: `column[at]` takes twice as long)."""
        found = {name: torch.from_numpy(np.take(column, at, axis=0)) for name, column in self.columns.items()}
        multi = {}
        for name, (values, offsets, *weights) in self.multi.items():
            lengths = (offsets[1:] - offsets[:-1])[at]
            ends = np.concatenate([[0], np.cumsum(lengths)])
            picked = np.repeat(offsets[:-1][at] - ends[:-1], lengths) + np.arange(ends[-1])
            multi[name] = Ragged(
                torch.from_numpy(values[picked]),
                torch.from_numpy(ends),
                torch.from_numpy(weights[0][picked]) if weights else None,
            )
        truth, weight, seen = found.get("truth"), found.get("weight"), found.get("seen")
        return Batch(
            ids=found["ids"],
            numerical=found["numerical"],
            multi=multi,
            labels={task: found["labels"][:, t].contiguous() for t, task in enumerate(self.tasks)},
            masks={task: found["valid"][:, t].contiguous() for t, task in enumerate(self.tasks)},
            row=found["row"],
            weight=weight
            if weight is None or weight.ndim == 1
            else {task: weight[:, t].contiguous() for t, task in enumerate(self.tasks)},
            group=found.get("group"),
            truth={} if truth is None else {t: truth[:, i].contiguous() for i, t in enumerate(self.tasks)},
            seen={} if seen is None else {t: seen[:, i].contiguous() for i, t in enumerate(self.tasks)},
        )


NOT_READ = ("time", "row")


def _read(
    parts: Sequence[Arrays], blocks: _Blocks, chosen: np.ndarray[Any, Any], tasks: list[str], multi: list[str]
) -> _Window:
    """Copy whole blocks out of the memory maps."""
    spans = [
        (parts[blocks.part[b]], int(blocks.offset[b]), int(blocks.offset[b] + blocks.length[b]))
        for b in chosen
    ]
    columns = {}
    for name in parts[0]:
        if "." in name or name in NOT_READ:
            continue
        if name == "valid":
            cut = [
                np.unpackbits(part["valid"][:, a // 8 : -(-b // 8)], axis=1, count=b - a).T.astype(
                    bool, order="C"
                )
                for part, a, b in spans
            ]
        else:
            cut = [np.asarray(part[name][a:b]) for part, a, b in spans]
        columns[name] = np.concatenate(cut)
    columns["row"] = np.concatenate([blocks.first[b] + np.arange(blocks.length[b]) for b in chosen])
    ragged = {}
    for name in multi:
        ends = [(part[f"{name}.offsets"], a, b) for part, a, b in spans]
        lengths = np.concatenate([np.diff(offsets[a : b + 1]) for offsets, a, b in ends])
        kept = [key for key in (f"{name}.values", f"{name}.weights") if key in parts[0]]
        values, *weights = (
            np.concatenate(
                [
                    np.asarray(part[key][part[f"{name}.offsets"][a] : part[f"{name}.offsets"][b]])
                    for part, a, b in spans
                ]
            )
            for key in kept
        )
        check_lengths(name, lengths, values)
        ragged[name] = (values, np.concatenate([[0], np.cumsum(lengths)]), *weights)
    start = np.cumsum(blocks.length[chosen]) - blocks.length[chosen]
    return _Window(columns, ragged, blocks.first[chosen], start, tasks)


def _release(parts: Sequence[Arrays]) -> None:
    """Take the maps' pages out of this process's memory; the system keeps them cached as long as it has room."""
    for part in parts:
        for array in part.values():
            if isinstance(array.base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
                array.base.madvise(mmap.MADV_DONTNEED)


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
            weights = None if values[0].weights is None else torch.cat([v.weights for v in values])
            return Ragged(torch.cat([v.values for v in values]), offsets, weights)
        return torch.cat(values)

    return Batch(**{f.name: join([getattr(p, f.name) for p in parts]) for f in fields(Batch)})
