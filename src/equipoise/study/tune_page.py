"""A search -> tune's report.html: the front, every trial, and the commands that train what was found."""

from __future__ import annotations

import html
import itertools
from pathlib import Path

from equipoise.config import write_text
from equipoise.study.command import train_command
from equipoise.study.plot import lines
from equipoise.study.report import SIMULATED, STYLE
from equipoise.study.scatter import Dot, scatter
from equipoise.study.tune import Trial, Tuning, mean


def write(found: Tuning, data: str, out: Path) -> Path:
    """Write report.html into `out` and return its path."""
    write_text(out / "report.html", page(found, data))
    return out / "report.html"


def page(found: Tuning, data: str) -> str:
    """Return the page: plots of each pair of tasks with the front, the best value so far, all trials."""
    figures = [
        scatter(
            f"{b} against {a}",
            f"{a}: validation AUC (xauc)",
            f"{b}: validation AUC (xauc)",
            [
                Dot(x, y, name(t), t.number in found.front)
                for t in found.trials
                if (x := t.scores[a]) is not None and (y := t.scores[b]) is not None
            ],
        )
        for a, b in itertools.combinations(found.tasks, 2)
    ]
    means = [(float(t.number), value) for t in found.trials if (value := mean(t)) is not None]
    best = list(itertools.accumulate((value for _, value in means), max))
    so_far = [(x, value) for (x, _), value in zip(means, best, strict=True)]
    figures.append(
        lines("Search", "trial", "validation mean over tasks", {"trial": means, "best so far": so_far})
    )
    head, rows = table(found, whole_list=True)
    cells = "".join(f"<th>{html.escape(c)}</th>" for c in head)
    body = "".join(f"<tr>{''.join(f'<td>{html.escape(c)}</td>' for c in row)}</tr>" for row in rows)
    train_it = "".join(f"<li><code>{html.escape(line)}</code></li>" for line in commands(found, data))
    flag = f'<p class="flag">{SIMULATED}</p>' if found.simulated else ""
    title = "The best setting" if found.objective == "mean" else "The Pareto front of the tasks"
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>equipoise tune</title><style>{STYLE} code {{ overflow-wrap: anywhere; }}</style></head><body>"
        f"<h1>{title}</h1>{flag}<p>{len(found.trials)} trials, each scored on validation with one seed: the best of many is flattered by luck. "
        "Compare it with plain training (equipoise compare) before you believe it.</p>"
        f"<main>{''.join(figures)}</main><h2>Train it</h2><ul>{train_it}</ul><h2>Every trial</h2>"
        f'<div class="wide"><table><tr>{cells}</tr>{body}</table></div></body></html>\n'
    )


def chosen(found: Tuning) -> list[Trial]:
    """Return the trials of the front, the best mean first."""
    kept = [t for t in found.trials if t.number in found.front]
    return sorted(kept, key=lambda t: -(mean(t) or 0.0))


def commands(found: Tuning, data: str) -> list[str]:
    """Return the `equipoise train` commands of the front's settings, the best mean first."""
    return [train_command(t.config, data) for t in chosen(found)]


def table(found: Tuning, whole_list: bool = False) -> tuple[list[str], list[list[str]]]:
    """Return (head, rows) of the front, or of all trials."""
    head = ["trial", "setting", *found.tasks, "mean", "seconds"]
    rows = []
    for t in found.trials if whole_list else chosen(found):
        mark = "*" if whole_list and t.number in found.front else ""
        scores = [f"{v:.4f}" if v is not None else "-" for v in t.scores.values()]
        average = "-" if (value := mean(t)) is None else f"{value:.4f}"
        rows.append([f"{t.number}{mark}", t.failed or name(t), *scores, average, f"{t.seconds:.1f}"])
    return head, rows


def name(trial: Trial) -> str:
    """Return a trial's setting in a few words."""
    c = trial.config
    own = {k.removeprefix("method."): v for k, v in c["set"].items() if k.startswith("method.")}
    words = [c["model"], c["method"], f"lr {c['lr']:g}"]
    words += [f"decay {c['weight_decay']:g}"] if c["weight_decay"] else []
    return ", ".join([*words, *(f"{k} {v}" for k, v in own.items())])
