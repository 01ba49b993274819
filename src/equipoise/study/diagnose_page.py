"""A diagnosis -> its folder's files: report.html and diagnosis.json."""

from __future__ import annotations

import html
import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from equipoise.config import write_text
from equipoise.study.advice import advice
from equipoise.study.diagnose import RULES, Deviation, Diagnosis, deviations, modules, pairs, strays
from equipoise.study.plot import Points, lines
from equipoise.study.report import SIMULATED, STYLE

Cells = list[list[str]]


def write(found: Diagnosis, title: str, out: Path) -> Path:
    """Write diagnosis.json and report.html into `out` and return the page's path."""
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "diagnosis.json", json.dumps(content(found), indent=1) + "\n")
    write_text(out / "report.html", page(found, title))
    return out / "report.html"


def content(found: Diagnosis) -> dict[str, Any]:
    """Return the finding, its figures and every probe, in plain types."""
    return {
        "finding": advice(found),
        "pairs": [asdict(pair) for pair in pairs(found)],
        "modules": {name: {"cosine": c, "conflict": share} for name, (c, share) in modules(found).items()},
        "strays": strays(found),
        "weights": {m: {t: _plain(d) for t, d in deviations(found, m).items()} for m in ("nash", "pub")},
        **asdict(found),
    }


def _plain(found: Deviation) -> dict[str, float | None]:
    """Return a deviation with null for an infinite z, which JSON has no number for."""
    return {**asdict(found), "z": found.z if math.isfinite(found.z) else None}


def tables(found: Diagnosis) -> list[tuple[str, list[str], Cells]]:
    """Return (title, head, rows) of every table."""
    of_pairs = [
        [
            " / ".join(p.tasks),
            f"{p.gradients:+.3f}",
            f"{p.gradients_conflict:.0%}",
            f"{p.updates:+.3f}",
            f"{p.updates_conflict:.0%}",
        ]
        for p in pairs(found)
    ]
    of_modules = [
        [name, f"{found.modules[name]:,}", f"{cosine:+.3f}", f"{share:.0%}"]
        for name, (cosine, share) in modules(found).items()
    ]
    of_strays = [
        [
            name,
            f"{s['angle']:.1f}",
            f"{s['alone']:.1f}",
            f"{s['length']:.2f}",
            *(f"{s[key]:.2f}" for key in ("kept", "kept_sum", "kept_pub")),
        ]
        for name, s in strays(found).items()
    ]
    of_weights = [
        [method, task, f"{d.mean:.3f}", f"{d.deviation:+.3f}", f"{d.noise:.3f}", f"{d.z:+.1f}"]
        for method in ("nash", "pub")
        for task, d in deviations(found, method).items()
    ]
    return [
        (
            "pairs of tasks",
            ["pair", "gradients: cosine", "conflict", "Adam updates: cosine", "conflict"],
            of_pairs,
        ),
        ("where", ["shared module", "parameters", "cosine of gradients", "conflict"], of_modules),
        (
            "the step made of a balanced gradient",
            [
                "optimizer",
                "angle, degrees",
                "of one task's own",
                "length / mean |u_t|",
                "worst gain / mean gain",
                "of the plain sum",
                "of PUB's step",
            ],
            of_strays,
        ),
        ("weights", ["method", "task", "mean", "minus uniform", "noise", "standard errors"], of_weights),
    ]


def page(found: Diagnosis, title: str) -> str:
    """Return the page: the finding first, then tables and plots."""
    names = {
        (i, j): f"{a} / {b}" for i, a in enumerate(found.tasks) for j, b in enumerate(found.tasks) if i < j
    }
    figures = [
        lines(
            f"Cosines of {kind}",
            "step",
            "cosine",
            {n: _cells(found, kind, i, j) for (i, j), n in names.items()},
        )
        for kind in ("gradients", "updates")
    ]
    figures += [
        lines(
            f"Lengths of {kind}",
            "step",
            "Euclidean length",
            {
                task: [(float(p.step), p.norms[kind][t]) for p in found.probes]
                for t, task in enumerate(found.tasks)
            },
        )
        for kind in ("gradients", "updates")
    ]
    figures += [
        lines(
            heading,
            "step",
            unit,
            {name: [(float(p.step), p.stray[name][key]) for p in found.probes] for name in RULES},
        )
        for key, heading, unit in (
            ("angle", "Step against the balanced gradient", "degrees"),
            ("kept", "Balance kept by the step", "worst gain / mean gain"),
        )
    ]
    figures += [
        lines(
            f"Weights of {method}",
            "step",
            "share",
            {
                task: [
                    (float(p.step), (p.weights[method][0][t] + p.weights[method][1][t]) / 2)
                    for p in found.probes
                ]
                for t, task in enumerate(found.tasks)
            },
        )
        for method in ("nash", "pub")
    ]
    said = "".join(f"<li>{html.escape(line)}</li>" for line in advice(found))
    shown = "".join(f"<h2>{html.escape(t)}</h2>{_table(head, rows)}" for t, head, rows in tables(found))
    flag = f'<p class="flag">{SIMULATED}</p>' if found.simulated else ""
    facts = (
        f"{found.model}, plain Adam on the summed loss, {found.steps:,} steps of {found.batch:,} rows, {len(found.probes)} probes on two "
        "batches of their own each."
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{STYLE}</style></head><body><h1>{html.escape(title)}</h1>{flag}"
        f"<h2>Finding</h2><ul>{said}</ul><p>{html.escape(facts)}</p>{shown}<h2>Along the run</h2>"
        f"<main>{''.join(figures)}</main></body></html>\n"
    )


def _cells(found: Diagnosis, kind: str, i: int, j: int) -> Points:
    return [(float(p.step), getattr(p, kind)[i][j]) for p in found.probes]


def _table(head: list[str], rows: Cells) -> str:
    top = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
    body = "".join(f"<tr>{''.join(f'<td>{html.escape(c)}</td>' for c in row)}</tr>" for row in rows)
    return f'<div class="wide"><table><tr>{top}</tr>{body}</table></div>'
