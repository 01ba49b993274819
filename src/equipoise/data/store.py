"""The prepared log: a folder of memory-mapped arrays, whose manifest is written last. No manifest, no log."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np

from equipoise.data.batches import Batch, batches
from equipoise.data.schema import Schema

FORMAT = 1
SPLITS = ("train", "valid", "test")
Array = np.ndarray[Any, Any]


class Split:
    """One split of a log: memory maps, opened when first read."""

    def __init__(self, path: Path, schema: Schema, files: Mapping[str, int]) -> None:
        self.path, self.schema = path, schema
        self.arrays: dict[str, Array] = {}
        for file in files:
            name = unquote(Path(file).stem)
            self.arrays[name] = np.load(path / file, mmap_mode="r", allow_pickle=False)

    def __len__(self) -> int:
        return len(self.arrays["row"])

    def batches(
        self,
        batch_size: int,
        *,
        shuffle: bool = False,
        seed: int = 0,
        epoch: int = 0,
        start: int = 0,
        drop_last: bool = False,
    ) -> Iterator[Batch]:
        """Yield batches; see `equipoise.data.batches.batches`."""
        names = [m.name for m in self.schema.multi]
        kept = {k: v for k, v in self.arrays.items() if k != "time"}
        return batches(
            kept,
            self.schema.tasks,
            names,
            batch_size,
            shuffle=shuffle,
            seed=seed,
            epoch=epoch,
            start=start,
            drop_last=drop_last,
        )

    def labels(self, task: str) -> tuple[Array, Array]:
        """Return (float32 [N], bool [N] known) of a task."""
        self.schema.label(task)
        t = self.schema.tasks.index(task)
        known = np.unpackbits(self.arrays["valid"][t], count=len(self)).astype(bool)
        return np.array(self.arrays["labels"][:, t]), known

    @property
    def group(self) -> Array | None:
        """int64 [N] group codes, None without a group."""
        return np.array(self.arrays["group"]) if "group" in self.arrays else None

    def truth(self, task: str) -> Array | None:
        """float32 [N] true probabilities of a simulated log, else None."""
        t = self.schema.tasks.index(task)
        return np.array(self.arrays["truth"][:, t]) if "truth" in self.arrays else None

    def time_range(self) -> tuple[int, int] | None:
        """First and last time in ms UTC, None without a time column."""
        if "time" not in self.arrays:
            return None
        return int(self.arrays["time"].min()), int(self.arrays["time"].max())


class _View(Split):
    """A split with some of its tasks, over the same memory maps."""

    def __init__(self, split: Split, schema: Schema) -> None:
        order = [split.schema.tasks.index(task) for task in schema.tasks]
        self.path, self.schema = split.path, schema
        self.arrays = dict(split.arrays)
        self.arrays["labels"] = split.arrays["labels"][:, order]
        self.arrays["valid"] = split.arrays["valid"][order]
        if "truth" in self.arrays:
            self.arrays["truth"] = split.arrays["truth"][:, order]


class Log:
    """A prepared log: `schema`, `splits`, `fingerprint` (of contents), `manifest`."""

    def __init__(self, path: Path, manifest: dict[str, Any]) -> None:
        self.path, self.manifest = path, manifest
        self.schema = Schema.read(manifest["schema"])
        self.fingerprint: str = manifest["fingerprint"]
        self.splits = {
            name: Split(path / name, self.schema, files) for name, files in manifest["files"].items()
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
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(
                f"manifest of log {str(path)!r} is not readable JSON ({error}); prepare it again"
            ) from None
        form = manifest.get("format") if isinstance(manifest, dict) else None
        if form != FORMAT:
            raise ValueError(f"log {str(path)!r} has format {form!r}, this version reads {FORMAT}")
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
        return cls(path, manifest)

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
                values, known = split.labels(label.name)
                seen = values[known]
                entry: dict[str, Any] = {"kind": label.kind, "missing_rate": float(1 - known.mean())}
                if label.kind == "binary":
                    entry |= {
                        "positives": int(np.count_nonzero(seen)),
                        "positive_rate": float(seen.mean()) if len(seen) else None,
                    }
                else:
                    exact = seen.astype(np.float64)
                    entry |= {
                        "mean": float(exact.mean()) if len(exact) else None,
                        "std": float(exact.std()) if len(exact) else None,
                    }
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
