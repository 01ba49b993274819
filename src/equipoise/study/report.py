"""A run's folder -> report.html: one self-contained page, no script."""

from __future__ import annotations

import html
import json
from pathlib import Path
from typing import Any

from equipoise.config import write_text
from equipoise.study.plot import Points, lines

STYLE = """
:root { color-scheme: light dark; --ink: #1b1b1b; --paper: #fdfdfc; --soft: #d9d9d6; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8e8e4; --paper: #16171a; --soft: #3a3c42; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 0 auto; padding: 1rem;
  max-width: 1200px; }
main { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 460px), 1fr)); gap: 1rem; }
figure { margin: 0; border: 1px solid var(--soft); border-radius: 6px; padding: .6rem; }
figcaption { font-weight: 600; }
svg { width: 100%; height: auto; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .7rem; text-align: right; border-bottom: 1px solid var(--soft); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
.grid { stroke: var(--soft); } .tick, .name { fill: var(--ink); font-size: 11px; } .name { font-size: 12px; }
polyline { fill: none; stroke-width: 2; } circle { fill: var(--ink); }
.c0 { stroke: #3b6fd4; } .c1 { stroke: #d1602c; } .c2 { stroke: #2b9a6b; } .c3 { stroke: #a34fb8; } .c4 { stroke: #8a7a20; }
.c5 { stroke: #6b7280; }
@media (max-width: 600px) { .tick { font-size: 13px; } .name { font-size: 14px; } }
.flag { border-left: 4px solid #d1602c; padding-left: .7rem; }
"""

SIMULATED = "This log is simulated: its figures say what holds there, not on your data."


def write_report(run: str | Path) -> Path:
    """Write `report.html` into a run's folder and return its path.

    Plots of each task: loss, validation AUC (xauc), weight; cosines between tasks' updates and between their
    gradients; the final table; the settings.

    Raises:
        ValueError: the folder has no run.json or metrics.json.
    """
    path = Path(run)
    for name in ("run.json", "metrics.json"):
        if not (path / name).is_file():
            raise ValueError(f"run {str(path)!r} must have {name}, found none; train or resume it first")
    config = json.loads((path / "run.json").read_text(encoding="utf-8"))
    metrics = json.loads((path / "metrics.json").read_text(encoding="utf-8"))
    history_file = path / "history.jsonl"
    text = history_file.read_text(encoding="utf-8") if history_file.is_file() else ""
    history = [json.loads(line) for line in text.splitlines()]
    out = path / "report.html"
    write_text(out, page(config, metrics, history))
    return out


def page(config: dict[str, Any], metrics: dict[str, Any], history: list[dict[str, Any]]) -> str:
    """Return the page's HTML."""
    steps = [entry for entry in history if entry["kind"] == "steps"]
    epochs = [entry for entry in history if entry["kind"] == "epoch"]
    title = f"{config['model']} + {config['method']}, seed {config['seed']}"
    tasks = list(metrics["test"])
    figures = [
        lines("Training loss", "step", "loss (mean since the last point)", _series(steps, "loss", tasks)),
        lines("Validation", "step", "AUC, or xauc of other labels", _validation(epochs, tasks)),
        lines("Task weights", "step", "weight", _series(steps, "weights", tasks)),
        lines("Length of the joint step", "step", "|u| / mean |u_t|", {"collapse": _collapse(steps)}),
        lines("Cosines between tasks' updates", "step", "cosine", _cosines(steps, "updates")),
        lines("Cosines between tasks' gradients", "step", "cosine", _cosines(steps, "gradients")),
    ]
    flags = []
    if config.get("provenance", {}).get("simulated"):
        flags.append(SIMULATED)
    flags += _flags(steps)
    shown = "".join(f'<p class="flag">{html.escape(flag)}</p>' for flag in flags)
    settings = "".join(
        f"<tr><td>{html.escape(key)}</td><td>{html.escape(json.dumps(value))}</td></tr>"
        for key, value in config.items()
        if key != "provenance" and value not in (None, [], {})
    )
    versions = {k: v for k, v in config.get("provenance", {}).items() if k not in ("num_ids", "vocabulary")}
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{STYLE}</style></head><body><h1>{html.escape(title)}</h1>{shown}"
        f"<h2>Test split, read once</h2>{_table(metrics['test'])}<h2>Validation split</h2>{_table(metrics['valid'])}"
        f"<h2>Training</h2><main>{''.join(figures)}</main><h2>Settings</h2>"
        f'<div class="wide"><table>{settings}</table></div><p>{html.escape(json.dumps(versions))}</p>'
        f"<p>{metrics.get('steps', 0)} steps in {metrics.get('seconds', 0)} s of training.</p></body></html>\n"
    )


def _flags(steps: list[dict[str, Any]]) -> list[str]:
    """Return sentences about steps that did not go as planned; absent and non-finite counts run from the start."""
    flags = []
    for kind, words in (("absent", "had no signal"), ("nonfinite", "was left out for a NaN or Inf")):
        most: dict[str, int] = {}
        for entry in steps:
            for task, count in (entry.get(kind) or {}).items():
                most[task] = max(count, most.get(task, 0))
        flags += [f"Task {task!r} {words} in {count} steps." for task, count in most.items() if count]
    for status in ("stationary", "not_converged", "skipped"):
        if count := sum(entry.get("status") == status for entry in steps):
            flags.append(f"{count} of {len(steps)} recorded steps were {status.replace('_', ' ')}.")
    return flags


def _series(steps: list[dict[str, Any]], key: str, tasks: list[str]) -> dict[str, Points]:
    return {t: [(float(e["step"]), e[key][t]) for e in steps if e[key].get(t) is not None] for t in tasks}


def _validation(epochs: list[dict[str, Any]], tasks: list[str]) -> dict[str, Points]:
    found: dict[str, Points] = {}
    for task in tasks:
        values = [(float(e["step"]), e["valid"].get(task, {})) for e in epochs]
        found[task] = [
            (x, v.get("auc", v.get("xauc"))) for x, v in values if v.get("auc", v.get("xauc")) is not None
        ]
    return found


def _collapse(steps: list[dict[str, Any]]) -> Points:
    return [(float(e["step"]), e["collapse"]) for e in steps if e["collapse"] is not None]


def _cosines(steps: list[dict[str, Any]], kind: str) -> dict[str, Points]:
    found: dict[str, list[tuple[float, float]]] = {}
    for entry in steps:
        matrix, names = entry["cosines"].get(kind), entry["present"]
        for i in range(len(names) if matrix else 0):
            for j in range(i):
                found.setdefault(f"{names[j]} / {names[i]}", []).append((float(entry["step"]), matrix[i][j]))
    return dict(found)


def _table(scores: dict[str, dict[str, Any]]) -> str:
    columns = list(dict.fromkeys(name for found in scores.values() for name in found))
    head = "".join(f"<th>{html.escape(name)}</th>" for name in ("task", *columns))
    rows = "".join(
        f"<tr><td>{html.escape(task)}</td>{''.join(f'<td>{_cell(found.get(name))}</td>' for name in columns)}</tr>"
        for task, found in scores.items()
    )
    return f'<div class="wide"><table><tr>{head}</tr>{rows}</table></div>'


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}"
