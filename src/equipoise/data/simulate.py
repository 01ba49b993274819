"""The simulated log: a world with known probabilities, so that a model's AUC can be told from its ceiling."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet

from equipoise.data.features import Categorical, Numerical
from equipoise.data.label import Label
from equipoise.data.schema import Schema, SplitRule
from equipoise.data.store import SPLITS, Log
from equipoise.data.tell import Tell, silent
from equipoise.data.write import CHUNK, Piece, check_place, write_log, write_pieces
from equipoise.names import nearest

Array = np.ndarray[Any, Any]
TASKS = ("click", "like", "purchase")
RATES = (0.20, 0.05, 0.02)
STEEPNESS = (1.0, 1.3, 1.6)
SHAPES = {
    "study": (TASKS, RATES, STEEPNESS),
    "aliexpress": (("click", "conversion"), (0.025, 0.08), (1.0, 1.3)),
}
"""Tasks, their rates and steepness s_t. `aliexpress` is a funnel: .08 is the rate of conversion per click."""
RELATIONS = ("aligned", "independent", "mixed")
RHO = 0.5
"""Correlation of the tasks' logits under `mixed`: sqrt(rho) common + sqrt(1 - rho) own."""

WHOLE = 1_000_000
"""Rows up to which a log is drawn at once; a larger one is drawn in parts."""
NUM_NUMERICAL, NUM_ACTIVE, MEAN_GROUP = 63, 8, 12
SIZES = (2000, 2000, *(round(3 * (200 / 3) ** (i / 13)) for i in range(14)))


@dataclass(frozen=True)
class World:
    """What the rows are drawn from: effects of values, waves over numericals, intercepts. One seed, any number of rows.

    Attributes:
        effects: per source (common, then one a task), per column, the effect of each value.
        waves: per source, (v [8], a [8, 8], p [8]) of N = sum_j v_j cos(.5 <a_j, x> + p_j).
        mixing: [T, S], how much of each source's standardised M and N a task has.
        intercepts: b_t. moments: per source, mean and sd of M and of N.
    """

    effects: list[list[Array]]
    waves: list[tuple[Array, Array, Array]]
    mixing: Array
    intercepts: Array
    moments: Array
    funnel: bool
    shape: str = "study"

    @property
    def tasks(self) -> tuple[str, ...]:
        """Task names, in order."""
        return SHAPES[self.shape][0]


def _mixing(relation: str, t: int) -> Array:
    """Return [T, T + 1]: shares of the common source and of each task's own."""
    own = np.concatenate([np.zeros((t, 1)), np.eye(t)], axis=1)
    common = np.concatenate([np.ones((t, 1)), np.zeros((t, t))], axis=1)
    if relation == "independent":
        return own
    return common if relation == "aligned" else np.sqrt(RHO) * common + np.sqrt(1 - RHO) * own


def _long_tailed(generator: np.random.Generator, size: int, n: int) -> Array:
    """Return n draws from `size` values with probability falling as 1 / (rank + 5)."""
    weight = 1.0 / (np.arange(size) + 5.0)
    return np.searchsorted(np.cumsum(weight / weight.sum())[:-1], generator.random(n)).astype(np.int32)


def _inputs(n: int, generator: np.random.Generator) -> tuple[Array, Array]:
    ids = np.stack([_long_tailed(generator, size, n) for size in SIZES], axis=1)
    return ids, generator.standard_normal((n, NUM_NUMERICAL), dtype=np.float32)


def _sources(effects: Any, waves: Any, ids: Array, x: Array) -> Array:
    """Return [S, 2, n]: M and N of each source, not standardised."""
    out = np.empty((len(effects), 2, len(ids)))
    active = x[:, :NUM_ACTIVE].astype(np.float64)
    for s, (effect, (v, a, p)) in enumerate(zip(effects, waves, strict=True)):
        out[s, 0] = sum(e[ids[:, c]] for c, e in enumerate(effect))
        out[s, 1] = np.cos(0.5 * active @ a.T + p) @ v
    return out


def _logits(world: World, ids: Array, x: Array) -> Array:
    """Return [n, T] logits eta = b + s (sqrt(.3) M + sqrt(.7) N)."""
    raw = _sources(world.effects, world.waves, ids, x)
    standard = (raw - world.moments[:, :, 0:1]) / world.moments[:, :, 1:2]
    parts = np.einsum("ts,skn->ktn", world.mixing, standard)
    eta = np.sqrt(0.3) * parts[0] + np.sqrt(0.7) * parts[1]
    return np.asarray((world.intercepts[:, None] + np.array(SHAPES[world.shape][2])[:, None] * eta).T)


