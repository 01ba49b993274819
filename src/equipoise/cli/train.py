"""`equipoise train`, `resume`, `evaluate`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from equipoise.cli.common import (
    AsJson,
    Group,
    Labels,
    Overwrite,
    Time,
    parse_set,
    print_json,
    print_scores,
    reported,
    say_simulated,
)

if TYPE_CHECKING:
    from equipoise.training import Result


@reported
def train(
    data: Annotated[
        str | None,
        typer.Argument(help="A prepared log, or a CSV or Parquet file with --label. None: simulated."),
    ] = None,
    label: Labels = None,
    time: Time = None,
    group: Group = None,
    tasks: Annotated[
        list[str] | None, typer.Option("--tasks", help="Tasks to train, default all: click,purchase.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="See `equipoise models`; default mmoe.")] = None,
    method: Annotated[
        str | None,
        typer.Option(help="See `equipoise methods`; default pub. Also single, pub+clippy, nash@updates."),
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="An option of model, method or balancer: num_experts=4.")
    ] = None,
    optimizer: Annotated[
        str | None, typer.Option(help="adam (default), adamw, sgd, adagrad, rmsprop.")
    ] = None,
    lr: Annotated[
        str | None, typer.Option(help="Learning rate, or auto; the default 1e-3 is Adam's.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="At most so many, default 30.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Default 2048, less for small logs.")] = None,
    weight_decay: Annotated[float | None, typer.Option(help="As the optimizer takes it, default 0.")] = None,
    monitor: Annotated[str | None, typer.Option(help="mean_primary (default) or task:metric.")] = None,
    patience: Annotated[int | None, typer.Option(help="Epochs without a better value, default 3.")] = None,
    seed: Annotated[int | None, typer.Option(help="Default 0.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu (default), cuda, cuda:1, mps.")] = None,
    max_rows: Annotated[int | None, typer.Option(help="Training rows read at most.")] = None,
    time_limit: Annotated[float | None, typer.Option(help="Seconds of training at most.")] = None,
    from_run: Annotated[
        str | None,
        typer.Option(
            "--from",
            help="A run to go on from, on its log extended since; its options, tables with new rows.",
        ),
    ] = None,
    config: Annotated[
        str | None, typer.Option(help="YAML or JSON file of these options; a run's run.json is one.")
    ] = None,
    out: Annotated[
        str | None, typer.Option(help="The run's folder, default runs/<model>-<method>-<seed>.")
    ] = None,
    overwrite: Overwrite = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan, train nothing, write nothing.")
    ] = False,
    json: AsJson = False,
) -> None:
    """Train a ranker and write a run: metrics, checkpoint, report.html. Without DATA on a simulated log.

    What the command line says goes before what --config says.
    """
    from equipoise.config import TrainConfig

    content = TrainConfig.load(config) if config is not None else {}
    given: dict[str, Any] = {
        "data": data,
        "labels": label or None,
        "time": time,
        "group": group,
        "tasks": [name for part in tasks or [] for name in part.split(",") if name] or None,
        "model": model,
        "method": method,
        "optimizer": optimizer,
        "lr": lr,
        "epochs": epochs,
        "batch_size": batch_size,
        "weight_decay": weight_decay,
        "monitor": monitor,
        "patience": patience,
        "seed": seed,
        "device": device,
        "max_rows": max_rows,
        "time_limit": time_limit,
    }
    content |= {name: value for name, value in given.items() if value is not None}
    if set_:
        content["set"] = {**(content.get("set") or {}), **parse_set(set_)}
    if from_run is not None:
        from equipoise.grow import options_from

        content = options_from(from_run, content)
    checked = TrainConfig.read(content)
    if dry_run:
        from equipoise.plan import plan, show

        found = plan(checked)
        if json:
            print_json(found)
        else:
            show(found)
        return
    from equipoise.training import train as run

    options = checked.model_dump(
        exclude={"data", "model", "method", "provenance"}, exclude_unset=True
    )  # from_run is among them
    result = run(checked.data, checked.model, checked.method, out=out, overwrite=overwrite, **options)
    _finish(result, json)


@reported
def resume(run: Annotated[str, typer.Argument(help="A run's folder.")], json: AsJson = False) -> None:
    """Go on with an interrupted run, to the same parameters as without the interruption."""
    from equipoise.training import resume as go_on

    result = go_on(run)
    _finish(result, json)


@reported
def evaluate(
    run: Annotated[str, typer.Argument(help="A run's folder.")],
    data: Annotated[str | None, typer.Argument(help="A prepared log, default the run's own.")] = None,
    split: Annotated[str, typer.Option(help="train, valid or test.")] = "test",
    json: AsJson = False,
) -> None:
    """Print the metrics of a run's best model on a split of a log."""
    from equipoise.config import TrainConfig
    from equipoise.progress import Progress
    from equipoise.training import evaluate as measure

    with Progress() as progress:
        scores = measure(run, data, split, tell=progress.phase)
    simulated = bool(TrainConfig.of_run(run).provenance.get("simulated"))  # no other log fits such a run
    if json:
        print_json({split: scores, "simulated": simulated})
    else:
        say_simulated(simulated)
        print_scores(f"{run}, {split} split", scores)


def _finish(result: Result, json: bool) -> None:
    """Print a finished run's test metrics."""
    path, metrics = result.path, result.metrics
    report = None if path is None else str(path / "report.html")
    simulated = bool(result.config.provenance.get("simulated"))
    if json:
        run = None if path is None else str(path)
        print_json({"run": run, "report": report, "simulated": simulated, **metrics})
        return
    say_simulated(simulated)
    print_scores("test split, read once", metrics["test"])
    typer.echo(f"{metrics['steps']} steps in {metrics['seconds']:.0f} s; run: {path}; report: {report}")
