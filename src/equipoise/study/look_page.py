"""What `look` found in a log or a table -> one self-contained page, no script."""

from __future__ import annotations

import datetime
import html
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from equipoise.study.dots import dots
from equipoise.study.look_tables import Cells, flat, log_tables, table_columns
from equipoise.study.plot import lines
from equipoise.study.report import STYLE

Facts = dict[str, Any]
OWN_STYLE = """
.stem { stroke: var(--soft); stroke-width: 2; } .ring { fill: var(--paper); stroke: var(--ink); stroke-width: 1.5; }
p, li { overflow-wrap: anywhere; } h1 { overflow-wrap: anywhere; line-height: 1.2; } td.text, th.text { text-align: left; white-space: normal; min-width: 12rem; }
"""
_DAY = re.compile(r"^\d{4}-\d\d-\d\d$")


def log_page(facts: Facts) -> str:
    """Return the page of a log: remarks first, then plots, then every number in tables."""
    title = f"The log {facts['path'].rstrip('/').split('/')[-1]}"
    flag = ["This log is simulated."] if facts["simulated"] else []
    figures = [*_days(facts), _drifts(facts), _unseen(facts), _missing(facts), _late_figures(facts)]
    parts = [_remarks(facts["remarks"], flag), f"<main>{''.join(figures)}</main>"]
    parts += [
        f"<h2>{html.escape(name)}</h2>{_table(head, rows)}" for name, head, rows in log_tables(facts) if rows
    ]
    noted = list(
        flat({k: v for k, v in facts["notes"].items() if k not in ("late", "published", "suspects")})
    )
    for name in ("published", "suspects"):
        said = "".join(f"<li>{html.escape(str(line))}</li>" for line in facts["notes"].get(name) or [])
        heading = "Compared with what is published" if name == "published" else "Said when it was prepared"
        parts.append(f"<h2>{heading}</h2><ul>{said}</ul>" if said else "")
    parts.append(f"<h2>Notes</h2>{_table(['note', 'value'], noted)}" if noted else "")
    ids = facts["vocabulary"]
    parts.append(
        f"<p>Fingerprint {facts['fingerprint']}; vocabulary version {ids['version']}. Drift was measured on "
        f"{' and '.join(f'{n:,} rows of {s}' for s, n in facts['sampled'].items())}.</p>"
    )
    return _page(title, parts)


def table_page(facts: Facts) -> str:
    """Return the page of a raw table: suspects first, then plots, then a row a column."""
    missing = {n: {"missing": 100 * c["missing"]} for n, c in facts["columns"].items() if c["missing"]}
    figures = [
        dots("Missing values", "% of rows", missing, ["missing"]) if missing else "",
        dots(
            "Different values",
            "log10 of their number",
            {n: {"values": math.log10(max(1, c["distinct"]))} for n, c in facts["columns"].items()},
            ["values"],
        ),
    ]
    for task in facts["labels"]:
        alone = {
            n: {"AUC": c["auc"][task]} for n, c in facts["columns"].items() if c["auc"].get(task) is not None
        }
        if alone:
            figures.append(
                dots(
                    f"A column alone against {task}",
                    "AUC of the column alone, .5 tells nothing",
                    alone,
                    ["AUC"],
                    0.5,
                )
            )
    head, rows = table_columns(facts)
    parts = [
        _remarks(facts["suspects"], []),
        f"<p>{facts['rows']:,} rows looked at, {len(rows)} columns.</p>",
        f"<main>{''.join(figures)}</main><h2>Columns</h2>{_table(head, rows)}",
    ]
    if facts.get("schema") is not None:
        parts.append(f'<h2>Schema</h2><pre class="wide">{html.escape(facts["schema"])}</pre>')
    return _page(f"The table {facts['name']}", parts)


def _days(facts: Facts) -> Iterator[str]:
    """Yield a figure a task: its rate by day, a line a split; and one of the rows by day."""
    days = [day for of in facts["days"].values() for day in of]
    if not days:
        return
    first = min(days)
    x_name = f"days since {first} (UTC)"
    for task, splits in facts["labels"].items():
        binary = splits["train"]["kind"] == "binary"
        series = {
            split: [
                (_since(first, day), f["tasks"][task]["mean"] * (100 if binary else 1))
                for day, f in of.items()
                if f["tasks"][task]["mean"] is not None
            ]
            for split, of in facts["days"].items()
        }
        yield lines(f"{task} by day", x_name, "% of known rows positive" if binary else "mean label", series)
    series = {
        s: [(_since(first, day), float(f["rows"])) for day, f in of.items()]
        for s, of in facts["days"].items()
    }
    yield lines("Rows by day", x_name, "rows", series)


