"""How far a long job is, told to whoever asked: the command line shows it, the library is silent by default."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")
Tell = Callable[[str, int, int | None], None]
"""(what is being done, rows that are done, rows in all or None where nobody knows), once with 0 rows when it begins."""


def silent(what: str, done: int, total: int | None) -> None:
    """Say nothing."""


def told(
    items: Iterable[Item], tell: Tell, what: str, total: int | None, rows: Callable[[Item], int]
) -> Iterator[Item]:
    """Yield the items, and tell the rows of those that were used.

    Args:
        what: a phase of the work, "writing the log" say. total: rows of all items, where known. rows: of an item.

    Example:
        >>> [*told(["ab", "c"], lambda *said: print(*said), "reading", 3, len)]
        reading 0 3
        reading 2 3
        reading 3 3
        ['ab', 'c']
    """
    done = 0
    tell(what, done, total)
    for item in items:
        yield item
        done += rows(item)
        tell(what, done, total)
