"""`equipoise simulate`, `prepare`, `inspect`, `schema infer`."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from equipoise.cli.common import AsJson, Group, Labels, Overwrite, Time, print_json, print_table, reported
from equipoise.cli.inferred import Page, check_free, write_page

if TYPE_CHECKING:
    from equipoise.data import Log

Weight = Annotated[str | None, typer.Option(help="Sample weight column of a raw table.")]
Split = Annotated[str | None, typer.Option(help="Column of a raw table that holds train, valid, test.")]


@reported
def simulate(
    out: Annotated[str, typer.Argument(help="Folder of the new log.")],
    rows: Annotated[int, typer.Option(help="Rows, at least 1000.")] = 200_000,
    seed: Annotated[int, typer.Option(help="Seed of the world.")] = 0,
    relation: Annotated[str, typer.Option(help="aligned, independent or mixed tasks.")] = "independent",
    shape: Annotated[
        str, typer.Option(help="study, or aliexpress: click and conversion at published rates.")
    ] = "study",
    row_seed: Annotated[int | None, typer.Option(help="Seed of the rows, default the world's.")] = None,
    funnel: Annotated[bool, typer.Option("--funnel", help="Like and purchase only after a click.")] = False,
    overwrite: Overwrite = False,
    json: AsJson = False,
) -> None:
    """Write a simulated log with three tasks whose true probabilities are known."""
    from equipoise.data import simulate as make
    from equipoise.progress import Progress

    chosen: dict[str, Any] = {"row_seed": row_seed, "funnel": funnel, "shape": shape, "overwrite": overwrite}
    with Progress() as progress:
        log = make(out, rows, seed, relation, tell=progress.phase, **chosen)
    _show(log, json)


@reported
def prepare(
    dataset: Annotated[
        str,
        typer.Argument(
            help="aliexpress, ali_ccp, kuairand, census_income, tenrec, movielens, or table for a table of your own; "
            "docs/data.md says what each expects."
        ),
    ],
    raw: Annotated[str, typer.Argument(help="The raw file or folder.")],
    out: Annotated[str | None, typer.Argument(help="Folder of the new log, default logs/<dataset>.")] = None,
    schema: Annotated[str | None, typer.Option(help="table: a schema file; else it is inferred.")] = None,
    label: Labels = None,
    time: Time = None,
    group: Group = None,
    weight: Weight = None,
    split: Split = None,
    tasks: Annotated[
        str | None,
        typer.Option(
            help="kuairand: is_click,long_view,is_like,watch_time; tenrec: click,follow,like,share."
        ),
    ] = None,
    country: Annotated[str | None, typer.Option(help="aliexpress: nl, es, fr, us or ru.")] = None,
    history: Annotated[
        int | None,
        typer.Option(
            help="kuairand: the user's last N videos clicked or watched long before the impression, as a feature; "
            "ali_ccp: N ids of each 14-day behaviour field."
        ),
    ] = None,
    with_statistics: Annotated[
        bool,
        typer.Option(
            "--with-statistics", help="kuairand: video statistics of the whole period, which look ahead."
        ),
    ] = False,
    split_by: Annotated[
        str | None, typer.Option(help="tenrec: user (default), or row as the published benchmark does.")
    ] = None,
    valid_date: Annotated[
        int | None, typer.Option(help="kuairand: first day of validation, 20220507.")
    ] = None,
    test_date: Annotated[int | None, typer.Option(help="kuairand: first day of the test.")] = None,
    seed: Annotated[
        int | None,
        typer.Option(help="aliexpress, ali_ccp, census_income, tenrec: seed of the drawn splits."),
    ] = None,
    as_of: Annotated[
        str | None,
        typer.Option(help="table: date or time up to which late labels are known; default the last in it."),
    ] = None,
    max_rows: Annotated[int | None, typer.Option(help="table: rows read at most.")] = None,
    extend: Annotated[
        str | None, typer.Option(help="table: add the rows to this log, in place; its ids and scaling stay.")
    ] = None,
    keep_days: Annotated[
        float | None, typer.Option(help="--extend: drop shards that end so many days before the newest row.")
    ] = None,
    refit: Annotated[
        bool, typer.Option("--refit", help="--extend: learn the scaling of numbers again, over all days.")
    ] = False,
    like: Annotated[
        str | None, typer.Option(help="table: with this log's vocabulary and scaling, to score a day.")
    ] = None,
    overwrite: Overwrite = False,
    json: AsJson = False,
) -> None:
    """Turn a raw dataset into a prepared log, which training reads."""
    from equipoise.data import DATASETS, prepare_table
    from equipoise.data import prepare as make
    from equipoise.progress import Progress

    given: dict[str, Any] = {
        "schema": schema,
        "labels": label or None,
        "time": time,
        "group": group,
        "weight": weight,
        "split": split,
        "tasks": tasks.split(",") if tasks else None,
        "valid_date": valid_date,
        "test_date": test_date,
        "country": country,
        "history": history,
        "with_statistics": with_statistics or None,
        "split_by": split_by,
        "seed": seed,
        "as_of": as_of,
        "max_rows": max_rows,
    }
    given = {name: value for name, value in given.items() if value is not None}
    if dataset in DATASETS:
        known = inspect.signature(prepare_table if dataset == "table" else DATASETS[dataset]).parameters
        if strange := [name for name in given if name not in known]:
            option = {"labels": "label"}.get(strange[0], strange[0].replace("_", "-"))
            raise ValueError(f"--{option} is not an option of {dataset}; see `equipoise prepare --help`")
    if extend is not None or like is not None or keep_days is not None or refit:
        if strange := [n for n in given if n != "max_rows"] or (["out"] if extend and out else []):
            raise ValueError(
                f"{strange[0]} must not be given with {'--extend' if extend else '--like'}: it is the log's own"
            )
        _follow(dataset, raw, out, extend, like, keep_days, refit, max_rows, overwrite, json)
        return
    with Progress() as progress:
        place = out or str(Path("logs") / dataset)
        log = make(dataset, raw, place, overwrite=overwrite, tell=progress.phase, **given)
    notes = log.manifest["notes"]
    for line in notes.get("published", []):
        if line not in notes["suspects"]:
            typer.echo(f"checked {line}", err=True)
    for line in notes.get("suspects", []):
        typer.echo(f"look at {line}", err=True)
    _show(log, json)


@reported
def inspect_log(
    log: Annotated[str, typer.Argument(help="A prepared log.")],
    verify: Annotated[bool, typer.Option("--verify", help="Compare every file with its checksum.")] = False,
    page: Page = None,
    max_rows: Annotated[
        int, typer.Option(help="Rows of train and of test that drift is measured on, at most.")
    ] = 250_000,
    overwrite: Overwrite = False,
    json: AsJson = False,
) -> None:
    """Print what a prepared log holds: rates, unseen ids, drift; with --page also as HTML with plots."""
    from equipoise.data import Log
    from equipoise.data.look import look
    from equipoise.progress import Progress
    from equipoise.study.look_page import log_page
    from equipoise.study.look_tables import log_tables

    check_free(page, overwrite)
    with Progress() as progress:
        if verify:
            progress.phase("comparing checksums", 0, None)
        opened = Log.open(log, verify=verify)
        facts = look(opened, max_rows=max_rows, tell=progress.phase)
    write_page(page, log_page, facts)
    if json:
        _show(opened, json, {"look": facts, "page": page})
        return
    for title, head, rows in log_tables(facts, short=True):
        if rows:
            print_table(title, head, rows)
    typer.echo(
        "unseen: share of ids unseen in training, or of missing numbers; drift: share of rows that would have to move"
    )
    for line in facts["remarks"]:
        typer.echo(f"look at {line}")
    simulated = "  (simulated)" if opened.schema.simulated else ""
    typer.echo(
        f"log: {opened.path}{simulated}; fingerprint {opened.fingerprint}{f'; page {page}' if page else ''}"
    )


@reported
def infer(
    table: Annotated[str, typer.Argument(help="A CSV or Parquet file.")],
    label: Labels = None,
    time: Time = None,
    group: Group = None,
    weight: Weight = None,
    split: Split = None,
    out: Annotated[str | None, typer.Option(help="File to write; default stdout.")] = None,
    page: Page = None,
    max_rows: Annotated[int | None, typer.Option(help="Rows looked at, at most.")] = 100_000,
    overwrite: Overwrite = False,
    json: AsJson = False,
) -> None:
    """Print a first schema for a table, and on stderr its columns and what to look at; without --label the columns only."""
    from equipoise.cli.inferred import show_table

    show_table(
        table,
        label or [],
        time,
        group,
        weight,
        split,
        out=out,
        page=page,
        max_rows=max_rows,
        overwrite=overwrite,
        json=json,
    )


def _follow(
    dataset: str,
    raw: str,
    out: str | None,
    extend: str | None,
    like: str | None,
    keep_days: float | None,
    refit: bool,
    max_rows: int | None,
    overwrite: bool,
    json: bool,
) -> None:
    """Extend a log, or prepare one like it."""
    from equipoise.data import extend as add
    from equipoise.data import prepare_like
    from equipoise.progress import Progress

    if dataset != "table" or (extend is None) == (like is None) or (extend is None and (keep_days or refit)):
        raise ValueError(
            "--extend LOG (with --keep-days, --refit) or --like LOG, one of them, goes with table"
        )
    if max_rows is not None:
        raise ValueError("--max-rows is not an option of --extend and --like; they read the whole table")
    if extend is not None:
        with Progress() as progress:
            log = add(extend, raw, refit=refit, keep_days=keep_days, tell=progress.phase)
        for line in log.manifest["notes"]["extended"][-1]["said"]:
            typer.echo(line, err=True)
    else:
        place = out or str(Path("logs") / "table")
        with Progress() as progress:
            log = prepare_like(str(like), raw, place, overwrite=overwrite, tell=progress.phase)
    _show(log, json)


def _show(log: Log, json: bool, more: dict[str, Any] | None = None) -> None:
    """Print a log's splits, tasks and features."""
    summary, schema = log.summary(), log.schema
    features = {f.name: {"kind": f.kind, "ids": schema.num_ids.get(f.name)} for f in schema.features}
    if json:
        print_json(
            {
                "path": str(log.path),
                "fingerprint": log.fingerprint,
                "simulated": schema.simulated,
                **summary,
                "features": features,
                "notes": log.manifest["notes"],
                **(more or {}),
            }
        )
        return
    from rich.console import Console

    from equipoise.progress import summary_table

    console = Console()
    (console if console.is_terminal else Console(width=120)).print(
        summary_table(summary, {y.name: y.column or y.name for y in log.schema.labels})
    )
    rows = [[n, str(f["kind"]), "-" if f["ids"] is None else f"{f['ids']:,}"] for n, f in features.items()]
    print_table("features", ["feature", "kind", "ids"], rows)
    typer.echo(f"log: {log.path}{'  (simulated)' if schema.simulated else ''}; fingerprint {log.fingerprint}")
