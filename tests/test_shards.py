"""Splits of several shards, and batches that several readers share."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch
from torch.utils.data import DataLoader

from equipoise.data import BatchDataset, Log, from_frame, shards


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    rng = np.random.default_rng(0)
    n = 3000
    frame = pl.DataFrame(
        {
            "item": rng.integers(0, 40, n),
            "price": rng.normal(size=n),
            "day": np.arange(n),
            "click": rng.integers(0, 2, n),
        }
    )
    folder = tmp_path_factory.mktemp("shards")
    whole = from_frame(frame, ["click"], folder / "whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "SHARD", 512)
        cut = from_frame(frame, ["click"], folder / "cut")
    return whole, cut


def test_shards_hold_what_one_file_would(pair):
    whole, cut = (log.split("train") for log in pair)
    assert len(whole.parts) == 1 and len(cut.parts) > 2
    assert set(whole.arrays) == set(cut.arrays)
    for name, array in whole.arrays.items():
        assert np.array_equal(array, cut.arrays[name]), name
    reopened = Log.open(pair[1].path, verify=True).split("train")
    assert np.array_equal(reopened.labels("click")[0], whole.labels("click")[0])


def test_readers_share_an_epoch_without_a_row_twice(pair):
    split = pair[1].split("train")
    rows = [
        torch.cat([b.row for b in split.batches(64, shuffle=True, seed=3, rank=r, world_size=3)])
        for r in range(3)
    ]
    assert sorted(torch.cat(rows).tolist()) == list(range(len(split)))
    assert max(map(len, rows)) - min(map(len, rows)) <= 1
    counts = {sum(1 for _ in split.batches(64, drop_last=True, rank=r, world_size=3)) for r in range(3)}
    assert len(counts) == 1
    with pytest.raises(ValueError, match="rank must be in 0"):
        next(split.batches(64, rank=3, world_size=3))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_sees_each_row_once_an_epoch(pair, workers):
    dataset = BatchDataset(pair[1].split("train"), 64, shuffle=True)
    orders = []
    for epoch in range(2):
        dataset.set_epoch(epoch)
        loader = DataLoader(dataset, batch_size=None, num_workers=workers)
        orders.append(torch.cat([batch.row for batch in loader]).tolist())
        assert sorted(orders[-1]) == list(range(len(dataset.split)))
    assert orders[0] != orders[1]
