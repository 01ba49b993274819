"""MovieLens-1M: `::` files in Latin-1, split by time, rating and like."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from equipoise.data import movielens, prepare

FILMS = {
    1: "Misérables, Les (1998)::Drama|Musical",
    2: "Heat: One::Action",
    5: "Toy Story (1995)::Animation|Drama",
}


def content() -> dict[str, list[str]]:
    """100 ratings of 10 users and 3 films, written newest first."""
    ratings = [
        f"{1 + i % 10}::{(1, 2, 5)[i % 3]}::{1 + i % 5}::{956_700_000 + 3600 * i}"
        for i in reversed(range(100))
    ]
    users = [f"{u}::{'FM'[u % 2]}::{25 if u % 3 else 56}::{u % 4}::0{u}067-77" for u in range(1, 11)]
    return {
        "ratings": ratings,
        "users": users,
        "movies": [f"{k}::{v}" for k, v in FILMS.items() if k != 2] + ["2::Heat: One (1995)::Action"],
    }


def write(folder: Path, files: dict[str, list[str]]) -> Path:
    folder.mkdir(parents=True)
    for name, lines in files.items():
        (folder / f"{name}.dat").write_bytes("".join(line + "\n" for line in lines).encode("latin-1"))
    return folder


def test_raw_files_become_batches_split_by_time(tmp_path: Path) -> None:
    log = prepare("movielens", write(tmp_path / "raw", content()), tmp_path / "log")
    assert {name: len(split) for name, split in log.splits.items()} == {"train": 80, "valid": 10, "test": 10}
    assert log.split("train").time_range()[1] < log.split("valid").time_range()[0]
    assert log.split("valid").time_range()[1] < log.split("test").time_range()[0]
    i = np.arange(99, 89, -1)
    assert log.split("test").labels("rating")[0].tolist() == (1 + i % 5).tolist()
    assert log.split("test").labels("like")[0].tolist() == (1 + i % 5 >= 4).tolist()
    batch = next(iter(log.split("test").batches(100)))
    names = [f.name for f in log.schema.categorical]

    def words(name: str) -> list[str | None]:
        known = dict(enumerate(pl.read_parquet(log.path / "vocabulary" / f"{name}.parquet")["value"], 1))
        return [known.get(k) for k in batch.ids[:, names.index(name)].tolist()]

    assert words("user_id") == [str(1 + k % 10) for k in i]
    assert words("movie_id") == [str((1, 2, 5)[k % 3]) for k in i]
    assert words("gender") == ["FM"[(1 + k % 10) % 2] for k in i] and words("zip")[0] == "010067-77"
    assert np.diff(batch.multi["genres"].offsets.numpy()).tolist() == [[2, 1, 2][k % 3] for k in i]
    assert len(set(batch.numerical[:, 0].tolist())) == 2  # 1998, and 1995 twice
    assert log.manifest["notes"]["missing_numbers"]["test"] == {}


def test_a_film_without_a_year_is_the_mean_and_said(tmp_path: Path) -> None:
    files = content()
    files["movies"][-1] = "2::Heat: One::Action"
    log = prepare("movielens", write(tmp_path / "raw", files), tmp_path / "log")
    assert any(line.startswith("year: missing") for line in log.manifest["notes"]["suspects"])


def test_what_is_published_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(tmp_path / "ml-1m", content())
    (tmp_path / "ml-1m.zip").write_bytes(b"archive")
    monkeypatch.setattr(movielens, "ROWS", movielens.ROWS | {"users.dat": 10})
    notes = prepare("movielens", folder, tmp_path / "log").manifest["notes"]
    assert "users.dat: 10, as GroupLens documents" in notes["published"]
    found = hashlib.md5(b"archive").hexdigest()
    assert (
        f"ml-1m.zip: MD5 {found}, GroupLens documents c4d9eecfca2ab87c1945afe126590906; load it again"
        in notes["suspects"]
    )
    assert (
        "ratings.dat: 100, GroupLens documents 1,000,209; a sample or another release?" in notes["suspects"]
    )


def put(name: str, line: int, text: str):
    return lambda files: files[name].__setitem__(line, text)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: f.pop("users"), r"must hold .* users\.dat is missing"),
        (put("ratings", 4, "1::2::3"), r"ratings.dat' must have 4 fields between '::', got 3 in line 5"),
        (put("movies", 1, "5::Toy::Story::Drama"), r"movies.dat' must have 3 fields .* got 4 in line 2"),
        (put("ratings", 4, "1::2::6::956700000"), "must hold 1 to 5 in column 'rating', got 6 in line 5"),
        (put("ratings", 4, "1::2::good::956700000"), "an integer in column 'rating', got 'good' in line 5"),
        (put("ratings", 4, "11::2::3::956700000"), r"a user_id of users.dat, 11 in line 5 has no row there"),
        (put("ratings", 4, "1::7::3::956700000"), r"a movie_id of movies.dat, 7 in line 5 has no row there"),
        (
            put("users", 4, "1::F::25::1::x"),
            r"users.dat' must have one row a user_id, 1 in line 1 has several",
        ),
        (lambda f: f["ratings"].clear(), r"ratings.dat' must have rows, it is empty"),
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, damage, message: str) -> None:
    files = content()
    damage(files)
    with pytest.raises(ValueError, match=message):
        prepare("movielens", write(tmp_path / "raw", files), tmp_path / "log")
    assert not (tmp_path / "log").exists()
