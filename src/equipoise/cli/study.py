"""`equipoise compare`, `diagnose`, `tune`, `toy`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from equipoise.cli.common import (
    AsJson,
    fail,
    parse_set,
    print_json,
    print_table,
    reported,
    say_simulated,
)

Afresh = Annotated[
    bool, typer.Option("--overwrite", help="Start again: what --out holds is deleted, of the same plan too.")
]


def _names(parts: list[str] | None) -> list[str]:
    return [name for part in parts or [] for name in part.split(",") if name]


@reported
def compare(
    data: Annotated[str, typer.Argument(help="A prepared log.")],
    models: Annotated[list[str] | None, typer.Option("--models", help="Default mmoe: mmoe,ple.")] = None,
    methods: Annotated[
        list[str] | None,
        typer.Option("--methods", help="Rows of the table; single, and combinations as in train."),
    ] = None,
    primary: Annotated[str, typer.Option(help="Method of the one contrast that is not corrected.")] = "pub",
    reference: Annotated[str, typer.Option(help="What it is compared with: tuned plain training.")] = "equal",
    seeds: Annotated[int | None, typer.Option(help="Of the final runs, default 10, with --quick 5.")] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="5 seeds; the report then says screening, not evidence.")
    ] = False,
    tuning_seeds: Annotated[
        int | None, typer.Option(help="Of each setting tried, default 2; more where luck in tuning limits.")
    ] = None,
    tasks: Annotated[list[str] | None, typer.Option("--tasks", help="Default all: click,purchase.")] = None,
    margin: Annotated[float, typer.Option(help="A difference in AUC that counts for nothing.")] = 0.002,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="A model option for every side: num_experts=4.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="At most so many, default 30.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Default 2048, less for small logs.")] = None,
    optimizer: Annotated[
        str | None, typer.Option(help="adam (default), adamw, sgd, adagrad, rmsprop.")
    ] = None,
    patience: Annotated[int | None, typer.Option(help="Epochs without a better value, default 3.")] = None,
    max_rows: Annotated[int | None, typer.Option(help="Training rows read at most.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu (default), cuda, cuda:1, mps.")] = None,
    origins: Annotated[
        int, typer.Option(help="Test periods: the log's own and those before it; needs a log split by time.")
    ] = 1,
    preset: Annotated[
        str | None, typer.Option(help="pub-table2: the models, methods and sizes of the paper's Table II.")
    ] = None,
    budget: Annotated[
        float | None, typer.Option(help="Core-hours; the last secondary methods are left out to fit.")
    ] = None,
    jobs: Annotated[int, typer.Option(help="Runs at once, each in a process of its own.")] = 1,
    out: Annotated[str, typer.Option(help="Folder of runs and tables; the same again goes on.")] = "compare",
    overwrite: Afresh = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print plan and forecast, train nothing.")
    ] = False,
    json: AsJson = False,
) -> None:
    """Compare tuned methods on any prepared log: differences, intervals, decisions; see docs/protocol.md."""
    from rich.console import Console
    from rich.progress import Progress

    from equipoise.study import compare as study
    from equipoise.study import compare_page, present
    from equipoise.study.findings import findings
    from equipoise.study.published import preset as preset_of

    if jobs < 1:
        raise ValueError(f"jobs must be >= 1, got {jobs}")
    chosen: dict[str, Any] = dict(preset_of(preset)) if preset is not None else {}
    chosen["base"] = {
        **chosen.get("base", {}),
        **{
            name: value
            for name, value in {
                "epochs": epochs,
                "batch_size": batch_size,
                "optimizer": optimizer,
                "patience": patience,
                "max_rows": max_rows,
                "device": device,
            }.items()
            if value is not None
        },
    }
    chosen["set_"] = {**chosen.get("set_", {}), **parse_set(set_ or [])}
    if models:
        chosen["models_"] = _names(models)
    if methods:
        chosen["methods"] = _names(methods)
    plan = study.make_plan(
        data,
        primary=primary,
        reference=reference,
        seeds=seeds,
        quick=quick,
        num_tuning_seeds=tuning_seeds,
        tasks=_names(tasks),
        margin=margin,
        preset=preset,
        origins=origins,
        **chosen,
    )
    folder = Path(out)
    there = study.planned(plan, folder) if budget is not None and not overwrite else None
    expected = study.expect(plan)
    if there is not None:
        typer.echo(f"{out} holds this comparison: its methods are taken, whatever the budget", err=True)
        plan = there
    elif budget is not None:
        plan = study.trim(plan, expected, budget)
    _announce(plan, expected)
    if dry_run:
        if json:
            print_json(
                {
                    "plan": plan.__dict__,
                    "hours": expected.hours(plan.methods),
                    "detectable": expected.detectable,
                    "detectable_primary": expected.primary,
                }
            )
        return
    study.claim(plan, folder, overwrite)
    compared = study.carry_out(plan, folder, workers=jobs)
    with Progress(console=Console(stderr=True)) as bar:
        task = bar.add_task("sides contrasted", total=None)
        found = findings(
            compared, tell=lambda done, total: bar.update(task, completed=done, total=total, refresh=True)
        )
    report = compare_page.write(found, folder)
    if json:
        print_json({**found, "report": str(report)})
        return
    for line in present.heading(found):
        typer.echo(line)
    print_table("test split", *present.columns(found, brief=True))
    typer.echo(present.NOTES)
    print_table("differences from the reference", *present.contrasts(found))
    if found["published"] is not None:
        typer.echo(found["published"]["note"])
        print_table("published and ours", found["published"]["head"], found["published"]["rows"])
    for line in present.verdict(found):
        typer.echo(line)
    typer.echo(f"report: {report}")


@reported
def tune(
    data: Annotated[str, typer.Argument(help="A prepared log.")],
    models: Annotated[list[str] | None, typer.Option("--models", help="Default mmoe: mmoe,ple.")] = None,
    methods: Annotated[
        list[str] | None, typer.Option("--methods", help="Default equal,fixed,pub; combinations as in train.")
    ] = None,
    trials: Annotated[int, typer.Option(help="Training runs.")] = 30,
    objective: Annotated[
        str, typer.Option(help="mean of the tasks, or tasks: each its own, a Pareto front.")
    ] = "mean",
    tasks: Annotated[list[str] | None, typer.Option("--tasks", help="Default all: click,purchase.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="A model option for every trial: num_experts=4.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="At most so many, default 30.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Default 2048, less for small logs.")] = None,
    optimizer: Annotated[
        str | None, typer.Option(help="adam (default), adamw, sgd, adagrad, rmsprop.")
    ] = None,
    max_rows: Annotated[int | None, typer.Option(help="Training rows read at most.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu (default), cuda, cuda:1, mps.")] = None,
    seed: Annotated[int, typer.Option(help="Of the search and of every run.")] = 0,
    out: Annotated[str, typer.Option(help="Folder of trials; the same again goes on.")] = "tune",
    overwrite: Afresh = False,
    json: AsJson = False,
) -> None:
    """Search model, method, learning rate and constants on validation with optuna; the test split is not read."""
    from dataclasses import asdict

    from equipoise.study import tune_page
    from equipoise.study.tune import tune as search

    base = {
        "epochs": epochs,
        "batch_size": batch_size,
        "optimizer": optimizer,
        "max_rows": max_rows,
        "device": device,
    }
    try:
        found = search(
            data,
            out=out,
            models_=_names(models) or ("mmoe",),
            methods=_names(methods) or ("equal", "fixed", "pub"),
            trials=trials,
            objective=objective,
            tasks=_names(tasks),
            seed=seed,
            base={name: value for name, value in base.items() if value is not None},
            set_=parse_set(set_ or []),
            overwrite=overwrite,
        )
    except ImportError as error:
        fail(str(error))
    report = tune_page.write(found, data, Path(out))
    if json:
        print_json({**asdict(found), "report": str(report)})
        return
    say_simulated(found.simulated)
    title = "best on validation" if objective == "mean" else "Pareto front on validation"
    print_table(title, *tune_page.table(found))
    for line in tune_page.commands(found, data):
        typer.echo(line)
    typer.echo(f"report: {report}")


@reported
def diagnose(
    data: Annotated[str, typer.Argument(help="A prepared log.")],
    model: Annotated[str, typer.Option(help="See `equipoise models`.")] = "mmoe",
    tasks: Annotated[list[str] | None, typer.Option("--tasks", help="Default all: click,purchase.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="A model option: num_experts=4.")] = None,
    lr: Annotated[float, typer.Option(help="Of Adam.")] = 1e-3,
    epochs: Annotated[int, typer.Option(help="Of the run that is looked at.")] = 2,
    batch_size: Annotated[int | None, typer.Option(help="Default 2048, less for small logs.")] = None,
    max_rows: Annotated[int | None, typer.Option(help="Training rows read at most.")] = None,
    probes: Annotated[int, typer.Option(help="Steps that are looked at.")] = 40,
    seed: Annotated[int, typer.Option(help="Of model and batches.")] = 0,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps.")] = "cpu",
    out: Annotated[str, typer.Option(help="Folder of report.html and diagnosis.json.")] = "diagnosis",
    json: AsJson = False,
) -> None:
    """Show whether tasks conflict, where, and how far an optimizer's step strays from a balanced gradient."""
    from rich.console import Console
    from rich.progress import Progress

    from equipoise.config import TrainConfig
    from equipoise.data.store import Log
    from equipoise.models import check
    from equipoise.presets import sort_options
    from equipoise.study import diagnose_page
    from equipoise.study.advice import advice
    from equipoise.study.diagnose import diagnose as look

    chosen = {
        "model": model,
        "lr": lr,
        "epochs": epochs,
        "seed": seed,
        "device": device,
        "set": parse_set(set_ or []),
    }
    more = {"batch_size": batch_size, "max_rows": max_rows}
    config = TrainConfig.read(
        {**chosen, **{name: value for name, value in more.items() if value is not None}}
    )
    from equipoise.models import options

    check(config.model, sort_options(config.set, "equal", options(config.model))["model"])
    log = Log.open(data)
    if names := _names(tasks):
        log = log.only(names)
    with Progress(console=Console(stderr=True)) as bar:
        task = bar.add_task("steps", total=None)
        found = look(
            log,
            config,
            num_probes=probes,
            tell=lambda done, total: bar.update(task, completed=done, total=total),
        )
    report = diagnose_page.write(found, f"{Path(data).name}: do the tasks conflict?", Path(out))
    if json:
        print_json({**diagnose_page.content(found), "report": str(report)})
        return
    say_simulated(found.simulated)
    for title, head, rows in diagnose_page.tables(found):
        print_table(title, head, rows)
    for line in advice(found):
        typer.echo(line)
    typer.echo(f"report: {report}")


