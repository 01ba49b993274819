"""What every command shares: errors as one line, JSON as the last line, values of `--set`, tables of scores."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, TypeVar

import typer

from equipoise.interrupt import listen

F = TypeVar("F", bound=Callable[..., None])
WIDTH = 120
"""Width of tables where there is no terminal to ask."""

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout, last.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")]
Labels = Annotated[
    list[str] | None,
    typer.Option(
        "--label", help="A label column of a raw table: click, purchase:given=click, dwell:watch=duration_ms."
    ),
]
Time = Annotated[str | None, typer.Option(help="Time column of a raw table; rows are then split by time.")]
Group = Annotated[
    str | None, typer.Option(help="Column of a raw table within which GAUC ranks, a user id say.")
]


def reported(command: F) -> F:
    """Wrap a command: a mistake in the input, or a study that cannot go on, becomes one line and exit status 2, an interruption exit status 130."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        listen()
        try:
            command(*args, **kwargs)
        except BrokenPipeError:
            raise
        except (ValueError, OSError, FloatingPointError) as error:
            fail(str(error))
        except KeyboardInterrupt:
            typer.echo("equipoise: interrupted", err=True)
            raise typer.Exit(130) from None
        except RuntimeError as error:
            from equipoise.study.cells import Halted
            from equipoise.weighing import StationaryError

            if not isinstance(error, StationaryError | Halted):
                raise
            fail(str(error))

    return run  # type: ignore[return-value]


def fail(message: str) -> None:
    """Print one line on stderr and leave with exit status 2."""
    typer.echo(f"equipoise: error: {' '.join(message.split())}", err=True)
    raise typer.Exit(2)


def print_json(content: Any) -> None:
    """Print one JSON object on one line of stdout; NaN and Inf become null."""
    from equipoise.config import finite

    typer.echo(json.dumps(finite(content)))


def print_table(
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    numbers: bool = True,
    err: bool = False,
) -> None:
    """Print a table on stdout (stderr with `err`); the columns after the first hold numbers unless told otherwise."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for at, column in enumerate(columns):
        table.add_column(column, justify="right" if numbers and at else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    console = Console(stderr=err)
    (console if console.is_terminal else Console(width=WIDTH, stderr=err)).print(table, markup=False)


def say_simulated(simulated: bool) -> None:
    """Print that a log is simulated, where it is: every report on one says so."""
    from equipoise.study.report import SIMULATED

    if simulated:
        typer.echo(SIMULATED)


def print_scores(title: str, scores: Mapping[str, Mapping[str, float | int | None]]) -> None:
    """Print {task: {metric: value}} as a table: a row a metric, a column a task."""
    names = list(dict.fromkeys(name for found in scores.values() for name in found))
    rows = [[name, *[number(found.get(name)) for found in scores.values()]] for name in names]
    print_table(title, ["", *scores], rows)


def number(value: float | int | None) -> str:
    """Return a number to read: counts with commas, others with four decimals, None as a dash."""
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}"


def parse_set(pairs: Sequence[str]) -> dict[str, Any]:
    """Return {"model.num_experts": 4} of ["model.num_experts=4"]; values are YAML, so lists, numbers and true work.

    Raises:
        ValueError: a pair without "=", a value that is not YAML.
    """
    import yaml

    found: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key:
            raise ValueError(f"--set must be key=value, got {pair!r}; try --set num_experts=4")
        try:
            found[key] = float(text) if _is_float(text) else yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ValueError(f"--set {key} must have a YAML value, got {text!r}: {error}") from None
    return found


def _is_float(text: str) -> bool:
    """Return whether text is a number that YAML 1.1 would take for a word or a fraction: 1e-3, .5."""
    try:
        float(text)
    except ValueError:
        return False
    return "." in text or "e" in text.lower()
