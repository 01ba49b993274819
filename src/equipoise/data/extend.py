"""Tomorrow's table -> the same log, longer: ids keep their rows, new ids follow, scaling stays as it was."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from equipoise.data.encode import column_of, milliseconds, vocabulary
from equipoise.data.encoder import Encoder
from equipoise.data.encoders import plain_text
from equipoise.data.known import Sided, known_encoder, open_table, settled
from equipoise.data.refit import refitted, rescale
from equipoise.data.schema import Schema, SplitRule
from equipoise.data.sharing import table_of
from equipoise.data.source import Source
from equipoise.data.splits import Splitter
from equipoise.data.store import SPLITS, Log
from equipoise.data.tell import Tell, silent
from equipoise.data.write import (
    Groups,
    full,
    learned,
    make_manifest,
    vocabulary_digest,
    write_manifest,
    write_shards,
    write_tables,
)

DAY = 86_400_000
OWN = re.compile(
    r"(train|valid|test)(-v\d+)?(-refit)?(-\d+)?|tables-\d+|vocabulary|rare|groups\.parquet|new-manifest\.json"
)
"""Names that a log's folder holds; nothing else in it is ever removed."""


def extend(
    log: str | Path | Log,
    raw: str | Path | pl.DataFrame | Source,
    *,
    refit: bool = False,
    keep_days: float | None = None,
    tell: Tell = silent,
) -> Log:
    """Return the log in its folder, with the rows of a new table added in place.

    A value keeps its id for ever. Training rows are counted on over days, so a value that reaches `min_count` gets the next id; rows of
    before keep the ids that they were written with. Scaling (but for `refit`), quantile edges and label statistics stay the first day's.

    New rows are split by the schema's rule. Under "time" they are cut among themselves, and what was validation and test is training from
    now on, since it is the past. A known group stays on its side under a random split.

    New shards are written beside the old ones, then the manifest is replaced: after a crash the folder holds the log as it was, and what
    was left behind is removed by the next call.

    Args:
        log: the prepared log or its folder. raw: the new table, as `prepare_table` reads it.
        refit: learn the scaling of numbers again, over all training rows, and rewrite those of before to it; what had been cut at +-10
            stays what it was cut to. A run of the old scale cannot go on (`--from`): what its model read means something else now.
        keep_days: drop shards whose last row is more than so many days older than the newest row; ids are never dropped.
        tell: see `write_log`.

    Raises:
        ValueError: `refit` with a label of way d2q, a table that begins before the log's end under a split by time, a group on two sides, `keep_days` without time
            or <= 0 or that leaves a split empty, a simulated log with true probabilities, tables that are not the log's own, columns
            and values as `prepare_table` says.
        OSError: the disk is full, or another process is extending the log; the log is as it was.
    """
    before = log if isinstance(log, Log) else Log.open(log)
    before = Log.open(before.path)  # a view of some tasks, or one that was extended since
    _check_options(before, keep_days)
    with _alone(before.path):
        _sweep(before.path, before.manifest)
        try:
            return _extend(before, open_table(before, raw, tell), keep_days, refit, tell)
        except OSError as error:
            raise full(error, before.path) from error
        finally:
            _sweep(before.path, json.loads((before.path / "manifest.json").read_text(encoding="utf-8")))


def _check_options(log: Log, keep_days: float | None) -> None:
    if keep_days is not None and (log.schema.time is None or not keep_days > 0):
        raise ValueError(
            f"keep_days must be > 0 and needs a time column, got {keep_days} and time={log.schema.time!r}"
        )
    if "like" in log.manifest:
        raise ValueError(
            f"log {str(log.path)!r} was made with --like, for scoring; extend the log it is like"
        )
    if "truth" in log.split("train").parts[0]:
        raise ValueError(
            f"log {str(log.path)!r} is simulated and holds true probabilities, which no table has; it cannot be extended"
        )


def _extend(log: Log, source: Source, keep_days: float | None, refit: bool, tell: Tell) -> Log:
    schema = log.schema
    rows = settled(log, source, _splitter(log, source), tell)
    encoder = known_encoder(log)

    def training(what: str) -> Iterator[pl.DataFrame]:
        return (frame for name, frame in rows.pieces(what) if name == "train")

    _count_on(encoder, schema, training("counting ids"))
    if refit:
        moved = (schema.split or SplitRule()).by == "time"
        encoder.scaling = refitted(
            log, lambda: training("learning the scaling anew"), SPLITS if moved else ("train",)
        )
    version = log.vocabulary_version + 1
    groups = Groups(log.groups()) if schema.group is not None else None
    schema = schema.model_copy(update=learned(encoder))
    names = {name: f"{name}-v{version}" for name in SPLITS}
    new, digests = write_shards(
        log.path, names, lambda: rows.pieces("writing the log"), schema, encoder, None, groups
    )
    tables, of_tables = write_tables(log.path, f"tables-{version}/", encoder, groups)
    shards, said = _joined(log, new, version, keep_days)
    if refit:
        tell("writing the earlier shards in the new scale", 0, None)
        digests |= _rescaled(log, shards, encoder, version, said)
    kept = {shard["name"] for of in shards.values() for shard in of}
    held = {file: digest for file, digest in log.manifest["sha256"].items() if file.split("/")[0] in kept}
    digest = vocabulary_digest(encoder.vocab)
    lineage = [
        *log.manifest["lineage"],
        {"version": version, "digest": digest, "num_ids": encoder.num_ids},
    ]
    said = [*said, *encoder.remarks(), *_grown(log.schema.num_ids, encoder.num_ids)]
    said += rows.notes.get("suspects", [])
    notes = _notes(log, encoder, new, said, version, rows.notes)
    manifest = make_manifest(schema, shards, tables, held | digests | of_tables, encoder, notes, lineage)
    _recount(log.path, manifest, schema)
    write_manifest(log.path, manifest)
    return Log.open(log.path)


