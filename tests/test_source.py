"""A raw table as a stream: the same rows from a frame, files, a folder, a glob and remote paths, and what is refused."""

from __future__ import annotations

import gzip

import numpy as np
import polars as pl
import pytest

from equipoise.data import (
    Categorical,
    Label,
    Numerical,
    Schema,
    SplitRule,
    parts,
    prepare_table,
    source,
)
from equipoise.data.source import open_source
from equipoise.data.splits import Splitter


def table(n=1000, seed=0):
    draw = np.random.default_rng(seed)
    return pl.DataFrame(
        {
            "user": draw.integers(0, 100, n),
            "city": draw.choice(["a", "b", "ü€\U0001f600"], n),
            "x": draw.standard_normal(n).round(6),
            "ts": 1_700_000_000 + np.arange(n),
            "click": draw.integers(0, 2, n),
        }
    )


SCHEMA = Schema(
    features=(Categorical(name="user"), Categorical(name="city"), Numerical(name="x")),
    labels=(Label(name="click"),),
    group="user",
    time="ts",
)


def rows_of(raw, **options):
    return pl.concat(list(open_source(raw, **options).chunks()))


def write(rows, path):
    if path.name.endswith(".parquet"):
        rows.write_parquet(path, row_group_size=100)
    elif path.name.endswith(".gz"):
        path.write_bytes(gzip.compress(rows.write_csv().encode()))
    else:
        rows.write_csv(path, separator="\t" if path.name.endswith(".tsv") else ",")
    return path


@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.csv.gz", "t.parquet"])
def test_every_kind_of_file_gives_the_rows_of_the_frame_twice(tmp_path, small, name):
    rows = table()
    found = open_source(write(rows, tmp_path / name))
    for _ in range(2):
        chunks = list(found.chunks())
        assert all(chunk.height == 64 for chunk in chunks[:-1]) and len(chunks) == 16
        assert pl.concat(chunks).equals(rows)
    assert found.columns == rows.columns and found.rows() == 1000
    assert found.head(70).equals(rows.head(70))
    some = pl.concat(list(found.chunks(["x", "user"])))
    assert some.equals(rows.select("x", "user"))
    assert rows_of(tmp_path / name, max_rows=70).equals(rows.head(70))


@pytest.mark.parametrize("end", [".csv", ".parquet"])
def test_a_folder_a_glob_and_remote_paths_are_read_by_name(tmp_path, small, end):
    import fsspec

    rows = table()
    days = tmp_path / "days"
    days.mkdir()
    memory = fsspec.filesystem("memory")
    for day in (2, 0, 1):
        file = write(rows[day * 400 : (day + 1) * 400], days / f"day{day}{end}")
        memory.pipe(f"/days{end}/day{day}{end}", file.read_bytes())
    (days / "_SUCCESS").write_text("")
    for raw in (
        days,
        str(days / f"day*{end}"),
        f"file://{days}",
        f"memory://days{end}",
        f"memory://days{end}/day*{end}",
    ):
        assert rows_of(raw).equals(rows), raw
    found = open_source(f"memory://days{end}/day1{end}")
    assert pl.concat(list(found.chunks())).equals(rows[400:800])
    assert f"day1{end}, row 8" in found.where(7)
    whole = open_source(days)
    assert f"day0{end}, row 400" in whole.where(399) and f"day2{end}, row 1" in whole.where(800)
    memory.rm(f"/days{end}", recursive=True)


@pytest.mark.parametrize("end", [".csv", ".parquet"])
def test_files_of_other_columns_are_named(tmp_path, end):
    write(table(10), tmp_path / f"a{end}")
    write(table(10).drop("x"), tmp_path / f"b{end}")
    with pytest.raises(ValueError, match=f"b{end}' must have the columns of .*a{end}'.*lacks 'x'"):
        open_source(tmp_path)
    write(table(10).with_columns(y=1), tmp_path / f"b{end}")
    with pytest.raises(ValueError, match="'y'"):
        open_source(tmp_path)


def test_parquet_files_of_other_types_are_named(tmp_path):
    write(table(10), tmp_path / "a.parquet")
    write(table(10).with_columns(pl.col("user").cast(pl.Float64)), tmp_path / "b.parquet")
    with pytest.raises(ValueError, match=r"b.parquet' must have the types of .* column 'user' is Float64"):
        open_source(tmp_path)
    write(table(10).with_columns(pl.col("user").cast(pl.Int16)), tmp_path / "b.parquet")
    assert rows_of(tmp_path).height == 20


