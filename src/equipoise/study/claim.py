"""A study's folder: the plan that it holds, and starting again there so that a kill at any point leaves the old study or the new one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from equipoise.config import write_text


def held(out: Path, name: str, plan: Mapping[str, Any], kind: str) -> dict[str, Any] | None:
    """Return the plan in a study's folder, None where there is nothing yet. A study that a killed process had set aside is put back first.

    Args:
        name: of the plan's file. plan: one of this kind, in JSON's types, by which a stranger's file is told. kind: in words, "comparison".

    Raises:
        ValueError: `out` holds something else.
    """
    earlier = _earlier(out)
    if _is_free(out, name):
        if not earlier.is_dir():
            return None
        shutil.rmtree(out, ignore_errors=True)
        earlier.rename(out.resolve())
    file = out / name
    if not file.is_file():
        raise ValueError(
            f"out {str(out)!r} exists and is no {kind}, so it is not touched; choose another folder"
        )
    try:
        there = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:  # no JSON, or no text
        there = None
    if not isinstance(there, dict) or not _is_like(there, plan):
        raise ValueError(
            f"out {str(out)!r} is no {kind}: its {name} is something else or damaged, so it is not touched; choose another folder"
        )
    return there


def begin(out: Path, name: str, plan: Mapping[str, Any]) -> None:
    """Write the plan into the folder, then delete what was set aside."""
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / name, json.dumps(plan, indent=1) + "\n")
    shutil.rmtree(_earlier(out), ignore_errors=True)


def set_aside(out: Path, data: str | Path) -> None:
    """Rename a study's folder, so that another can begin there; `begin` deletes it.

    Raises:
        ValueError: the data, or the folder one works in, is in it.
    """
    for path, what in ((Path(data), f"the data {str(data)!r}"), (Path.cwd(), "the folder you are in")):
        if path.resolve().is_relative_to(out.resolve()):
            raise ValueError(f"out {str(out)!r} holds {what}, so it is not replaced; choose another folder")
    shutil.rmtree(_earlier(out), ignore_errors=True)
    out.resolve().rename(_earlier(out))


def _earlier(out: Path) -> Path:
    whole = out.resolve()
    return whole.parent / f".{whole.name}.earlier"


def _is_free(out: Path, name: str) -> bool:
    """Whether a folder is missing, or empty but for a half-written plan."""
    return not out.exists() or (out.is_dir() and all(p.name == f".{name}.new" for p in out.iterdir()))


def _is_like(there: Mapping[str, Any], plan: Mapping[str, Any]) -> bool:
    """Whether most of what a plan holds is there, in the same form; a plan of an earlier version lacks little."""
    both = [key for key in plan if key in there]
    formed = [key for key in both if isinstance(plan[key], dict | list)]
    return 2 * len(both) > len(plan) and all(type(there[key]) is type(plan[key]) for key in formed)
