"""Looking at a table and at a log: facts against polars by hand, suspects one by one, pages that hold every number."""

from __future__ import annotations

import json
import re
import tracemalloc

import numpy as np
import polars as pl
import pytest
from logs import SCHEMA, small_log
from typer.testing import CliRunner

from equipoise.cli import app
from equipoise.data import Categorical, Label, Log, Multi, Numerical, Schema, infer_schema, shards, write_log
from equipoise.data.drift import distance
from equipoise.data.look import RUN, look, sample_runs
from equipoise.data.look_table import look_table
from equipoise.study.dots import dots
from equipoise.study.look_page import log_page, table_page
from equipoise.study.look_tables import log_tables

DAY = 86_400
FIRST = 1_700_006_400  # 2023-11-15 00:00 UTC
DESCRIBED = Schema(
    features=(
        Categorical(name="steady", min_count=1),
        Categorical(name="moved", min_count=1),
        Numerical(name="same"),
        Numerical(name="shifted"),
        Multi(name="tags", min_count=1),
    ),
    labels=(Label(name="click"), Label(name="buy", given="click"), Label(name="stay", kind="regression")),
    group="user",
    time="ts",
)


def table(n: int, seed: int, days: list[int], new: bool) -> pl.DataFrame:
    """n rows over these days; with `new` half of `moved` is an unseen id, `shifted` is 1 higher and clicks are rarer."""
    g = np.random.default_rng(seed)
    click = (g.random(n) < (0.1 if new else 0.4)).astype(int)
    there = g.random(n) < (0.7 if new else 1.0)
    buy = pl.Series(((g.random(n) < 0.2) & (click == 1)).astype(int)).scatter(0, 1)
    return pl.DataFrame(
        {
            "steady": g.integers(0, 5, n),
            "moved": np.where((np.arange(n) % 2 == 0) & new, 99, g.integers(0, 5, n)),
            "same": g.standard_normal(n),
            "shifted": pl.Series(g.standard_normal(n) + (1.0 if new else 0.0)).set(pl.Series(~there), None),
            "tags": [["a", "b"], ["b"]] * (n // 2) if not new else [["c"], ["b"]] * (n // 2),
            "ts": FIRST + DAY * np.array(days)[g.integers(0, len(days), n)] + g.integers(0, DAY, n),
            "user": g.integers(0, n // 4, n),
            "click": pl.Series(click).scatter(0, 0),
            "buy": pl.Series(buy).scatter(1, None),
            "stay": g.random(n) * 100,
        }
    )


FRAMES = {
    "train": table(2000, 0, [0, 1, 2], False),
    "valid": table(400, 1, [3], False),
    "test": table(1000, 2, [3, 4], True),
}


@pytest.fixture(scope="module")
def log(tmp_path_factory) -> Log:
    return write_log(tmp_path_factory.mktemp("look") / "log", FRAMES, DESCRIBED)


@pytest.fixture(scope="module")
def facts(log):
    return look(log)


def test_labels_are_those_of_polars(facts):
    for split, frame in FRAMES.items():
        found = facts["labels"]["click"][split]
        assert found["positives"] == frame["click"].sum()
        assert found["positive_rate"] == pytest.approx(frame["click"].mean(), abs=1e-12)
        stay = facts["labels"]["stay"][split]
        assert stay["mean"] == pytest.approx(frame["stay"].mean(), rel=1e-6)  # labels are float32
        assert stay["std"] == pytest.approx(frame["stay"].std(ddof=0), rel=1e-5)
        buy = facts["labels"]["buy"][split]
        assert buy["known"] == frame.height - 1 and buy["missing_rate"] == pytest.approx(1 / frame.height)
        assert buy["against_given"] == 1 and buy["given"] == "click"


def test_days_are_those_of_polars_in_utc(facts):
    for split, frame in FRAMES.items():
        by_day = frame.group_by(pl.from_epoch("ts").dt.date().cast(pl.String).alias("day")).agg(
            pl.len(), pl.col("click").mean(), pl.col("buy").mean(), pl.col("buy").count().alias("known")
        )
        found = facts["days"][split]
        assert list(found) == sorted(by_day["day"])
        for day, rows, click, buy, known in by_day.iter_rows():
            assert found[day]["rows"] == rows and found[day]["tasks"]["buy"]["known"] == known
            assert found[day]["tasks"]["click"]["mean"] == pytest.approx(click)
            assert found[day]["tasks"]["buy"]["mean"] == pytest.approx(buy)
    assert list(facts["days"]["train"]) == ["2023-11-15", "2023-11-16", "2023-11-17"]


def test_unseen_ids_missing_numbers_and_groups(facts):
    features = facts["features"]
    assert features["moved"]["unseen"] == {"train": 0.0, "valid": 0.0, "test": 0.5}
    assert features["moved"]["ids"] == 6 and features["same"]["ids"] is None
    assert features["tags"]["unseen"]["test"] == 0.5
    missing = FRAMES["test"]["shifted"].null_count() / 1000
    assert features["shifted"]["missing"] == {"train": 0.0, "valid": 0.0, "test": missing}
    for split, frame in FRAMES.items():
        sizes, found = frame.group_by("user").len()["len"], facts["splits"][split]["groups"]
        assert found["groups"] == len(sizes) and found["mean"] == pytest.approx(sizes.mean())
        assert found["sizes"]["1"] == sizes.max() and found["sizes"]["0.5"] == sizes.median()
        assert found["one_row"] == pytest.approx((sizes == 1).mean())
        old = frame["user"].is_in(FRAMES["train"]["user"].unique().implode()).mean()
        assert found["rows_of_training_groups"] == pytest.approx(old)


def test_drift_is_the_distance_by_hand(facts, log):
    drift = {name: of["drift"] for name, of in facts["features"].items()}

    def shares(split: str) -> np.ndarray:
        return np.bincount(log.splits[split].arrays["ids"][:, 1], minlength=6) / len(log.splits[split])

    assert drift["moved"]["distance"] == pytest.approx(np.abs(shares("train") - shares("test")).sum() / 2)
    assert drift["moved"]["distance"] == pytest.approx(0.5, abs=0.05)
    a, b = (np.sort(log.splits[s].arrays["numerical"][:, 1]) for s in ("train", "test"))
    grid = np.concatenate([a, b])
    by_hand = max(abs((a <= x).mean() - (b <= x).mean()) for x in grid)
    assert drift["shifted"]["distance"] == pytest.approx(by_hand)
    assert drift["tags"]["distance"] == pytest.approx(0.5)
    for name in ("steady", "same"):  # within three times what chance does
        assert drift[name]["distance"] < 3 * max(drift[name]["chance"], 0.02)
    assert drift["same"]["psi"] < 0.1 < 0.25 < drift["shifted"]["psi"]


def test_distance_at_its_edges():
    g = np.random.default_rng(0)
    assert distance(np.zeros(0), np.ones(3), False, g) == {"distance": 0.0, "chance": 0.0, "psi": 0.0}
    apart = distance(np.array([1, 1]), np.array([2, 2, 2]), True, g)
    assert apart["distance"] == 1.0 and apart["js"] == pytest.approx(1.0)
    same = distance(np.arange(50.0), np.arange(50.0), False, g)
    assert same["distance"] == 0.0 and same["psi"] == pytest.approx(0.0)
    rare = distance(g.integers(0, 10**6, 500), g.integers(0, 10**6, 500), True, g)
    assert rare["distance"] > 0.95 and rare["distance"] - rare["chance"] < 0.05  # all of it is chance
    constant = distance(np.zeros(10), np.zeros(20), False, g)
    assert constant["distance"] == 0.0 and np.isfinite(constant["psi"])


def test_remarks_name_what_stands_out_and_nothing_else(facts):
    text = "\n".join(facts["remarks"])
    clicks = FRAMES["test"]["click"].sum()
    assert f"click has {clicks} positives in test: too few" in text
    assert "buy: positive in 1 rows of train where click is 0" in text
    for start in (
        "moved drifted: ",
        "shifted drifted: ",
        "moved: 50% of ids in test",
        "shifted: missing in 0%",
    ):
        assert start in text
    assert re.search(r"click: .*% positive in test, .*calibration will be off", text)
    assert "steady" not in text and "same" not in text


def test_a_log_of_many_shards_has_the_same_facts(tmp_path, monkeypatch, facts):
    monkeypatch.setattr(shards, "SHARD", 512)
    monkeypatch.setattr("equipoise.data.look.BLOCK", 96)
    many = look(write_log(tmp_path / "many", FRAMES, DESCRIBED))
    assert len([s for s in many["shards"] if s["split"] == "train"]) == 4
    for key in ("splits", "features", "sampled"):
        assert many[key] == facts[key], key
    for split in FRAMES:
        assert many["labels"]["buy"][split] == pytest.approx(facts["labels"]["buy"][split])
        assert list(many["days"][split]) == list(facts["days"][split])
    day = next(iter(facts["days"]["train"]))
    assert many["days"]["train"][day]["tasks"]["stay"] == pytest.approx(
        facts["days"]["train"][day]["tasks"]["stay"]
    )
    whole = Log.open(tmp_path / "many").summary()["train"]["tasks"]
    assert whole["click"]["positives"] == FRAMES["train"]["click"].sum()
    assert whole["stay"]["std"] == pytest.approx(FRAMES["train"]["stay"].std(ddof=0), rel=1e-5)


def test_a_sample_is_spread_over_the_shards_and_bounded():
    parts = [{"labels": np.zeros((rows, 1))} for rows in (10_000, 20_000, 30_000)]
    runs = sample_runs(parts, 12_000)
    assert sum(end - start for _, start, end in runs) <= 12_000
    rows = [sum(end - start for p, start, end in runs if p == at) for at in range(3)]
    assert np.allclose(np.array(rows) / sum(rows), [1 / 6, 1 / 3, 1 / 2], atol=0.02)
    assert all(end - start <= RUN for _, start, end in runs) and len(set(runs)) == len(runs)
    assert sum(end - start for _, start, end in sample_runs(parts, 60_000)) == 60_000


def test_memory_does_not_grow_with_the_rows(tmp_path, monkeypatch):
    monkeypatch.setattr("equipoise.data.look.BLOCK", 1024)
    peaks = []
    for rows in (8_000, 64_000):
        frame = pl.DataFrame({"x": np.arange(rows) % 7.0, "c": np.arange(rows) % 9, "y": np.arange(rows) % 2})
        described = Schema(features=(Numerical(name="x"), Categorical(name="c")), labels=(Label(name="y"),))
        made = write_log(tmp_path / str(rows), dict.fromkeys(("train", "valid", "test"), frame), described)
        look(made, max_rows=2048)
        tracemalloc.start()
        look(made, max_rows=2048)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0]  # eight times the rows; the list of runs grows a little


def test_look_refuses_a_sample_out_of_range(log):
    for bad in (0, 1_000_001):
        with pytest.raises(ValueError, match=r"max_rows must be 1 to 1,000,000"):
            look(log, max_rows=bad)


def late_log(log: Log, late: object) -> dict:
    return {**look(log), "notes": {"late": late, "published": ["train rows: 2,000 <as published>"]}}


def test_the_page_holds_every_number_and_nothing_from_outside(facts, log):
    page = log_page(facts)
    for _, head, rows in log_tables(facts):
        for cell in [*(head if rows else []), *(cell for row in rows for cell in row)]:
            assert cell.replace("'", "&#x27;") in page
    for line in facts["remarks"]:
        assert line.replace("'", "&#x27;") in page
    assert not re.search(r"<script|<link|<img|https?:|url\(|@import", page)
    assert page.count("<svg") == 3 + 1 + 3  # a rate a task, rows, drift, unseen, missing
    assert "days since 2023-11-15 (UTC)" in page and "prefers-color-scheme: dark" in page


@pytest.mark.parametrize(
    "late",
    [
        {"buy": {"delay": {"0.5": 3.5, "0.9": 7}, "pending": {"2023-11-15": 3, "2023-11-16": 1234}}},
        {"buy": {"2023-11-15": {"pending": 1234, "known": 5}, "2023-11-16": {"pending": 0}}},
        {"buy": {"2023-99-99": 1234}},
        {"odd": [1234, None], "other": None},
    ],
)
def test_late_labels_are_shown_whatever_their_form(log, late):
    page = log_page(late_log(log, late))
    assert "late labels" in page and "1234" in page and "&lt;as published&gt;" in page
    assert ("Late labels: buy" in page) == ("2023-11-15" in json.dumps(late))


def test_a_log_without_time_group_or_numbers(tmp_path):
    frame = pl.DataFrame({"c": ["a", "b"] * 30, "y": [0, 1] * 30})
    plain = Schema(features=(Categorical(name="c"),), labels=(Label(name="y"),))
    found = look(write_log(tmp_path / "log", dict.fromkeys(("train", "valid", "test"), frame), plain))
    assert found["days"] == {} and "groups" not in found["splits"]["train"]
    assert "<svg" in log_page(found)


def test_dots_tell_marks_apart_by_shape_and_draw_thirty_rows():
    text = dots("t", "share", {f"n{i}": {"a": i / 40, "b": 0.1} for i in range(40)}, ["a", "b"])
    assert "t: the 30 largest of 40" in text and "n39" in text and ">n0<" not in text
    assert 'class="ring"' in text and "share" in text
    assert "nothing to show" in dots("t", "x", {"n": {"a": float("nan")}}, ["a"])
    assert "<b>" not in dots("<b>", "x", {"<b>": {"a": 0.0}}, ["a"])


def suspicious(n: int = 4000) -> pl.DataFrame:
    g = np.random.default_rng(5)
    click = (g.random(n) < 0.2).astype(int)
    ts = FIRST + np.arange(n)
    noise = g.standard_normal(n)
    return pl.DataFrame(
        {
            "honest": noise,
            "fixed": 1,
            "request": [f"r{i}" for i in range(n)],
            "strong": click * 2.6 + g.standard_normal(n),  # AUC Phi(2.6 / sqrt 2) = .967
            "sure": click * 5.0 + g.standard_normal(n),  # AUC .9998
            "only_then": pl.Series(noise).set(pl.Series(click == 0), None),
            "mostly_then": pl.Series(noise).set(pl.Series((click == 0) & (g.random(n) < 0.94)), None),
            "sometimes_then": pl.Series(noise).set(pl.Series((click == 0) | (g.random(n) < 0.5)), None),
            "random_gaps": pl.Series(noise).set(pl.Series(g.random(n) < 0.3), None),
            "ended": ts + g.integers(1, 100, n),
            "published": ts - 1000,
            "is_like": (g.random(n) < 0.1).astype(int),
            "watch_time": g.random(n),
            "ts": ts,
            "click": click,
        }
    )


@pytest.mark.parametrize(
    ("column", "kept", "words"),
    [
        ("fixed", False, "it is constant"),
        ("request", False, "it differs in every row"),
        ("strong", True, "alone it ranks 'click' with AUC 0.9"),
        ("sure", False, "AUC above .99"),
        ("only_then", False, "missing almost only where 'click' is negative, AUC 1.000"),
        ("mostly_then", True, "missing almost only where 'click' is negative, AUC 0.9"),
        ("sometimes_then", True, "it is there only where 'click' is positive"),
        ("ended", False, "a time later than ts in 100% of the rows"),
        ("is_like", True, "looks like another label"),
        ("watch_time", True, "known only after the impression"),
    ],
)
def test_each_suspect_is_named_with_its_reason(column, kept, words):
    found = infer_schema(suspicious(), ["click"], time="ts")
    (line,) = [line for line in found.suspects if line.startswith(f"{column}: ")]
    assert words in line and line.startswith(f"{column}: {'kept, but' if kept else 'left out,'}")
    assert (column in [f.name for f in found.schema.features]) == kept


def test_honest_columns_are_no_suspects():
    found = infer_schema(suspicious(), ["click"], time="ts")
    told = {line.split(":")[0] for line in found.suspects}
    assert not told & {"honest", "random_gaps", "published", "ts", "click"}


def test_the_columns_of_a_table_and_its_page():
    frame = suspicious()
    found = infer_schema(frame, ["click"], time="ts")
    facts = look_table(frame, found, {"time": "ts"}, name="a<b.csv")
    of = facts["columns"]
    assert of["ts"]["role"] == "time" and of["click"]["role"] == "label click, binary"
    assert of["sure"]["role"] == "left out" and of["honest"]["role"] == "numerical"
    assert of["random_gaps"]["missing"] == pytest.approx(frame["random_gaps"].null_count() / 4000)
    assert of["is_like"]["distinct"] == 2 and of["is_like"]["examples"] == ["0", "1"]
    assert 0.95 < of["strong"]["auc"]["click"] < 0.99 and of["click"]["auc"] == {}
    page = table_page({**facts, "schema": "features: <x>"})
    assert "a&lt;b.csv" in page and "&lt;x&gt;" in page and not re.search(r"<script|<link|https?:", page)
    for name, column in of.items():
        assert name in page and f"{column['distinct']:,}" in page and f"{column['missing']:.2%}" in page


def run(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


def test_schema_infer_on_the_command_line(tmp_path):
    csv, page = tmp_path / "t.csv", tmp_path / "t.html"
    suspicious(1000).write_csv(csv)
    found = run("schema", "infer", csv, "--label", "click", "--time", "ts", "--page", page, "--json")
    told = json.loads(found.stdout)
    assert told["columns"]["fixed"]["distinct"] == 1 and told["page"] == str(page) and page.is_file()
    again = run("schema", "infer", csv, "--label", "click", "--page", page)
    assert again.exit_code == 2 and "must not exist yet" in again.stderr
    printed = run("schema", "infer", csv, "--label", "click", "--page", page, "--overwrite")
    assert printed.stdout.startswith("features:") and "random_gaps" in printed.stderr
    bare = run("schema", "infer", csv)
    assert bare.exit_code == 0 and "these look like labels: is_like, click" in bare.stdout
    assert json.loads(run("schema", "infer", csv, "--json").stdout)["look_like_labels"] == [
        "is_like",
        "click",
    ]
    assert run("schema", "infer", csv, "--out", tmp_path / "s.yaml").exit_code == 2


def test_inspect_on_the_command_line(tmp_path):
    small_log(tmp_path / "log")
    page = tmp_path / "log.html"
    found = run("inspect", tmp_path / "log", "--page", page)
    assert found.exit_code == 0 and page.read_text(encoding="utf-8").startswith("<!doctype html>")
    for word in ("splits", "labels", "drift", "look at click has", *SCHEMA.tasks):
        assert word in found.stdout
    assert run("inspect", tmp_path / "log", "--page", page).exit_code == 2
    told = json.loads(run("inspect", tmp_path / "log", "--json").stdout)
    assert told["look"]["features"]["city"]["drift"]["distance"] < 0.2 and told["look"]["remarks"]
