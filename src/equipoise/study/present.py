"""The findings of a comparison -> text tables: plain, Markdown, LaTeX, CSV."""

from __future__ import annotations

import csv
import io
import statistics
from typing import Any

SCREENING = "Screening, not evidence: fewer than 10 seeds."
MEAN = "mean over tasks"
NAMED_GROUPS = 20
"""Test groups under which the report says how many there are."""
LAST = ("delta_m %", "step", "memory MB")
OF_SIDE = ("delta_m", "seconds", "step_seconds", "cost", "memory")
OF_DIFFERENCE = (
    "difference",
    "low",
    "high",
    "se",
    "seed_se",
    "test_se",
    "tuning_se",
    "p",
    "adjusted",
    "decision",
)
TEX = {c: f"\\{c}" for c in "_%&#${}"} | {c: f"${c}$" for c in "<>|"}
TEX |= {"~": r"$\sim$", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}"}
Cells = list[list[str]]


def heading(findings: dict[str, Any]) -> list[str]:
    """Return what must be read before the table, one sentence each."""
    plan = findings["plan"]
    rows = plan["data"]["rows"]
    lines = []
    if plan["screening"]:
        lines.append(SCREENING)
    if plan["data"]["simulated"]:
        lines.append("The log is simulated: these figures say how methods work there, not on your data.")
    lines.append(
        f"{rows['train']:,} training, {rows['valid']:,} validation and {rows['test']:,} test rows; {len(plan['seeds'])} seeds for every "
        f"side; every side (of single task each task's model) tuned with the same number of runs ({len(plan['grid'])} learning rates x {len(plan['tuning_seeds'])} seeds, "
        f"more at an edge, then {plan['num_candidates']} runs on weight decay, rates beside the best and own constants, the best of them with every seed) on validation only."
    )
    lines.append(
        f"Named before the run: {plan['primary']} against {plan['reference']} in {plan['models'][0]}, mean over tasks of AUC, "
        f"margin {plan['margin']:g}. All else is corrected by Holm within its model."
    )
    if plan["origins"] > 1:
        lines.append(
            f"{plan['origins']} rolling origins: each test period is predicted from the rows before it, tuned on the earliest's validation "
            "rows; AUC is taken within a period, weighted by its positives."
        )
    lines += _few_groups(findings)
    if plan["dropped"]:
        lines.append(f"Left out for the budget: {', '.join(plan['dropped'])}.")
    lines += [f"{task}: {fact['grey']}" for task, fact in findings["tasks"].items() if fact["grey"]]
    return lines


def _few_groups(findings: dict[str, Any]) -> list[str]:
    """Return what is to be said of test rows in so few groups that the error between them is hardly known, a sentence or none."""
    if findings["num_groups"] == 1:
        return [
            "All test rows are of one group, so no error between groups is known: rows are taken as independent, and the intervals hold for "
            "this group only."
        ]
    tasks = findings["tasks"]
    counts = {task: fact["groups"] for task, fact in tasks.items() if fact["groups"] is not None}
    clear = [task for task in counts if not tasks[task]["grey"]] or counts
    said = ", ".join(f"{counts[task]} of {task}" for task in clear if counts[task] < NAMED_GROUPS)
    if not said:
        return []
    return [
        f"Few test groups hold a class ({said}): so few tell the error between groups badly, and the intervals are wider for it."
    ]


def verdict(findings: dict[str, Any], by_task: bool = True) -> list[str]:
    """Return the decisions in sentences: the primary contrast, the best other method, what limits them, and counts `by_task`."""
    plan, found = findings["plan"], findings["primary"]
    if found is None:
        return [
            "The primary contrast could not be measured: a side has no model, or no task has test rows of both classes."
        ]
    lines = [
        f"Primary: {plan['primary']} against {plan['reference']} ({plan['models'][0]}): {_difference(found)}: {found['decision']}.",
        limit(found, findings["tasks"], plan["seeds"]),
    ]
    if all(fact["grey"] for fact in findings["tasks"].values()):
        lines.append(
            "Every task is grey: this is a hint, no evidence, whatever the decision; take more test rows."
        )
    if (other := findings["best_other"]) is not None:
        lines.append(
            f"Best other method on validation: {other['method']}: {plan['primary']} minus {other['method']} {_difference(other)}: "
            f"{other['decision']}."
        )
    for entry in findings["counts"] if by_task else ():
        c = entry["counts"]
        lines.append(
            f"{entry['model']}, {entry['method']} against {plan['reference']}, by task: {c['win']} won, {c['loss']} lost, "
            f"{c['tie']} tied, {c['undecided']} undecided."
        )
    return lines


