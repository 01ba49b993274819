"""The tables of docs/results.md: every method against tuned plain training, by the protocol of `equipoise compare`, on real and simulated logs.

python benchmarks/results.py --data FOLDER [--work runs/results] [--budget 10] [--jobs 2] [--logs census mixed ...] [--models mmoe ...]
                             [--methods single equal ...] [--write docs/results.md] [--dry-run]

Cells: SharedBottom and MMoE on KuaiRand-Pure, Census-Income and the simulated logs independent, aligned and mixed (100,000 rows); PLE on Census-Income
and independent (on KuaiRand it would be the dearest cell of all). Five seeds, ten for plain training, the PUB rows and the
best other on validation (whose five more are not in the estimate). The estimate is printed first; `--budget` (core-hours) leaves out secondary rows, from the last method and the last cell on, and the tables say so. Every run is a file in the work folder, so the same
command goes on where it was stopped; runs of other training code or data lie apart. `--write` puts each cell that was measured between
its markers in docs/results.md as soon as it is there, with the fingerprint of the code that it was trained with, and leaves the other cells as they are.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from equipoise.config import write_text
from equipoise.data import Log, census, kuairand, simulate
from equipoise.study import compare, present
from equipoise.study.findings import findings
from equipoise.study.forecast import Forecast

CORE = ("single", "equal", "fixed", "pub", "pub+adatask")
SECONDARY = ("adatask", "uw", "famo", "imtl_g", "nash", "cagrad", "pcgrad", "mgda", "clippy")
MORE_SEEDS = ("equal", "pub", "pub+adatask")
SEEDS, MANY = 5, 10
BEGIN, END = "<!-- benchmarks/results.py: begin -->", "<!-- benchmarks/results.py: end -->"
REAL: dict[str, Any] = {
    "shared_bottom": {"hidden": [64, 32], "tower_sizes": [16], "embedding_dim": 8},
    "mmoe": {"num_experts": 4, "expert": [64, 32], "tower_sizes": [16], "embedding_dim": 8},
    "ple": {"expert": [64, 32], "tower_sizes": [16], "embedding_dim": 8},
}
NARROW: dict[str, Any] = {
    "shared_bottom": {"hidden": [16, 8], "tower_sizes": [], "embedding_dim": 8},
    "mmoe": {"num_experts": 4, "expert": [16, 8], "tower_sizes": [], "embedding_dim": 8},
    "ple": {"expert": [16, 8], "tower_sizes": [], "embedding_dim": 8},
}
BATCH = {"kuairand": 512, "independent": 256, "aligned": 256, "mixed": 256}
"""Chosen on validation rows for plain and PUB alike; docs/results.md says how. Others take the default, 2048."""
MODELS = {"shared_bottom": "SharedBottom", "mmoe": "MMoE", "ple": "PLE"}
TITLES = {
    "kuairand": "KuaiRand-Pure, test day 2022-05-06",
    "census": "Census-Income, the published test file split 60/10/30",
    "independent": "Simulated, independent tasks",
    "aligned": "Simulated, aligned tasks",
    "mixed": "Simulated, mixed tasks",
}


ALL_CELLS = [f"{n}/{m}" for n in TITLES for m in MODELS if m != "ple" or n in ("census", "independent")]
CELL = re.compile(r"<!-- (\w+/\w+) -->\n(.*?)<!-- end -->", re.DOTALL)
DECISIONS = ("win", "loss", "tie", "undecided")


@dataclass
class Cell:
    """A log and a model: the plan of all rows with five seeds, what it would cost, and the tuning runs of a side."""

    name: str
    model: str
    plan: compare.Plan
    expected: Forecast
    num_runs: int
    methods: list[str]

    def hours(self, method: str) -> float:
        """Core-hours of a row, the further seeds of plain and PUB included."""
        more = (MANY - SEEDS) / (self.num_runs + SEEDS) if method in MORE_SEEDS else 0.0
        return self.expected.hours([method]) * (1 + more)


def logs(data: Path | None, work: Path) -> dict[str, Log]:
    """Prepare the logs that are not there yet."""
    found: dict[str, Log] = {}
    made = {
        "kuairand": lambda path: kuairand.prepare(
            data / "kuairand_pure",  # type: ignore[operator]
            path,
            tasks=["is_click", "long_view", "is_like"],
            valid_date=20220505,
            test_date=20220506,
        ),
        "census": lambda path: census.prepare(data / "census_income", path, seed=0),  # type: ignore[operator]
    }
    for relation in ("independent", "aligned", "mixed"):
        made[relation] = lambda path, relation=relation: simulate(path, 100_000, 0, relation)  # type: ignore[misc]
    for name, make in made.items():
        if data is None and name in ("kuairand", "census"):
            continue
        path = work / "logs" / name
        if not path.is_dir():
            make(path)  # type: ignore[no-untyped-call]
        found[name] = Log.open(path)
    return found


def cells(found: dict[str, Log], models: Sequence[str] = tuple(MODELS)) -> list[Cell]:
    """Plan every cell of these logs and models, with all rows."""
    result = []
    for name, log in found.items():
        sizes = NARROW if log.schema.simulated else REAL
        for model in (m for m in models if f"{name}/{m}" in ALL_CELLS):
            base = {"epochs": 10, "patience": 2, **({"batch_size": BATCH[name]} if name in BATCH else {})}
            plan = compare.make_plan(
                log, models_=[model], methods=[*CORE, *SECONDARY], seeds=SEEDS, base=base, set_=sizes[model]
            )
            result.append(Cell(name, model, plan, compare.expect(plan), plan.setup(log).num_runs, []))
    return sorted(result, key=lambda cell: list(MODELS).index(cell.model))


def fit_budget(planned: list[Cell], hours: float, methods: Sequence[str] = (*CORE, *SECONDARY)) -> list[str]:
    """Fill each cell's `methods`, first the core rows cell by cell, then the others method by method; return what is left out."""
    left, out = hours, []
    missing: dict[str, list[str]] = {}
    core = [m for m in CORE if m in methods]
    for cell in planned:
        cost = sum(cell.hours(m) for m in core)
        if cost <= left:
            cell.methods, left = list(core), left - cost
        else:
            out.append(f"all of {cell.model} on {cell.name}")
    for method in (m for m in SECONDARY if m in methods):
        for cell in planned:
            if cell.methods:
                if (cost := cell.hours(method)) <= left:
                    cell.methods.append(method)
                    left -= cost
                else:
                    missing.setdefault(method, []).append(f"{cell.model} on {cell.name}")
    there = sum(bool(cell.methods) for cell in planned)
    for method, where in missing.items():
        out.append(f"{method} {'everywhere' if len(where) == there else 'in ' + ', '.join(where)}")
    return out


