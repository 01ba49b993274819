"""Rolling origins: each fold is what preparing its rows alone gives, and pooled statistics are those of the folds."""

import dataclasses
import itertools

import numpy as np
import polars as pl
import pytest

from equipoise.data import Log, from_frame
from equipoise.data.schema import Schema
from equipoise.metrics import auc
from equipoise.study import compare, compare_page, present
from equipoise.study.contrast import contrast
from equipoise.study.findings import findings
from equipoise.study.origins import Pooled, boundaries, make_origins, shares

HOURS, ROWS = 30, 1500
SCHEMA = {
    "features": [
        {"kind": "categorical", "name": "item"},
        {"kind": "categorical", "name": "hashed", "column": "item2", "buckets": 7},
        {"kind": "numerical", "name": "price", "transform": "log1p"},
        {"kind": "numerical", "name": "age"},
        {"kind": "multi", "name": "tags", "separator": "|"},
    ],
    "labels": [
        {"name": "click"},
        {"name": "buy", "missing": -1},
        {"name": "dwell", "kind": "regression", "transform": "log1p"},
        {"name": "watch", "kind": "watch", "way": "d2q", "duration": "price"},
    ],
    "group": "user",
    "time": "ts",
    "weight": "w",
}


@pytest.fixture(scope="module")
def frame() -> pl.DataFrame:
    rng = np.random.default_rng(0)
    hour = np.sort(rng.integers(0, HOURS, ROWS))
    item = rng.integers(0, 40, ROWS) + hour  # new items appear as time goes on
    like = rng.random(ROWS) < 1 / (1 + np.exp(-(item % 7 - 3) / 2))
    return pl.DataFrame(
        {
            "item": [f"i{v}" for v in item],
            "item2": item * 3,
            "price": rng.exponential(3, ROWS) + 0.1,
            "age": np.where(rng.random(ROWS) < 0.1, np.nan, rng.normal(40, 9, ROWS)),
            "tags": ["|".join(f"t{v}" for v in rng.integers(0, 9, k)) for k in rng.integers(0, 4, ROWS)],
            "click": like.astype(int),
            "buy": np.where(rng.random(ROWS) < 0.2, -1, rng.random(ROWS) < 0.3 * like),
            "dwell": rng.exponential(5, ROWS),
            "watch": rng.exponential(5, ROWS),
            "user": [None if v == 0 else f"u{v}" for v in rng.integers(0, 60, ROWS)],
            "ts": 1_600_000_000 // 3600 * 3600 + hour * 3600 + rng.integers(0, 3600, ROWS),
            "w": rng.random(ROWS),
        }
    ).sort("ts")