def test_an_id_that_becomes_text_late_is_text_from_the_start(tmp_path, small):
    big = 2**63 - 1
    ids = [str(big - k) for k in range(900)] + ["u1", "007", str(2**64 - 1)] + ["8"] * 97
    text = "id,x\n" + "".join(f"{v},{k}\n" for k, v in enumerate(ids))
    (tmp_path / "t.csv").write_text(text)
    found = open_source(tmp_path / "t.csv")
    assert found.head(10)["id"].dtype == pl.Int64  # as its first rows have it
    assert pl.concat(list(found.chunks()))["id"].to_list() == ids
    (tmp_path / "u.csv").write_text("id,x\n" + "".join(f"{v},1\n" for v in ids[:900]))
    assert rows_of(tmp_path / "u.csv")["id"].to_list() == [big - k for k in range(900)]
    (tmp_path / "z.csv").write_text("id,x\n007,1\n7,2\n")
    assert rows_of(tmp_path / "z.csv")["id"].to_list() == ["007", "7"]


def test_a_column_that_is_text_in_one_csv_is_text_in_all(tmp_path, small):
    (tmp_path / "a.csv").write_text("id,x\n" + "5,1\n" * 300)
    (tmp_path / "b.csv").write_text("id,x\n" + "5,1\n" * 300 + "u,1\n")
    found = rows_of(tmp_path)
    assert found["id"].dtype == pl.String and found["id"].to_list() == ["5"] * 600 + ["u"]


def test_quotes_line_breaks_and_blank_lines(tmp_path, small):
    body = "".join(f'"a, ""{k}""\nb",{k}\n' for k in range(900))
    (tmp_path / "t.csv").write_text("id,x\n" + body)
    found = rows_of(tmp_path / "t.csv")
    assert found["id"].to_list() == [f'a, "{k}"\nb' for k in range(900)]
    (tmp_path / "t.csv").write_bytes(b"\xef\xbb\xbfid,x\r\n1,2\r\n\r\n3,4")
    assert rows_of(tmp_path / "t.csv").to_dict(as_series=False) == {"id": [1, 3], "x": [2, 4]}


def test_the_log_is_the_same_from_any_source(tmp_path, small):
    rows = table()
    (tmp_path / "days").mkdir()
    for day in range(4):
        write(rows[day * 250 : (day + 1) * 250], tmp_path / "days" / f"{day}.parquet")
    raws = [
        rows,
        write(rows, tmp_path / "t.csv"),
        write(rows, tmp_path / "t.parquet"),
        str(tmp_path / "days" / "*.parquet"),
    ]
    for rule in (SplitRule(by="random"), SplitRule(by="time")):
        schema = SCHEMA.model_copy(update={"split": rule})
        logs = [
            prepare_table(raw, tmp_path / f"{rule.by}{k}", schema=schema)[0] for k, raw in enumerate(raws)
        ]
        assert len({log.fingerprint for log in logs}) == 1, rule
        assert sum(len(split) for split in logs[0].splits.values()) == 1000
    assert not [p.name for p in tmp_path.iterdir() if p.name.startswith(".")]  # nothing is left beside


def test_random_splits_keep_groups_whole_and_do_not_depend_on_chunks(monkeypatch):
    rows = table(5000).with_columns(user=pl.when(pl.col("user") == 3).then(None).otherwise("user"))

    def cut(chunk):
        monkeypatch.setattr(source, "CHUNK", chunk)
        found, first = {"train": [], "valid": [], "test": []}, 0
        origin = open_source(rows)
        splitter = Splitter.fit(SCHEMA, origin)
        for piece in origin.chunks():
            for name, part in splitter.parts(piece, first):
                found[name].append(part)
            first += piece.height
        return {name: pl.concat(frames) for name, frames in found.items()}

    one, many = cut(5000), cut(64)
    users = [set(part["user"].to_list()) for part in one.values()]
    assert all(one[name].equals(many[name]) for name in one)
    assert sum(len(u) for u in users) == 100 and len(set.union(*users)) == 100  # null is one of them
    assert 2 <= len(users[2]) <= 22  # 10 % of 100, within four standard deviations


