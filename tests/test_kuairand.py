"""KuaiRand: three raw files in, splits by date, features as design.md lists them, nothing from after the impression."""

from __future__ import annotations

import datetime as dt
import os
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from equipoise.data import DATASETS, prepare
from equipoise.data.kuairand import USER_COLUMNS, VIDEO_COLUMNS, schema

REAL = Path(os.environ.get("EQUIPOISE_DATA", Path(__file__).parents[2] / "shared" / "data")) / "kuairand_pure"
DAYS = (20220503, 20220504, 20220505, 20220506)
SIGNALS = ("is_click", "is_like", "is_follow", "is_comment", "is_forward", "is_hate", "long_view")
EAST = dt.timezone(dt.timedelta(hours=8))
AFTER = {"play_time_ms", "profile_stay_time", "comment_stay_time", *SIGNALS, "is_profile_enter", "is_rand"}


def log_table() -> pl.DataFrame:
    """40 rows, ten a day at 23:30 (UTC+8), in the raw order of columns; row 1 repeats row 0."""
    i = np.arange(40)
    day = [dt.datetime(2022, 5, 3 + k // 10, 23, 30, tzinfo=EAST) for k in range(40)]
    columns = {
        "user_id": i % 4,
        "video_id": i % 5,
        "date": [DAYS[k // 10] for k in range(40)],
        "hourmin": np.full(40, 1200),  # disagrees with time_ms on purpose
        "time_ms": [int(d.timestamp()) * 1000 + k for k, d in enumerate(day)],
        **{name: (i % (2 + s) == 0).astype(int) for s, name in enumerate(SIGNALS)},
        "play_time_ms": 1000 * i,
        "duration_ms": 5000 + i,
        "profile_stay_time": i,
        "comment_stay_time": i,
        "is_profile_enter": (i % 9 == 0).astype(int),
        "is_rand": np.zeros(40, int),
        "tab": i % 3,
    }
    table = pl.DataFrame(columns)
    return pl.concat([table[:1], table[:1], table[2:]])


def tables() -> dict[str, pl.DataFrame]:
    users = {"user_id": range(4)} | {
        name: [f"[{k},9)" for k in range(4)]
        if name.endswith(("range", "degree"))
        else [k - 1 for k in range(4)]
        for name in USER_COLUMNS
    }
    videos = {"video_id": range(5)} | {name: [float(k) for k in range(5)] for name in VIDEO_COLUMNS}
    videos |= {
        "upload_dt": ["2022-05-01", "2022-05-02", "2022-05-03", "2022-05-09", None],
        "tag": ["12,65", "12", None, "7", "65"],
        "video_type": ["NORMAL", "AD", "NORMAL", "AD", "NORMAL"],
    }
    return {
        "log_standard_4_22_to_5_08_pure": log_table(),
        "user_features_pure": pl.DataFrame(users),
        "video_features_basic_pure": pl.DataFrame(videos),
    }


def write(folder: Path, content: dict[str, pl.DataFrame], suffix: str = ".csv") -> Path:
    folder.mkdir(parents=True)
    for name, table in content.items():
        if suffix == ".csv":
            table.write_csv(folder / f"{name}.csv")
        else:
            table.write_parquet(folder / f"{name}.parquet")
    return folder


@pytest.fixture
def raw(tmp_path):
    return write(tmp_path / "raw", tables())


def rows(log, split: str):
    return next(iter(log.split(split).batches(100)))


def values(log, split: str, name: str) -> list[str | None]:
    """The raw values of a categorical column, looked up in the log's own vocabulary."""
    column = [feature.name for feature in log.schema.categorical].index(name)
    known = dict(enumerate(log.vocabulary(name)["value"], 1))
    return [known.get(i) for i in rows(log, split).ids[:, column].tolist()]


def test_splits_are_by_date_and_duplicates_kept(raw, tmp_path):
    log = prepare("kuairand", raw, tmp_path / "log")
    assert {name: len(split) for name, split in log.splits.items()} == {"train": 20, "valid": 10, "test": 10}
    notes = log.manifest["notes"]
    assert (notes["duplicates"], notes["valid_date"], notes["test_date"]) == (1, 20220505, 20220506)
    early = prepare("kuairand", raw, tmp_path / "early", valid_date=20220504, test_date=20220505)
    assert {name: len(split) for name, split in early.splits.items()} == {
        "train": 10,
        "valid": 10,
        "test": 20,
    }


def test_labels_follow_their_rows(raw, tmp_path):
    log = prepare("kuairand", raw, tmp_path / "log", tasks=["long_view", "is_hate"])
    assert list(log.schema.tasks) == ["long_view", "is_hate"]
    i = np.arange(30, 40)
    assert np.array_equal(log.split("test").labels("long_view")[0], i % 8 == 0)
    assert np.array_equal(log.split("test").labels("is_hate")[0], i % 7 == 0)
    assert len(set(log.split("test").group)) == 4


def test_hour_and_weekday_are_of_time_ms_in_china(raw, tmp_path):
    log = prepare("kuairand", raw, tmp_path / "log")
    assert set(values(log, "train", "hour")) == {"23"}  # 15 in UTC, 12 by hourmin
    assert values(log, "train", "weekday") == ["2"] * 10 + ["3"] * 10  # 2022-05-03 was a Tuesday


def test_age_is_in_days_not_below_zero(raw, tmp_path):
    log = prepare("kuairand", raw, tmp_path / "log")
    column = [feature.name for feature in log.schema.numerical].index("age_days")
    age = rows(log, "train").numerical[:, column].numpy()
    i = np.arange(20)
    i[1] = 0
    known = i % 5 < 4
    days = np.maximum(0, 3 + i // 10 - np.array([1, 2, 3, 9, 0])[i % 5])
    # log1p, then standardised on train: a straight line through the known rows
    fit = np.polyfit(np.log1p(days[known]), age[known], 1)
    assert np.allclose(np.polyval(fit, np.log1p(days[known])), age[known], atol=1e-5)  # float32 storage
    assert fit[0] > 0


def test_features_hold_nothing_from_after_the_impression():
    described = schema(["is_click", "is_like"])
    names = [feature.name for feature in described.features]
    assert len(names) == len(set(names)) and AFTER.isdisjoint(names) and "date" not in names
    assert [len(described.categorical), len(described.numerical)] == [37, 8]
    assert [feature.name for feature in described.multi] == ["tag"] and described.group == "user_id"
    rare = {feature.name: feature.min_count for feature in described.categorical}
    assert rare["author_id"] == rare["music_id"] == 3 and rare["tab"] == 2


def test_tags_are_several_ids_a_row(raw, tmp_path):
    log = prepare("kuairand", raw, tmp_path / "log")
    lengths = np.diff(rows(log, "test").multi["tag"].offsets.numpy())
    assert lengths.tolist() == [[2, 1, 0, 1, 1][i % 5] for i in range(30, 40)]


def test_parquet_and_the_published_folder_give_the_same_log(raw, tmp_path):
    write(tmp_path / "parquet", tables(), ".parquet")
    write(tmp_path / "zip" / "data", tables())
    logs = [prepare("kuairand", raw, tmp_path / "a")]
    logs += [prepare("kuairand", tmp_path / name, tmp_path / f"{name}.log") for name in ("parquet", "zip")]
    labels = [log.split("test").labels("is_click")[0].tolist() for log in logs]
    ids = [rows(log, "test").ids.tolist() for log in logs]
    assert labels[0] == labels[1] == labels[2] and ids[0] == ids[2]
    assert values(logs[0], "test", "user_id") == values(logs[1], "test", "user_id")


def test_a_tag_of_several_may_come_late(tmp_path):
    content = tables()
    videos = content["video_features_basic_pure"].with_columns(tag=pl.lit("7"))
    many = pl.concat([videos, *[videos[4:]] * 10_995]).with_columns(video_id=pl.int_range(pl.len()))
    late = pl.when(pl.col("video_id") == 10_999).then(pl.lit("1,2")).otherwise("tag")
    raw = write(tmp_path / "raw", content | {"video_features_basic_pure": many.with_columns(tag=late)})
    assert len(prepare("kuairand", raw, tmp_path / "log").split("train")) == 20


def change(**tables_):
    return lambda content: {
        name: next((f(t) for prefix, f in tables_.items() if name.startswith(prefix)), t)
        for name, t in content.items()
    }


@pytest.mark.parametrize(
    ("damage", "options", "message"),
    [
        (lambda c: {n: t for n, t in c.items() if "user" not in n}, {}, r"must hold user_features_\*"),
        (change(log=lambda t: t.drop("tab")), {}, "must have the column 'tab'"),
        (change(video=lambda t: t.rename({"music_type": "music_typ"})), {}, "did you mean 'music_typ'"),
        (
            change(user=lambda t: t[:-1]),
            {},
            "every user_id must have a row .* 1 have none, the first is 3 in line 5 of ",
        ),
        (change(video=lambda t: pl.concat([t, t[:1]])), {}, "video_id must have one row .* 0 has several"),
        (change(log=lambda t: t[:20]), {}, "must leave each split a day of 20220503 to 20220504"),
        (dict, {"test_date": 20220503}, "must leave each split a day"),
        (dict, {"valid_date": 20220506}, "must leave each split a day"),
        (dict, {"valid_date": 20220503}, "must leave each split a day"),
        (dict, {"test_date": 20220507}, "must leave each split a day"),
        (dict, {"tasks": ["is_clik"]}, "did you mean 'is_click'"),
    ],
)
def test_bad_input_is_refused(tmp_path, damage, options, message):
    write(tmp_path / "raw", damage(tables()))
    with pytest.raises(ValueError, match=message):
        prepare("kuairand", tmp_path / "raw", tmp_path / "log", **options)
    assert not (tmp_path / "log").exists()


def test_unknown_dataset_is_refused(tmp_path):
    with pytest.raises(ValueError, match="did you mean 'kuairand'"):
        prepare("kuairan", tmp_path, tmp_path / "log")
    assert list(DATASETS) == [
        "aliexpress",
        "ali_ccp",
        "kuairand",
        "census_income",
        "tenrec",
        "movielens",
        "table",
    ]


def renamed(content: dict[str, pl.DataFrame], release: str) -> dict[str, pl.DataFrame]:
    return {name.replace("_pure", f"_{release}"): table for name, table in content.items()}


def test_logs_and_tables_in_parts_are_read_as_one(raw, tmp_path):
    content = renamed(tables(), "27k")
    log = content.pop("log_standard_4_22_to_5_08_27k")
    parts = {f"log_standard_4_22_to_5_08_27k_part{k + 1}": log[20 * k : 20 * k + 20] for k in range(2)}
    parts |= {"log_random_4_22_to_5_08_27k": log[:5]}
    write(tmp_path / "27k", content | parts)
    found = prepare("kuairand", tmp_path / "27k", tmp_path / "b")
    assert found.fingerprint == prepare("kuairand", raw, tmp_path / "a").fingerprint
    assert (
        "rows: 40, KuaiRand-27k documents 322,278,385; a sample or another release?"
        in (found.manifest["notes"]["published"])
    )
    assert found.manifest["notes"]["duplicates"] == 1


def test_csv_and_parquet_may_be_mixed(raw, tmp_path):
    table = log_table()
    mixed = write(tmp_path / "mixed", {name: t for name, t in tables().items() if "log" not in name})
    table[:20].write_csv(mixed / "log_standard_4_08_to_4_21_pure.csv")
    table[20:].write_parquet(mixed / "log_standard_4_22_to_5_08_pure.parquet")
    assert (
        prepare("kuairand", mixed, tmp_path / "b").fingerprint
        == prepare("kuairand", raw, tmp_path / "a").fingerprint
    )


def test_two_releases_are_not_mixed(tmp_path):
    write(tmp_path / "raw", tables() | renamed(tables(), "1k"))
    with pytest.raises(ValueError, match=r"files of one release, found .*_1k\.csv and .*_pure\.csv"):
        prepare("kuairand", tmp_path / "raw", tmp_path / "log")


def test_history_is_what_was_consumed_before(raw, tmp_path):
    log = prepare("kuairand", raw, tmp_path / "log", history=3)
    table = log_table()
    ended = (table["time_ms"] + table["play_time_ms"]).to_list()
    known = dict(enumerate(log.vocabulary("history")["value"], 1))
    batch = rows(log, "test")
    values, offsets = batch.multi["history"].values.tolist(), batch.multi["history"].offsets.tolist()
    for at, now in enumerate(range(30, 40)):
        row = table.row(now, named=True)
        seen = sorted(
            {
                (ended[k], table["video_id"][k])
                for k in range(40)
                if table["user_id"][k] == row["user_id"]
                and (table["is_click"][k] or table["long_view"][k])
                and ended[k] < row["time_ms"]
            }
        )[-3:]
        vocabulary = [str(v) if str(v) in known.values() else None for _, v in seen]
        assert [known.get(v) for v in values[offsets[at] : offsets[at + 1]]] == vocabulary
    assert sum(v > 0 for v in values) >= 6
    assert log.schema.multi[-1].name == "history" and log.manifest["notes"]["history"] == 3
    assert "history" not in {f.name for f in prepare("kuairand", raw, tmp_path / "plain").schema.features}


def test_history_does_not_see_the_future(raw, tmp_path):
    table = log_table()
    late = table.with_columns(
        is_click=pl.when(pl.col("date") == DAYS[3]).then(1 - pl.col("is_click")).otherwise("is_click"),
        long_view=pl.when(pl.col("date") == DAYS[3]).then(1 - pl.col("long_view")).otherwise("long_view"),
        play_time_ms=pl.when(pl.col("date") == DAYS[3]).then(1).otherwise("play_time_ms"),
    )
    changed = write(tmp_path / "changed", tables() | {"log_standard_4_22_to_5_08_pure": late})
    logs = [prepare("kuairand", f, tmp_path / f"{f.name}.log", history=4) for f in (raw, changed)]
    for split in ("train", "valid"):
        found = [rows(log, split).multi["history"] for log in logs]
        assert found[0].values.tolist() == found[1].values.tolist()
        assert found[0].offsets.tolist() == found[1].offsets.tolist()


def test_statistics_are_off_and_warn(raw, tmp_path):
    statistics = pl.DataFrame(
        {"video_id": range(4), "follow_user_num": [1.0, 5.0, 9.0, 2.0], "show_cnt": range(4)}
    )
    statistics[:2].write_csv(raw / "video_features_statistic_pure_part1.csv")
    statistics[2:].write_csv(raw / "video_features_statistic_pure_part2.csv")
    log = prepare("kuairand", raw, tmp_path / "log", with_statistics=True)
    names = [f.name for f in log.schema.numerical]
    assert names[-2:] == ["video_follow_user_num", "video_show_cnt"]
    assert any("they look ahead of the impression" in line for line in log.manifest["notes"]["suspects"])
    column = rows(log, "test").numerical[:, names.index("video_show_cnt")].numpy()
    video = np.arange(30, 40) % 5
    assert (column[video == 4] == 0).all()  # no row in the table: missing, the mean
    assert np.array_equal(np.argsort(column[[0, 1, 2, 3]]), np.argsort(video[[0, 1, 2, 3]]))
    plain = prepare("kuairand", raw, tmp_path / "plain")
    assert not any("look ahead" in line for line in plain.manifest["notes"]["suspects"])
    assert not [
        f.name for f in plain.schema.features if f.name.startswith("video_") and f.name.endswith("_cnt")
    ]
    statistics[:1].write_csv(raw / "video_features_statistic_pure_part3.csv")
    with pytest.raises(ValueError, match="video_id must have one row in its statistics, 0 has several"):
        prepare("kuairand", raw, tmp_path / "twice", with_statistics=True)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda lines: [*lines[:3], lines[3].rpartition(",")[0], *lines[4:]], "19 columns, got 18 in line 4"),
        (
            lambda lines: [*lines[:3], "x" + lines[3], *lines[4:]],
            "an integer in column 'user_id', got 'x.' in line 4",
        ),
        (
            lambda lines: [*lines[:3], "," + lines[3].partition(",")[2], *lines[4:]],
            "user_id must be known in every row",
        ),
        (lambda lines: lines[:1], "must have rows, it is empty"),
    ],
)
def test_damaged_logs_are_refused(raw, tmp_path, damage, message):
    file = raw / "log_standard_4_22_to_5_08_pure.csv"
    file.write_text("\n".join(damage(file.read_text().splitlines())) + "\n")
    with pytest.raises(ValueError, match=message):
        prepare("kuairand", raw, tmp_path / "log")
    assert [p.name for p in tmp_path.iterdir()] == ["raw"]


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_labels_outside_their_domain_are_refused(tmp_path, suffix):
    at = pl.int_range(pl.len()) == 6
    table = log_table().with_columns(
        is_like=pl.when(at).then(0.5).otherwise(pl.col("is_like").cast(pl.Float64))
    )
    raw = write(tmp_path / "raw", tables() | {"log_standard_4_22_to_5_08_pure": table}, suffix)
    line = 8 if suffix == ".csv" else 7
    with pytest.raises(ValueError, match=rf"hold 0 or 1 in column 'is_like', got 0\.5 in line {line}"):
        prepare("kuairand", raw, tmp_path / "log")


def test_damaged_parquet_and_options_are_refused(tmp_path):
    raw = write(tmp_path / "raw", tables(), ".parquet")
    with pytest.raises(ValueError, match="history must be 0 or more ids, got -2"):
        prepare("kuairand", raw, tmp_path / "log", history=-2)
    with pytest.raises(ValueError, match=r"must hold video_features_statistic_\*"):
        prepare("kuairand", raw, tmp_path / "log", with_statistics=True)
    file = raw / "log_standard_4_22_to_5_08_pure.parquet"
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"_pure\.parquet' cannot be read to its end"):
        prepare("kuairand", raw, tmp_path / "log")


@pytest.mark.slow
@pytest.mark.skipif(not REAL.is_dir(), reason="the real log is not here (set EQUIPOISE_DATA)")
def test_published_days(tmp_path):
    log = prepare("kuairand", REAL, tmp_path / "log")
    assert {n: len(s) for n, s in log.splits.items()} == {"train": 171671, "valid": 13390, "test": 13834}
    assert log.split("test").labels("is_like")[0].sum() == 218
    for task, rate in (("is_click", 0.44), ("long_view", 0.31), ("is_like", 0.017)):
        assert log.split("train").labels(task)[0].mean() == pytest.approx(rate, abs=0.005)
    assert log.manifest["notes"]["duplicates"] / 198895 == pytest.approx(0.025, abs=5e-4)  # PROVENANCE.md