def measure(cell: Cell, work: Path, jobs: int) -> str:
    """Run a cell and return its tables: all sides with five seeds; plain, PUB and the best other on validation with ten."""
    methods = tuple(m for m in cell.plan.methods if m in cell.methods)
    dropped = tuple(m for m in cell.plan.methods if m not in methods)
    plan = replace(cell.plan, methods=methods, dropped=dropped)
    # runs of other code or data are never mixed in
    folder = work / f"{cell.name}-{cell.model}-{plan.code}-{plan.data['fingerprint'][:8]}"
    folder.mkdir(parents=True, exist_ok=True)
    first = findings(compare.carry_out(plan, folder, workers=jobs))
    best = "" if first["best_other"] is None else first["best_other"]["method"]
    many = replace(
        plan,
        methods=tuple(m for m in methods if m in (*MORE_SEEDS, best)),
        seeds=tuple(range(MANY)),
        screening=False,
    )
    told = findings(compare.carry_out(many, folder, workers=jobs, tuned_with=plan))
    for each in (first, told):
        seeds = len(each["plan"]["seeds"])
        write_text(folder / f"findings-{seeds}.json", json.dumps(each, default=str) + "\n")
    parts = [
        f"### {MODELS[cell.model]}",
        f"All sides, {SEEDS} seeds. {present.SCREENING}",
        side_table(first, primary="below"),  # one look at the primary contrast, with all seeds
        f"Plain, PUB and the best other on validation, {MANY} seeds:",
        side_table(told),
        "\n".join(f"- {line}" for line in present.verdict(told, False)),
        chosen(first),
    ]
    left_out = f"Not run here: {', '.join(dropped)}. " if dropped else ""
    parts.append(f"{left_out}Training code {plan.code}.")
    return "\n\n".join(parts)


