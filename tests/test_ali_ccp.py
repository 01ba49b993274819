"""Ali-CCP: skeleton and common features joined by key, single and multi-valued fields, users held out for validation."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from equipoise.data import prepare
from equipoise.data.ali_ccp import HISTORY, ITEM_FIELDS, ITEM_LISTS, USER_FIELDS, schema

KEYS = {"train": 40, "test": 6}
Files = dict[str, list[list[str]]]


def features(pairs: list[tuple[str, str]], value: str = "1.0") -> str:
    return "\x01".join(f"{field}\x02{feature}\x03{value}" for field, feature in pairs)


def common_line(split: str, k: int) -> list[str]:
    """A user and context: field 101 the user (two keys each), a feature a field, behaviour with counts."""
    pairs = [("101", f"u{k // 2}" if split == "train" else f"t{k}"), ("121", str(k % 3)), ("129", "5")]
    history = [("109_14", str(k + i)) for i in range(3)] + [("150_14", "77")]
    return [
        f"key-{split}-{k}",
        str(len(pairs + history)),
        features(pairs) + "\x01" + features(history, "2.3"),
    ]


def sample_line(split: str, k: int, i: int) -> list[str]:
    """An impression: item, its lists, labels from k and i."""
    pairs = [("205", f"item{(k + i) % 4}"), ("206", str(i)), ("301", "9")]
    pairs += [("210", str(v)) for v in range(k % 3)] + [("853", "4")]
    click = int((k + i) % 2 == 0)
    return [
        str(1000 * k + i),
        str(click),
        str(int(click and i == 1)),
        f"key-{split}-{k}",
        str(len(pairs)),
        features(pairs),
    ]


def content() -> Files:
    found: Files = {}
    for split, keys in KEYS.items():
        found[f"common_features_{split}"] = [common_line(split, k) for k in reversed(range(keys))]
        found[f"sample_skeleton_{split}"] = [sample_line(split, k, i) for k in range(keys) for i in range(2)]
    return found


def write(folder: Path, files: Files) -> Path:
    folder.mkdir(parents=True)
    for name, lines in files.items():
        (folder / f"{name}.csv").write_bytes(b"".join(",".join(line).encode() + b"\n" for line in lines))
    return folder


def words(log, split: str, name: str) -> list[str | None]:
    known = dict(enumerate(pl.read_parquet(log.path / "vocabulary" / f"{name}.parquet")["value"], 1))
    batch = next(iter(log.split(split).batches(1000)))
    if name in batch.multi:
        values, offsets = batch.multi[name].values.tolist(), batch.multi[name].offsets.tolist()
        return [[known.get(v) for v in values[a:b]] for a, b in itertools.pairwise(offsets)]
    return [known.get(i) for i in batch.ids[:, [f.name for f in log.schema.categorical].index(name)].tolist()]


def users_of(log, split: str) -> list[str]:
    names = dict(pl.read_parquet(log.path / "groups.parquet").iter_rows())
    return [names[g] for g in log.split(split).group]


def test_fields_are_features_once_and_values_of_behaviour_only_on_request() -> None:
    names = [f.name for f in schema().features]
    assert names == [*USER_FIELDS, *ITEM_FIELDS, *ITEM_LISTS] and len(names) == 19
    assert [f.name for f in schema(5).multi] == [*ITEM_LISTS, *HISTORY]
    assert schema().tasks == ["click", "purchase"] and schema().group == "101"


def test_raw_files_become_batches(tmp_path: Path) -> None:
    log = prepare("ali_ccp", write(tmp_path / "raw", content()), tmp_path / "log", history=2)
    sizes = {name: len(split) for name, split in log.splits.items()}
    assert sizes["test"] == 12 and sizes["train"] + sizes["valid"] == 80 and sizes["valid"] >= 4
    users = {split: users_of(log, split) for split in log.splits}
    assert not set(users["train"]) & set(users["valid"])
    wanted = [(k, i) for k in range(6) for i in range(2)]
    assert users["test"] == [f"t{k}" for k, _ in wanted]  # rows keep the order of the skeleton
    click, known = log.split("test").labels("click")
    assert known.all() and click.tolist() == [float((k + i) % 2 == 0) for k, i in wanted]
    assert log.split("test").labels("purchase")[0].tolist() == [
        float((k + i) % 2 == 0 and i == 1) for k, i in wanted
    ]
    assert words(log, "test", "205") == [f"item{(k + i) % 4}" for k, i in wanted]
    assert words(log, "test", "121") == [str(k % 3) for k, _ in wanted]  # joined by key
    assert words(log, "test", "122") == [None] * 12  # a field that no row has
    assert words(log, "test", "101") == [None] * 12  # users of training only are known
    assert words(log, "test", "210") == [[str(v) for v in range(k % 3)] for k, _ in wanted]
    known_history = set(pl.read_parquet(log.path / "vocabulary" / "109_14.parquet")["value"])
    assert words(log, "test", "109_14") == [
        [v if v in known_history else None for v in (str(k), str(k + 1))] for k, _ in wanted
    ]  # the first two of three
    assert "101" not in {f.name for f in log.schema.multi}


def test_what_is_published_is_reported(tmp_path: Path) -> None:
    files = content()
    files["sample_skeleton_test"][3][4] = "99"
    files["sample_skeleton_train"][1][1:3] = ["0", "1"]
    notes = prepare("ali_ccp", write(tmp_path / "raw", files), tmp_path / "log").manifest["notes"]
    assert (
        "train rows: 80, public code for Ali-CCP documents 42,300,135; a sample or another release?"
        in notes["suspects"]
    )
    assert (
        "sample_skeleton_test.csv: 1 lines declare another number of features than they hold"
        in notes["suspects"]
    )
    assert any("purchase: positive in 1 rows where 'click' is 0" in line for line in notes["suspects"])


def test_the_seed_draws_the_users_and_nothing_is_left_beside(tmp_path: Path) -> None:
    folder = write(tmp_path / "raw", content())
    logs = [prepare("ali_ccp", folder, tmp_path / "logs" / str(i), seed=s) for i, s in enumerate((0, 0, 1))]
    assert logs[0].fingerprint == logs[1].fingerprint
    assert set(users_of(logs[0], "valid")) != set(users_of(logs[2], "valid"))
    assert sorted(p.name for p in (tmp_path / "logs").iterdir()) == ["0", "1", "2"]
    assert np.unique(users_of(logs[0], "valid"), return_counts=True)[1].tolist().count(4) == len(
        set(users_of(logs[0], "valid"))
    )


def put(name: str, line: int, column: int, value: str):
    return lambda files: files[name][line].__setitem__(column, value)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: f.pop("common_features_test"), r"must hold .* common_features_test\.csv is missing"),
        (
            lambda f: f["sample_skeleton_train"][4].pop(),
            r"skeleton_train.csv' must have 6 columns, got 5 in line 5",
        ),
        (
            lambda f: f["common_features_train"][4].append("1"),
            r"features_train.csv' must have 3 columns, got 4 in line 5",
        ),
        (put("sample_skeleton_train", 6, 1, "2"), r"one of \[0, 1\] in column 'click', got 2 in line 7"),
        (put("sample_skeleton_test", 6, 2, "yes"), r"an integer in column 'purchase', got 'yes' in line 7"),
        (
            put("sample_skeleton_train", 6, 3, "gone"),
            r"keys of common_features_train.csv, 'gone' in line 7 .*\(1 rows",
        ),
        (
            put("common_features_train", 3, 0, "key-train-0"),
            r"one row a key, 'key-train-0' in line 4 has several",
        ),
        (put("sample_skeleton_train", 2, 5, "205\x02item1"), r"in column 'features', it does not in line 3"),
        (
            put("common_features_test", 2, 2, ""),
            r"common_features_test.csv' must hold features .* not in line 3",
        ),
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, damage, message: str) -> None:
    files = content()
    damage(files)
    with pytest.raises(ValueError, match=message):
        prepare("ali_ccp", write(tmp_path / "raw", files), tmp_path / "log")
    assert [p.name for p in tmp_path.iterdir()] == ["raw"]


def test_history_is_not_negative(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="history must be 0 or more ids, got -1"):
        prepare("ali_ccp", tmp_path, tmp_path / "log", history=-1)