def prepared(frame: pl.DataFrame, path, test_hour: int, end: int) -> Log:
    """The log whose test rows are those of the six hours from `test_hour` on, validation the six before."""
    hour = (pl.col("ts") - 1_600_000_000 // 3600 * 3600) // 3600
    word = pl.when(hour >= test_hour).then(pl.lit("test")).when(hour >= test_hour - 6).then(pl.lit("valid"))
    cut = frame.filter(hour < end).with_columns(which=word.otherwise(pl.lit("train")))
    schema = Schema.read({**SCHEMA, "split": {"by": "column", "column": "which"}})
    return from_frame(cut, schema=schema, out=path)


@pytest.fixture(scope="module")
def log(frame, tmp_path_factory) -> Log:
    return prepared(frame, tmp_path_factory.mktemp("log") / "log", 24, HOURS)


@pytest.fixture(scope="module")
def folds(log, tmp_path_factory) -> list[Log]:
    return make_origins(log, 3, tmp_path_factory.mktemp("origins"))


def test_each_fold_is_what_preparing_its_rows_gives(frame, folds, tmp_path):
    for at, fold in enumerate(folds):
        test_hour = 24 - 6 * (2 - at)
        wanted = prepared(frame, tmp_path / str(at), test_hour, test_hour + 6)
        assert fold.schema.num_ids["item"] == wanted.schema.num_ids["item"]
        for name in ("train", "valid", "test"):
            ours, theirs = fold.split(name), wanted.split(name)
            assert len(ours) == len(theirs) > 0
            assert np.array_equal(ours.arrays["ids"][:, 0], theirs.arrays["ids"][:, 0])
            pairs = set(zip(ours.arrays["ids"][:, 1], theirs.arrays["ids"][:, 1], strict=True))
            assert len({a for a, _ in pairs if a}) == len(
                [a for a, _ in pairs if a]
            )  # buckets, numbered anew
            assert np.allclose(ours.arrays["numerical"], theirs.arrays["numerical"], atol=1e-4)
            for part in ("tags.values", "tags.offsets", "valid", "labels", "weight", "time"):
                assert np.array_equal(ours.arrays[part], theirs.arrays[part]), part


def test_the_folds_end_where_the_next_begin_and_groups_keep_their_names(log, folds):
    start, period = boundaries(log)
    assert period == 6 * 3_600_000 and start == (1_600_000_000 // 3600 + 24) * 3_600_000
    ranges = [fold.split("test").time_range() for fold in folds]
    assert all(a[1] < b[0] and b[0] - a[0] < 1.2 * period for a, b in itertools.pairwise(ranges))
    assert ranges[-1] == log.split("test").time_range()
    pooled = Pooled([fold.split("test") for fold in folds])
    names = [pl.read_parquet(f.path / "groups.parquet")["value"].to_list() for f in folds]
    values = [names[k][g] for k, f in enumerate(folds) for g in f.split("test").group]
    assert len(set(zip(pooled.group, values, strict=True))) == len(set(values)) == len(set(pooled.group))


def test_folds_are_read_again_unless_the_log_is_another(log, folds, frame, tmp_path):
    place = folds[0].path.parent
    stamp = (place / "0" / "manifest.json").stat().st_mtime_ns
    assert [f.fingerprint for f in make_origins(log, 3, place)] == [f.fingerprint for f in folds]
    assert (place / "0" / "manifest.json").stat().st_mtime_ns == stamp
    other = prepared(frame.with_columns(click=1 - pl.col("click")), tmp_path / "log", 24, HOURS)
    assert make_origins(other, 3, place)[0].fingerprint != folds[0].fingerprint
    make_origins(log, 3, place)


def test_pooled_differences_are_the_folds_weighted_by_positives(folds):
    test = Pooled([fold.split("test") for fold in folds])
    rng = np.random.default_rng(1)
    y, known = test.labels("buy")
    a, b = ([{"buy": s * y + rng.normal(size=len(y))} for _ in range(3)] for s in (1.0, 0.5))
    weights = shares(y, known, test.strata)
    assert weights.sum() == pytest.approx(1)
    wanted = 0.0
    for k, weight in enumerate(weights):
        rows = known & (test.strata == k)
        wanted += weight * np.array(
            [auc(y[rows], i["buy"][rows]) - auc(y[rows], j["buy"][rows]) for i, j in zip(a, b, strict=True)]
        )
    for num in (0, 400):
        found = contrast(test, ["buy"], a, b, num)
        assert found.differences["buy"] == pytest.approx(wanted)
    alone = [
        contrast(f.split("test"), ["buy"], *_part(test, k, a, b), 0).covariance[0, 0]
        for k, f in enumerate(folds)
    ]
    bootstrap, summed = (contrast(test, ["buy"], a, b, num).covariance[0, 0] for num in (2000, 0))
    assert bootstrap == pytest.approx(summed, rel=0.25)
    assert summed == pytest.approx(float(weights**2 @ alone), rel=0.6)  # a user's days are correlated


def _part(test, k, *sides):
    return [[{t: v[test.strata == k] for t, v in run.items()} for run in runs] for runs in sides]


def test_shares_leave_out_strata_without_both_classes():
    y, strata = np.array([1, 1, 0, 0, 1, 1, 1, 0, 1, 0.0]), np.array([0, 0, 0, 0, 1, 1, 1, 1, 2, 2])
    known = np.array([True] * 10)
    assert shares(y, known, strata).tolist() == [1.0, 0.0, 0.0]


def test_a_comparison_over_origins(log, tmp_path):
    plan = compare.make_plan(
        log, models_=["shared_bottom"], methods=["single", "equal"], tasks=["click", "buy"], seeds=2, grid=(3e-3,),
        num_candidates=0, base={"epochs": 1}, set_={"hidden": [4], "tower_sizes": []}, origins=3,
    )  # fmt: skip
    compare.claim(plan, tmp_path / "out")
    comparison = compare.carry_out(plan, tmp_path / "out", workers=0, quiet=True)
    found = findings(comparison, 100)
    rows = [len(Log.open(tmp_path / "out" / "origins" / str(k)).split("test")) for k in range(3)]
    outcome = next(iter(comparison.runs.values()))[0]
    assert len(outcome.read("click")) == sum(rows) and len(outcome.parts) == 3
    side = next(s for s in found["sides"] if s["method"] == "pub")
    pooled = comparison.test
    weights = shares(*pooled.labels("click"), pooled.strata)
    parts = comparison.runs[next(u for u in comparison.runs if u.method == "pub")][1].parts
    by_fold = [p.metrics["test"]["click"]["auc"] for p in parts]
    assert side["metrics"]["click"]["auc"][1] == pytest.approx(float(weights @ by_fold))
    equal = next(s for s in found["sides"] if s["method"] == "equal")["metrics"]["click"]["auc"]
    gap = np.mean(side["metrics"]["click"]["auc"]) - np.mean(equal)
    assert side["contrasts"]["click"]["difference"] == pytest.approx(gap, abs=1e-9)
    # what is chosen on validation looks at the earliest fold only: later ones' validation rows are test rows of those before
    earliest = [o.parts[0].value for u, each in comparison.runs.items() if u.method == "pub" for o in each]
    assert side["valid"] == pytest.approx(np.mean(earliest))
    assert any("3 rolling origins" in line for line in present.heading(found))
    assert "rolling origins" in compare_page.page(found)
    runs = {p.name for p in (tmp_path / "out" / "runs").iterdir()}
    compare.carry_out(plan, tmp_path / "out", workers=0, quiet=True)
    assert {p.name for p in (tmp_path / "out" / "runs").iterdir()} == runs
    with pytest.raises(ValueError, match="another origins"):
        compare.claim(dataclasses.replace(plan, origins=2), tmp_path / "out")


@pytest.mark.parametrize("num, message", [(1, "origins must be >= 2"), (9, "does not reach")])
def test_a_number_of_origins_that_does_not_fit_is_refused(log, tmp_path, num, message):
    with pytest.raises(ValueError, match=message):
        make_origins(log, num, tmp_path)


def test_a_log_that_is_not_split_by_time_is_refused(frame, tmp_path):
    schema = Schema.read({**SCHEMA, "split": {"by": "random"}})
    mixed = from_frame(frame, schema=schema, out=tmp_path / "mixed")
    with pytest.raises(ValueError, match="overlap in time"):
        boundaries(mixed)
    with pytest.raises(ValueError, match="overlap in time"):
        compare.make_plan(mixed, origins=2)
    timeless = from_frame(
        frame.drop("ts"), schema=schema.model_copy(update={"time": None}), out=tmp_path / "t"
    )
    with pytest.raises(ValueError, match="time column"):
        boundaries(timeless)
    with pytest.raises(ValueError, match="origins must be >= 1"):
        compare.make_plan(timeless, origins=0)


def test_a_few_rows_on_the_wrong_side_of_an_edge_are_put_right(frame, tmp_path):
    word = (
        pl.when(pl.col("ts") < 1_600_000_000 + 17 * 3600)
        .then(pl.lit("train"))
        .when(pl.col("ts") < 1_600_000_000 + 23 * 3600)
    )
    cut = frame.with_columns(which=word.then(pl.lit("valid")).otherwise(pl.lit("test")))
    late = cut.with_row_index().with_columns(
        which=pl.when(pl.col("index") == 1200).then(pl.lit("valid")).otherwise("which")
    )
    schema = Schema.read({**SCHEMA, "split": {"by": "column", "column": "which"}})
    assert late["which"][1200] == "valid" != cut["which"][1200]
    exact, stray = (
        from_frame(f.drop("index", strict=False), schema=schema, out=tmp_path / str(k))
        for k, f in enumerate((cut, late))
    )
    assert boundaries(exact) == boundaries(stray)
    fold = make_origins(stray, 2, tmp_path / "folds")[1]
    assert len(fold.split("test")) == len(exact.split("test"))