def side_table(told: dict[str, Any], primary: str = "") -> str:
    """Return the brief table of a comparison, with each difference's interval and the decisions by task.

    `primary`: what stands in place of the primary contrast's decision.

    Times of steps and memory are left out: cells run beside each other and beside other work. docs/performance.md measures steps.
    delta_m is, too.
    """
    head, rows = present.columns(told, brief=True)
    kept = [at for at, name in enumerate(head) if name not in present.LAST]
    head, rows = [head[at] for at in kept], [[row[at] for at in kept] for row in rows]
    counts = {entry["method"]: entry["counts"] for entry in told["counts"]}
    at = head.index("decision")
    head[at : at + 1] = ["95 % interval", "decision", "tasks won, lost, tied, undecided"]
    sides = iter(told["sides"])
    for row in rows:
        told_counts, interval, decision = "", "", row[at]
        if row[0] and row[0] != "ceiling":  # the first row of a side
            side = next(sides)
            mean, by_task = side["mean"], counts.get(side["method"])
            interval = "" if mean is None else f"{mean['low']:+.4f}, {mean['high']:+.4f}"
            told_counts = "" if by_task is None else ", ".join(str(by_task[k]) for k in DECISIONS)
            if primary and side["method"] == told["plan"]["primary"]:
                decision = primary
        row[at : at + 1] = [interval, decision, told_counts]
    return present.table(head, rows)


def chosen(told: dict[str, Any]) -> str:
    """Return a sentence with each side's learning rate, weight decay and constants; of single task the tasks' in order."""
    sides: dict[str, list[str]] = {}
    for unit in told["tuning"]:
        own = [str(value).replace("'", "") for value in unit["chosen"]["set"].values()]
        words = [f"{unit['lr']:g}", f"{unit['chosen']['weight_decay']:g}", *own]
        sides.setdefault(unit["method"], []).append(" ".join(words))
    said = "; ".join(f"{method} {', '.join(each)}" for method, each in sides.items())
    return f"Chosen on validation (learning rate, weight decay, constants): {said}."


def put(text: str, key: str, cell: str) -> str:
    """Return the document with a cell's tables in place of those it had, else where they belong in the order of logs and models."""
    before, _, rest = text.partition(BEGIN)
    inside, there, after = rest.partition(END)
    if not there:
        raise SystemExit(f"the file to write must hold the lines {BEGIN} and {END}")
    found = dict(CELL.findall(inside)) | {key: cell}
    parts = []
    for name, title in TITLES.items():
        mine = [f"{name}/{model}" for model in MODELS if f"{name}/{model}" in found]
        parts += [f"## {title}"] if mine else []
        parts += [f"<!-- {k} -->\n\n{found[k].strip()}\n\n<!-- end -->" for k in mine]
    missing = [k for k in ALL_CELLS if k not in found]
    if missing:
        parts.append(
            f"Not measured: {', '.join(f'{MODELS[m]} on {n}' for n, m in (k.split('/') for k in missing))}."
        )
    parts.append("AUC: mean over seeds (sd). ~: too few positives to enter any count.")
    return f"{before}{BEGIN}\n\n" + "\n\n".join(parts) + f"\n\n{END}{after}"


def main() -> None:
    """Print the estimate, run what is missing, write the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data",
        type=Path,
        help="folder with kuairand_pure and census_income; without it simulated logs only",
    )
    parser.add_argument("--work", type=Path, default=Path("runs/results"))
    parser.add_argument("--budget", type=float, default=10.0, help="core-hours")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--logs", nargs="+", choices=tuple(TITLES), default=list(TITLES), help="only these")
    parser.add_argument("--models", nargs="+", choices=tuple(MODELS), default=list(MODELS), help="only these")
    every = [*CORE, *SECONDARY]
    parser.add_argument(
        "--methods", nargs="+", choices=every, default=every, help="only these and equal, pub"
    )
    parser.add_argument("--write", type=Path, help="file whose cells between their markers are replaced")
    parser.add_argument("--dry-run", action="store_true", help="print the estimate only")
    given = parser.parse_args()
    wanted = [m for m in every if m in {*given.methods, "equal", "pub"}]
    found = {name: log for name, log in logs(given.data, given.work).items() if name in given.logs}
    planned = cells(found, given.models)
    whole = sum(cell.hours(m) for cell in planned for m in cell.plan.methods)
    dropped = fit_budget(planned, given.budget, wanted)
    kept = sum(cell.hours(m) for cell in planned for m in cell.methods)
    print(f"all rows: about {whole:.1f} core-hours; within the budget of {given.budget:g}: {kept:.1f}")
    if dropped:
        print(f"left out: {'; '.join(dropped)}", flush=True)
    if given.dry_run:
        return
    for cell in planned:
        if not cell.methods:
            continue
        text = measure(cell, given.work, given.jobs)
        print(f"## {TITLES[cell.name]}\n\n{text}\n", flush=True)
        if given.write is not None:
            document = given.write.read_text(encoding="utf-8")
            write_text(given.write, put(document, f"{cell.name}/{cell.model}", text))


if __name__ == "__main__":
    main()
