"""A log that grows by a table a day: ids stay, new ones follow, and a crash leaves the day before."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest
from logs import SCHEMA, frame

from equipoise.data import (
    Categorical,
    Label,
    Log,
    Numerical,
    Schema,
    SplitRule,
    extend,
    prepare_like,
    prepare_table,
    simulate,
)

DAY = 86_400


def table(day: int, items, n: int = 100, split: str | None = None) -> pl.DataFrame:
    """Rows of a day; the item column repeats `items`."""
    rng = np.random.default_rng(day)
    found = pl.DataFrame(
        {
            "item": [items[i % len(items)] for i in range(n)],
            "x": rng.normal(loc=5.0 * day, size=n),
            "ts": 1_700_000_000 + day * DAY + np.arange(n),
            "user": [f"u{i % 20 + 10 * day}" for i in range(n)],
            "click": rng.integers(0, 2, n),
        }
    )
    return found if split is None else found.with_columns(part=pl.lit(split))


def schema(by: str = "time", **options) -> Schema:
    return Schema(
        features=(Categorical(name="item"), Numerical(name="x")),
        labels=(Label(name="click"),),
        time="ts",
        group="user",
        split=SplitRule(by=by, **options),
    )


def first_day(path, by: str = "time", **options):
    return prepare_table(table(0, ["a", "b", "c"]), path, schema=schema(by, **options))[0]


def ids(log, split):
    return log.values("item", log.split(split).arrays["ids"][:, 0]).to_list()


def test_values_keep_their_ids_and_new_ones_follow(tmp_path):
    log = first_day(tmp_path / "log")
    old = log.vocabulary("item")["value"].to_list()
    train = {name: np.array(a) for name, a in log.split("train").arrays.items()}
    rows = len(log.split("train")), len(log.split("valid")), len(log.split("test"))
    scaling = log.manifest["scaling"]
    day = table(1, ["c", "d", "e"])
    log = extend(log, day)
    assert log.vocabulary("item")["value"].to_list()[:3] == old
    assert set(log.vocabulary("item")["value"][3:]) == {"d", "e"}
    assert log.schema.num_ids == {"item": 6} and log.vocabulary_version == 2
    assert log.manifest["scaling"] == scaling
    for name, array in train.items():
        if name not in ("valid", "group"):
            assert np.array_equal(log.split("train").parts[0][name], array), name
    new = len(log.split("train")) - sum(rows)
    assert new + len(log.split("valid")) + len(log.split("test")) == 100
    assert ids(log, "test") == day["item"].to_list()[-len(log.split("test")) :]
    x = log.split("test").arrays["numerical"][:, 0]
    mean, std = scaling["x"]
    assert np.allclose(x, np.clip((day["x"].to_numpy()[-len(x) :] - mean) / std, -10, 10), atol=1e-5)
    versions = {s["vocabulary_version"] for of in log.manifest["splits"].values() for s in of}
    assert versions == {1, 2}
    Log.open(log.path, verify=True)
    assert "are training now" in "\n".join(log.manifest["notes"]["extended"][0]["said"])
    assert log.summary()["train"]["rows"] == len(log.split("train"))


def test_counts_go_on_over_three_days(tmp_path):
    def day(number, items):
        return pl.concat(
            [table(number, items, 3, "train"), *(table(number, ["a"], 4, s) for s in ("valid", "test"))]
        )

    log, _ = prepare_table(
        day(0, ["a", "a", "once"]), tmp_path / "log", schema=schema("column", column="part")
    )
    assert log.vocabulary("item")["value"].to_list() == ["a"]
    log = extend(log, day(1, ["late", "once", "a"]))
    assert log.vocabulary("item").rows() == [("a", 3), ("once", 2)]
    log = extend(log, day(2, ["late", "z", "z"]))
    assert log.vocabulary("item").rows() == [("a", 3), ("once", 2), ("late", 2), ("z", 2)]
    assert ids(log, "train") == ["a", "a", None, None, "once", "a", "late", "z", "z"]
    assert [entry["num_ids"]["item"] for entry in log.manifest["lineage"]] == [2, 3, 5]
    assert {p.name for p in log.path.iterdir() if p.name.startswith("tables")} == {"tables-3"}
    assert not (log.path / "vocabulary").exists()


def test_a_group_stays_on_its_side(tmp_path):
    log = first_day(tmp_path / "log", "random")

    def sides(log):
        names = log.groups()
        return {n: {names[int(c)] for c in np.unique(log.split(n).group)} for n in log.splits}

    before = sides(log)
    after = sides(extend(log, table(1, ["a"])))
    for name, groups in before.items():
        assert groups <= after[name]
    every = [g for groups in after.values() for g in groups]
    assert len(every) == len(set(every)) == 30


def test_keep_days_drops_shards_and_never_ids(tmp_path):
    log = first_day(tmp_path / "log")
    log = extend(log, table(1, ["d"]), keep_days=1.5)
    assert len(log.split("train")) > 100
    log = extend(log, table(5, ["e"]), keep_days=2)
    assert sum(len(split) for split in log.splits.values()) == 100
    assert set(log.vocabulary("item")["value"]) == {"a", "b", "c", "d", "e"}
    assert len([p for p in log.path.iterdir() if p.is_dir() and p.name[:4] in ("trai", "vali", "test")]) == 3
    for wrong in (0, -1):
        with pytest.raises(ValueError, match="keep_days must be > 0"):
            extend(log, table(6, ["a"]), keep_days=wrong)


def test_an_interrupted_day_leaves_the_log_as_it_was(tmp_path, monkeypatch):
    from importlib import import_module

    module = import_module("equipoise.data.extend")
    log = first_day(tmp_path / "log")
    before = (log.path / "manifest.json").read_bytes()

    def killed(*_):
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(module, "write_manifest", killed)
        patch.setattr(module, "_sweep", lambda *_: None)
        with pytest.raises(SystemExit):
            extend(log, table(1, ["d"]))
    assert (log.path / "train-v2").is_dir() and (log.path / "manifest.json").read_bytes() == before
    assert Log.open(log.path, verify=True).fingerprint == log.fingerprint
    assert len(extend(log, table(1, ["d"])).split("train")) > 100
    with monkeypatch.context() as patch:
        patch.setattr(module, "write_manifest", killed)
        with pytest.raises(SystemExit):
            extend(log, table(2, ["f"]))
    assert not list(log.path.glob("*-v3*")) and Log.open(log.path).vocabulary_version == 2


def test_text_ids_of_digits_stay_text(tmp_path):
    days = [table(d, ["007", "7x" if d == 0 else "008"]) for d in (0, 1)]
    for number, day in enumerate(days):
        day.write_csv(tmp_path / f"{number}.csv")
    log, _ = prepare_table(tmp_path / "0.csv", tmp_path / "log", schema=schema())
    log = extend(tmp_path / "log", tmp_path / "1.csv")
    assert set(log.vocabulary("item")["value"]) == {"007", "7x", "008"}


def test_every_kind_of_feature_is_extended(tmp_path):
    rule = SCHEMA.model_copy(update={"split": SplitRule(by="time")})
    log, _ = prepare_table(frame(), tmp_path / "log", schema=rule)
    day = frame(seed=1).with_columns(ts=pl.col("ts") + DAY, tags=pl.lit("1,77"), user=pl.col("user") + 6)
    old = log.vocabulary("tags")["value"].to_list()
    log = extend(log, day)
    assert log.vocabulary("tags")["value"].to_list() == [*old, "77"]
    assert log.values("tags", log.split("test").arrays["tags.values"][:2]).to_list() == ["1", "77"]
    assert len(next(log.split("train").batches(64)).row) == 64
    assert log.summary()["test"]["tasks"]["buy"]["against_given"] == 0


def test_a_day_prepared_like_another_log(tmp_path):
    log = extend(first_day(tmp_path / "log"), table(1, ["d"]))
    day = prepare_like(log, table(2, ["d", "new", "a"], 9), tmp_path / "day")
    assert ids(day, "test") == ["d", None, "a"] * 3 and list(day.splits) == ["test"]
    assert day.manifest["scaling"] == log.manifest["scaling"] and day.schema.num_ids == log.schema.num_ids
    assert day.manifest["lineage"] == log.manifest["lineage"]
    assert day.manifest["like"] == {"fingerprint": log.fingerprint, "vocabulary_version": 2}
    with pytest.raises(ValueError, match="made with --like"):
        extend(day, table(3, ["a"]))
    with pytest.raises(ValueError, match="must not exist yet"):
        prepare_like(log, table(2, ["d"]), tmp_path / "day")


def test_what_cannot_be_added(tmp_path):
    log = first_day(tmp_path / "log")
    before = (log.path / "manifest.json").read_bytes()
    for change, message, options in (
        (lambda t: t, "begin at or after the log's last row, 2023-11-14", {}),
        (lambda t: t.with_columns(ts=pl.col("ts") + DAY).drop("x"), "column 'x' is missing", {}),
        (lambda t: t.head(0), "must have rows, got none", {}),
        (lambda t: t.with_columns(ts=pl.col("ts") + DAY, click=pl.lit(7)), "must be 0 or 1", {}),
    ):
        with pytest.raises(ValueError, match=message):
            extend(log, change(table(0, ["a"])), **options)
    assert (log.path / "manifest.json").read_bytes() == before and not list(log.path.glob("*-v2*"))
    with pytest.raises(ValueError, match="true probabilities"):
        extend(simulate(tmp_path / "sim", 1000, 0), table(0, ["a"]))


def test_a_vocabulary_of_another_log_is_refused(tmp_path):
    log = first_day(tmp_path / "log")
    manifest = json.loads((log.path / "manifest.json").read_text())
    manifest["lineage"][-1]["digest"] = "0" * 16
    (log.path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match="vocabulary is that of another log"):
        extend(log.path, table(1, ["a"]))


def test_a_new_day_has_its_late_labels_made_and_its_negatives_thinned(tmp_path):
    def late(day):
        found = table(day, ["a", "b"], n=400)
        bought = pl.when(pl.col("click") == 1).then(pl.col("ts") + 60)
        return found.with_columns(buy_ts=bought)

    described = Schema.read(
        {
            "features": [{"kind": "categorical", "name": "item"}, {"kind": "numerical", "name": "x"}],
            "labels": [
                {"name": "click"},
                {"name": "buy", "event_time": "buy_ts", "window": "2m", "pending": "mask"},
            ],
            "time": "ts",
            "split": {"by": "time"},
            "as_of": 1_700_000_000 + 600,
            "negatives": {"of": "click", "keep": 0.5},
        }
    )
    log = prepare_table(late(0), tmp_path / "log", schema=described)[0]
    old = {name: np.array(a) for name, a in log.split("train").arrays.items()}
    log = extend(log, late(1))
    new = log.split("train").parts[-1]
    clicked = late(1)["click"][:320].to_numpy() == 1
    assert int(new["labels"][:, 0].sum()) == clicked.sum()
    assert clicked.sum() < len(new["labels"]) < 0.9 * 320
    assert (new["weight"][new["labels"][:, 0] == 0] == 2.0).all()
    known = np.unpackbits(new["valid"][1], count=len(new["labels"])).astype(bool)
    made = new["labels"][:, 1]
    assert (made[known] == new["labels"][known, 0]).all() and known[: len(known) // 2].all()
    assert 0 < (~known).sum() < len(known) / 2  # a minute before validation begins, a sale is not known yet
    assert np.array_equal(log.split("train").parts[0]["labels"], old["labels"])
    day = log.manifest["notes"]["extended"][-1]
    assert day["sampled"]["train"] == {"rows": 320, "kept": len(made)} and "buy" in day["late"]["tasks"]
    scored = prepare_like(log, late(2), tmp_path / "scored")
    assert len(scored.split("test")) == 400


def test_refit_gives_the_scale_of_all_days_to_all_rows(tmp_path):
    holes = pl.when(pl.int_range(pl.len()) % 7 == 0).then(None).otherwise(pl.col("x")).alias("x")
    days = [table(d, ["a", "b"]).with_columns(holes, part=pl.lit("train")) for d in (0, 1)]
    sides = [table(1, ["a"], split=name) for name in ("valid", "test")]
    by = schema("column", column="part")
    grown = prepare_table(pl.concat([days[0], *sides]), tmp_path / "grown", schema=by)[0]
    before = grown.fingerprint
    grown = extend(grown, days[1], refit=True)
    whole = prepare_table(pl.concat([*days, *sides]), tmp_path / "whole", schema=by)[0]
    # what is stored is float32, so the statistics of the rows of before are known to 1e-7 of their spread
    assert grown.manifest["scaling"]["x"] == pytest.approx(whole.manifest["scaling"]["x"], rel=1e-6)
    for split in ("train", "valid", "test"):
        mine, theirs = (log.split(split).arrays["numerical"][:] for log in (grown, whole))
        assert np.allclose(mine, theirs, atol=2e-6), split
        assert np.array_equal(mine == 0, theirs == 0)  # missing ones stay missing
    assert grown.fingerprint != before
    assert "0 of before had been cut" in " ".join(grown.manifest["notes"]["extended"][-1]["said"])
    assert Log.open(grown.path, verify=True).fingerprint == grown.fingerprint
    again = extend(grown, days[1])
    assert again.manifest["scaling"] == grown.manifest["scaling"]
