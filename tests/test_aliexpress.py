"""AliExpress: the raw pairs and the joined form give the same log; every fault names its file, line and column."""

from __future__ import annotations

import errno
import hashlib
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from equipoise.data import prepare, raw
from equipoise.data.aliexpress import CATEGORICAL, NAMES, NUMERICAL, schema

PAGES = {"train": 30, "test": 8}


def page(split: str, k: int) -> str:
    return f"{split}-{k}"


def user_line(split: str, k: int) -> list[str]:
    """A page: user_1 the search id, user_2..8, 32 and 33 ids, the others numbers, one of them missing."""
    line = [page(split, k), *(str(k % (2 + i)) for i in range(7)), *(f"{k / (9 + i):.4f}" for i in range(23))]
    return [*line, f"u{k % 3}", "" if k == 2 else f"only-{split}"]


def item_line(split: str, k: int, rank: int) -> list[str]:
    """A product: item_1 the search id, seven ids among numbers, the label last: 0, 1, 2 in turn by rank."""
    line = [page(split, k), *(f"{i + rank / 10:.3f}" for i in range(2, 49)), str(rank % 3)]
    for column in (19, 34, 35, 36, 40, 41, 42):
        line[column - 1] = f"{(k + rank) % column}"
    return line


def content() -> dict[str, list[list[str]]]:
    """The four files of a country, three products a page, pages shuffled in the item file."""
    found: dict[str, list[list[str]]] = {}
    for split, pages in PAGES.items():
        order = np.random.default_rng(0).permutation(pages)
        found[f"nl_user_{split}"] = [user_line(split, k) for k in range(pages)]
        found[f"nl_item_{split}"] = [item_line(split, int(k), rank) for k in order for rank in range(3)]
    return found


def write(folder: Path, files: dict[str, list[list[str]]]) -> Path:
    folder.mkdir(parents=True)
    for name, lines in files.items():
        (folder / f"{name}.csv").write_text("".join(",".join(line) + "\n" for line in lines))
    return folder


def joined(files: dict[str, list[list[str]]]) -> dict[str, list[list[str]]]:
    """The widespread form: a header, search id, 16 ids, 63 numbers, click, conversion."""
    found = {}
    for split in PAGES:
        users = {line[0]: line for line in files[f"nl_user_{split}"]}
        lines = [["search_id", *CATEGORICAL, *NUMERICAL, "click", "conversion"]]
        for item in files[f"nl_item_{split}"]:
            both = {"user": users[item[0]], "item": item}
            values = {new: both[old[:4]][int(old[5:]) - 1] for old, new in NAMES.items()}
            label = int(item[-1])
            lines.append(
                [
                    item[0],
                    *(values[n] for n in CATEGORICAL + NUMERICAL),
                    str(int(label > 0)),
                    str(int(label == 2)),
                ]
            )
        found[split] = lines
    return found


def rows(log, split: str):
    return next(iter(log.split(split).batches(1000)))


def words(log, split: str, name: str) -> list[str | None]:
    column = [f.name for f in log.schema.categorical].index(name)
    known = dict(enumerate(pl.read_parquet(log.path / "vocabulary" / f"{name}.parquet")["value"], 1))
    return [known.get(i) for i in rows(log, split).ids[:, column].tolist()]


def pages_of(log, split: str) -> list[str]:
    names = dict(pl.read_parquet(log.path / "groups.parquet").iter_rows())
    return [names[g] for g in log.split(split).group]


def test_the_published_counts_of_columns() -> None:
    assert [len(schema().categorical), len(schema().numerical), schema().tasks] == [
        16,
        63,
        ["click", "conversion"],
    ]
    assert NAMES["user_2"] == "categorical_1" and NAMES["item_42"] == "categorical_16"
    assert NAMES["user_9"] == "numerical_1" and NAMES["item_2"] == "numerical_24"
    assert NAMES["item_48"] == "numerical_63" and not {"user_1", "item_1", "item_49"} & set(NAMES)