def limit(contrast: dict[str, Any], tasks: dict[str, Any], seeds: list[int]) -> str:
    """Return what makes a contrast's interval as wide as it is, and what would help."""
    parts = (
        f"standard errors: {contrast['seed_se']:.4f} of {len(seeds)} seeds, {contrast['test_se']:.4f} of the test rows, "
        f"{contrast['tuning_se']:.4f} of luck in tuning"
    )
    if contrast["larger"] == "test rows":
        counted = {name: t["positives"] for name, t in tasks.items() if t["positives"] is not None}
        clear = {name: number for name, number in counted.items() if not tasks[name]["grey"]} or counted
        fewest = min((number, name) for name, number in clear.items())
        groups = [t["groups"] for name, t in tasks.items() if name in clear and t["groups"] is not None]
        if groups and 1 < min(groups) < NAMED_GROUPS:
            return f"More seeds will not help, more test groups would ({min(groups)} hold a class): {parts}."
        return f"More seeds will not help, more test rows would ({fewest[0]:,} positives of {fewest[1]}): {parts}."
    if contrast["larger"] == "tuning":
        return f"What helps most is to tune with more seeds a setting (--tuning-seeds): {parts}."
    return f"More seeds would help: {parts}."


def columns(findings: dict[str, Any], brief: bool = False) -> tuple[list[str], Cells]:
    """Return (head, rows) of the main table: a row a side, AUC by task as mean (sd over seeds), then difference and decision.

    `brief` is what a terminal has room for: a column a task, GAUC and (on simulated logs) soft AUC in rows below AUC, and no interval.
    """
    if brief:
        return _brief(findings)
    plan, tasks = findings["plan"], findings["tasks"]
    grouped = any(fact["eligible_groups"] is not None for fact in tasks.values())
    head = ["model", "method"]
    for task, fact in tasks.items():
        head.append(f"{task} {fact['metric']}")
        if plan["data"]["simulated"] and fact["metric"] == "auc":
            head.append(f"{task} soft AUC")
        if grouped and fact["metric"] == "auc":
            head.append(f"{task} GAUC")
    head += ["mean minus " + plan["reference"], "95 % interval", "decision", *LAST]
    rows = []
    for side in findings["sides"]:
        cells = [side["model"], side["method"]]
        if side["failed"]:
            rows.append([*cells, f"failed: {side['failed']}", *[""] * (len(head) - 3)])
            continue
        for task, fact in tasks.items():
            grey = "~" if fact["grey"] else ""
            cells.append(grey + _spread(side["metrics"][task].get(fact["metric"])))
            if plan["data"]["simulated"] and fact["metric"] == "auc":
                cells.append(_spread(side["metrics"][task].get("soft_auc")))
            if grouped and fact["metric"] == "auc":
                cells.append(("~" if fact["gauc_grey"] else "") + _spread(side["metrics"][task].get("gauc")))
        contrast = side["mean"]
        if contrast is None:
            cells += ["", "", ""]
        else:
            cells += [f"{contrast['difference']:+.4f}", _interval(contrast), contrast["decision"]]
        rows.append([*cells, *_last(side)])
    if plan["data"]["simulated"]:
        soft = {f"{task} soft AUC": value for task, value in _ceilings(findings).items()}
        rows.append(["", "ceiling", *(soft.get(name, "") for name in head[2:])])
    return head, rows


