"""A path, folder, pattern or remote path -> the files it means."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

CSV, PARQUET = (".csv", ".tsv", ".txt"), (".parquet", ".pq")


def _ours(name: str) -> bool:
    return name.lower().removesuffix(".gz").endswith((*CSV, *PARQUET)) and not Path(name).name.startswith(
        (".", "_")
    )


def local(raw: str) -> list[Path]:
    """Return the files of a path, folder or pattern, sorted by name; ValueError without one."""
    path = Path(raw)
    if path.is_file():
        return [path]
    if path.is_dir():
        files = sorted(p for p in path.iterdir() if p.is_file() and _ours(p.name))
        if not files:
            raise ValueError(f"data {raw!r} must hold .csv, .tsv or .parquet files, the folder has none")
        return files
    found = Path(path.anchor or ".").glob(str(path.relative_to(path.anchor))) if _glob(raw) else iter(())
    files = sorted(p for p in found if p.is_file())
    if not files:
        what = "no file fits the pattern" if _glob(raw) else "found neither"
        raise ValueError(f"data {raw!r} must be a file, a folder of files or a prepared log, {what}")
    return files


def _glob(raw: str) -> bool:
    return any(mark in raw for mark in "*?[")


def copied(raw: str, room: Path) -> list[tuple[Path, str]]:
    """Copy remote files into `room`; return (copy, remote name) of each."""
    import fsspec  # type: ignore[import-untyped]

    try:
        system, inside = fsspec.core.url_to_fs(raw)
        if _glob(raw):
            names = sorted(system.glob(inside))
        elif system.isdir(inside):
            names = sorted(name for name in system.ls(inside, detail=False) if _ours(str(name)))
        else:
            names = [inside] if system.exists(inside) else []
        if not names:
            raise ValueError(f"data {raw!r} must be a file, a folder or a pattern of files, found none")
        sizes = [int(system.size(name) or 0) for name in names]
        check_room(room, sum(sizes), f"copy {raw!r}")
        copies = []
        for number, name in enumerate(names):
            copy = room / f"{number}-{Path(name).name}"
            with system.open(name, "rb") as source, copy.open("wb") as out:
                shutil.copyfileobj(source, out, 2**22)
            copies.append((copy, str(system.unstrip_protocol(name))))
        return copies
    except ImportError as error:
        raise ValueError(
            f"data {raw!r} needs a package for that kind of path: {error}; install it, or copy the files here"
        ) from error
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise
        raise ValueError(f"data {raw!r} cannot be read: {error}") from error


class NoRoom(OSError):
    """Too little free disk, found before anything was written."""


def check_room(folder: Path, need: int, why: str) -> None:
    """Raise `NoRoom` unless the disk of a folder has that many bytes free."""
    free = shutil.disk_usage(folder).free
    if free < need:
        raise NoRoom(
            errno.ENOSPC,
            f"the disk of {str(folder)!r} must have about {need / 2**30:.1f} GiB free to {why}, it has {free / 2**30:.1f}; "
            "choose another folder or free space",
        )