def world(
    seed: int = 0, relation: str = "independent", *, funnel: bool = False, shape: str = "study"
) -> World:
    """Return the world of a seed; tasks click, like, purchase at rates .20, .05, .02.

    Args:
        relation: "aligned" (tasks share M and N), "independent" (each its own over the same columns), "mixed"
            (correlation `RHO` = .5 between any two).
        funnel: multiply the probabilities of like and purchase by click's, so that rates fall accordingly.
        shape: "study", or "aliexpress": click and conversion at published rates (click .025, conversion within .001 and
            .005 of all rows, always a funnel), for pipelines and speed; below 5 million rows it ranks nothing.

    Raises:
        ValueError: an unknown relation or shape.
    """
    if shape not in SHAPES:
        raise ValueError(f"shape must be one of {', '.join(SHAPES)}, got {shape!r}{nearest(shape, SHAPES)}")
    if relation not in RELATIONS:
        raise ValueError(
            f"relation must be one of {', '.join(RELATIONS)}, got {relation!r}{nearest(relation, RELATIONS)}"
        )
    tasks, rates, _ = SHAPES[shape]
    funnel = funnel or shape == "aliexpress"
    generator = np.random.default_rng([seed, 1])
    sources = len(tasks) + 1
    effects = [[generator.standard_normal(size) for size in SIZES] for _ in range(sources)]
    waves = [
        (
            generator.standard_normal(8),
            generator.standard_normal((8, NUM_ACTIVE)) * np.sqrt(4 / 8),
            generator.uniform(0, 2 * np.pi, 8),
        )
        for _ in range(sources)
    ]
    ids, x = _inputs(100_000, np.random.default_rng([seed, 2]))
    raw = _sources(effects, waves, ids, x)
    moments = np.stack([raw.mean(-1), raw.std(-1)], axis=-1)
    mixing = _mixing(relation, len(tasks))
    flat = World(effects, waves, mixing, np.zeros(len(tasks)), moments, funnel, shape)
    eta = _logits(flat, ids, x)
    intercepts = np.array([_intercept(eta[:, t], rate) for t, rate in enumerate(rates)])
    return replace(flat, intercepts=intercepts)


def _intercept(eta: Array, rate: float) -> float:
    """Return b with mean sigmoid(eta + b) = rate, by bisection."""
    low, high = -30.0, 30.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if (1 / (1 + np.exp(-eta - middle))).mean() < rate else (low, middle)
    return (low + high) / 2


def rows(of: World, n: int, seed: int = 0) -> pl.DataFrame:
    """Return n rows: c01..c16 (text ids), n01..n63, group, the labels, and `p_<task>`, their true probabilities.

    Rows of a group (mean `MEAN_GROUP`) lie together, so that a cut by position keeps them in one split; labels are
    independent given the features, whatever the group.
    """
    return _drawn(of, n, np.random.default_rng([seed, 3]))