def test_pairs_become_batches(tmp_path: Path) -> None:
    files = content()
    log = prepare("aliexpress", write(tmp_path / "raw", files), tmp_path / "log")
    sizes = {name: len(split) for name, split in log.splits.items()}
    assert sizes["test"] == 24 and sizes["train"] + sizes["valid"] == 90 and sizes["valid"] >= 3
    pages = {split: pages_of(log, split) for split in log.splits}
    assert not set(pages["train"]) & set(pages["valid"]) and all(p.startswith("test-") for p in pages["test"])
    assert all(pages["train"].count(p) == 3 for p in pages["train"])  # a page is never cut in two
    wanted = files["nl_item_test"]
    assert pages["test"] == [line[0] for line in wanted]  # products keep the order of the item file
    batch = rows(log, "test")
    assert batch.labels["click"].tolist() == [float(line[-1] != "0") for line in wanted]
    assert batch.labels["conversion"].tolist() == [float(line[-1] == "2") for line in wanted]
    assert all(mask.all() for mask in batch.masks.values())
    # user_32 is categorical_8, item_19 categorical_10; user_33 is categorical_9, whose test word training never saw
    users = {line[0]: line for line in files["nl_user_test"]}
    assert words(log, "test", "categorical_8") == [users[line[0]][31] for line in wanted]
    known = set(pl.read_parquet(log.path / "vocabulary" / "categorical_10.parquet")["value"])
    assert words(log, "test", "categorical_10") == [
        line[18] if line[18] in known else None for line in wanted
    ]
    assert words(log, "test", "categorical_9") == [None] * 24


def test_numbers_are_standardised_on_training_rows(tmp_path: Path) -> None:
    files = content()
    log = prepare("aliexpress", write(tmp_path / "raw", files), tmp_path / "log")
    column = [f.name for f in log.schema.numerical].index("numerical_1")  # user_9
    users = {line[0]: line for s in PAGES for line in files[f"nl_user_{s}"]}
    raw_values = {
        s: np.array([float(users[p][8]) for p in pages_of(log, s)], np.float32) for s in ("train", "test")
    }
    mean, std = raw_values["train"].mean(dtype=np.float64), raw_values["train"].std(dtype=np.float64)
    found = rows(log, "test").numerical[:, column].numpy()
    assert np.allclose(found, (raw_values["test"] - mean) / std, atol=1e-5)  # float32 storage


def test_the_joined_form_gives_the_same_log(tmp_path: Path) -> None:
    files = content()
    logs = [
        prepare("aliexpress", write(tmp_path / "pairs", files), tmp_path / "a"),
        prepare("aliexpress", write(tmp_path / "joined", joined(files)), tmp_path / "b"),
    ]
    assert logs[0].fingerprint == logs[1].fingerprint
    assert logs[0].manifest["notes"]["country"] == "nl" and logs[1].manifest["notes"]["country"] is None
    other = prepare("aliexpress", tmp_path / "pairs", tmp_path / "c", seed=1)
    assert set(pages_of(other, "valid")) != set(pages_of(logs[0], "valid"))


def test_a_country_is_chosen(tmp_path: Path) -> None:
    files = content()
    both = files | {name.replace("nl_", "ES_"): lines[:60] for name, lines in files.items()}
    folder = write(tmp_path / "raw", both)
    with pytest.raises(ValueError, match=r"country must say which of \['es', 'nl'\]"):
        prepare("aliexpress", folder, tmp_path / "log")
    with pytest.raises(ValueError, match=r"country must be one of those in .* got 'fr'"):
        prepare("aliexpress", folder, tmp_path / "log", country="fr")
    assert len(prepare("aliexpress", folder, tmp_path / "log", country="NL").split("test")) == 24


def test_what_is_published_is_reported(tmp_path: Path) -> None:
    folder = write(tmp_path / "raw", content())
    (folder / "nl_item_train.zip").write_bytes(b"archive")
    (folder / "nl_user_train.zip").write_bytes(b"archive")
    digest = hashlib.md5(b"archive").hexdigest()
    (folder / "md5.txt").write_text(
        f"{digest}  nl_item_train.zip\n{'0' * 32}  nl_user_train.zip\nnot a line\n"
    )
    log = prepare("aliexpress", folder, tmp_path / "log")
    lines, suspects = log.manifest["notes"]["published"], log.manifest["notes"]["suspects"]
    assert "impressions: 114, AliExpress documents 17,700,000; a sample or another release?" in suspects
    assert f"nl_item_train.zip: MD5 {digest} as AliExpress documents" in lines
    assert any(line.startswith("nl_user_train.zip: MD5") and "load it again" in line for line in suspects)
    assert not any("nl_item_train.zip" in line for line in suspects)


def test_nothing_is_left_beside_the_log_and_a_taken_place_is_said_first(tmp_path: Path) -> None:
    prepare("aliexpress", write(tmp_path / "raw", content()), tmp_path / "out" / "log")
    (tmp_path / "raw" / "nl_item_train.csv").write_text("")
    with pytest.raises(ValueError, match="log' must not exist yet"):
        prepare("aliexpress", tmp_path / "raw", tmp_path / "out" / "log")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["log"]