def _since(first: str, day: str) -> float:
    return float((datetime.date.fromisoformat(day) - datetime.date.fromisoformat(first)).days)


def _drifts(facts: Facts) -> str:
    rows = {
        n: {"test against train": of["drift"]["distance"], "by chance": of["drift"]["chance"]}
        for n, of in facts["features"].items()
    }
    return dots(
        "Drift", "share of rows that would have to move, 0 to 1", rows, ["test against train", "by chance"]
    )


def _unseen(facts: Facts) -> str:
    rows = {
        n: _percent(of["unseen"]) for n, of in facts["features"].items() if any(of.get("unseen", {}).values())
    }
    return dots(
        "Ids that training did not see, or too seldom",
        "% of rows (of values where a row has several)",
        rows,
        ["test", "train", "valid"],
    )


def _missing(facts: Facts) -> str:
    rows = {
        n: _percent(of["missing"])
        for n, of in facts["features"].items()
        if any(of.get("missing", {}).values())
    }
    return dots("Missing numbers", "% of rows", rows, ["test", "train", "valid"]) if rows else ""


def _percent(shares: Mapping[str, float]) -> dict[str, float]:
    return {split: 100 * share for split, share in shares.items()}


def _late_figures(facts: Facts) -> str:
    """Return a line figure of every {day: number} in notes["late"], whatever it is called there."""
    found = dict(_by_day((), facts["notes"].get("late")))
    figures = []
    for name, of in found.items():
        first = min(of)
        points = [(_since(first, day), value) for day, value in sorted(of.items())]
        figures.append(
            lines(f"Late labels: {name}", f"days since {first} (UTC)", "", {name.split(" ")[-1]: points})
        )
    return "".join(figures)


def _by_day(path: tuple[str, ...], value: Any) -> Iterator[tuple[str, dict[str, float]]]:
    if not isinstance(value, Mapping):
        return
    if value and all(_DAY.match(str(key)) for key in value):
        plain = {
            str(d): float(v) for d, v in value.items() if isinstance(v, (int, float)) and _is_date(str(d))
        }
        if plain:
            yield " ".join(path) or "by day", plain
        keys = {k for v in value.values() if isinstance(v, Mapping) for k in v}
        for key in sorted(map(str, keys)):
            yield from _by_day(
                (*path, key), {d: v[key] for d, v in value.items() if isinstance(v, Mapping) and key in v}
            )
        return
    for key, inner in value.items():
        yield from _by_day((*path, str(key)), inner)


def _is_date(text: str) -> bool:
    try:
        datetime.date.fromisoformat(text)
    except ValueError:
        return False
    return True


def _remarks(said: list[str], flags: list[str]) -> str:
    shown = "".join(f'<p class="flag">{html.escape(flag)}</p>' for flag in flags)
    items = "".join(f"<li>{html.escape(line)}</li>" for line in said) or "<li>nothing stands out</li>"
    return f"{shown}<h2>What to look at</h2><ul>{items}</ul>"


def _table(head: list[str], rows: Cells) -> str:
    text = {at for at, name in enumerate(head) if name in ("role", "examples", "value")}
    top = "".join(
        f"<th{' class=text' if at in text else ''}>{html.escape(cell)}</th>" for at, cell in enumerate(head)
    )
    body = "".join(
        f"<tr>{''.join(f'<td class=text>{html.escape(c)}</td>' if at in text else f'<td>{html.escape(c)}</td>' for at, c in enumerate(row))}</tr>"
        for row in rows
    )
    return f'<div class="wide"><table><tr>{top}</tr>{body}</table></div>'


def _page(title: str, parts: list[str]) -> str:
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{STYLE}{OWN_STYLE}</style></head><body><h1>{html.escape(title)}</h1>"
        f"{''.join(parts)}</body></html>\n"
    )
