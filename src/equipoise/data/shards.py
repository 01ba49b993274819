"""Shards of a split: folders of arrays that are written a chunk at a time, and read as memory maps."""

from __future__ import annotations

import contextlib
import hashlib
import tokenize
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote, unquote

import numpy as np

Array = np.ndarray[Any, Any]
Arrays = Mapping[str, Array]
SHARD = 2**21
"""Rows of a shard at most; a multiple of the blocks that batches are read in."""
HEADER = 256
"""Bytes of an array's header: room for any number of rows, so that it can be written before they are counted."""


class ShardWriter:
    """Writes the rows of one split as shards of at most `SHARD` rows, and knows each file's size and SHA-256.

    Args:
        folder: of the log. name: of the first shard; the others are `name-1`, `name-2`, ...
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name = folder, name
        self.shards: list[dict[str, Any]] = []
        self.digests: dict[str, str] = {}
        self._open: _Shard | None = None

    def append(self, arrays: Arrays) -> None:
        """Add rows; `arrays` are those of `Encoder.encode`."""
        rows, at = len(arrays["labels"]), 0
        while at < rows:
            if self._open is None:
                number = len(self.shards)
                self._open = _Shard(self.folder / (f"{self.name}-{number}" if number else self.name))
            end = min(rows, at + SHARD - self._open.rows)
            self._open.append(arrays, at, end)
            at = end
            if self._open.rows == SHARD:
                self.close()

    def close(self) -> None:
        """End the shard that is being written."""
        if self._open is not None:
            found = self._open.close()
            self.digests |= {f"{self._open.path.name}/{file}": digest for file, (_, digest) in found.items()}
            files = {file: size for file, (size, _) in found.items()}
            entry = {"name": self._open.path.name, "rows": self._open.rows, "files": files}
            if self._open.time is not None:
                entry["time"] = self._open.time
            self.shards.append(entry)
            self._open = None

    def abandon(self) -> None:
        """Close the files, after an error."""
        if self._open is not None:
            self._open.abandon()


class _Shard:
    def __init__(self, path: Path) -> None:
        self.path, self.rows = path, 0
        self.time: list[int] | None = None
        self.files: dict[str, BinaryIO] = {}
        self.shapes: dict[str, tuple[np.dtype[Any], tuple[int, ...]]] = {}
        self.lengths: dict[str, int] = {}
        self.valid: list[Array] = []
        path.mkdir(parents=True)

    def append(self, arrays: Arrays, start: int, end: int) -> None:
        for name, array in arrays.items():
            if name.endswith(".offsets"):
                values = name.removesuffix(".offsets")
                before = self.lengths.get(f"{values}.values", 0)
                first, last = int(array[start]), int(array[end])
                cut = array[start : end + 1] - first + before
                self._write(name, cut if not self.rows else cut[1:])
                for part in (f"{values}.values", f"{values}.weights"):
                    if part in arrays:
                        self._write(part, arrays[part][first:last])
        for name, array in arrays.items():
            if name == "valid":
                self.valid.append(array[:, start:end])
            elif "." not in name:
                self._write(name, array[start:end])
        if "time" in arrays and end > start:
            times = arrays["time"][start:end]
            known = self.time or [int(times.min()), int(times.max())]
            self.time = [min(known[0], int(times.min())), max(known[1], int(times.max()))]
        self.rows += end - start

    def _write(self, name: str, array: Array) -> None:
        array = np.ascontiguousarray(array)
        if name not in self.files:
            self.files[name] = (self.path / f"{quote(name, safe='')}.npy").open("wb")
            self.files[name].write(bytes(HEADER))
            self.shapes[name] = (array.dtype, array.shape[1:])
        self.files[name].write(array.reshape(-1).view(np.uint8).data)
        self.lengths[name] = self.lengths.get(name, 0) + len(array)

    def close(self) -> dict[str, tuple[int, str]]:
        self._write("valid", np.packbits(np.concatenate(self.valid, axis=1), axis=1))
        found = {}
        for name, file in self.files.items():
            dtype, rest = self.shapes[name]
            file.seek(0)
            file.write(_header(dtype, (self.lengths[name], *rest)))
            file.close()
            path = Path(file.name)
            with path.open("rb") as whole:
                found[path.name] = (path.stat().st_size, hashlib.file_digest(whole, "sha256").hexdigest())
        return found

    def abandon(self) -> None:
        for file in self.files.values():
            with contextlib.suppress(OSError):  # what is still to be written cannot be, on a full disk
                file.close()


def _header(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    """Return a .npy header of `HEADER` bytes (format 1.0, which allows any padding with spaces)."""
    text = repr({"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape})
    body = text.encode("latin1").ljust(HEADER - 11) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(body).to_bytes(2, "little") + body


def read_shard(folder: Path, files: Sequence[str]) -> dict[str, Array]:
    """Return {name: memory map} of a shard's files."""
    return {unquote(Path(file).stem): _mapped(folder / file) for file in files}


def _mapped(file: Path) -> Array:
    """Return a memory map; ValueError for a file whose header was damaged, whatever numpy raises for it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an odd header is read as Python text, which may warn
            array = np.load(file, mmap_mode="r", allow_pickle=False)
    except (
        ValueError,
        TypeError,
        SyntaxError,
        KeyError,
        OverflowError,
        EOFError,
        MemoryError,
        tokenize.TokenError,
        RecursionError,
    ) as error:
        raise ValueError(f"{str(file)!r} is no array of a log ({error}); prepare the log again") from None
    if not isinstance(array, np.ndarray):
        raise ValueError(f"{str(file)!r} is no array of a log; prepare the log again")
    return array


class Joined(Mapping[str, Array]):
    """The arrays of several shards as if they were one: each is put together, in memory, when it is first asked for."""

    def __init__(self, parts: Sequence[Arrays]) -> None:
        self.parts = parts
        self._made: dict[str, Array] = {}

    def __iter__(self) -> Iterator[str]:
        return iter(self.parts[0])

    def __len__(self) -> int:
        return len(self.parts[0])

    def __getitem__(self, name: str) -> Array:
        if name not in self.parts[0]:
            raise KeyError(name)
        if name not in self._made:
            self._made[name] = self._join(name)
        return self._made[name]

    def _join(self, name: str) -> Array:
        pieces = [np.asarray(part[name]) for part in self.parts]
        if name == "valid":
            rows = [len(part["labels"]) for part in self.parts]
            bits = [np.unpackbits(p, axis=1, count=n) for p, n in zip(pieces, rows, strict=True)]
            return np.packbits(np.concatenate(bits, axis=1), axis=1)
        if name.endswith(".offsets"):
            lengths = np.concatenate([np.diff(piece) for piece in pieces])
            return np.concatenate([[0], np.cumsum(lengths)])
        return np.concatenate(pieces)
