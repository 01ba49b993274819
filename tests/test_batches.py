"""Batches: each row once an epoch, in an order of (seed, epoch) only, resumable at any batch."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from logs import frame, small_log

from equipoise.data import batches as module


@pytest.fixture
def log(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "BLOCK", 16)
    monkeypatch.setattr(module, "WINDOW", 3)
    return small_log(tmp_path / "log", n=205)  # 13 blocks, the last of 13 rows; 5 windows


def rows(log, size=17, **options):
    return [batch.row.tolist() for batch in log.split("train").batches(size, **options)]


def test_each_row_once_and_order_follows_seed_and_epoch(log):
    first = rows(log, shuffle=True, seed=1)
    assert sorted(itertools.chain(*first)) == list(range(205))
    assert [len(b) for b in first] == [17] * 12 + [1]
    assert first == rows(log, shuffle=True, seed=1)
    assert first != rows(log, shuffle=True, seed=2) and first != rows(log, shuffle=True, seed=1, epoch=1)
    assert list(itertools.chain(*rows(log))) == list(range(205))


@pytest.mark.parametrize("start", [1, 3, 5, 12, 13])
def test_start_resumes_exactly(log, start):
    assert rows(log, shuffle=True, seed=1, start=start) == rows(log, shuffle=True, seed=1)[start:]


def test_drop_last_and_bad_sizes(log):
    assert len(rows(log, drop_last=True)) == 12
    with pytest.raises(ValueError, match="batch_size must be >= 1"):
        rows(log, size=0)


def test_columns_belong_to_their_rows(log):
    table = frame(205)
    tags = log.split("train")
    for batch in tags.batches(17, shuffle=True, seed=4):
        at = batch.row.numpy()
        assert np.allclose(batch.labels["click"], table["click"].to_numpy()[at])
        assert np.array_equal(batch.masks["buy"], table["buy"].is_not_null().to_numpy()[at])
        assert np.allclose(batch.labels["dwell"], table["dwell"].to_numpy()[at], rtol=1e-6)
        assert np.allclose(batch.weight, table["w"].to_numpy()[at])
        lengths = [len([t for t in table["tags"][int(i)].split(",") if t]) for i in at]
        assert batch.multi["tags"].offsets.diff().tolist() == lengths
        one = {
            row: b for b in tags.batches(1, start=int(at[0])) for row in b.row.tolist()[:1] if row == at[0]
        }
        alone = one[int(at[0])].multi["tags"].values
        assert torch.equal(batch.multi["tags"].values[: lengths[0]], alone)


def test_part_is_those_rows(tmp_path):
    log = small_log(tmp_path / "log")
    whole = next(log.split("train").batches(20))
    for start, stop in ((0, 7), (7, 20), (19, 20)):
        part = whole.part(start, stop)
        assert len(part) == stop - start
        assert torch.equal(part.ids, whole.ids[start:stop])
        assert all(torch.equal(part.labels[t], whole.labels[t][start:stop]) for t in whole.labels)
        a, b = part.multi["tags"], whole.multi["tags"]
        for i in range(stop - start):
            mine = a.values[a.offsets[i] : a.offsets[i + 1]]
            assert torch.equal(mine, b.values[b.offsets[start + i] : b.offsets[start + i + 1]])
    with pytest.raises(ValueError, match="part must lie within the 20 rows"):
        whole.part(3, 3)
