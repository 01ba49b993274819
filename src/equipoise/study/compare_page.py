"""The findings of a comparison -> its folder's files: report.html, table.md, table.tex, table.csv, differences.csv, findings.json."""

from __future__ import annotations

import html
import json
import math
from pathlib import Path
from typing import Any

from equipoise.config import finite, write_text
from equipoise.study import present
from equipoise.study.forest import Bar, forest
from equipoise.study.plot import lines
from equipoise.study.report import STYLE

OWN_STYLE = (
    "main { grid-template-columns: repeat(auto-fill, minmax(min(100%, 460px), 1fr)); }\n"
    ".band { fill: var(--soft); opacity: .5; } .axis { stroke: var(--ink); }\n"
)


def write(findings: dict[str, Any], out: Path) -> Path:
    """Write every form of the findings into `out` and return the path of report.html."""
    write_text(out / "findings.json", json.dumps(finite(findings), indent=1) + "\n")
    write_text(out / "table.md", present.markdown(findings))
    write_text(out / "table.tex", present.latex(findings))
    write_text(out / "table.csv", present.as_csv(findings))
    write_text(out / "differences.csv", present.differences_csv(findings))
    write_text(out / "report.html", page(findings))
    return out / "report.html"


def page(findings: dict[str, Any]) -> str:
    """Return the report's HTML: what it is, the verdict, tables, intervals, tuning."""
    plan = findings["plan"]
    title = f"{plan['primary']} against {plan['reference']} on {Path(plan['data']['path']).name}"
    figures = [
        _intervals(findings, model, task) for model in plan["models"] for task in (None, *findings["tasks"])
    ]
    tuning = [_tuning(findings, model) for model in plan["models"]]
    flags = "".join(f'<p class="flag">{html.escape(line)}</p>' for line in present.heading(findings))
    said = "".join(f"<li>{html.escape(line)}</li>" for line in present.verdict(findings))
    parts = [f"<h1>{html.escape(title)}</h1>{flags}<h2>Verdict</h2><ul>{said}</ul>"]
    parts.append(
        f"<h2>Every side</h2>{_table(*present.columns(findings))}<p>{html.escape(present.NOTES)}</p>"
    )
    parts.append(
        "<h2>Differences from the reference</h2><p>Dot: mean over seeds; bar: 95 % interval of seeds, test rows and luck in tuning together, uncorrected; "
        f"band: the margin of {plan['margin']:g}.</p><main>{''.join(figures)}</main>"
    )
    parts.append(_table(*present.contrasts(findings)))
    parts.append(f"<h2>Tuning, on validation</h2><main>{''.join(tuning)}</main>{_chosen(findings)}")
    if findings["published"] is not None:
        note = html.escape(findings["published"]["note"])
        shown = _table(findings["published"]["head"], findings["published"]["rows"])
        parts.append(f"<h2>Published figures</h2><p>{note}</p>{shown}")
    facts = html.escape(
        f"data {plan['data']['fingerprint'][:16]}, code {plan['code']}, options {json.dumps(plan['base'])}"
    )
    parts.append(f"<h2>What was run</h2><p>{facts}</p><p>{html.escape(json.dumps(plan['options']))}</p>")
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{STYLE}{OWN_STYLE}</style></head><body>{''.join(parts)}</body></html>\n"
    )


def _intervals(findings: dict[str, Any], model: str, task: str | None) -> str:
    """Return the figure of a task's differences, of the mean over tasks for None."""
    bars = [
        Bar(side["method"], c["difference"], c["low"], c["high"], c["decision"])
        for side in findings["sides"]
        if side["model"] == model
        and (c := side["mean"] if task is None else side["contrasts"].get(task)) is not None
    ]
    plan = findings["plan"]
    grey = " (grey)" if task is not None and findings["tasks"][task]["grey"] else ""
    return forest(
        f"{model}: {present.MEAN if task is None else task}{grey}",
        f"AUC minus {plan['reference']}'s",
        bars,
        plan["margin"],
    )


def _tuning(findings: dict[str, Any], model: str) -> str:
    series = {}
    for unit in findings["tuning"]:
        if unit["model"] == model:
            points = [(math.log10(float(lr)), v) for lr, v in unit["tried"].items() if math.isfinite(v)]
            series["/".join(filter(None, (unit["method"], unit["task"])))] = sorted(points)
    return lines(f"{model}: learning rates", "log10 of the learning rate", "validation mean of AUC", series)


def _chosen(findings: dict[str, Any]) -> str:
    head = ["model", "method", "learning rate", "weight decay", "settings", "validation"]
    rows = [
        [
            unit["model"],
            "/".join(filter(None, (unit["method"], unit["task"]))),
            f"{unit['lr']:g}",
            f"{unit['chosen']['weight_decay']:g}",
            json.dumps(unit["chosen"]["set"]) if unit["chosen"]["set"] else "default",
            f"{unit['value']:.4f}",
        ]
        for unit in findings["tuning"]
    ]
    return _table(head, rows)


def _table(head: list[str], rows: list[list[str]]) -> str:
    top = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
    body = "".join(f"<tr>{''.join(f'<td>{html.escape(c)}</td>' for c in row)}</tr>" for row in rows)
    return f'<div class="wide"><table><tr>{top}</tr>{body}</table></div>'