def _brief(findings: dict[str, Any]) -> tuple[list[str], Cells]:
    plan, tasks = findings["plan"], findings["tasks"]
    binary = [task for task, fact in tasks.items() if fact["metric"] == "auc"]
    below = {"GAUC": "gauc"} if any(tasks[t]["eligible_groups"] is not None for t in binary) else {}
    below |= {"soft AUC": "soft_auc"} if plan["data"]["simulated"] else {}
    head = ["side", "metric", *(t if t in binary else f"{t} ({tasks[t]['metric']})" for t in tasks)]
    head += [f"mean AUC - {plan['reference']}", "decision", *LAST]
    rows: Cells = []

    def put(cells: list[str]) -> None:
        rows.append([*cells, *[""] * (len(head) - len(cells))])

    for side in findings["sides"]:
        name = side["method"] if len(plan["models"]) == 1 else f"{side['model']} {side['method']}"
        if side["failed"]:
            put([name, f"failed: {side['failed']}"])
            continue
        found = side["metrics"]
        cells = [
            ("~" if fact["grey"] else "") + _spread(found[t].get(fact["metric"])) for t, fact in tasks.items()
        ]
        c = side["mean"]
        said = ["", ""] if c is None else [f"{c['difference']:+.4f}", c["decision"]]
        put([name, "AUC", *cells, *said, *_last(side)])
        for label, metric in below.items():
            grey = "gauc_grey" if metric == "gauc" else "grey"
            put(
                [
                    "",
                    label,
                    *(
                        ("~" if tasks[t][grey] else "") + _spread(found[t].get(metric)) if t in binary else ""
                        for t in tasks
                    ),
                ]
            )
    if plan["data"]["simulated"]:
        ceilings = _ceilings(findings)
        put(["ceiling", "soft AUC", *(ceilings.get(task, "") for task in tasks)])
    return head, rows


def _last(side: dict[str, Any]) -> list[str]:
    """Return the cells of the columns `LAST`."""
    delta, cost, memory = side["delta_m"], side["cost"], side["memory"]
    return [
        "" if delta is None else f"{delta:+.2f}",
        "" if cost is None else f"{cost:.2f}",
        "" if memory is None else f"{memory / 1e6:.0f}",
    ]


def _ceilings(findings: dict[str, Any]) -> dict[str, str]:
    """Return {task: soft AUC of the true probabilities}, of a simulated log: what no model can pass but by chance."""
    found: dict[str, str] = {}
    for side in findings["sides"]:
        for task, metrics in side["metrics"].items():
            known = [v for v in metrics.get("ceiling", []) if v is not None]
            if known:
                found.setdefault(task, f"{known[0]:.4f}")
    return found


NOTES = (
    "AUC: mean over seeds (sd). ~: too few positives, or groups, to enter any count. delta_m: mean over the tasks that are not ~ (all, where all are) of the relative "
    "change of AUC against the single-task models. step: time of training over its steps, validations between epochs and whatever else the machine did included, over the reference's "
    "in the same model: a hint, docs/performance.md measures steps. memory: peak of a run's process on the host; what a GPU holds is not in it. ceiling: soft AUC of the true probabilities. "
    "95 % intervals are uncorrected and hold seeds, test rows and luck in tuning; p and with it the decision is corrected by Holm within a model for all but the primary "
    "contrast, so an interval without 0 may stand beside 'undecided'."
)


def contrasts(findings: dict[str, Any]) -> tuple[list[str], Cells]:
    """Return (head, rows) of every contrast against the reference, by task. A grey task is in no family and has no p-value."""
    head = [
        "model",
        "method",
        "task",
        "difference",
        "95 % interval",
        "seed part",
        "test part",
        "tuning part",
        "p (Holm)",
        "decision",
    ]
    rows = []
    for side in findings["sides"]:
        shown = [] if side["mean"] is None else [(MEAN, side["mean"])]
        for task, c in side["contrasts"].items():
            shown.append((("~" if findings["tasks"][task]["grey"] else "") + task, c))
        for name, c in shown:
            rows.append(
                [
                    side["model"],
                    side["method"],
                    name,
                    f"{c['difference']:+.4f}",
                    _interval(c),
                    f"{c['seed_se']:.4f}",
                    f"{c['test_se']:.4f}",
                    f"{c['tuning_se']:.4f}",
                    "" if name.startswith("~") else f"{c['adjusted']:.3f}",
                    c["decision"],
                ]
            )
    return head, rows


