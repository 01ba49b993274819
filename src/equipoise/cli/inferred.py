"""What `equipoise schema infer` prints and writes, and the pages of `schema infer` and `inspect`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from equipoise.cli.common import print_json, print_table

Page = Annotated[str | None, typer.Option("--page", help="HTML file to write, with plots.")]


def check_free(page: str | None, overwrite: bool, option: str = "page") -> None:
    """Raise ValueError for a file that exists already, unless `overwrite`."""
    if page is not None and Path(page).exists() and not overwrite:
        raise ValueError(f"{option} {page!r} must not exist yet; choose another file or pass --overwrite")


def write_page(page: str | None, make: Callable[[dict[str, Any]], str], facts: dict[str, Any]) -> None:
    """Write the page of facts, where one is asked for."""
    if page is not None:
        from equipoise.config import write_text

        write_text(Path(page), make(facts))


def show_table(
    table: str,
    labels: list[str],
    time: str | None,
    group: str | None,
    weight: str | None,
    split: str | None,
    *,
    out: str | None,
    page: str | None,
    max_rows: int | None,
    overwrite: bool,
    json: bool,
) -> None:
    """Print the schema of a table (stdout or `out`), its columns and suspects (stderr); without labels its columns only."""
    import yaml

    from equipoise.data import infer_schema, read_table
    from equipoise.data.look_table import look_table
    from equipoise.study.look_page import table_page
    from equipoise.study.look_tables import table_columns

    check_free(out, overwrite, "out")
    check_free(page, overwrite)
    if out is not None and not labels:
        raise ValueError("--out needs at least one --label; without one only the columns are shown")
    frame = read_table(table, max_rows)
    roles = {"time": time, "group": group, "weight": weight, "split": split}
    found = infer_schema(frame, labels, **roles) if labels else None
    facts = look_table(frame, found, roles, name=Path(table).name)
    content = None if found is None else found.schema.model_dump(mode="json")
    facts["schema"] = None if content is None else yaml.safe_dump(content, sort_keys=False)
    write_page(page, table_page, facts)
    if found is not None and out is not None:
        found.schema.save(out)
    if json:
        told = {key: facts[key] for key in ("rows", "columns", "look_like_labels", "suspects")}
        print_json({"schema": content, **told, "out": out, "page": page})
        return
    print_table("columns", *table_columns(facts), numbers=False, err=found is not None)
    for line in facts["suspects"]:
        typer.echo(f"look at {line}", err=True)
    if found is None:
        names = facts["look_like_labels"]
        options = " ".join(f"--label {name}" for name in names)
        typer.echo(
            f"these look like labels: {', '.join(names)}; try {options}"
            if names
            else "no column looks like a label"
        )
    elif out is None:
        sys.stdout.write(facts["schema"])
    else:
        typer.echo(out)
