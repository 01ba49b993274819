"""Bad tables: one clear error with file, column and row, and no log or leftover beside it."""

from __future__ import annotations

import errno
import os

import numpy as np
import polars as pl
import pytest

from equipoise.data import (
    Categorical,
    Label,
    Numerical,
    Schema,
    delimited,
    from_frame,
    parts,
    prepare_table,
    shards,
    source,
)

SCHEMA = Schema(
    features=(Categorical(name="city"), Numerical(name="x")),
    labels=(Label(name="click"), Label(name="dwell", kind="regression")),
)
N, AT = 600, 417


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Many chunks and blocks, so that the row is counted over them."""
    for module in (source, parts):
        monkeypatch.setattr(module, "CHUNK", 64)
    monkeypatch.setattr(delimited, "BLOCK", 2048)
    monkeypatch.setattr(delimited, "SAMPLE", 50)


def rows(**changed):
    draw = np.random.default_rng(0)
    columns = {
        "city": draw.choice(["a", "b"], N).tolist(),
        "x": draw.standard_normal(N).round(3).tolist(),
        "click": draw.integers(0, 2, N).tolist(),
        "dwell": draw.random(N).round(3).tolist(),
    }
    for name, value in changed.items():
        columns[name][AT] = value
    return columns


def as_csv(columns):
    names = list(columns)
    lines = [
        ",".join("" if v is None else str(v) for v in row) for row in zip(*columns.values(), strict=True)
    ]
    return "\n".join([",".join(names), *lines]) + "\n"


def refused(tmp_path, raw, *words, schema=SCHEMA, kind=ValueError, **options):
    before = {p.name for p in tmp_path.iterdir()}
    with pytest.raises(kind) as error:
        prepare_table(raw, tmp_path / "log", schema=schema, **options)
    for word in words:
        assert word in str(error.value), (word, str(error.value))
    assert {p.name for p in tmp_path.iterdir()} == before  # neither a log nor a working folder
    return str(error.value)


BAD = [
    ({"click": 2}, ["label 'click' must be 0 or 1, got 2", "column 'click'"]),
    ({"click": float("inf")}, ["label 'click' must be 0 or 1, got inf", "column 'click'"]),
    ({"dwell": float("inf")}, ["label 'dwell' must be finite", "column 'dwell'"]),
    ({"x": float("inf")}, ["feature 'x' must be finite", "column 'x'"]),
]


@pytest.mark.parametrize("end", [".csv", ".parquet"])
@pytest.mark.parametrize(("changed", "words"), BAD)
def test_a_value_outside_its_domain_is_named_by_file_column_and_row(tmp_path, changed, words, end):
    columns = rows(**changed)
    file = tmp_path / f"t{end}"
    if end == ".csv":
        file.write_text(as_csv(columns))
    else:
        pl.DataFrame(columns, strict=False).with_columns(
            pl.col("click", "x", "dwell").cast(pl.Float64)
        ).write_parquet(file)
    refused(tmp_path, file, *words, f"t{end}, row {AT + 1}")


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"click": "yes"}, ["label 'click' must be 0 or 1", "'yes'"]),
        ({"x": "far"}, ["feature 'x' must hold numbers", "'far'"]),
    ],
)
def test_mixed_types_in_a_csv(tmp_path, changed, words):
    (tmp_path / "t.csv").write_text(as_csv(rows(**changed)))
    refused(tmp_path, tmp_path / "t.csv", *words, f"t.csv, row {AT + 1}")


def test_the_row_is_that_of_its_file_in_a_folder(tmp_path):
    (tmp_path / "days").mkdir()
    for day in range(3):
        (tmp_path / "days" / f"{day}.csv").write_text(as_csv(rows(**({"click": 7} if day == 2 else {}))))
    refused(tmp_path, tmp_path / "days", "got 7", f"2.csv, row {AT + 1}", "column 'click'")


@pytest.mark.parametrize("end", [".csv", ".parquet"])
def test_nan_is_missing_in_features_and_labels(tmp_path, end):
    columns = rows(x=float("nan"), dwell=float("nan"))
    if end == ".csv":
        (tmp_path / "t.csv").write_text(as_csv(columns).replace("nan", "NaN"))
    else:
        pl.DataFrame(columns).write_parquet(tmp_path / "t.parquet")
    log, lines = prepare_table(tmp_path / f"t{end}", tmp_path / "log", schema=SCHEMA)
    assert sum(int((~s.labels("dwell")[1]).sum()) for s in log.splits.values()) == 1
    assert "x: missing (null or NaN) in 1 rows, read as the training mean" in lines


def test_a_ragged_line(tmp_path):
    lines = as_csv(rows()).splitlines()
    lines[AT + 1] += ",9"
    (tmp_path / "t.csv").write_text("\n".join(lines))
    refused(tmp_path, tmp_path / "t.csv", "4 fields in every line, got 5", f"in line {AT + 2}", "t.csv")
    lines[AT + 1] = "a,1"
    lines[AT + 2] += ",,"  # right on average
    (tmp_path / "t.csv").write_text("\n".join(lines))
    refused(tmp_path, tmp_path / "t.csv", "4 fields in every line, got 2", f"in line {AT + 2}", "t.csv")


def test_a_quote_that_never_ends_and_bytes_that_are_no_text(tmp_path):
    lines = as_csv(rows()).splitlines()
    lines[AT + 1] = 'a,"1,0,0'
    (tmp_path / "t.csv").write_text("\n".join(lines))
    refused(tmp_path, tmp_path / "t.csv", "quote", "t.csv")
    lines[AT + 1] = "\udcff,1,0,0"
    (tmp_path / "t.csv").write_bytes("\n".join(lines).encode("utf-8", "surrogateescape"))
    refused(tmp_path, tmp_path / "t.csv", "must be UTF-8 text, got byte 0xff", f"line {AT + 2}", "t.csv")


def test_a_wrong_header_and_a_schema_that_names_a_missing_column(tmp_path):
    (tmp_path / "t.csv").write_text(as_csv(rows()).replace("click", "clik", 1))
    refused(
        tmp_path,
        tmp_path / "t.csv",
        "label 'click': column 'click' is missing in",
        "t.csv",
        "did you mean 'clik'",
    )
    (tmp_path / "nul.csv").write_text(as_csv(rows()).replace("dwell", "dw\0ell", 1))
    refused(tmp_path, tmp_path / "nul.csv", "column names without NUL bytes", "nul.csv")
    (tmp_path / "n.csv").write_text(as_csv(rows()).split("\n", 1)[1])
    refused(tmp_path, tmp_path / "n.csv", "is missing in", "n.csv")
    for changed in ({"group": "user"}, {"time": "ts"}, {"weight": "w"}):
        schema = SCHEMA.model_copy(update=changed)
        (name,) = changed.values()
        refused(tmp_path, pl.DataFrame(rows()), f"column {name!r} is missing", schema=schema)


def test_duplicate_columns(tmp_path):
    (tmp_path / "t.csv").write_text(as_csv(rows()).replace("dwell", "x", 1))
    refused(tmp_path, tmp_path / "t.csv", "different column names, has 'x' twice", "t.csv")
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table([pa.array([1]), pa.array([2])], names=["x", "x"])
    pq.write_table(table, tmp_path / "t.parquet")
    refused(tmp_path, tmp_path / "t.parquet", "different column names, has 'x' twice", "t.parquet")
    with pytest.raises(ValueError, match="frame must be"):
        from_frame(pd.DataFrame([[1, 2]], columns=["x", "x"]), ["x"])


@pytest.mark.parametrize("share", [0.5, 0.999])
def test_a_truncated_parquet_file(tmp_path, share):
    pl.DataFrame(rows()).write_parquet(tmp_path / "t.parquet")
    whole = (tmp_path / "t.parquet").read_bytes()
    (tmp_path / "t.parquet").write_bytes(whole[: int(len(whole) * share)])
    refused(tmp_path, tmp_path / "t.parquet", "t.parquet", "cut off or damaged")


def test_a_parquet_file_damaged_in_the_middle(tmp_path):
    pl.DataFrame(rows()).write_parquet(tmp_path / "t.parquet", row_group_size=100)
    whole = bytearray((tmp_path / "t.parquet").read_bytes())
    whole[4 : len(whole) // 2] = bytes(len(whole) // 2 - 4)
    (tmp_path / "t.parquet").write_bytes(whole)
    refused(tmp_path, tmp_path / "t.parquet", "t.parquet", "cut off or damaged")


def test_empty_files(tmp_path):
    (tmp_path / "t.csv").write_text("")
    refused(tmp_path, tmp_path / "t.csv", "t.csv", "empty")
    (tmp_path / "h.csv").write_text("city,x,click,dwell\n")
    refused(tmp_path, tmp_path / "h.csv", "h.csv", "must have rows, got none")
    pl.DataFrame(rows()).clear().write_parquet(tmp_path / "t.parquet")
    refused(tmp_path, tmp_path / "t.parquet", "t.parquet", "must have rows, got none")
    (tmp_path / "t.csv.gz").write_bytes(b"\x1f\x8b\x08")
    refused(tmp_path, tmp_path / "t.csv.gz", "t.csv.gz", "cut off or damaged")


@pytest.mark.parametrize("where", ["rows", "log"])
@pytest.mark.parametrize("end", [".csv", ".parquet"])
def test_a_disk_that_fills_up_in_the_middle_leaves_nothing(tmp_path, monkeypatch, where, end):
    file = tmp_path / f"t{end}"
    if end == ".csv":
        file.write_text(as_csv(rows()))
    else:
        pl.DataFrame(rows()).write_parquet(file)
    left = [3]

    def full(*_):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")

    if where == "log":
        true = shards._Shard._write
        monkeypatch.setattr(shards._Shard, "_write", lambda *a: (full(), true(*a))[1])
    elif end == ".csv":
        true = delimited.Delimited._parse
        monkeypatch.setattr(delimited.Delimited, "_parse", lambda *a: (full(), true(*a))[1])
    else:
        pytest.skip("no rows of a Parquet file are written but the log's")
    refused(tmp_path, file, "disk is full", "was not written", kind=OSError)


def test_free_disk_is_checked_first(tmp_path, monkeypatch):
    import shutil

    (tmp_path / "t.csv").write_text(as_csv(rows()))
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    refused(tmp_path, tmp_path / "t.csv", "GiB free", kind=OSError)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_no_permission_to_write(tmp_path):
    (tmp_path / "closed").mkdir(mode=0o500)
    with pytest.raises(OSError, match="Permission denied"):
        prepare_table(pl.DataFrame(rows()), tmp_path / "closed" / "log", schema=SCHEMA)
