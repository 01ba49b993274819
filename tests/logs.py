"""Small tables and logs that several tests read."""

from __future__ import annotations

import numpy as np
import polars as pl

from equipoise.data import Categorical, Label, Multi, Numerical, Schema, write_log


def frame(n: int = 240, seed: int = 0) -> pl.DataFrame:
    """Rows with one feature of each kind, two binary labels (one missing in places) and a regression label."""
    g = np.random.default_rng(seed)
    user = g.integers(0, 12, n)
    x = g.standard_normal(n)
    click = (x + user % 3 > 0.5).astype(int)
    return pl.DataFrame(
        {
            "user": user,
            "city": np.array(["a", "b", "c"])[g.integers(0, 3, n)],
            "x": x,
            "tags": [",".join(str(t) for t in g.integers(0, 6, g.integers(0, 4))) for _ in range(n)],
            "ts": 1_700_000_000 + np.arange(n),
            "w": g.integers(1, 4, n).astype(float),
            "click": click,
            "buy": [None if i % 5 == 0 else int(c and x[i] > 0) for i, c in enumerate(click)],
            "dwell": np.exp(x + 2),
        }
    )


SCHEMA = Schema(
    features=(Categorical(name="user"), Categorical(name="city"), Numerical(name="x"), Multi(name="tags")),
    labels=(
        Label(name="click"),
        Label(name="buy", given="click"),
        Label(name="dwell", kind="regression", transform="log1p"),
    ),
    group="user",
    time="ts",
    weight="w",
)


def small_log(path, n: int = 240, schema: Schema = SCHEMA, seed: int = 0, **options):
    """A log of n training rows (and as many for validation and test)."""
    frames = {name: frame(n, seed + i) for i, name in enumerate(("train", "valid", "test"))}
    return write_log(path, frames, schema, **options)


def schema_of(name, log):
    """The log's schema, or for the single-task model that of its first task."""
    return log.only(log.schema.tasks[:1]).schema if name == "single_task" else log.schema
