"""The paper's Table II: its protocol as a preset, and its figures beside ours where the data is AliExpress."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from equipoise.study.compare import Plan

COUNTRIES = ("NL", "ES", "FR", "US")
TASKS = ("click", "conversion")
TABLE: dict[tuple[str, str], tuple[tuple[float, float], ...]] = {
    ("mmoe", "single"): ((0.7203, 0.8556), (0.7252, 0.8832), (0.7174, 0.8702), (0.7058, 0.8637)),
    ("mmoe", "equal"): ((0.7247, 0.8645), (0.7290, 0.8959), (0.7274, 0.8789), (0.7092, 0.8717)),
    ("ple", "equal"): ((0.7233, 0.8639), (0.7306, 0.8930), (0.7297, 0.8780), (0.7071, 0.8732)),
    ("mmoe", "pub"): ((0.7268, 0.8670), (0.7323, 0.8967), (0.7300, 0.8828), (0.7121, 0.8736)),
    ("ple", "pub"): ((0.7266, 0.8691), (0.7318, 0.8965), (0.7307, 0.8847), (0.7142, 0.8726)),
}
"""{(model, method): (CTR, CTCVR) test AUC by country, mean of five seeds}. Source: arXiv 2410.05806, Table II; the single-task
row there does not depend on the model."""

NOTE = (
    "Published: means of five seeds from arXiv 2410.05806, Table II. Their training stopped early on the test split and their baselines "
    "were not tuned for it, so their figures are not comparable digit by digit: ours stop on validation."
)

PRESETS: dict[str, dict[str, Any]] = {
    "pub-table2": {
        "models_": ("mmoe", "ple"),
        "methods": (
            "single",
            "equal",
            "fixed",
            "mgda",
            "nash",
            "imtl_g",
            "pcgrad",
            "cagrad",
            "uw",
            "bandit_mtl",
            "famo",
            "clippy",
            "adatask",
            "pub",
        ),
        "base": {"optimizer": "adam", "batch_size": 2048},
        "set_": {
            "embedding_dim": 128,
            "expert": [512, 256],
            "tower_sizes": [128, 64],
            "dropout": 0.2,
            "num_experts": 8,
            "num_shared": 4,
            "num_own": 4,
        },
    }
}
"""The paper's architecture, methods and batches. Learning rate (theirs 1e-3) and weight decay (1e-6) are tuned here as for every side."""


def preset(name: str) -> dict[str, Any]:
    """Return the arguments of `make_plan` of a preset; ValueError for an unknown one."""
    if name not in PRESETS:
        raise ValueError(f"preset must be one of {', '.join(PRESETS)}, got {name!r}")
    return PRESETS[name]


def published(plan: Plan, sides: list[dict[str, Any]], tasks: list[str]) -> dict[str, Any] | None:
    """Return {"note", "head", "rows"} of published beside measured AUC, None when the log is no AliExpress country."""
    country = str(plan.data.get("country") or "").upper()
    if country not in COUNTRIES or not all(task in tasks for task in TASKS):
        return None
    at, rows = COUNTRIES.index(country), []
    for side in sides:
        known = TABLE.get((side["model"], side["method"]))
        if known is None or side["failed"]:
            continue
        cells = [side["model"], side["method"]]
        for task, value in zip(TASKS, known[at], strict=True):
            cells += [f"{value:.4f}", f"{statistics.fmean(side['metrics'][task]['auc']):.4f}"]
        rows.append(cells)
    head = ["model", "method"]
    for task in ("CTR", "CTCVR"):
        head += [f"{task} published", f"{task} ours"]
    return {"note": NOTE, "head": head, "rows": rows}
