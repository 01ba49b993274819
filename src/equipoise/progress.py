"""What a person sees while a log is made or a model trains: live on a terminal, plain lines elsewhere. On stderr."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Table

BETWEEN_LINES = 10.0
"""Seconds between two lines where there is no terminal."""


class Progress:
    """Shows entries of the history as they come; `quiet` shows nothing.

    Use as a context manager; `phase` shows how far other work is, `note` prints a line, `steps` updates the table, `epoch` prints a validation
    line.
    """

    def __init__(self, quiet: bool = False) -> None:
        self.console = Console(stderr=True, quiet=quiet)
        if not self.console.is_terminal:
            self.console.width = 120  # a log file has no width of its own
        self.live: Live | None = None
        self._next_line = 0.0
        self._what = ""
        self._bar = Bar(disable=True)

    def __enter__(self) -> Progress:
        if self.console.is_terminal and not self.console.quiet:
            self.live = Live(console=self.console, refresh_per_second=4, transient=True)
            self.live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.live is not None:
            self.live.stop()
            self.live = None

    def note(self, text: str) -> None:
        """Print one line."""
        self.console.print(text, highlight=False, markup=False)

    def table(self, table: Table) -> None:
        """Print a table."""
        self.console.print(table)

    def phase(self, what: str, done: int, total: int | None) -> None:
        """Show how far a phase of the work is; without a terminal a line when it begins and every ten seconds. A `data.tell.Tell`."""
        new, self._what = what != self._what or not done, what
        numbers = [f"{number:,}" for number in (done or None, total) if number is not None]
        rows = f"{' of '.join(numbers)} rows" if numbers else ""
        if self.live is not None:
            if new:
                self._bar = _bar(self.console, what, total)
                self.live.update(self._bar)
            self._bar.update(self._bar.task_ids[0], completed=done, total=total, rows=rows)
        elif new or time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + BETWEEN_LINES
            self.note(f"{what}: {rows}" if rows else what)

    def steps(self, entry: dict[str, Any], num_steps: int) -> None:
        """Show step, rows a second, loss and weight of each task; without a terminal a line every ten seconds."""
        if self.live is not None:
            table = Table(title=f"epoch {entry['epoch']}  step {entry['step']}/{num_steps}")
            table.add_column("task")
            for name in ("loss", "weight"):
                table.add_column(name, justify="right")
            for task, loss in entry["loss"].items():
                table.add_row(task, _number(loss), _number(entry["weights"].get(task)))
            table.caption = f"{entry['rows_per_second']:,.0f} rows/s"
            self.live.update(table)
        elif time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + BETWEEN_LINES
            losses = "  ".join(
                f"{task} {_number(loss)} (w {_number(entry['weights'].get(task))})"
                for task, loss in entry["loss"].items()
            )
            self.note(
                f"epoch {entry['epoch']} step {entry['step']}/{num_steps}  {entry['rows_per_second']:,.0f} rows/s  {losses}"
            )

    def epoch(self, entry: dict[str, Any]) -> None:
        """Print one line of validation metrics."""
        values = "  ".join(
            f"{task} {'auc' if 'auc' in found else 'xauc'} {_number(found.get('auc', found.get('xauc')))}"
            for task, found in entry["valid"].items()
        )
        best = "  best so far" if entry["best"] else ""
        self.note(f"epoch {entry['epoch']} valid  {values}{best}")


def _bar(console: Console, what: str, total: int | None) -> Bar:
    """Return a bar with its one task, to be drawn by a live display; without a total it pulses."""
    shown = [TextColumn("{task.description}", markup=False), BarColumn(), TextColumn("{task.fields[rows]}")]
    bar = Bar(*shown, TimeElapsedColumn(), TimeRemainingColumn(), console=console, auto_refresh=False)
    bar.add_task(what, total=total, rows="")
    return bar


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def summary_table(summary: dict[str, Any], columns: dict[str, str]) -> Table:
    """Return the table of a log: a row a task with its label column, and rates in each split; splits in the caption.

    Args:
        summary: `Log.summary()`. columns: {task: label column}.
    """
    table = Table(title="task -> label", caption_justify="left", title_justify="left")
    table.add_column("task")
    table.add_column("label")
    table.add_column("kind")
    for split in summary:
        table.add_column(f"{split}: positive", justify="right")
        table.add_column("missing", justify="right")
    for task, column in columns.items():
        cells = []
        for found in summary.values():
            entry = found["tasks"][task]
            rate = entry.get("positive_rate")
            cells.append(f"{rate:.4f}" if rate is not None else f"mean {_number(entry.get('mean'))}")
            cells.append(f"{entry['missing_rate']:.3f}")
        table.add_row(task, column, next(iter(summary.values()))["tasks"][task]["kind"], *cells)
    lines = []
    for split, found in summary.items():
        span = "" if found["time"] is None else f", {' to '.join(_day(ms) for ms in found['time'])} UTC"
        lines.append(
            f"{split}: {found['rows']:,} rows, {found['unseen']:.2%} of ids unseen in training{span}"
        )
    table.caption = "\n".join(lines)
    return table


def _day(ms: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.gmtime(ms / 1000))
