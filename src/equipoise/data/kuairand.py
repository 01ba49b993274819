"""KuaiRand (Gao et al., CIKM 2022): logs of short videos, twelve signals an impression."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from equipoise.data.features import Categorical, Feature, Multi, Numerical
from equipoise.data.kuairand_files import check_ids, files_of, read_features, read_log, release_of
from equipoise.data.label import Label
from equipoise.data.published import Report
from equipoise.data.raw import beside, spill
from equipoise.data.schema import Schema
from equipoise.data.store import Log
from equipoise.data.table import read_table
from equipoise.data.tell import Tell, silent
from equipoise.data.write import write_log
from equipoise.names import nearest

LABELS = (
    "is_click",
    "long_view",
    "is_like",
    "is_follow",
    "is_comment",
    "is_forward",
    "is_hate",
    "is_profile_enter",
)
TIMES = {
    "watch_time": Label(name="watch_time", column="play_time_ms", kind="watch", duration="duration_ms"),
    "watch_quantile": Label(
        name="watch_quantile", column="play_time_ms", kind="watch", duration="duration_ms", way="d2q"
    ),
    "watch_log": Label(name="watch_log", column="play_time_ms", kind="regression", transform="log1p"),
}
"""Three ways to learn how long a video was played, in ms; off by default. Rows without a duration above 0 are masked."""
RARE_IDS = ("user_id", "video_id", "author_id", "music_id")
CATEGORICAL = (
    *RARE_IDS,
    "tab",
    "hour",
    "weekday",
    "user_active_degree",
    "is_lowactive_period",
    "is_live_streamer",
    "is_video_author",
    "follow_user_num_range",
    "fans_user_num_range",
    "friend_user_num_range",
    "register_days_range",
    *(f"onehot_feat{i}" for i in range(18)),
    "video_type",
    "upload_type",
    "music_type",
    "visible_status",
)
USER_COLUMNS = (
    "user_active_degree",
    "is_lowactive_period",
    "is_live_streamer",
    "is_video_author",
    "follow_user_num",
    "follow_user_num_range",
    "fans_user_num",
    "fans_user_num_range",
    "friend_user_num",
    "friend_user_num_range",
    "register_days",
    "register_days_range",
    *(f"onehot_feat{i}" for i in range(18)),
)
VIDEO_COLUMNS = (
    "author_id",
    "video_type",
    "upload_dt",
    "upload_type",
    "visible_status",
    "server_width",
    "server_height",
    "music_id",
    "music_type",
    "tag",
)
NUMERICAL = (
    "follow_user_num",
    "fans_user_num",
    "friend_user_num",
    "register_days",
    "duration_ms",
    "age_days",
    "server_width",
    "server_height",
)


RELEASES = {
    "pure": {"rows": 1_436_609, "users": 27_285, "videos": 7_583},
    "1k": {"rows": 11_713_045, "users": 1_000},
    "27k": {"rows": 322_278_385, "users": 27_285},
}
"""Rows of the standard-policy logs and of the feature tables, as the publisher documents them."""
ARCHIVES = {
    "KuaiRand-Pure.tar.gz": "0820331067a3784d9691136f772b35a7",
    "KuaiRand-1K.tar.gz": "6b0b9c8222d67fcd4c676218edca3f1f",
    "KuaiRand-27K.tar.gz": "3e3c799a24e2d23a4d2c757fbf9adf59",
}
AHEAD = (
    "video_*: statistics of the whole period, they look ahead of the impression (--with-statistics); leave them out of any "
    "figure to be compared"
)


def schema(
    tasks: Sequence[str] = ("is_click", "long_view", "is_like"),
    *,
    history: int = 0,
    statistics: Sequence[str] = (),
) -> Schema:
    """Return the default features, with a history and with columns of the video statistics, and these labels.

    Raises:
        ValueError: an unknown label.
    """
    known = (*LABELS, *TIMES)
    if unknown := [task for task in tasks if task not in known]:
        raise ValueError(
            f"tasks has {unknown[0]!r}, which KuaiRand does not have{nearest(unknown[0], known)}"
        )
    features: list[Feature] = [Categorical(name=c, min_count=3 if c in RARE_IDS else 2) for c in CATEGORICAL]
    features.append(Multi(name="tag"))
    if history:
        features.append(Multi(name="history", min_count=3))
    features += [Numerical(name=n, transform="log1p") for n in (*NUMERICAL, *statistics)]
    return Schema(
        features=tuple(features),
        labels=tuple(TIMES.get(t, Label(name=t)) for t in tasks),
        group="user_id",
        time="time_ms",
    )


def prepare(
    raw: str | Path,
    out: str | Path,
    *,
    tasks: Sequence[str] = ("is_click", "long_view", "is_like"),
    valid_date: int | None = None,
    test_date: int | None = None,
    history: int = 0,
    with_statistics: bool = False,
    overwrite: bool = False,
    tell: Tell = silent,
) -> Log:
    """Prepare KuaiRand-Pure, 1K or 27K: `log_standard_*`, `user_features_*`, `video_features_basic_*`, CSV or Parquet.

    All files of a kind are read, so logs and tables in parts too. Splits by `date`: test from `test_date` on (default the
    last day), valid from `valid_date` on (default the day before in the log), train before. Hour and weekday come from
    `time_ms` at UTC+8, since `hourmin` disagrees with it in 17 % of rows. What happens after the impression
    (`play_time_ms`, ...) is never a feature. Exact duplicates are kept and counted in the manifest.

    Args:
        raw: the folder, or the one above its `data`. tasks: labels, out of `LABELS` and `TIMES`.
        history: how many ids of videos the user clicked or watched long, and had stopped playing before the impression,
            are the feature `history`, oldest first; 0 for none. Rows of the folder only: the first days know little.
        with_statistics: `video_features_statistic_*` as features `video_*`. They sum up the whole period, the time
            after the impression too; a warning says so.

    Raises:
        ValueError: an unknown task, files of two releases, a file or column is missing, a ragged line, a word for a number,
            a split without a day, an id without a row in its feature table or with several.
    """
    if history < 0:
        raise ValueError(f"history must be 0 or more ids, got {history}")
    schema(tasks)
    files = {p: files_of(raw, p) for p in ("log_standard", "user_features", "video_features_basic")}
    if with_statistics:
        files["video_features_statistic"] = files_of(raw, "video_features_statistic")
    sources = [file for found in files.values() for file in found]
    release = release_of(sources)
    times = 40 if any(file.suffix == ".parquet" for file in sources) else 8
    with beside(out, sources, overwrite, times) as room:
        binary = [task for task in tasks if task in LABELS]
        tell(f"reading {len(files['log_standard'])} files of logs", 0, None)
        log = read_log(files["log_standard"], binary, history, room, times=len(binary) < len(tasks))
        tell("reading the features of users and videos", 0, None)
        users = read_features(files["user_features"], ["user_id", *USER_COLUMNS])
        videos = read_features(files["video_features_basic"], ["video_id", *VIDEO_COLUMNS])
        check_ids(log, users, "user_id", files["log_standard"])
        check_ids(log, videos, "video_id", files["log_standard"])
        report = Report("KuaiRand" + (f"-{release}" if release else ""))
        for what, found in (("rows", log), ("users", users), ("videos", videos)):
            report.count(what, found.height, RELEASES.get(release or "", {}).get(what))
        for place in {Path(raw), Path(raw).parent}:
            report.checksums(place, ARCHIVES)
        statistics: list[str] = []
        if with_statistics:
            videos, statistics = _with_statistics(videos, files["video_features_statistic"])
            report.suspects.append(AHEAD)
        days = sorted(log["date"].unique().to_list())
        valid_date, test_date = _dates(days, valid_date, test_date)
        frame = _features(log, users, videos, statistics)
        date = pl.col("date")
        cuts = {
            "train": date < valid_date,
            "valid": (date >= valid_date) & (date < test_date),
            "test": date >= test_date,
        }
        tell("joining features and cutting the splits", 0, log.height)
        parts = {name: spill(frame.filter(rows), room / name) for name, rows in cuts.items()}
        notes = {
            "duplicates": log.height - log["row_hash"].n_unique(),
            "valid_date": valid_date,
            "test_date": test_date,
            "history": history,
            "with_statistics": with_statistics,
        }
        described = schema(tasks, history=history, statistics=statistics)
        return write_log(out, parts, described, overwrite=overwrite, notes=notes | report.notes(), tell=tell)


def _features(
    log: pl.DataFrame, users: pl.DataFrame, videos: pl.DataFrame, statistics: Sequence[str]
) -> pl.LazyFrame:
    """Return the log's rows with all features, in the log's order, not computed yet."""
    local = pl.from_epoch(pl.col("time_ms"), time_unit="ms") + pl.duration(hours=8)
    uploaded = pl.col("upload_dt").cast(pl.String).str.slice(0, 10).str.to_date(strict=False)
    return (
        log.lazy()
        .join(users.lazy(), on="user_id", how="left", maintain_order="left")
        .join(videos.lazy(), on="video_id", how="left", maintain_order="left")
        .with_columns(hour=local.dt.hour(), weekday=local.dt.weekday())
        .with_columns(age_days=(local.dt.date() - uploaded).dt.total_days())
        # the age of a video whose upload day lies ahead too
        .with_columns(pl.col(n).cast(pl.Float64).clip(0, None) for n in (*NUMERICAL, *statistics))
    )


def _with_statistics(videos: pl.DataFrame, files: Sequence[Path]) -> tuple[pl.DataFrame, list[str]]:
    """Return the videos with their statistics as columns `video_*`, and the names of those."""
    table = pl.concat([read_table(file) for file in files], how="vertical_relaxed")
    if "video_id" not in table.columns:
        raise ValueError(f"raw {str(files[0])!r} must have the column 'video_id', it has not")
    if (twice := table.filter(pl.col("video_id").is_duplicated())).height:
        raise ValueError(f"video_id must have one row in its statistics, {twice['video_id'][0]} has several")
    numbers = [name for name in table.columns if name != "video_id" and table[name].dtype.is_numeric()]
    table = table.select("video_id", *(pl.col(name).alias(f"video_{name}") for name in numbers))
    return videos.join(table, on="video_id", how="left", maintain_order="left"), table.columns[1:]


def _dates(days: Sequence[int], valid_date: int | None, test_date: int | None) -> tuple[int, int]:
    """Return the first day of validation and of test; ValueError if a split would be without a day of the log."""
    if test_date is None:
        test_date = days[-1]
    if valid_date is None:
        valid_date = max((day for day in days if day < test_date), default=test_date)
    if not (days[0] < valid_date < test_date <= days[-1] and any(valid_date <= d < test_date for d in days)):
        raise ValueError(
            f"valid_date and test_date must leave each split a day of {days[0]} to {days[-1]} ({len(days)} days), got "
            f"{valid_date} and {test_date}"
        )
    return valid_date, test_date