def edit(name: str, line: int, column: int | None, value: str | None):
    """A change of one field (or of the whole line without a column; None takes it away)."""

    def change(files):
        target = files[name][line]
        if column is None:
            files[name][line] = target[:-1] if value is None else [*target, value]
        else:
            target[column - 1] = value or ""

    return change


def drop(name: str):
    return lambda files: files.pop(name)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (drop("nl_user_test"), r"must hold nl_user_train.csv and .* nl_user_test\.csv is missing"),
        (lambda files: files.clear(), r"must hold train.csv and test.csv, train\.csv is missing"),
        (edit("nl_item_train", 4, None, None), r"nl_item_train.csv' must have 49 columns, got 48 in line 5"),
        (edit("nl_user_train", 2, None, "1"), r"nl_user_train.csv' must have 33 columns, got 34 in line 3"),
        (edit("nl_item_train", 7, 49, "7"), r"one of \[0, 1, 2\] in column 'item_49', got 7 in line 8"),
        (edit("nl_item_test", 3, 49, ""), r"in column 'item_49', got None in line 4"),
        (edit("nl_item_train", 6, 1, "lost"), r"search id 'lost' in line 7 has no row there \(1 rows"),
        (edit("nl_item_train", 5, 3, "x"), r"must hold a number in column 'item_3', got 'x' in line 6"),
        (edit("nl_user_train", 5, 9, "y"), r"must hold a number in column 'user_9', got 'y' in line 6"),
        (edit("nl_item_test", 5, 49, "1.5"), r"an integer in column 'item_49', got '1\.5' in line 6"),
        (edit("nl_user_train", 5, 1, "train-4"), r"one row a page, search id 'train-4' has several"),
        (lambda files: files.update(nl_item_test=[]), r"nl_item_test.csv' must have rows, it is empty"),
    ],
)
def test_damaged_pairs_are_refused(tmp_path: Path, damage, message: str) -> None:
    files = content()
    damage(files)
    with pytest.raises(ValueError, match=message):
        prepare("aliexpress", write(tmp_path / "raw", files), tmp_path / "log")
    assert [p.name for p in tmp_path.iterdir()] == ["raw"]


def test_a_line_too_long_and_one_too_short_do_not_cancel(tmp_path: Path) -> None:
    files = content()
    files["nl_item_train"][3].append("1")
    files["nl_item_train"][9].pop()
    with pytest.raises(ValueError, match="got 50 in line 4"):
        prepare("aliexpress", write(tmp_path / "raw", files), tmp_path / "log")


def test_a_page_written_twice_does_no_harm(tmp_path: Path) -> None:
    files = content()
    files["nl_user_train"].append(files["nl_user_train"][3])
    logs = [
        prepare("aliexpress", write(tmp_path / n, f), tmp_path / f"{n}.log")
        for n, f in (("a", files), ("b", content()))
    ]
    assert logs[0].fingerprint == logs[1].fingerprint


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda lines: lines[0].__setitem__(3, "categorial_3"),
            r"'categorical_3' in its header.*did you mean 'categorial_3'",
        ),
        (lambda lines: lines[0].__setitem__(3, "click"), "'categorical_3' in its header"),
        (lambda lines: lines[0].__setitem__(-1, "click"), "'click' in its header, it has it twice"),
        (lambda lines: lines[4].__setitem__(-1, "2"), r"\[0, 1\] in column 'conversion', got 2 in line 5"),
        (lambda lines: lines[4].pop(), "must have 82 columns, got 81 in line 5"),
        (lambda lines: lines[2].__setitem__(20, "z"), "a number in column 'numerical_4', got 'z' in line 3"),
    ],
)
def test_damaged_joined_files_are_refused(tmp_path: Path, damage, message: str) -> None:
    files = joined(content())
    damage(files["train"])
    with pytest.raises(ValueError, match=message):
        prepare("aliexpress", write(tmp_path / "raw", files), tmp_path / "log")
    assert not (tmp_path / "log").exists()


def test_too_little_disk_is_said_before_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(tmp_path / "raw", content())
    monkeypatch.setattr(raw.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 10}))
    with pytest.raises(OSError, match="GiB free to prepare") as caught:
        prepare("aliexpress", folder, tmp_path / "log")
    assert caught.value.errno == errno.ENOSPC and [p.name for p in tmp_path.iterdir()] == ["raw"]
