"""Tenrec's QK-video: labels, missing values, splits by user or as published, nothing from after the click."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from equipoise.data import prepare
from equipoise.data.tenrec import schema

HEADER = "user_id,item_id,click,follow,like,share,video_category,watching_times,gender,age"


def lines() -> list[list[str]]:
    """30 users of 5 rows."""
    found = []
    for row in range(150):
        user, i = divmod(row, 5)
        labels = [int(row % 2 == 0), int(row % 10 == 0), int(row % 3 == 0), int(row % 7 == 0)]
        category = "\\N" if row % 11 == 0 else str(row % 4)
        found.append(
            [
                str(10**15 + user),
                str(i),
                *map(str, labels),
                category,
                str(9 * labels[0]),
                str(user % 3),
                str(user % 8),
            ]
        )
    return found


def write(path: Path, rows: list[list[str]], header: str = HEADER) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([header, *(",".join(row) for row in rows)]) + "\n")
    return path


def users_of(log, split: str) -> list[str]:
    names = dict(pl.read_parquet(log.path / "groups.parquet").iter_rows())
    return [names[g] for g in log.split(split).group]


def test_features_hold_nothing_from_after_the_click() -> None:
    assert [f.name for f in schema().features] == ["item_id", "video_category", "gender", "age"]
    assert next(f.name for f in schema(split_by="row").features) == "user_id"
    assert schema().tasks == ["click", "follow", "like", "share"] and schema().group == "user_id"


def test_users_are_split_by_seed_and_labels_follow_their_rows(tmp_path: Path) -> None:
    write(tmp_path / "raw" / "QK-video.csv", lines())
    log = prepare("tenrec", tmp_path / "raw", tmp_path / "log")
    users = {name: users_of(log, name) for name in log.splits}
    assert sum(map(len, users.values())) == 150 and all(len(found) % 5 == 0 for found in users.values())
    assert not set(users["train"]) & set(users["valid"]) and not set(users["train"]) & set(users["test"])
    # each held-out user's rows come in order, so the raw lines of its labels are known
    rows = [5 * (int(u) - 10**15) + at % 5 for at, u in enumerate(users["test"])]
    assert log.split("test").labels("like")[0].tolist() == [float(r % 3 == 0) for r in rows]
    assert log.split("test").labels("share")[0].tolist() == [float(r % 7 == 0) for r in rows]
    batch = next(iter(log.split("test").batches(1000)))
    vocabulary = dict(
        enumerate(pl.read_parquet(log.path / "vocabulary" / "video_category.parquet")["value"], 1)
    )
    assert [vocabulary.get(i) for i in batch.ids[:, 1].tolist()] == [
        None if r % 11 == 0 else str(r % 4) for r in rows
    ]
    assert prepare("tenrec", tmp_path / "raw" / "QK-video.csv", tmp_path / "b").fingerprint == log.fingerprint
    assert users_of(prepare("tenrec", tmp_path / "raw", tmp_path / "c", seed=3), "test") != users["test"]


def test_the_published_split_is_by_row_and_says_so(tmp_path: Path) -> None:
    path = write(tmp_path / "ctr_data_1M.csv", [[*row, "7"] for row in lines()], HEADER + ",hist_1")
    log = prepare("tenrec", path, tmp_path / "log", split_by="row", tasks=["click", "like"])
    assert set(users_of(log, "train")) & set(users_of(log, "test"))
    assert "hist_1" not in {f.name for f in log.schema.features} and log.schema.tasks == ["click", "like"]
    notes = log.manifest["notes"]
    assert any("a user's rows lie in training and test" in line for line in notes["suspects"])
    assert (
        "rows: 150, public code for Tenrec documents 120,342,306; a sample or another release?"
        in notes["published"]
    )


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (lambda rows: rows[3].pop(), {}, "must have 10 columns, got 9 in line 5"),
        (lambda rows: rows[3].__setitem__(4, "3"), {}, r"one of \[0, 1\] in column 'like', got 3 in line 5"),
        (
            lambda rows: rows[3].__setitem__(2, "\\N"),
            {},
            r"one of \[0, 1\] in column 'click', got None in line 5",
        ),
        (lambda rows: rows[3].__setitem__(2, "a"), {}, "an integer in column 'click', got 'a' in line 5"),
        (lambda rows: None, {"tasks": ["clik"]}, "did you mean 'click'"),
        (lambda rows: None, {"split_by": "users"}, "did you mean 'user'"),
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, change, options, message: str) -> None:
    rows = lines()
    change(rows)
    path = write(tmp_path / "QK-video.csv", rows)
    with pytest.raises(ValueError, match=message):
        prepare("tenrec", path, tmp_path / "log", **options)
    assert [p.name for p in tmp_path.iterdir()] == ["QK-video.csv"]


def test_other_folders_and_headers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"must be or hold one of QK-video\.csv and ctr_data_1M\.csv, found none"
    ):
        prepare("tenrec", tmp_path, tmp_path / "log")
    write(tmp_path / "QK-video.csv", lines(), HEADER.replace("gender", "sex"))
    with pytest.raises(ValueError, match="must have the column 'gender' in its header"):
        prepare("tenrec", tmp_path, tmp_path / "log")
    write(tmp_path / "ctr_data_1M.csv", lines())
    with pytest.raises(ValueError, match=r"found \['QK-video.csv', 'ctr_data_1M.csv'\]"):
        prepare("tenrec", tmp_path, tmp_path / "log")