@reported
def toy(
    out: Annotated[str, typer.Option(help="Folder of toy.png, toy.svg and toy.json.")] = "toy",
    steps: Annotated[int, typer.Option(help="Steps of Adam.")] = 100_000,
    lr: Annotated[float, typer.Option(help="Adam's learning rate.")] = 3e-3,
    json: AsJson = False,
) -> None:
    """Draw how plain sum, CAGrad, IMTL-G, Nash-MTL, FAMO and PUB move on the two-loss landscape of the paper's Figure 2."""
    from rich.console import Console
    from rich.progress import Progress

    from equipoise.study import toy_page
    from equipoise.study.landscape import STARTS
    from equipoise.study.toy import run

    try:
        toy_page.needs_matplotlib()
    except ImportError as error:
        fail(str(error))
    with Progress(console=Console(stderr=True)) as bar:
        task = bar.add_task("steps", total=steps)
        paths = run(steps, lr, tell=lambda count: bar.advance(task, count))
    files = toy_page.write(paths, Path(out))
    if json:
        print_json(
            {"final": paths.table(), "reached": paths.reached(), **{k: str(v) for k, v in files.items()}}
        )
        return
    reached = paths.reached()
    rows = [
        [toy_page.TITLES[name], *(f"{a:.2f}, {b:.2f}" for a, b in ends), f"{reached[name]} of {len(STARTS)}"]
        for name, ends in paths.table().items()
    ]
    head = ["final losses", *(f"from ({a:g}, {b:g})" for a, b in STARTS), "at (-15.1, -15.1)"]
    print_table(f"{steps:,} steps of Adam, lr {lr:g}", head, rows)
    typer.echo(f"figures: {', '.join(str(file) for file in files.values())}")


def _announce(plan: Any, expected: Any) -> None:
    """Say on stderr what will be done, how long it takes, and what it will be able to show."""

    def say(text: str) -> None:
        typer.echo(text, err=True)

    say(
        f"primary contrast: {plan.primary} against {plan.reference} in {plan.models[0]}, mean over tasks of AUC; "
        f"{len(plan.models)} models x {len(plan.methods)} methods x {len(plan.seeds)} seeds"
    )
    if plan.dropped:
        say(f"left out for the budget: {', '.join(plan.dropped)}")
    say(f"about {expected.hours(plan.methods):.2f} core-hours, from a few timed steps")
    if expected.detectable:
        found = ", ".join(f"{task} {value:.4f}" for task, value in expected.detectable.items())
        say(
            f"smallest difference in AUC found four times out of five, roughly: primary contrast {expected.primary:.4f}; one task, "
            f"corrected for all that is compared: {found}"
        )
