"""How often the statistics layer errs, on results whose truth is known: false "better", false ties, coverage.

python benchmarks/error_rates.py [--tables 10000] [--logs 1000] [--seed 0]

Tables: synthetic results of a reference and five methods on three tasks. Every side chooses among ten settings by a noisy
validation score, so that what is compared is what luck in tuning chose; seeds are shared between sides, test errors between
tasks, and the covariance of the test sample is itself an estimate (Wishart, 200 degrees of freedom, as of 200 positives).
Each table goes through `mean_over_tasks`, `estimate`, `holm` and `decide`: one primary contrast, 19 others. The truth that
counts is the difference between the settings chosen. In "equal" tables all settings are equally good. In "luck" tables they
are not, while the searches are: what is declared there is also counted against the truth "no method is better", without and
with the tuning part of `choice_variance`, because luck in tuning is shown by no number of seeds or rows. In "apart" tables all
methods differ from the reference by the margin. Half as many are drawn of the latter two. "Copies" are what `equipoise compare` meets: two
sides try the same settings and call `choice_variance` as it does, for the mean over tasks and for each task; as many as "luck".

Logs: rows with features, two sides whose scores are equally good in the population and differ by a fixed function and by one
a seed; through `placements`, `delong`, `bootstrap_groups` and `estimate`. Rows are independent, or come from users.

Groups: as many tests with 2 to 20 groups of 60 rows, of sides that are equal over all groups and differ in each; through `contrast`, with groups by
their summed influences, and beside it without its factor and degrees of freedom for few groups.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from dataclasses import dataclass

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from equipoise.study.bootstrap import bootstrap_groups
from equipoise.study.choice import choice_variance
from equipoise.study.contrast import contrast
from equipoise.study.decide import MARGIN, decide, holm
from equipoise.study.delong import delong, few_groups, placements
from equipoise.study.estimate import Estimate, estimate, mean_over_tasks

ALPHA = 0.05
METHODS, TASKS, SETTINGS, GRID = 5, 3, 10, 4
SEED_SD = (0.0005, 0.001, 0.003)
TEST_SE = (0.0, 0.001, 0.005)
NUM_SEEDS = (5, 10, 20)
LUCK = (0.0005, 0.002)
SHARED = (0.0, 0.5, 0.9)
VARIANCE_DF = 200
GROUPS, ROWS_OF_GROUP = (2, 3, 5, 10, 20), 60

Counts = defaultdict[str, list[bool]]


def tuned(rng: np.random.Generator, luck: float, seed_sd: float) -> tuple[np.ndarray, list[float]]:
    """Return [1 + METHODS, TASKS], what each side's chosen setting is worth, and each side's estimated variance of choice.

    Settings' worths have sd `luck`; the first GRID are the same for all sides, the others each side draws for itself. The
    choice is by the mean over tasks of a validation score of two seeds.
    """
    worth = luck * rng.normal(size=(1 + METHODS, SETTINGS, TASKS))
    worth[:, :GRID] = worth[0, :GRID]
    noise = seed_sd / np.sqrt(2 * TASKS)
    seen = worth.mean(2) + noise * rng.normal(size=(1 + METHODS, SETTINGS))
    variances = [0.0] * 2
    if luck:
        drawn, seed = np.arange(SETTINGS) >= GRID, int(rng.integers(2**31))
        variances = [choice_variance(side, noise, drawn=drawn, num=500, seed=seed) for side in seen[:2]]
    return worth[np.arange(1 + METHODS), seen.argmax(1)], variances


def table(rng: np.random.Generator, counts: Counts, kind: str) -> None:
    """Draw one table of results, judge it and add what was false to the counts.

    Args:
        kind: "equal" (no side is better), "luck" (settings differ, searches are equal), "apart" (all methods are the margin
            better, or worse).
    """
    seed_sd, test_se, shared = (float(rng.choice(each)) for each in (SEED_SD, TEST_SE, SHARED))
    seeds, luck = int(rng.choice(NUM_SEEDS)), float(rng.choice(LUCK)) if kind == "luck" else 0.0
    truth, of_choice = tuned(rng, luck, seed_sd)
    truth = truth[1:] - truth[0]
    if kind == "apart":
        truth += float(rng.choice([MARGIN, -MARGIN]))
    # seeds: a part that all sides share (data order, initial weights) and their own; the sd of a side is seed_sd
    own = rng.normal(size=(1 + METHODS, TASKS, seeds))
    results = seed_sd * (np.sqrt(shared) * rng.normal(size=(TASKS, seeds)) + np.sqrt(1 - shared) * own)
    # test rows: each side's error has variance test_se^2 / 2, so that a difference has sd test_se; tasks are correlated .3
    root = test_se * np.linalg.cholesky(np.full((TASKS, TASKS), 0.3) + 0.7 * np.eye(TASKS))
    sample = (rng.normal(size=(1 + METHODS, TASKS)) / np.sqrt(2)) @ root.T
    differences = (truth + sample[1:] - sample[0])[:, :, None] + results[1:] - results[0]
    others: list[tuple[Estimate, float]] = []
    for m in range(METHODS):
        draws = rng.normal(size=(VARIANCE_DF, TASKS)) @ root.T
        covariance = draws.T @ draws / VARIANCE_DF
        if m == 0:
            searched = mean_over_tasks(differences[0], covariance, tuning_variance=sum(of_choice))
        others.append((mean_over_tasks(differences[m], covariance), float(truth[m].mean())))
        others += [(estimate(differences[m, t], covariance[t, t]), float(truth[m, t])) for t in range(TASKS)]
    found, goal = others.pop(0)  # the primary contrast
    verdict = decide(found, margin=0.0, alpha=ALPHA)
    where = ["all", f"{seeds} seeds", f"test SE {test_se:g}", f"shared {shared:g}"]
    where += [f"luck {luck:g}"] if kind == "luck" else []
    for key in where:
        counts[f"{kind}: interval covers|{key}"].append(found.interval[0] <= goal <= found.interval[1])
        if goal <= 0:
            counts[f"{kind}: false better|{key}"].append(verdict == "win")
        if kind == "equal":
            counts[f"{kind}: better or worse|{key}"].append(verdict != "undecided")
        if kind == "luck":
            counts["luck: declared, searches equal|" + key].append(verdict != "undecided")
            counts["luck: declared, searches equal, tuning part|" + key].append(
                decide(searched, margin=0.0) != "undecided"
            )
    adjusted = holm([each.p_value for each, _ in others])
    verdicts = [decide(e, margin=0.0, p_value=p) for (e, _), p in zip(others, adjusted, strict=True)]
    false = [v == "win" and goal <= 0 for v, (_, goal) in zip(verdicts, others, strict=True)]
    counts[f"{kind}: any false better of {len(others)}, Holm|all"].append(any(false))
    for each, _ in others:
        if kind == "apart":
            counts["apart: false tie, each|all"].append(decide(each, margin=MARGIN) == "tie")


def copies(rng: np.random.Generator, counts: Counts) -> None:
    """Draw two copies of a method that search the same settings, and count what is declared between them: all of it is false."""
    seed_sd, test_se = (float(rng.choice(each)) for each in (SEED_SD, TEST_SE))
    seeds, luck = int(rng.choice(NUM_SEEDS)), float(rng.choice(LUCK))
    worth = luck * rng.normal(size=(SETTINGS, TASKS))
    noise = seed_sd / np.sqrt(2)  # two tuning seeds
    seen = worth + noise * rng.normal(size=(2, SETTINGS, TASKS))
    picked = worth[seen.mean(2).argmax(1)]
    root = test_se * np.linalg.cholesky(np.full((TASKS, TASKS), 0.3) + 0.7 * np.eye(TASKS))
    draws = rng.normal(size=(VARIANCE_DF, TASKS)) @ root.T
    covariance = draws.T @ draws / VARIANCE_DF
    results = seed_sd * rng.normal(size=(2, TASKS, seeds))
    differences = (picked[1] - picked[0] + root @ rng.normal(size=TASKS))[:, None] + results[1] - results[0]
    seed, of_mean = int(rng.integers(2**31)), noise / np.sqrt(TASKS)
    lucks = [
        sum(
            choice_variance(s.mean(1), of_mean, of=of, num=500, seed=seed)
            for s, of in zip(seen, ofs, strict=True)
        )
        for ofs in [(None, None), *([(s[:, t], noise) for s in seen] for t in range(TASKS))]
    ]
    for part, variances in (("", [0.0] * len(lucks)), (", tuning part", lucks)):
        primary = mean_over_tasks(differences, covariance, tuning_variance=variances[0])
        by_task = [
            estimate(differences[t], covariance[t, t], tuning_variance=variances[1 + t]) for t in range(TASKS)
        ]
        adjusted = holm([each.p_value for each in by_task])
        tasks = [decide(e, margin=0.0, p_value=p) for e, p in zip(by_task, adjusted, strict=True)]
        for where in ("all", f"luck {luck:g}", f"test SE {test_se:g}"):
            counts[f"copies: primary declared{part}|{where}"].append(
                decide(primary, margin=0.0) != "undecided"
            )
            counts[f"copies: any of {TASKS} tasks declared, Holm{part}|{where}"].append(
                any(verdict != "undecided" for verdict in tasks)
            )


def log(rng: np.random.Generator, counts: Counts, grouped: bool) -> None:
    """Draw a test sample and two sides' scores of equal population AUC; judge them by DeLong or by the bootstrap over users."""
    num, width, seeds = 1500, 8, 5
    x = rng.normal(size=(num, width))
    users = rng.integers(0, 300, num)
    if grouped:  # rows of a user are alike
        x = 0.7 * rng.normal(size=(300, width))[users] + 0.7 * x
    y = rng.random(num) < 1 / (1 + np.exp(1.5 - 1.2 * x[:, 0]))
    scores = []
    for _ in range(2):
        wrong = np.concatenate([[0.0], rng.normal(size=width - 1)])
        of_seeds = 0.3 * rng.normal(size=(seeds, width))
        scores.append((x @ (np.eye(width)[0] + 0.6 * wrong / np.linalg.norm(wrong) + of_seeds).T).T)
    per_seed = [[placements(y, row).auc for row in side] for side in scores]
    differences = np.subtract(*per_seed)
    if grouped:
        seed = int(rng.integers(2**31))
        variance = bootstrap_groups(y, *scores, users, num=200, seed=seed).variance
    else:
        variance = delong(y, *(placements(y, side) for side in scores))[1]
    found = estimate(differences, variance)
    name = "users, bootstrap" if grouped else "rows, DeLong"
    counts[f"log: false better|{name}"].append(decide(found, margin=0.0) == "win")
    counts[f"log: better or worse|{name}"].append(found.p_value < ALPHA)
    counts[f"log: interval covers|{name}"].append(found.interval[0] <= 0 <= found.interval[1])