def markdown(findings: dict[str, Any]) -> str:
    """Return everything as Markdown."""
    published = findings["published"]
    parts = ["\n".join(f"- {_md(line)}" for line in heading(findings)), table(*columns(findings)), NOTES]
    parts += ["\n".join(f"- {_md(line)}" for line in verdict(findings)), table(*contrasts(findings))]
    if published is not None:
        parts += [published["note"], table(published["head"], published["rows"])]
    return "\n\n".join(parts) + "\n"


def latex(findings: dict[str, Any]) -> str:
    """Return the main table as a LaTeX tabular."""
    head, rows = columns(findings)
    lines = [f"% {' '.join(line.split())}" for line in heading(findings)]
    lines.append(r"\begin{tabular}{ll" + "r" * (len(head) - 2) + "}")
    lines.append(r"\hline")
    lines += [" & ".join(_tex(cell) for cell in row) + r" \\" for row in [head, *rows]]
    lines.insert(-len(rows) if rows else len(lines), r"\hline")
    return "\n".join([*lines, r"\hline", r"\end{tabular}"]) + "\n"


def as_csv(findings: dict[str, Any]) -> str:
    """Return a line a number: a metric of a side, task and seed, or (task and seed empty) what the side cost and its delta_m."""
    rows = []
    for side in findings["sides"]:
        name = [side["model"], side["method"]]
        for task, found in side["metrics"].items():
            for metric, values in found.items():
                rows += [
                    [*name, task, metric, seed, value]
                    for seed, value in zip(findings["plan"]["seeds"], values, strict=True)
                ]
        rows += [[*name, "", key, "", side[key]] for key in OF_SIDE if side[key] is not None]
    return _csv(["model", "method", "task", "metric", "seed", "value"], rows)


def differences_csv(findings: dict[str, Any]) -> str:
    """Return a line a difference: of the mean over tasks ("of" is mean, task empty) and of each task, from the reference or the best other method."""
    plan, other = findings["plan"], findings["best_other"]
    rows = []

    def put(side: list[str], against: str, task: str | None, c: dict[str, Any]) -> None:
        grey = task is not None and bool(findings["tasks"][task]["grey"])
        kind = ["mean" if task is None else "task", task or ""]
        rows.append([*side, against, *kind, *(c[key] for key in OF_DIFFERENCE), int(grey)])

    for side in findings["sides"]:
        for task, c in [(None, side["mean"]), *side["contrasts"].items()]:
            if c is not None:
                put([side["model"], side["method"]], plan["reference"], task, c)
    if other is not None:
        put([plan["models"][0], plan["primary"]], other["method"], None, other)
    return _csv(["model", "method", "against", "of", "task", *OF_DIFFERENCE, "grey"], rows)


def _csv(head: list[str], rows: list[list[Any]]) -> str:
    out = io.StringIO()
    csv.writer(out).writerows([head, *rows])
    return out.getvalue()


def table(head: list[str], rows: Cells) -> str:
    """Return a Markdown table."""
    lines = ["| " + " | ".join(_md(cell) for cell in row) + " |" for row in [head, *rows]]
    lines.insert(1, "|" + " --- |" * len(head))
    return "\n".join(lines)


def _spread(values: list[float | None] | None) -> str:
    known = [v for v in values or [] if v is not None]
    if not known:
        return "-"
    sd = statistics.stdev(known) if len(known) > 1 else 0.0
    return f"{statistics.fmean(known):.4f} ({sd:.4f})"


def _interval(c: dict[str, Any]) -> str:
    return f"[{c['low']:+.4f}, {c['high']:+.4f}]"


def _difference(c: dict[str, Any]) -> str:
    return f"{c['difference']:+.4f}, 95 % interval {_interval(c)}"


def _md(text: str) -> str:
    """Return text that Markdown shows as it is, on one line."""
    return "".join(f"\\{c}" if c in "\\|<*`" else c for c in " ".join(text.split()))


def _tex(cell: str) -> str:
    """Return text that LaTeX shows as it is, on one line; no package is needed."""
    return "".join(TEX.get(c, c) for c in " ".join(cell.split()))