@pytest.mark.parametrize("groups", [3, 4, 7])
@pytest.mark.parametrize("seed", range(5))
def test_a_tiny_table_has_a_group_in_each_split(groups, seed):
    rows = pl.DataFrame({"user": [k % groups for k in range(40)], "click": [0, 1] * 20})
    rule = SplitRule(by="random", seed=seed)
    schema = Schema(features=(), labels=(Label(name="click"),), group="user", split=rule)
    found = dict(Splitter.fit(schema, open_source(rows)).parts(rows, 0))
    users = [set(part["user"].to_list()) for part in found.values()]
    assert list(found) == ["train", "valid", "test"] and sum(map(len, users)) == groups


def test_the_time_cuts_are_numpys(small):
    draw = np.random.default_rng(0)
    rows = table(1000).with_columns(ts=pl.Series(1_700_000_000_000 + draw.integers(0, 400, 1000)))
    splitter = Splitter.fit(SCHEMA.model_copy(update={"split": SplitRule(by="time")}), open_source(rows))
    times = rows["ts"].to_numpy()
    late = np.quantile(times, 0.9, method="higher")
    middle = np.quantile(times[times < late], 1 - 0.1 / 0.9, method="higher")
    assert splitter.cuts == (late, middle)


def test_paths_that_are_nothing(tmp_path):
    for raw, message in (
        (tmp_path / "none.csv", "found neither"),
        (tmp_path / "*.csv", "no file fits the pattern"),
        (tmp_path, "the folder has none"),
        ("memory://none.csv", "found none"),
        ("nosuch://a.csv", "nosuch"),
    ):
        with pytest.raises(ValueError, match=message):
            open_source(raw)


def test_whole_numbers_beyond_64_bits_are_text(tmp_path):
    ids = [str(2**64 + k % 3) for k in range(40)]
    lines = [f"{i},{k % 2},{k}" for k, i in enumerate(ids)]
    (tmp_path / "t.csv").write_text("item_id,click,n\n" + "\n".join(lines) + "\n")
    log = prepare_table(tmp_path / "t.csv", tmp_path / "log", labels=["click"])[0]
    assert set(log.vocabulary("item_id")["value"]) == set(ids)


@pytest.mark.parametrize("group", [3, 10, 16, 25, 400])
def test_row_groups_of_any_size_give_the_same_chunks(tmp_path, monkeypatch, group):
    for module in (parts, source):
        monkeypatch.setattr(module, "CHUNK", 10)
    rows = pl.DataFrame(
        {
            "a": pl.int_range(0, 97, eager=True),
            "b": pl.Series([None if i % 7 == 0 else f"é{i}" for i in range(97)]),
            "c": pl.Series([[i] * (i % 3) for i in range(97)]),
        }
    )
    rows.write_parquet(tmp_path / "t.parquet", row_group_size=group)
    table = open_source(tmp_path / "t.parquet", room=tmp_path)
    assert pl.concat(table.chunks()).equals(rows)
    assert [c.height for c in table.chunks(["b", "a"])] == [10] * 9 + [7]
    assert pl.concat(table.chunks(["b", "a"])).equals(rows.select("b", "a"))
    assert table.head(12).equals(rows.head(12))


@pytest.mark.parametrize("group", [10, 400])
def test_a_parquet_file_damaged_in_the_middle_is_a_clean_error(tmp_path, monkeypatch, group):
    monkeypatch.setattr(parts, "CHUNK", 10)
    path = tmp_path / "t.parquet"
    pl.DataFrame({"a": np.random.default_rng(0).random(400)}).write_parquet(path, row_group_size=group)
    content = bytearray(path.read_bytes())
    content[200:1500] = bytes(1300)
    path.write_bytes(content)
    with pytest.raises(
        ValueError, match=r"t.parquet' cannot be read to its end, it may be cut off or damaged"
    ):
        list(open_source(path, room=tmp_path).chunks())


def test_a_parquet_name_that_is_no_text_is_a_clean_error(tmp_path):
    path = tmp_path / "t.parquet"
    pl.DataFrame({"zzzzz": [1.0, 2.0]}).write_parquet(path)
    path.write_bytes(path.read_bytes().replace(b"zzzzz", b"\xff\xfe\xffzz"))
    with pytest.raises(
        ValueError, match=r"t.parquet' cannot be read to its end, it may be cut off or damaged"
    ):
        open_source(path, room=tmp_path)
