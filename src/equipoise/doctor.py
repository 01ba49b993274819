"""What this machine has: versions, devices, threads, compiler, and whether a step works here."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
from collections.abc import Sequence
from typing import Any

import torch

NEEDED = ("torch", "numpy", "polars", "pyarrow", "pydantic", "typer", "rich", "safetensors", "PyYAML")


def check() -> dict[str, Any]:
    """Return versions, devices and "problems", a list of sentences that is empty when all is well."""
    from equipoise import __version__

    versions = {name: _version(name) for name in NEEDED}
    problems = [
        f"{name} is not installed; pip install equipoise" for name, found in versions.items() if found is None
    ]
    compiler = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    problem = _step()
    if problem:
        problems.append(problem)
    return {
        "equipoise": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": versions,
        **{
            f"extra {extra}": {name: _version(name) for name in names}
            for extra, names in extras(_requirements()).items()
        },
        "cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "cuda": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "compiler": None if compiler is None else os.path.basename(compiler),  # noqa: PTH119
        "problems": problems,
    }


def extras(requirements: Sequence[str]) -> dict[str, list[str]]:
    """Return {extra: packages} of a package's requirements, in their order; those of no extra are left out.

    Example:
        >>> extras(["torch>=2.6", 'optuna>=4; extra == "tune"'])
        {'tune': ['optuna']}
    """
    found: dict[str, list[str]] = {}
    for line in requirements:
        name, extra = re.match(r"[\w.-]+", line), re.search(r"""extra\s*==\s*["']([\w.-]+)["']""", line)
        if name and extra:
            found.setdefault(extra[1], []).append(name[0])
    return found


def _requirements() -> list[str]:
    """Return what the installed package declares, nothing where it runs from a folder without being installed."""
    try:
        return importlib.metadata.requires("equipoise") or []
    except importlib.metadata.PackageNotFoundError:
        return []


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _step() -> str | None:
    """Return what is wrong with one PUB step whose result is known by hand, or None."""
    from equipoise.balancer import Balancer

    theta = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
    balancer = Balancer(torch.optim.SGD([theta], lr=0.5), "pub", shared=[theta])
    balancer.backward({"a": theta[0], "b": 2 * theta[1]})
    balancer.step()
    wanted = torch.tensor([3 - 1 / 3, 4 - 1 / 3])
    if torch.allclose(theta.detach(), wanted, atol=1e-6):
        return None
    return f"a PUB step gave {theta.tolist()} instead of {wanted.tolist()}"


def lines(found: dict[str, Any]) -> list[str]:
    """Return the findings of `check` as lines to read."""
    result = []
    for key, value in found.items():
        if isinstance(value, dict):
            value = "  ".join(f"{name} {version or 'MISSING'}" for name, version in value.items())
        elif isinstance(value, list):
            value = ", ".join(value)
        if key.startswith("extra ") and None in found[key].values():
            value += f"  (pip install 'equipoise[{key.removeprefix('extra ')}]')"
        if key != "problems":
            result.append(f"{key}: {value or 'none'}")
    return result + ([f"PROBLEM: {problem}" for problem in found["problems"]] or ["all is well"])