def _count_on(encoder: Encoder, schema: Schema, training: Iterable[pl.DataFrame]) -> None:
    """Add training rows to an encoder's counts, in place; values that reach min_count get the ids after the last one."""
    keyed = [f for f in schema.with_table if table_of(f) in encoder.vocab]
    known = {key: pl.concat([encoder.vocab[key], encoder.rare[key]]) for key in encoder.vocab}
    counting = schema.model_copy(update={"features": tuple(keyed), "labels": ()})
    counted = Encoder.fit(counting, lambda: training, known=known)
    for feature in keyed:
        key = table_of(feature)
        if key in known:
            total = pl.concat([counted.vocab[key], counted.rare[key]])
            found = vocabulary(total, feature, encoder.vocab[key])
            encoder.vocab[key], encoder.rare[key] = found
            del known[key]


@dataclasses.dataclass(frozen=True)
class _Sides:
    """A random split under which known groups stay where they are."""

    splitter: Splitter
    group: str
    known: pl.DataFrame

    def parts(self, chunk: pl.DataFrame, first: int) -> Iterator[tuple[str, pl.DataFrame]]:
        """Yield (split, its rows of a chunk)."""
        values = pl.DataFrame({"value": plain_text(column_of(chunk, self.group, "group"), "group")})
        side = values.join(self.known, on="value", how="left", nulls_equal=True, maintain_order="left")
        codes = side["side"].fill_null(-1).to_numpy()
        codes = np.where(codes < 0, self.splitter.codes(chunk, first), codes)
        for code, name in enumerate(SPLITS):
            if (codes == code).any():
                yield name, chunk.filter(pl.Series(codes == code))


@dataclasses.dataclass(frozen=True)
class _Later:
    """A draw of rows, numbered after those of the days before."""

    splitter: Splitter
    rows: int

    def parts(self, chunk: pl.DataFrame, first: int) -> Iterator[tuple[str, pl.DataFrame]]:
        """Yield (split, its rows of a chunk)."""
        yield from self.splitter.parts(chunk, self.rows + first)


def _splitter(log: Log, source: Source) -> Sided:
    """Return what parts the new rows.

    Raises:
        ValueError: under a split by time a table that begins before the log's end; under a random one a group that lies on two sides.
    """
    rule = log.schema.split or SplitRule()
    if rule.by == "column":
        return dataclasses.replace(Splitter.fit(log.schema, source), held=None)
    if rule.by == "time":
        assert log.schema.time is not None
        last = max(found[1] for split in log.splits.values() if (found := split.time_range()))
        first = min(
            int(milliseconds(column_of(chunk, log.schema.time, "time")).min())
            for chunk in source.chunks([log.schema.time])
        )
        if first < last:
            raise ValueError(
                f"{source.name} must begin at or after the log's last row, {_moment(last)}, since the log is split by time; its first row "
                f"is of {_moment(first)}; leave out the rows that the log has, or prepare both tables together"
            )
        return Splitter.fit(log.schema, source)
    splitter = Splitter(rule, log.schema, (rule.test, rule.test + rule.valid))
    group = log.schema.kept_together
    if group is None:
        return _Later(splitter, sum(len(split) for split in log.splits.values()))
    values = log.groups()
    assert values is not None
    side = np.full(len(values), -1, np.int64)
    for code, name in enumerate(SPLITS):
        for part in log.split(name).parts:
            held = np.unique(part["group"])
            twice = held[(side[held] >= 0) & (side[held] != code)]
            if len(twice):
                raise ValueError(
                    f"group {values[int(twice[0])]!r} lies in {SPLITS[side[twice[0]]]} and in {name}, so the log was not split by group, "
                    "and new rows cannot follow; prepare it with a schema that has a split column or a split by time"
                )
            side[held] = code
    known = pl.DataFrame({"value": values, "side": side}).filter(pl.col("side") >= 0)
    return _Sides(splitter, group, known)


def _moment(ms: int) -> str:
    return str(np.datetime64(ms, "ms")).removesuffix(".000") + " UTC"