def _drawn(of: World, n: int, generator: np.random.Generator) -> pl.DataFrame:
    ids, x = _inputs(n, generator)
    p = 1.0 / (1.0 + np.exp(-_logits(of, ids, x)))
    if of.funnel:
        p[:, 1:] *= p[:, :1]
    draws = generator.random(p.shape)
    labels = draws < p
    if of.funnel:
        labels[:, 1:] = labels[:, :1] & (draws[:, 1:] < p[:, 1:] / p[:, :1])
    columns: dict[str, Any] = {f"c{c + 1:02d}": ids[:, c] for c in range(ids.shape[1])}
    columns |= {f"n{d + 1:02d}": x[:, d] for d in range(x.shape[1])}
    columns["group"] = np.sort(generator.integers(0, max(1, n // MEAN_GROUP), n))
    for t, task in enumerate(of.tasks):
        columns[task] = labels[:, t].astype(np.int8)
        columns[f"p_{task}"] = p[:, t]
    return pl.DataFrame(columns)


def row_chunks(of: World, n: int, seed: int = 0, size: int = CHUNK) -> Iterator[pl.DataFrame]:
    """Yield the rows of a log of n rows in order, at most `size` at once.

    Up to `WHOLE` rows they are those of `rows`; a larger log is drawn in parts of `CHUNK` rows, each with its own seed and groups.
    """
    if n <= WHOLE:
        frame = rows(of, n, seed)
        for start in range(0, n, size):
            yield frame[start : start + size]
        return
    for part, start in enumerate(range(0, n, CHUNK)):
        many = min(CHUNK, n - start)
        frame = _drawn(of, many, np.random.default_rng([seed, 3, part]))
        frame = frame.with_columns(pl.col("group") + part * (CHUNK // MEAN_GROUP))
        for begin in range(0, many, size):
            yield frame[begin : begin + size]


def write_table(
    path: str | Path, rows_: int, seed: int = 0, relation: str = "independent", *, task: str = "click"
) -> Path:
    """Write a raw table of 80 columns (16 ids, 63 numbers, one label) as Parquet or CSV, by the path's name, and return its path.

    One part of it is in memory at a time, whatever its size; for measurements of `prepare_table`.

    Raises:
        ValueError: another kind of file, an unknown task.
    """
    path, of = Path(path), world(seed, relation)
    if path.suffix not in (".parquet", ".csv"):
        raise ValueError(f"path must end in .parquet or .csv, got {str(path)!r}")
    if task not in of.tasks:
        raise ValueError(f"task must be one of {', '.join(of.tasks)}, got {task!r}{nearest(task, of.tasks)}")
    columns = [f.name for f in schema().features] + [task]
    frames = (frame.select(columns) for frame in row_chunks(of, rows_, seed))
    if path.suffix == ".csv":
        with path.open("wb") as file:
            for at, frame in enumerate(frames):
                frame.write_csv(file, include_header=not at)
        return path
    writer: Any = None
    for frame in frames:
        table = frame.to_arrow()
        writer = writer or pyarrow.parquet.ParquetWriter(path, table.schema, compression="zstd")
        writer.write_table(table)
    writer.close()
    return path


def schema(*, funnel: bool = False, shape: str = "study") -> Schema:
    """Return the simulated log's schema."""
    features = [Categorical(name=f"c{c + 1:02d}") for c in range(len(SIZES))]
    numbers = [Numerical(name=f"n{d + 1:02d}") for d in range(NUM_NUMERICAL)]
    funnel = funnel or shape == "aliexpress"
    tasks = SHAPES[shape][0]
    labels = [Label(name=task, given="click" if funnel and task != "click" else None) for task in tasks]
    rule = SplitRule(by="random")
    return Schema(
        features=(*features, *numbers), labels=tuple(labels), group="group", split=rule, simulated=True
    )


def simulate(
    out: str | Path,
    rows_: int = 200_000,
    seed: int = 0,
    relation: str = "independent",
    *,
    row_seed: int | None = None,
    funnel: bool = False,
    shape: str = "study",
    overwrite: bool = False,
    tell: Tell = silent,
) -> Log:
    """Write a simulated log of `rows_` rows (60 % train, 10 % valid, 30 % test) with its truth, and return it.

    Args:
        seed: of the world. row_seed: of the rows, default the same number (the streams differ).
        relation, funnel, shape: see `world`. tell: see `write_log`.

    Raises:
        ValueError: fewer than 1000 rows, an unknown relation or shape, `out` exists.
    """
    for name, value in (("seed", seed), ("row_seed", row_seed)):
        if value is not None and value < 0:
            raise ValueError(f"{name} must be >= 0, got {value}")
    if rows_ < 1000:
        raise ValueError(f"rows must be >= 1000, got {rows_}: with fewer there are hardly any positives")
    of = world(seed, relation, funnel=funnel, shape=shape)
    row_seed = seed if row_seed is None else row_seed
    facts = {"shape": shape, "relation": relation, "seed": seed, "funnel": of.funnel, "rho": RHO}
    truth = {task: f"p_{task}" for task in of.tasks}
    described = schema(funnel=funnel, shape=shape)
    notes = {"simulated": facts}
    cut = [0, int(rows_ * 0.6), int(rows_ * 0.7), rows_]
    if rows_ <= WHOLE:
        tell("drawing rows", 0, rows_)
        frame = rows(of, rows_, row_seed)
        frames = {name: frame[a:b] for name, a, b in zip(SPLITS, cut, cut[1:], strict=False)}
        return write_log(out, frames, described, truth=truth, overwrite=overwrite, notes=notes, tell=tell)

    def pieces() -> Iterator[Piece]:
        start = 0
        for chunk in row_chunks(of, rows_, row_seed):
            for name, a, b in zip(SPLITS, cut, cut[1:], strict=False):
                first, last = max(a, start), min(b, start + chunk.height)
                if first < last:
                    yield name, chunk[first - start : last - start]
            start += chunk.height

    check_place(Path(out), overwrite)
    return write_pieces(Path(out), pieces, described, truth=truth, notes=notes, rows=rows_, tell=tell)
