"""`equipoise models`, `methods`, `doctor`."""

from __future__ import annotations

from typing import Any

import typer

from equipoise.cli.common import AsJson, print_json, print_table, reported


@reported
def models(json: AsJson = False) -> None:
    """List the backbones with their options (`--set name=value`), then the blocks that all of them take."""
    from dataclasses import fields

    from equipoise.models import MODELS, options
    from equipoise.models.blocks import Blocks

    blocks = {field.name: field.default for field in fields(Blocks)}
    what_of = _attributes(Blocks.__doc__ or "")

    found: dict[str, dict[str, Any]] = {}
    for name, build in MODELS.items():
        text = getattr(build, "func", build).__doc__ or ""
        chosen = getattr(build, "keywords", {})
        what = text.split("\n")[0] + (
            f" ({', '.join(f'{k}={v}' for k, v in chosen.items())})" if chosen else ""
        )
        found[name] = {
            "what": what,
            "paper": _line(text.partition("Source:")[2]) or None,
            "options": options(name),
        }
    if json:
        print_json(found)
        return
    for name, entry in found.items():
        typer.echo(f"{name}: {entry['what']}")
        if entry["paper"]:
            typer.echo(f"    {entry['paper']}")
        for option, default in entry["options"].items():
            if option not in blocks:
                typer.echo(f"    --set {option}={_shown(default)}")
    typer.echo("blocks of every backbone:")
    for option, default in blocks.items():
        typer.echo(f"    --set {option}={_shown(default)}")
        typer.echo(f"        {what_of[option]}")


@reported
def methods(json: AsJson = False) -> None:
    """List the balancing methods with level, cost, state, priorities, options and paper."""
    from equipoise.methods import METHODS
    from equipoise.methods.catalog import entry
    from equipoise.presets import balancer_options

    found = {name: entry(name) for name in METHODS}
    if json:
        print_json(found)
        return
    rows = [
        [name, e["level"], e["cost"], e["state"], ", ".join(e["options"]) or "-", e["use"], e["paper"]]
        for name, e in found.items()
    ]
    head = ["method", "level", "backward passes", "state", "options", "when to use it", "paper"]
    print_table("methods", head, rows, numbers=False)
    typer.echo(
        "single: one model a task. Level and additions: nash@updates, pub+clippy, pub+adatask; or alone."
    )
    typer.echo(f"options of the Balancer (--set): {', '.join(balancer_options())}")


@reported
def doctor(json: AsJson = False) -> None:
    """Print versions, devices, threads, optional packages and the compiler."""
    from equipoise.doctor import check, lines

    found = check()
    if json:
        print_json(found)
    else:
        typer.echo("\n".join(lines(found)))
    if found["problems"]:
        raise typer.Exit(1)


def _line(text: str) -> str:
    """Return a docstring's paragraph on one line."""
    return " ".join(text.partition("\n\n")[0].split())


def _shown(value: Any) -> str:
    return f"[{', '.join(map(str, value))}]" if isinstance(value, tuple) else str(value)


def _attributes(text: str) -> dict[str, str]:
    """Return {attribute: its sentences} of a docstring's Attributes; one named inside another's lines stays there too."""
    words: dict[str, str] = {}
    name = ""
    for line in text.partition("Attributes:")[2].splitlines():
        head, colon, rest = line.strip().partition(":")
        if (
            colon
            and head.isidentifier()
            and line.startswith("        ")
            and not line.startswith("            ")
        ):
            name, words[head] = head, rest.strip()
        elif name and line.strip():
            words[name] += f" {line.strip()}"
    for inner in ("cross_rank",):
        words.setdefault(inner, f"see {inner.partition('_')[0]}")
    return words