@dataclass(frozen=True)
class Rows:
    """Test rows of one binary task, as `contrast` reads a split."""

    y: np.ndarray
    group: np.ndarray

    def __len__(self) -> int:
        return len(self.y)

    def labels(self, task: str) -> tuple[np.ndarray, np.ndarray]:
        return self.y, np.ones(len(self.y), bool)


def groups(rng: np.random.Generator, counts: Counts, num: int) -> None:
    """Judge two sides whose scores see a group's labels the better or the worse, group by group."""
    group = np.repeat(np.arange(num), ROWS_OF_GROUP)
    y = (rng.random(len(group)) < 0.3).astype(float)
    a, b = (
        [{"t": worth[group] * y + rng.normal(size=len(y))} for _ in range(5)]
        for worth in 1 + 0.4 * rng.normal(size=(2, num))
    )
    found = contrast(Rows(y, group), ["t"], a, b, 0)  # type: ignore[arg-type]
    differences, variance = found.of(["t"])
    for what, each in (
        ("interval covers", found.estimate(["t"])),
        ("without factor and df", estimate(differences, variance / few_groups(group))),
    ):
        counts[f"groups: {what}|{num:02d}"].append(each.interval[0] <= 0 <= each.interval[1])


def main() -> None:
    """Print the shares as a table and one JSON object last."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tables", type=int, default=10_000)
    parser.add_argument("--logs", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    progress, counts = Console(stderr=True), Counts(list)
    rng = np.random.default_rng(chosen.seed)
    for kind, share in (("equal", 1.0), ("luck", 0.5), ("apart", 0.5)):
        for _ in track(range(round(share * chosen.tables)), f"{kind} tables", console=progress):
            table(rng, counts, kind)
    for _ in track(range(chosen.logs), "logs", console=progress):
        log(rng, counts, grouped=False)
        log(rng, counts, grouped=True)
    for _ in track(range(round(0.5 * chosen.tables)), "copies", console=progress):
        copies(rng, counts)
    draws = {num: np.random.default_rng([chosen.seed, num]) for num in GROUPS}  # whatever was drawn before
    for _ in track(range(chosen.logs), "groups", console=progress):
        for num, own in draws.items():
            groups(own, counts, num)
    shown = Table("what", "where", "count", "of", "share", "2 standard errors")
    result = {}
    for key in sorted(counts):
        hits, share = counts[key], float(np.mean(counts[key]))
        error = 2 * (share * (1 - share) / len(hits)) ** 0.5
        what, where = key.split("|")
        shown.add_row(what, where, str(sum(hits)), str(len(hits)), f"{share:.4f}", f"{error:.4f}")
        result[key] = {"count": int(sum(hits)), "of": len(hits), "share": share}
    Console(width=120).print(shown)
    print(json.dumps({"alpha": ALPHA, "margin": MARGIN, "result": result}))


if __name__ == "__main__":
    main()
