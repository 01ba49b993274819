"""A model and a split -> the metrics of each task."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from equipoise import metrics
from equipoise.data.label import Label
from equipoise.data.schema import Schema
from equipoise.data.store import Split
from equipoise.data.tell import Tell, silent, told
from equipoise.models.ranker import Ranker
from equipoise.names import nearest

Scores = dict[str, dict[str, float | int | None]]

METRICS = {
    "binary": ("auc", "gauc", "gauc_macro", "logloss", "normalised_entropy", "soft_auc", "cvr_auc"),
    "regression": ("xauc", "gxauc", "rmse", "mae", "grmse", "gmae"),
    "watch": ("xauc", "gxauc", "rmse", "mae", "grmse", "gmae"),
    "ordinal": ("xauc", "gxauc", "rmse", "mae", "grmse", "gmae"),
}
"""What a run can be monitored by; IN_GROUPS need groups, soft_auc a simulated log and cvr_auc a step before."""
LOWER_IS_BETTER = ("logloss", "normalised_entropy", "rmse", "mae", "grmse", "gmae")
IN_GROUPS = ("gauc", "gauc_macro", "gxauc", "grmse", "gmae")


def predict(
    model: Ranker, split: Split, batch_size: int = 8192, device: str = "cpu", *, tell: Tell = silent
) -> dict[str, np.ndarray[Any, Any]]:
    """Return {task: float64 [N] probability or expected label}, rows in order; the model is left in its mode.

    Args:
        device: where the model is. tell: called with ("predicting", rows done, rows in all).
    """
    training = model.training
    parts: dict[str, list[torch.Tensor]] = {task: [] for task in split.schema.tasks}
    try:
        model.eval()
        with torch.no_grad():
            for batch in told(split.batches(batch_size), tell, "predicting", len(split), len):
                for task, values in model.predict(batch.to(device)).items():
                    parts[task].append(values.cpu())
    finally:
        model.train(training)
    return {task: torch.cat(values).double().numpy() for task, values in parts.items()}


def score(model: Ranker, split: Split, device: str = "cpu", *, tell: Tell = silent) -> Scores:
    """Return {task: {metric: value}} over the rows whose label is known; None where a metric is not defined.

    A binary task that is given another one also has cvr_auc, its AUC among the rows that passed the step before.
    """
    predicted = predict(model, split, device=device, tell=tell)
    found = {task: score_task(split, task, values) for task, values in predicted.items()}
    for label in split.schema.labels:
        if label.given is not None and _follows(split.schema, label):
            found[label.name]["cvr_auc"] = _conversion(split, label.name, label.given, predicted)
    return found


def _follows(schema: Schema, label: Label) -> bool:
    """Return whether a label is binary and given another binary one."""
    return label.given is not None and {label.kind, schema.label(label.given).kind} == {"binary"}


def _conversion(
    split: Split, task: str, before: str, predicted: dict[str, np.ndarray[Any, Any]]
) -> float | None:
    """Return the AUC of P(task) / P(before), which is P(task | before), among rows with `before`; None for one class."""
    labels, known = split.labels(task)
    passed, seen = split.labels(before)
    rows = known & seen & (passed > 0)
    rate = predicted[task][rows] / np.maximum(predicted[before][rows], 1e-30)
    value = metrics.auc(labels[rows].astype(np.float64), rate)
    return None if math.isnan(value) else value


def score_task(split: Split, task: str, predicted: np.ndarray[Any, Any]) -> dict[str, float | int | None]:
    """Return the metrics of one task's predictions [N].

    Binary: positives, auc, logloss, normalised_entropy, calibration; with groups gauc, gauc_macro, and the shares of rows
    (eligible) and of groups (eligible_groups) that have both classes; on simulated logs soft_auc and ceiling.
    Regression, watch and ordinal: xauc, rmse, mae; with groups gxauc, grmse, gmae.

    Raises:
        ValueError: a prediction is NaN or Inf.
    """
    labels, known = split.labels(task)
    y, p = labels[known].astype(np.float64), predicted[known]
    if not np.isfinite(p).all():
        raise ValueError(f"task {task!r} predicts NaN or Inf; training diverged, try a lower learning rate")
    group = split.group
    found: dict[str, float | int] = {"rows": len(y)}
    if split.schema.label(task).kind == "binary":
        found |= {
            "positives": int(y.sum()),
            "auc": metrics.auc(y, p),
            "logloss": metrics.logloss(y, p),
            "normalised_entropy": metrics.normalised_entropy(y, p),
            "calibration": metrics.calibration(y, p),
        }
        if group is not None:
            within = metrics.group_auc(y, p, group[known])
            found |= {"gauc": within.weighted, "gauc_macro": within.macro}
            found |= {"eligible": within.row_share, "eligible_groups": within.group_share}
        if (truth := split.truth(task)) is not None:
            true = truth.astype(np.float64)
            found |= {"soft_auc": metrics.soft_auc(true, predicted), "ceiling": metrics.soft_auc(true, true)}
    else:
        found |= {"xauc": metrics.xauc(y, p), "rmse": metrics.rmse(y, p), "mae": metrics.mae(y, p)}
        if group is not None:
            within_groups = {
                "gxauc": metrics.group_xauc,
                "grmse": metrics.group_rmse,
                "gmae": metrics.group_mae,
            }
            found |= {name: metric(y, p, group[known]) for name, metric in within_groups.items()}
    return {name: None if math.isnan(value) else value for name, value in found.items()}


def primary(schema: Schema, scores: Scores) -> float:
    """Return mean_primary: the mean over tasks of auc (xauc for the other kinds), tasks without one left out."""
    values = [scores[y.name].get("auc" if y.kind == "binary" else "xauc") for y in schema.labels]
    known = [float(v) for v in values if v is not None]
    if not known:
        raise ValueError("no task has a defined AUC or xauc on this split; it needs both classes")
    return sum(known) / len(known)


def check_monitor(schema: Schema, monitor: str) -> None:
    """Raise ValueError unless `monitor` is "mean_primary" or a "task:metric" that this log can have."""
    known = ["mean_primary"]
    for label in schema.labels:
        for metric in METRICS[label.kind]:
            grouped = metric not in IN_GROUPS or schema.group is not None
            there = (metric != "soft_auc" or schema.simulated) and (
                metric != "cvr_auc" or _follows(schema, label)
            )
            if grouped and there:
                known.append(f"{label.name}:{metric}")
    if monitor not in known:
        raise ValueError(
            f"monitor must be 'mean_primary' or 'task:metric', got {monitor!r}{nearest(monitor, known)}"
        )


def monitored(schema: Schema, scores: Scores, monitor: str) -> float:
    """Return the monitored value, signed so that higher is better.

    Raises:
        ValueError: a monitor that is neither "mean_primary" nor a known "task:metric", or whose value is not defined.
    """
    if monitor == "mean_primary":
        return primary(schema, scores)
    task, _, metric = monitor.partition(":")
    if metric not in scores.get(task, {}):
        known = ["mean_primary", *(f"{t}:{m}" for t, found in scores.items() for m in found)]
        raise ValueError(
            f"monitor must be 'mean_primary' or 'task:metric', got {monitor!r}{nearest(monitor, known)}"
        )
    value = scores[task][metric]
    if value is None:
        raise ValueError(
            f"monitor {monitor!r} is not defined on this split, which has too few rows of each class; "
            "choose 'mean_primary' or another metric"
        )
    return -float(value) if metric in LOWER_IS_BETTER else float(value)
