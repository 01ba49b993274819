"""The simulated log: rates, relations between tasks, truth, and seeds."""

from __future__ import annotations

import sys

import numpy as np
import polars as pl
import pytest

from equipoise.data import read_table, simulate
from equipoise.data.simulate import RATES, RHO, TASKS, row_chunks, rows, world, write_table
from equipoise.metrics import soft_auc

module = sys.modules["equipoise.data.simulate"]
N = 20_000


def logits(relation, seed=0):
    p = np.stack([rows(world(seed, relation), N, 1)[f"p_{task}"].to_numpy() for task in TASKS])
    return np.log(p / (1 - p))


def test_rates_and_labels_follow_the_probabilities():
    table = rows(world(3), N, 5)
    for task, rate in zip(TASKS, RATES, strict=True):
        assert table[f"p_{task}"].mean() == pytest.approx(rate, rel=0.1)  # world and rows are drawn apart
        sd = np.sqrt(rate / N)
        assert abs(table[task].mean() - table[f"p_{task}"].mean()) < 5 * sd


@pytest.mark.parametrize(("relation", "wanted"), [("aligned", 1.0), ("independent", 0.0), ("mixed", RHO)])
def test_relation_is_the_correlation_of_logits(relation, wanted):
    found = np.corrcoef(np.concatenate([logits(relation, seed)[:, ::4] for seed in range(3)], axis=1))
    off = found[np.triu_indices(3, 1)]
    # intercepts differ a little between worlds; effects of three worlds leave a sampling correlation of about .15
    assert np.allclose(off, wanted, atol=1e-3 if relation == "aligned" else 0.35)


def test_funnel_multiplies_probabilities():
    of = world(0, "independent", funnel=True)
    table = rows(of, N, 1)
    assert ((table["like"] == 1) & (table["click"] == 0)).sum() == 0
    plain = rows(world(0, "independent"), N, 1)
    assert np.allclose(table["p_like"], plain["p_like"] * plain["p_click"])


def test_world_and_row_seeds_are_separate():
    first, other = rows(world(0), 1000, 1), rows(world(0), 1000, 2)
    assert not first.equals(other) and first.equals(rows(world(0), 1000, 1))
    again = rows(world(1), 1000, 1)
    assert first.select("c01", "n01").equals(again.select("c01", "n01"))  # the same inputs in another world
    assert not np.allclose(first["p_click"], again["p_click"])


def test_the_log_keeps_its_truth(tmp_path):
    log = simulate(tmp_path / "log", 2000, 0, "mixed")
    assert [len(log.split(s)) for s in ("train", "valid", "test")] == [1200, 200, 600]
    assert log.schema.simulated and log.manifest["notes"]["simulated"]["relation"] == "mixed"
    truth = log.split("test").truth("click")
    assert 0.5 < soft_auc(truth, truth) < 1.0
    batch = next(log.split("test").batches(8))
    assert batch.truth["click"].tolist() == truth[:8].tolist()


def test_bad_arguments_are_refused(tmp_path):
    with pytest.raises(ValueError, match="did you mean 'aligned'"):
        world(0, "alined")
    with pytest.raises(ValueError, match="rows must be >= 1000"):
        simulate(tmp_path / "log", 10)


def test_a_large_log_is_drawn_in_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "WHOLE", 2000)
    monkeypatch.setattr(module, "CHUNK", 1200)
    of = world(0)
    parts = list(row_chunks(of, 5000, 3, size=1200))
    assert [part.height for part in parts] == [1200, 1200, 1200, 1200, 200]
    assert not parts[0].select("n01").equals(parts[1].select("n01"))
    whole = pl.concat(parts)
    assert whole["group"].is_sorted() and 300 < whole["group"].n_unique() <= 5000 / 12 + 1
    assert pl.concat(list(row_chunks(of, 1500, 3, size=400))).equals(rows(of, 1500, 3))
    log = simulate(tmp_path / "log", 5000, 0, row_seed=3)
    assert [len(log.split(s)) for s in ("train", "valid", "test")] == [3000, 500, 1500]
    assert np.allclose(log.split("test").truth("click"), whole["p_click"][3500:].to_numpy())


@pytest.mark.parametrize("name", ["t.parquet", "t.csv"])
def test_a_raw_table_is_the_rows_with_one_label(tmp_path, name):
    table = read_table(write_table(tmp_path / name, 1500, 2))
    assert table.width == 80 and table.columns[-1] == "click"
    assert table["c01"].to_list() == rows(world(2), 1500, 2)["c01"].to_list()
    with pytest.raises(ValueError, match="must end in"):
        write_table(tmp_path / "t.xlsx", 1500)
    with pytest.raises(ValueError, match="did you mean 'click'"):
        write_table(tmp_path / name, 1500, task="clik")
