"""What `look` found in a log or a table -> the rows of tables, for the terminal and the page."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from equipoise.data.look import when

Cells = list[list[str]]
Facts = dict[str, Any]


def table_columns(facts: Facts) -> tuple[list[str], Cells]:
    """Return (head, rows) of a table's columns: type, role, values, missing share, AUC alone, examples."""
    rows = []
    for name, c in facts["columns"].items():
        known = [v for v in c["auc"].values() if v is not None]
        best = f"{max(known):.3f}" if known else "-"
        rows.append(
            [
                name,
                c["type"],
                c["role"],
                f"{c['distinct']:,}",
                f"{c['missing']:.2%}",
                best,
                ", ".join(c["examples"]),
            ]
        )
    return ["column", "type", "role", "values", "missing", "AUC alone", "examples"], rows


def log_tables(facts: Facts, short: bool = False) -> list[tuple[str, list[str], Cells]]:
    """Return (title, head, rows) of every table of a log; without rows where the log has no such thing.

    Args:
        short: unseen ids and missing numbers in the same columns, so that the features fit into a terminal.
    """
    return [
        ("splits", ["split", "rows", "first (UTC)", "last (UTC)"], _splits(facts)),
        (
            "labels",
            ["task", "split", "kind", "known", "missing", "positives", "rate or mean", "sd", "against given"],
            _labels(facts),
        ),
        ("features", *(_short(facts) if short else _features(facts))),
        ("days (UTC)", *_day_rows(facts)),
        (
            "groups",
            [
                "split",
                "groups",
                "mean rows",
                "median",
                "90 %",
                "99 %",
                "largest",
                "of one row",
                "rows of training's groups",
            ],
            _groups(facts),
        ),
        ("late labels", ["what", "value"], list(flat(facts["notes"].get("late") or {}))),
        ("shards", ["shard", "split", "rows", "first (UTC)", "vocabulary version"], _shards(facts)),
        (
            "vocabulary versions",
            ["version", "ids of all features"],
            [[str(v["version"]), f"{v['ids']:,}"] for v in facts["vocabulary"]["versions"]],
        ),
    ]


def _splits(facts: Facts) -> Cells:
    return [
        [name, f"{of['rows']:,}", *([when(ms) for ms in of["time"]] if of["time"] else ["-", "-"])]
        for name, of in facts["splits"].items()
    ]


def _labels(facts: Facts) -> Cells:
    rows = []
    for task, splits in facts["labels"].items():
        for split, of in splits.items():
            middle = of.get("positive_rate", of.get("mean"))
            positives = f"{of['positives']:,}" if "positives" in of else "-"
            against = f"{of['against_given']:,}" if "against_given" in of else "-"
            rows.append(
                [
                    task,
                    split,
                    of["kind"],
                    f"{of['known']:,}",
                    f"{of['missing_rate']:.2%}",
                    positives,
                    _number(middle),
                    _number(of.get("std")),
                    against,
                ]
            )
    return rows


def _named(name: str, of: Facts) -> list[str]:
    return [name, of["kind"], "-" if of["ids"] is None else f"{of['ids']:,}"]


def _moved(drift: Facts) -> list[str]:
    return [f"{drift['distance']:.3f}", f"{drift['chance']:.3f}"]


def _features(facts: Facts) -> tuple[list[str], Cells]:
    splits = list(facts["splits"])
    head = ["feature", "kind", "ids", *[f"unseen, {s}" for s in splits], *[f"missing, {s}" for s in splits]]
    rows = []
    for name, of in facts["features"].items():
        drift = of["drift"]
        other = f"js {drift['js']:.3f}" if "js" in drift else f"psi {drift['psi']:.3f}"
        rows.append(
            [
                *_named(name, of),
                *[_share(of.get("unseen", {}).get(s)) for s in splits],
                *[_share(of.get("missing", {}).get(s)) for s in splits],
                *_moved(drift),
                other,
            ]
        )
    head = [*head, "drift", "by chance", "js / psi"]
    empty = [at for at in range(3, len(head)) if all(row[at] == "-" for row in rows)]
    return [h for at, h in enumerate(head) if at not in empty], [
        [cell for at, cell in enumerate(row) if at not in empty] for row in rows
    ]


def _short(facts: Facts) -> tuple[list[str], Cells]:
    splits = list(facts["splits"])
    rows = []
    for name, of in facts["features"].items():
        drift, unknown = of["drift"], of.get("missing", of.get("unseen", {}))
        rows.append(
            [
                *_named(name, of),
                *[_share(unknown.get(s)) for s in splits],
                *_moved(drift),
                f"{drift.get('js', drift.get('psi')):.3f}",
            ]
        )
    return ["feature", "kind", "ids", *[f"{s}: unseen" for s in splits], "drift", "chance", "js/psi"], rows


def _day_rows(facts: Facts) -> tuple[list[str], Cells]:
    tasks = list(facts["labels"])
    rows = [
        [day, split, f"{of['rows']:,}", *[_number(of["tasks"][t]["mean"]) for t in tasks]]
        for split, days in facts["days"].items()
        for day, of in days.items()
    ]
    return ["day", "split", "rows", *tasks], rows


def _groups(facts: Facts) -> Cells:
    found = {name: of["groups"] for name, of in facts["splits"].items() if "groups" in of}
    return [
        [
            name,
            f"{of['groups']:,}",
            f"{of['mean']:.1f}",
            *[f"{of['sizes'][q]:,.0f}" for q in ("0.5", "0.9", "0.99", "1")],
            f"{of['one_row']:.1%}",
            f"{of['rows_of_training_groups']:.1%}",
        ]
        for name, of in found.items()
    ]


def _shards(facts: Facts) -> Cells:
    return [
        [
            s["name"],
            s["split"],
            f"{s['rows']:,}",
            when(s["time"][0]) if s["time"] else "-",
            str(s["vocabulary_version"]),
        ]
        for s in facts["shards"]
    ]


def flat(value: Any, path: str = "") -> Iterator[list[str]]:
    """Yield [where, value] of every leaf of nested mappings; a list is one leaf."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from flat(inner, f"{path} {key}" if path else str(key))
    elif isinstance(value, float):
        yield [path, f"{value:g}"]
    elif value not in (None, [], ""):
        yield [path, value if isinstance(value, str) else json.dumps(value, default=str)]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.2%}"
