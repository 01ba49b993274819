"""The benchmarks of the statistics run, and what they count holds: few false verdicts, coverage as claimed, power as computed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def run(script, *arguments):
    """The JSON object that the benchmark prints last."""
    command = [sys.executable, str(BENCHMARKS / script), *arguments]
    found = subprocess.run(command, capture_output=True, text=True, timeout=1800, check=False)
    assert found.returncode == 0, found.stderr[-2000:]
    return json.loads(found.stdout.strip().splitlines()[-1])


def test_error_rates_smoke():
    result = run("error_rates.py", "--tables", "20", "--logs", "2")["result"]
    assert result["equal: false better|all"]["of"] == 20
    assert result["log: interval covers|users, bootstrap"]["of"] == 2
    assert result["copies: primary declared, tuning part|all"]["of"] == 10
    assert result["groups: interval covers|02"]["of"] == 2


@pytest.mark.slow
def test_error_rates_hold():
    found = run("error_rates.py", "--tables", "10000", "--logs", "1000")
    result, alpha = found["result"], found["alpha"]

    def at_most(key, bound):
        cell = result[key]
        # four standard errors of the count: one of these bounds fails by chance in about 1e4 seeds
        assert cell["share"] < bound + 4 * (bound * (1 - bound) / cell["of"]) ** 0.5, (key, cell)

    for kind in ("equal", "luck", "apart"):
        at_most(f"{kind}: false better|all", alpha / 2)
        at_most(f"{kind}: any false better of 19, Holm|all", alpha)
        assert 0.94 < result[f"{kind}: interval covers|all"]["share"] < 0.96
    at_most("equal: better or worse|all", alpha)
    at_most("apart: false tie, each|all", alpha / 2)
    for name in ("rows, DeLong", "users, bootstrap"):
        at_most(f"log: better or worse|{name}", alpha)
    # the tuning part takes away more than half of what luck in tuning adds
    plain, with_part = (
        result[f"luck: declared, searches equal{name}|all"]["share"] for name in ("", ", tuning part")
    )
    assert with_part - alpha < (plain - alpha) / 2
    for what in ("primary declared", "any of 3 tasks declared, Holm"):
        plain, with_part = (result[f"copies: {what}{name}|all"]["share"] for name in ("", ", tuning part"))
        assert with_part - alpha < (plain - alpha) / 2, what


@pytest.mark.slow
def test_power_table_is_confirmed():
    assert run("power_table.py", "--draws", "3000")["worst"] < 0.03
