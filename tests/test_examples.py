"""The examples run as they stand, and learn."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("own_model.py", r"click ([\d.]+) -> ([\d.]+)"),
        ("plain_loop.py", "from the checkpoint to the same parameters: True"),
        ("lightning_module.py", r"click ([\d.]+) -> ([\d.]+)"),
    ],
)
def test_example(name, match):
    if name == "lightning_module.py":
        pytest.importorskip("lightning", reason="lightning is not installed")
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]),
    }
    command = [sys.executable, str(ROOT / "examples" / name)]
    found = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=environment)
    assert found.returncode == 0, found.stderr[-2000:]
    said = re.search(match, found.stdout)
    assert said is not None, found.stdout
    if said.groups():
        assert float(said[2]) < float(said[1])
