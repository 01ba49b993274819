"""Schemas: what they refuse, and what is inferred from a table."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from equipoise.data import (
    Categorical,
    Label,
    Multi,
    Numerical,
    Schema,
    infer_schema,
    parse_label,
    prepare_table,
)

SMALL = {
    "features": [
        {"kind": "categorical", "name": "city"},
        {"kind": "numerical", "name": "price", "transform": "log1p"},
        {"kind": "multi", "name": "tags", "separator": "|"},
    ],
    "labels": [{"name": "click"}, {"name": "purchase", "given": "click"}],
}


def changed(**content):
    return {**json.loads(json.dumps(SMALL)), **content}


@pytest.mark.parametrize("file", ["schema.yaml", "schema.json"])
def test_a_saved_schema_loads_equal(tmp_path, file):
    schema = Schema.read(SMALL)
    schema.save(tmp_path / file)
    assert Schema.load(tmp_path / file) == schema
    assert schema.tasks == ["click", "purchase"]
    assert [f.name for f in (*schema.categorical, *schema.numerical, *schema.multi)] == [
        "city",
        "price",
        "tags",
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (changed(gruop="user"), "unknown key 'gruop'; did you mean 'group'"),
        (changed(features=[{"kind": "categorical", "name": "a", "min_cout": 3}]), "did you mean 'min_count'"),
        (changed(features=[{"kind": "numeric", "name": "a"}]), "numerical"),
        (changed(features=[{"kind": "categorical", "name": "a", "buckets": 2**31}]), "less than or equal"),
        (changed(features=[{"kind": "categorical", "name": "click"}]), "label column of task 'click'"),
        (changed(features=[SMALL["features"][0]] * 2), "different names, got 'city' twice"),
        (changed(labels=[]), "labels"),
        (changed(labels=[{"name": "purchase", "given": "clik"}, {"name": "click"}]), "did you mean 'click'"),
        (changed(labels=[{"name": "a", "given": "b"}, {"name": "b", "given": "a"}]), "must not lead back"),
        (changed(labels=[{"name": "a", "transform": "log1p"}]), "need kind='regression'"),
        (changed(labels=[{"name": "a", "kind": "regression", "positive": 1}]), "no meaning"),
        (changed(labels=[{"name": ""}]), "must have a name"),
        (changed(split={"by": "column"}), "column must name the split column"),
        (changed(split={"valid": 0.6, "test": 0.5}), "leave rows to train on, got 0.6"),
    ],
)
def test_a_wrong_schema_is_one_clear_line(content, message):
    with pytest.raises(ValueError, match="schema") as error:
        Schema.read(content)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_schema_file_that_is_missing_or_no_yaml(tmp_path):
    with pytest.raises(ValueError, match="found none"):
        Schema.load(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("a: [")
    with pytest.raises(ValueError, match="must be YAML or JSON"):
        Schema.load(tmp_path / "bad.yaml")


def test_only_keeps_the_order_asked_for_and_drops_a_given_left_out():
    schema = Schema.read(SMALL)
    assert schema.only(["purchase", "click"]).label("purchase").given == "click"
    assert schema.only(["purchase"]).label("purchase").given is None
    with pytest.raises(ValueError, match="did you mean 'click'"):
        schema.only(["clik"])


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("click", Label(name="click")),
        ("purchase:given=click", Label(name="purchase", given="click")),
        ("dwell:regression", Label(name="dwell", kind="regression")),
        ("dwell:log1p:loss=huber", Label(name="dwell", kind="regression", transform="log1p", loss="huber")),
        ("like:column=is_like:missing=-1", Label(name="like", column="is_like", missing="-1")),
    ],
)
def test_labels_as_they_are_written_on_the_command_line(text, label):
    assert parse_label(text) == label


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a:regresion", "of kind 'binary', 'regression', 'watch' or 'ordinal', got 'regresion'"),
        ("a:givn=b", "did you mean 'given'"),
        ("a:regression:loss=mze", "'mse' or 'huber'"),
        (":regression", "must have a name"),
    ],
)
def test_a_wrong_label_text(text, message):
    with pytest.raises(ValueError, match="label") as error:
        parse_label(text)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def table(n=2000):
    draw = np.random.default_rng(0)
    click = draw.integers(0, 2, n)
    dwell = draw.exponential(10.0, n)
    return pl.DataFrame(
        {
            "click": click,
            "dwell": dwell,
            "user_id": draw.integers(0, 500, n),
            "age": draw.integers(18, 80, n),
            "price": draw.exponential(5.0, n),
            "income": np.exp(draw.normal(0, 3, n)),
            "city": draw.choice(["a", "b", "c"], n),
            "genres": draw.choice(["drama,comedy", "drama", "news,drama", "comedy,news"], n),
            "tags": [["x", "y"][: i % 3] for i in range(n)],
            "day": [f"2026-01-{1 + i % 28:02}" for i in range(n)],
            "clicked_where": np.where(click == 1, draw.choice(["p", "q"], n), draw.choice(["r", "s"], n)),
            "dwell_ms": dwell * 1000,
            "watch_time": draw.normal(size=n),
            "constant": np.ones(n),
            "session": [f"s{i}" for i in range(n)],
            "impression_id": np.arange(n) + 10**6,
            "ts": draw.integers(1_700_000_000, 1_700_100_000, n),
        }
    )


def test_what_columns_seem_to_be():
    schema, _ = infer_schema(table(), ["click", "dwell:regression"], time="ts", group="user_id")
    assert {f.name for f in schema.categorical} == {"user_id", "age", "city"}
    assert {f.name: f.transform for f in schema.numerical} == {
        "price": "none",
        "income": "log1p",
        "watch_time": "none",
        "dwell_ms": "none",
    }
    assert {f.name: f.separator for f in schema.multi} == {"genres": ",", "tags": ","}
    assert (schema.group, schema.time, schema.split.by) == ("user_id", "ts", "time")
    assert schema.labels == (Label(name="click"), Label(name="dwell", kind="regression"))


def test_suspicious_columns_are_said():
    lines = infer_schema(table(), ["click", "dwell:regression"], time="ts").suspects
    said = {line.split(":")[0]: line for line in lines}
    assert "'click' with AUC above .99" in said["clicked_where"]
    assert "kept, but its rank correlation with 'dwell'" in said["dwell_ms"]
    assert "constant" in said["constant"]
    assert "differs in every row" in said["session"]
    assert "differs in every row" in said["impression_id"]
    assert "is a date" in said["day"]
    assert "only after the impression" in said["watch_time"]
    assert "several values" in said["genres"]
    assert set(said) == {
        *("clicked_where", "dwell_ms", "constant", "session", "impression_id", "day", "watch_time", "genres")
    }


def test_text_with_commas_in_sentences_is_no_list():
    titles = [f"{a}, or {b}" for a in "abcdefgh" for b in "klmnopqr"] * 3
    frame = pl.DataFrame({"title": titles, "y": [0, 1] * 96})
    assert infer_schema(frame, ["y"]).schema.features == (Categorical(name="title"),)


def test_log1p_is_not_inferred_where_a_late_row_forbids_it():
    income = np.append(np.exp(np.random.default_rng(0).normal(0, 3, 100_000)), -5.0)
    frame = pl.DataFrame({"income": income, "y": np.arange(100_001) % 2})
    assert infer_schema(frame, ["y"]).schema.features == (Numerical(name="income"),)


@pytest.mark.parametrize(
    ("labels", "options", "message"),
    [
        (["clik"], {}, "did you mean 'click'"),
        ([], {}, "pass --label"),
        (["click"], {"time": "tz"}, "time: column 'tz' is missing; did you mean 'ts'"),
        (["click"], {"group": "user"}, "did you mean 'user_id'"),
        (["city"], {}, "label 'city' must be 0 or 1"),
        (["age"], {}, "age:regression"),
    ],
)
def test_inference_refuses(labels, options, message):
    with pytest.raises(ValueError, match=r"label|time|group") as error:
        infer_schema(table(), labels, **options)
    assert message in str(error.value)


def test_a_table_without_features():
    with pytest.raises(ValueError, match="no column left"):
        infer_schema(pl.DataFrame({"y": [0, 1]}), ["y"])


def test_a_list_column_is_multi():
    frame = pl.DataFrame({"tags": [["a"], ["b", "a"]], "y": [0, 1]})
    assert infer_schema(frame, ["y"]).schema.features == (Multi(name="tags"),)


def test_the_schema_in_the_documentation_prepares_a_table(tmp_path):
    text = (Path(__file__).parents[1] / "docs" / "data.md").read_text(encoding="utf-8")
    (tmp_path / "schema.yaml").write_text(text.split("```yaml")[1].split("```")[0])
    n = 300
    rows = pl.DataFrame(
        {
            "user_id": np.arange(n) % 20,
            "item": np.arange(n) % 30,
            "last_items": ["1|2|3", "4|5"] * (n // 2),
            "price": np.arange(n) / 10,
            "click": np.arange(n) % 2,
            "bought": [(0, 1, -1)[i % 3] for i in range(n)],
            "ts": np.arange(n) + 1_700_000_000,
            "w": np.ones(n),
        }
    )
    log, _ = prepare_table(rows, tmp_path / "log", schema=tmp_path / "schema.yaml")
    assert {name: len(split) for name, split in log.splits.items()} == {"train": 210, "valid": 30, "test": 60}
    assert log.schema.num_ids == {"user_id": 21, "item": 31, "history": 31}
    assert log.summary()["train"]["tasks"]["purchase"]["missing_rate"] == pytest.approx(1 / 3)
