"""The house: names, versions, lazy loading, and nothing of anybody's machine in the files."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import equipoise
from equipoise import doctor

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
FOUND = subprocess.run(
    ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
).stdout.split("\n")
TEXTS = [ROOT / name for name in FOUND if name and not name.endswith((".png", ".parquet"))]


def test_the_version_is_the_same_everywhere() -> None:
    assert equipoise.__version__ == PROJECT["version"]
    for name in ("CHANGELOG.md", "CITATION.cff"):
        assert PROJECT["version"] in (ROOT / name).read_text(encoding="utf-8")


def test_every_public_name_loads_and_strangers_do_not() -> None:
    for name in equipoise.__all__:
        assert getattr(equipoise, name) is not None
    assert set(equipoise.__all__) <= set(dir(equipoise))
    with pytest.raises(AttributeError, match="no attribute 'Balancr'"):
        equipoise.Balancr  # noqa: B018


def test_importing_the_package_loads_no_torch_until_a_name_is_used() -> None:
    code = (
        "import sys, equipoise as eq; before = 'torch' in sys.modules; eq.Balancer;"
        "print(before, 'torch' in sys.modules, 'polars' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["False", "True", "False"]


@pytest.mark.skipif(not TEXTS, reason="not a git checkout")
def test_no_tracked_file_names_a_machine_or_a_registry() -> None:
    # written in pieces, so that this file does not find itself
    words = [
        "/" + "work/",
        "/" + "root/",
        "/" + "home/",
        "/" + "tmp/eq",
        "local" + "host",
        "index" + "-url",
        "py" + "pi.",
    ]
    bad = re.compile("|".join(map(re.escape, words)))
    for path in TEXTS:
        if path.is_file():
            match = bad.search(path.read_text(encoding="utf-8"))
            assert match is None, f"{path.name}: {match and match[0]}"


@pytest.mark.skipif(not TEXTS, reason="not a git checkout")
def test_source_files_are_finished() -> None:
    unfinished = re.compile(r"\b(TO" + r"DO|FIX" + r"ME)\b|except:\s|pickle\.load")
    for path in TEXTS:
        if path.suffix == ".py" and "src" in path.parts and path.is_file():
            assert not unfinished.search(path.read_text(encoding="utf-8")), path.name


def test_constraints_are_plain_pins_and_cover_the_dependencies() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").split()
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+==[A-Za-z0-9.]+", line) for line in lines)
    pinned = {line.partition("==")[0].lower().replace("_", "-") for line in lines}
    wanted = PROJECT["dependencies"] + PROJECT["optional-dependencies"]["dev"]
    assert {re.split(r"[<>=]", name)[0].lower() for name in wanted} <= pinned


def test_doctor_says_what_is_missing_and_what_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor.check()["problems"] == []
    monkeypatch.setattr(doctor, "NEEDED", ("torch", "no-such-package"))
    requires = ["torch>=2.6", 'no-such-extra>=4 ; extra == "tune"', "rich; extra == 'tune'"]
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: requires)
    found = doctor.check()
    assert found["versions"]["no-such-package"] is None and "no-such-package" in found["problems"][0]
    text = "\n".join(doctor.lines(found))
    assert "extra tune: no-such-extra MISSING  rich " in text and "(pip install 'equipoise[tune]')" in text
    assert "PROBLEM: no-such-package is not installed" in text


def test_doctor_shows_every_extra_of_the_project() -> None:
    found = doctor.check()
    for extra, packages in PROJECT["optional-dependencies"].items():
        assert list(found[f"extra {extra}"]) == [re.split(r"[<>=]", name)[0] for name in packages], extra


def test_doctor_works_where_the_package_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "requires", nowhere)
    found = doctor.check()
    assert found["problems"] == [] and not [key for key in found if key.startswith("extra")]