def _joined(
    log: Log, new: Mapping[str, list[dict[str, Any]]], version: int, keep_days: float | None
) -> tuple[dict[str, list[dict[str, Any]]], list[str]]:
    """Return ({split: old and new shards}, what was done to the old ones)."""
    files = log.manifest["files"]
    shards: dict[str, list[dict[str, Any]]] = {name: [] for name in SPLITS}
    said = []
    moved = (log.schema.split or SplitRule()).by == "time"
    for name in SPLITS:
        for shard in log.manifest["splits"][name]:
            shards["train" if moved else name].append({**shard, "files": files[shard["name"]]})
    if moved:
        rows = sum(len(log.split(name)) for name in ("valid", "test"))
        said.append(f"{rows} rows that were validation and test are training now, since they are the past")
    for name in SPLITS:
        shards[name] += [{**shard, "vocabulary_version": version} for shard in new[name]]
    if keep_days is not None:
        newest = max(shard["time"][1] for of in shards.values() for shard in of)
        oldest, count = newest - keep_days * DAY, 0
        for name, of in shards.items():
            shards[name] = [shard for shard in of if shard["time"][1] >= oldest]
            count += sum(shard["rows"] for shard in of) - sum(shard["rows"] for shard in shards[name])
        said.append(
            f"{count} rows in shards that end before {_moment(int(oldest))} were dropped; their ids stay"
        )
    for name, of in shards.items():
        if not of:
            why = (
                "keep_days drops all of it; keep more days" if keep_days else "the new table has none for it"
            )
            raise ValueError(f"split {name!r} must have rows, got none: {why}")
    return shards, said


def _rescaled(
    log: Log, shards: Mapping[str, list[dict[str, Any]]], encoder: Encoder, version: int, said: list[str]
) -> dict[str, str]:
    """Write the old shards anew in the encoder's scale, in place of their entries; return {file: SHA-256}."""
    digests: dict[str, str] = {}
    count = cut = 0
    for name, of in shards.items():
        for shard in of:
            if shard["name"] in log.manifest["files"]:
                into = f"{name}-v{version}-refit-{count}"
                shard["files"], found, held = rescale(log, encoder.scaling, shard["name"], into)
                shard["name"], count, cut = into, count + 1, cut + held
                digests |= found
    said.append(f"numbers are standardised anew, on all training rows; {cut} of before had been cut at +-10")
    return digests


def _grown(old: Mapping[str, int], new: Mapping[str, int]) -> list[str]:
    """Return a line for each feature that has new ids."""
    return [f"{name}: {new[name] - old[name]} new ids" for name in new if new[name] > old.get(name, 0)]


def _notes(
    log: Log,
    encoder: Encoder,
    new: Mapping[str, list[dict[str, Any]]],
    said: list[str],
    version: int,
    settled_notes: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the log's notes, with missing numbers added up and what this day did."""
    notes = {**log.manifest["notes"]}
    moved = (log.schema.split or SplitRule()).by == "time"
    missing: dict[str, dict[str, int]] = {name: {} for name in SPLITS}
    for found, move in ((notes["missing_numbers"], moved), (encoder.notes["missing_numbers"], False)):
        for name, counts in found.items():
            into = missing["train" if move else name]
            for feature, count in counts.items():
                into[feature] = into.get(feature, 0) + count
    rows = {name: sum(shard["rows"] for shard in of) for name, of in new.items()}
    day = {"version": version, "rows": rows, "said": said}
    day |= {name: settled_notes[name] for name in ("late", "sampled") if name in settled_notes}
    return {**notes, "missing_numbers": missing, "extended": [*notes.get("extended", []), day]}


def _recount(folder: Path, manifest: dict[str, Any], schema: Schema) -> None:
    """Put what the shards hold into the notes, in place: shares of unseen ids, and rows against their funnel."""
    log = Log(folder, manifest)
    notes = manifest["notes"]
    notes["unseen"], notes["against_funnel"] = {}, {}
    for name, split in log.splits.items():
        zeros = sum((np.asarray(part["ids"]) == 0).sum(0) for part in split.parts)
        share = np.asarray(zeros, np.float64) / len(split)
        notes["unseen"][name] = {f.name: float(share[at]) for at, f in enumerate(schema.categorical)}
        against = {}
        for y in schema.labels:
            if y.given is not None:
                (value, known), (before, there) = split.labels(y.name), split.labels(y.given)
                against[y.name] = int(((value > 0) & known & there & (before == 0)).sum())
        notes["against_funnel"][name] = against


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the log's folder against another `extend`; the system lets go of it when this process ends, however it ends."""
    import fcntl  # Unix alone has it; the rest of the package does not need it

    with (folder / ".extending").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise OSError(f"log {str(folder)!r} is being extended by another process; wait for it") from error
        yield


def _sweep(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Remove shards and tables that the manifest does not name: of an interrupted call, of an older version, of days dropped."""
    named = {file.split("/")[0] for file in (*manifest["files"], *manifest["tables"])}
    for path in folder.iterdir():
        if OWN.fullmatch(path.name) and path.name not in named:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
