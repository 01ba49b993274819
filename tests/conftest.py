"""What several test files share."""

import pytest

from equipoise.data import delimited, parts, source


@pytest.fixture
def small(monkeypatch):
    """Chunks of 64 rows and blocks of 4 KB, so that a thousand rows are many of them."""
    for module in (source, parts):
        monkeypatch.setattr(module, "CHUNK", 64)
    monkeypatch.setattr(delimited, "BLOCK", 4096)
    monkeypatch.setattr(delimited, "SAMPLE", 50)
