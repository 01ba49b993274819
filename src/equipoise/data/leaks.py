"""Whether the splits of a log leak: a group on two sides, or a row to train on that is later than one to test on."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from equipoise.data.batches import BLOCK

if TYPE_CHECKING:
    from equipoise.data.schema import Schema
    from equipoise.data.store import Log, Split

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Leaks:
    """What two splits share.

    Attributes:
        groups: {(split, later split): groups with rows in both}, pairs with one at least; {} without a group.
        late: {(split, later split): rows of the first that are later than the first row of the second}; {} without a time. Rows of
            the same time are no leak.
    """

    groups: dict[tuple[str, str], int]
    late: dict[tuple[str, str], int]

    def lines(self) -> list[str]:
        """Return a line for each pair, none where nothing leaks."""
        groups = [f"{n} groups have rows in both {a} and {b}" for (a, b), n in self.groups.items()]
        return groups + [
            f"{n} rows of {a} are later than the first of {b}" for (a, b), n in self.late.items()
        ]


def check_splits(log: Log) -> Leaks:
    """Return what the splits of a log share; it reads group codes and times a block at a time.

    A log split at random, by group or by a column may well train on rows later than those it tests on: whether `late` is a
    fault depends on the rule. A missing group is one group like the others.
    """
    names = [name for name in ("train", "valid", "test") if name in log.splits]
    groups: dict[tuple[str, str], int] = {}
    late: dict[tuple[str, str], int] = {}
    if log.schema.group is not None:
        held = {name: _groups(log.splits[name]) for name in names}
        for at, a in enumerate(names):
            for b in names[at + 1 :]:
                shared = min(len(held[a]), len(held[b]))
                if both := int((held[a][:shared] & held[b][:shared]).sum()):
                    groups[a, b] = both
    if log.schema.time is not None:
        for a, b in [*pairwise(names), *((n, names[-1]) for n in names[:-2])]:
            begin = log.splits[b].time_range()
            if begin is not None and (count := _later(log.splits[a], begin[0])):
                late[a, b] = count
    return Leaks(groups, late)


def _groups(split: Split) -> Array:
    """Return bool [G]: whether a group code has rows in the split."""
    seen = np.zeros(0, bool)
    for part in split.parts:
        for start in range(0, len(part["group"]), BLOCK):
            codes = np.asarray(part["group"][start : start + BLOCK])
            if codes.max() >= len(seen):
                seen = np.concatenate([seen, np.zeros(int(codes.max()) + 1 - len(seen) + BLOCK, bool)])
            seen[codes] = True
    return seen


def _later(split: Split, begin: int) -> int:
    """Return how many rows are later than `begin`, ms UTC."""
    return sum(
        int((np.asarray(part["time"][start : start + BLOCK]) > begin).sum())
        for part in split.parts
        for start in range(0, len(part["time"]), BLOCK)
    )


def asked_for(schema: Schema) -> list[str]:
    """Return a line for each leak that the schema's split rule asks for, for the manifest's notes and for whoever prepares."""
    rule = schema.split
    if rule is None or schema.group is None or not rule.allow_group_leak:
        return []
    return [
        f"split: rows are drawn one by one (allow_group_leak), so a group {schema.group!r} may lie in several splits"
    ]
