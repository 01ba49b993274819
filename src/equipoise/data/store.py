"""The prepared log: a folder of memory-mapped arrays, whose manifest is written last. No manifest, no log."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import polars as pl

from equipoise.data.batches import Batch, batches
from equipoise.data.check import check_arrays, check_manifest, check_sizes, read_table
from equipoise.data.encoder import Spread
from equipoise.data.encoders import intervals
from equipoise.data.schema import Schema
from equipoise.data.shards import Joined, read_shard
from equipoise.data.sharing import table_of
from equipoise.names import nearest

FORMAT = 2
SPLITS = ("train", "valid", "test")
Array = np.ndarray[Any, Any]


class Split:
    """One split of a log: the memory maps of its shards."""

    def __init__(self, path: Path, schema: Schema, shards: Sequence[tuple[str, Mapping[str, int]]]) -> None:
        self.path, self.schema = path, schema
        self.parts: list[dict[str, Array]] = [read_shard(path / name, list(files)) for name, files in shards]

    @property
    def arrays(self) -> Mapping[str, Array]:
        """The arrays by name: memory maps of a split of one shard; of several, put together in memory when asked for."""
        return self.parts[0] if len(self.parts) == 1 else Joined(self.parts)

    def __len__(self) -> int:
        return sum(len(part["labels"]) for part in self.parts)

    def batches(
        self,
        batch_size: int,
        *,
        shuffle: bool = False,
        seed: int = 0,
        epoch: int = 0,
        start: int = 0,
        drop_last: bool = False,
        rank: int = 0,
        world_size: int = 1,
    ) -> Iterator[Batch]:
        """Yield batches; see `equipoise.data.batches.batches`."""
        return batches(
            self.parts,
            self.schema.tasks,
            [m.name for m in self.schema.multi],
            batch_size,
            shuffle=shuffle,
            seed=seed,
            epoch=epoch,
            start=start,
            drop_last=drop_last,
            rank=rank,
            world_size=world_size,
        )

    def labels(self, task: str) -> tuple[Array, Array]:
        """Return (float32 [N], bool [N] known) of a task."""
        self.schema.label(task)
        t = self.schema.tasks.index(task)
        values = [np.asarray(part["labels"][:, t]) for part in self.parts]
        known = [np.unpackbits(part["valid"][t], count=len(part["labels"])) for part in self.parts]
        return np.concatenate(values), np.concatenate(known).astype(bool)

    def rates(self, task: str) -> dict[str, Any]:
        """Return {"missing_rate", and "positives", "positive_rate" of a binary task or else "mean", "std"}, read a shard at a time.

        None without any known label.
        """
        label, t = self.schema.label(task), self.schema.tasks.index(task)
        known, total, spread = 0, 0.0, Spread()
        for part in self.parts:
            there = np.unpackbits(part["valid"][t], count=len(part["labels"])).astype(bool)
            seen = part["labels"][:, t][there].astype(np.float64)
            known, total = known + len(seen), total + float(seen.sum())
            spread.add(seen)
        missing = {"missing_rate": 1 - known / max(1, len(self))}
        if label.kind == "binary":
            return missing | {"positives": round(total), "positive_rate": total / known if known else None}
        mean, std = spread.found((0.0, 0.0))
        return missing | {"mean": mean if known else None, "std": std if known else None}

    @property
    def group(self) -> Array | None:
        """int64 [N] group codes, None without a group."""
        return self._column("group")

    def truth(self, task: str) -> Array | None:
        """float32 [N] true probabilities of a simulated log, else None."""
        if "truth" not in self.parts[0]:
            return None
        t = self.schema.tasks.index(task)
        return np.concatenate([np.asarray(part["truth"][:, t]) for part in self.parts])

    def _column(self, name: str) -> Array | None:
        if name not in self.parts[0]:
            return None
        return np.concatenate([np.asarray(part[name]) for part in self.parts])

    def time_range(self) -> tuple[int, int] | None:
        """First and last time in ms UTC, None without a time column."""
        if "time" not in self.parts[0]:
            return None
        times = [part["time"] for part in self.parts]
        return min(int(t.min()) for t in times), max(int(t.max()) for t in times)


class _View(Split):
    """A split with some of its tasks, over the same memory maps."""

    def __init__(self, split: Split, schema: Schema) -> None:
        order = [split.schema.tasks.index(task) for task in schema.tasks]
        self.path, self.schema, self.parts = split.path, schema, []
        whole = order == list(range(len(split.schema.tasks)))
        for part in split.parts:
            own = dict(part)
            if not whole:  # copies, which a log larger than memory need not make for all of its tasks
                own["labels"] = part["labels"][:, order]
                own["valid"] = part["valid"][order]
                if "weight" in own and own["weight"].ndim == 2:
                    own["weight"] = part["weight"][:, order]
                for name in {"truth", "seen"} & own.keys():
                    own[name] = part[name][:, order]
            self.parts.append(own)


class Log:
    """A prepared log: `schema`, `splits`, `fingerprint` (of contents), `manifest`."""

    def __init__(self, path: Path, manifest: dict[str, Any]) -> None:
        self.path, self.manifest = path, manifest
        self.schema = Schema.read(manifest["schema"])
        self.fingerprint: str = manifest["fingerprint"]
        files = manifest["files"]
        self.splits = {
            name: Split(path, self.schema, [(shard["name"], files[shard["name"]]) for shard in shards])
            for name, shards in manifest["splits"].items()
        }
        self._keep: Any = None

    @classmethod
    def open(cls, path: str | Path, *, verify: bool = False) -> Log:
        """Return the log in a folder.

        Args:
            verify: also compare every file's SHA-256 (reads all of it).

        Raises:
            ValueError: no folder, no manifest (not a log, or its writing was interrupted), another format version, a
                file that is missing, cut off, or under `verify` changed.
        """
        path = Path(path)
        file = path / "manifest.json"
        if not file.is_file():
            raise ValueError(
                f"log {str(path)!r} must be a folder with manifest.json, found none; make one with `equipoise prepare` or "
                "`equipoise simulate`"
            )
        try:
            manifest = json.loads(file.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:  # also a number of too many digits
            raise ValueError(
                f"manifest of log {str(path)!r} is not readable JSON ({error}); prepare it again"
            ) from None
        form = manifest.get("format") if isinstance(manifest, dict) else None
        if form != FORMAT:
            raise ValueError(
                f"log {str(path)!r} has format {form!r}, this version reads {FORMAT}; prepare it again"
            )
        check_manifest(manifest, path)
        sizes = {
            f"{split}/{name}": size for split, f in manifest["files"].items() for name, size in f.items()
        }
        for name, size in (sizes | manifest.get("tables", {})).items():
            part = path / name
            found = part.stat().st_size if part.is_file() else -1
            if found != size:
                state = (
                    f"has {found} bytes instead of {size}: cut off or changed" if found >= 0 else "is missing"
                )
                raise ValueError(f"log {str(path)!r}: {name} {state}; prepare the log again")
            if verify and _digest(part) != manifest["sha256"][name]:
                raise ValueError(
                    f"log {str(path)!r}: {name} does not match its checksum; prepare the log again"
                )
        log = cls(path, manifest)
        check_sizes(log.schema, path)
        for name, shards in manifest["splits"].items():
            for shard, arrays in zip(shards, log.splits[name].parts, strict=True):
                check_arrays(arrays, log.schema, path / shard["name"], shard.get("rows"))
        return log

    @property
    def vocabulary_version(self) -> int:
        """How often ids were added, from 1; an id keeps its row in every later version."""
        version: int = self.manifest["vocabulary_version"]
        return version

    def vocabulary(self, feature: str) -> pl.DataFrame:
        """Return {value: text, count} of a categorical or multi feature, a row an id: row i has id i + 1.

        Raises:
            ValueError: no such feature, or one without a vocabulary (numerical, hashed).
        """
        return self._vocabulary(feature).with_columns(pl.col("value").cast(pl.String))

    def _vocabulary(self, feature: str) -> pl.DataFrame:
        """Return `vocabulary` as it is stored: whole numbers where all values are."""
        key = next((table_of(f) for f in self.schema.with_table if f.name == feature), feature)
        file = f"vocabulary/{quote(key, safe='')}.parquet"
        if self.manifest["tables"].get(self._table(file)) is None:
            known = [f.name for f in self.schema.features if f.kind != "numerical"]
            raise ValueError(
                f"feature {feature!r} has no vocabulary in log {str(self.path)!r}{nearest(feature, known)}; hashed and numerical ones "
                "have none"
            )
        return read_table(self.path / self._table(file), ("value", "count"))

    def values(self, feature: str, ids: Array) -> pl.Series:
        """Return the original values, as text, of ids of a feature; null for 0, the unseen and missing ones.

        Of a number cut at quantiles: its interval, such as "(2.5, 7]".

        Raises:
            ValueError: as `vocabulary`; an id that is beyond it.
        """
        edges = self.manifest.get("edges", {}).get(feature)
        table = self._vocabulary(feature)["value"] if edges is None else intervals(edges)
        flat = np.asarray(ids).reshape(-1)
        if len(flat) and not 0 <= int(flat.min()) <= int(flat.max()) <= len(table):
            raise ValueError(
                f"ids of feature {feature!r} must be in 0 .. {len(table)}, got {flat.min()} to {flat.max()}"
            )
        rows = pl.Series(flat, dtype=pl.Int64) - 1
        return table.gather(rows.set(rows < 0, None)).cast(pl.String)

    def groups(self) -> pl.Series | None:
        """Return the original values of the group codes, row i of code i; None without a group."""
        file = self._table("groups.parquet")
        return read_table(self.path / file, ("value",))["value"] if file in self.manifest["tables"] else None

    def _table(self, file: str) -> str:
        """Return where a table of the newest vocabulary version lies in the log's folder."""
        return file if self.vocabulary_version == 1 else f"tables-{self.vocabulary_version}/{file}"

    def split(self, name: str) -> Split:
        """Return a split; ValueError for an unknown name."""
        if name not in self.splits:
            raise ValueError(f"split must be one of {list(self.splits)}, got {name!r}")
        return self.splits[name]

    def only(self, tasks: list[str]) -> Log:
        """Return the same log with these tasks only."""
        view = Log.__new__(Log)
        view.path, view.manifest, view.fingerprint, view._keep = (
            self.path,
            self.manifest,
            self.fingerprint,
            self._keep,
        )
        view.schema = self.schema.only(tasks)
        view.splits = {name: _View(split, view.schema) for name, split in self.splits.items()}
        return view

    def summary(self) -> dict[str, Any]:
        """Return what the log holds: {split: {"rows", "time", "unseen", "missing_numbers", "tasks": {task: {...}}}}.

        A binary task has "positives" and "positive_rate", any other "mean" and "std"; both "missing_rate".
        and with `given` "against_given", the rows that are positive without it. "unseen" is the mean share of rows whose
        id is row 0, over categorical features; "missing_numbers" counts null and NaN by feature. None without any label.
        """
        result: dict[str, Any] = {}
        notes = self.manifest["notes"]
        for name, split in self.splits.items():
            tasks: dict[str, Any] = {}
            for label in self.schema.labels:
                entry: dict[str, Any] = {"kind": label.kind, **split.rates(label.name)}
                if label.given is not None:
                    entry["against_given"] = notes["against_funnel"][name][label.name]
                tasks[label.name] = entry
            unseen = notes["unseen"][name]
            result[name] = {
                "rows": len(split),
                "time": split.time_range(),
                "unseen": float(np.mean(list(unseen.values()))) if unseen else 0.0,
                "missing_numbers": notes["missing_numbers"][name],
                "tasks": tasks,
            }
        return result


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
