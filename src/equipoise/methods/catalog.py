"""METHODS -> what `equipoise methods` prints and the table of docs/methods.md holds."""

from __future__ import annotations

import dataclasses
from typing import Any

from equipoise.methods import METHODS


def entry(name: str) -> dict[str, Any]:
    """Return what, level, scale, cost, state, priorities, options, paper and use of a method, all but options as text."""
    method: Any = METHODS[name]
    options = [field.name for field in dataclasses.fields(method)]
    return {
        "what": (method.__doc__ or "").split("\n")[0],
        "level": method.level,
        "scale": method.scale,
        "cost": _cost(method),
        "state": _state(method),
        "priorities": "yes" if "priorities" in options else "no",
        "options": options,
        "paper": method.paper,
        "use": method.use,
    }


def _cost(method: Any) -> str:
    """Return the passes of a step at the method's default level, T tasks, as text."""
    if "cross" in method.needs:
        return "T on each half of the batch"
    if method.level == "losses" and not hasattr(method, "statistic"):
        return "1" + (" and a forward" if hasattr(method, "observe") else "")
    if method.level == "representation":
        return "1, and T through the towers"
    return "T"


def _state(method: Any) -> str:
    """Return what the method keeps between steps, n shared parameters, as text."""
    if hasattr(method, "track"):
        return "T rows of n"
    if hasattr(method, "statistic"):
        return "T sums of n"
    return "numbers" if method().init(2) else "none"


def markdown() -> str:
    """Return the table as Markdown, one row a method in the order of METHODS."""
    head = ["method", "level", "backward passes", "state", "priorities", "when to use it", "paper"]
    lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    for name in METHODS:
        e = entry(name)
        cells = [f"`{name}`", e["level"], e["cost"], e["state"], e["priorities"], e["use"], e["paper"]]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
