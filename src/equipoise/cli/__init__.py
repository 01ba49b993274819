"""The command line. Progress goes to stderr, results (with `--json` one JSON object) to stdout; torch loads on use.

Exit status: 0, 2 for a mistake in the input or a study that cannot go on (one line on stderr), 130 after Ctrl-C or SIGTERM.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from equipoise.cli import data, look, study, train

app = typer.Typer(
    name="equipoise",
    help="Train multi-task ranking models so that no task pays for another.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        from equipoise import __version__

        typer.echo(__version__)
        raise typer.Exit()


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Train multi-task ranking models so that no task pays for another."""


COMMANDS: dict[str, Callable[..., None]] = {
    "train": train.train,
    "resume": train.resume,
    "evaluate": train.evaluate,
    "compare": study.compare,
    "diagnose": study.diagnose,
    "tune": study.tune,
    "toy": study.toy,
    "simulate": data.simulate,
    "prepare": data.prepare,
    "inspect": data.inspect_log,
    "models": look.models,
    "methods": look.methods,
    "doctor": look.doctor,
}
for name, command in COMMANDS.items():
    app.command(name)(command)
schema = typer.Typer(no_args_is_help=True, help="Make a schema file.", rich_markup_mode=None)
schema.command("infer")(data.infer)
app.add_typer(schema, name="schema")


def main() -> None:
    """Run the command line; the `equipoise` script."""
    app()
