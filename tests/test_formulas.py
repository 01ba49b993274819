"""Backbones beyond the first ones against their papers' formulas, and their numbers of parameters."""

from __future__ import annotations

import numpy as np
import pytest
from logs import small_log
from plain import numpy_embedding, numpy_experts, numpy_mixture, numpy_tower

from equipoise.models import PLE


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    return small_log(tmp_path_factory.mktemp("formulas") / "log", n=64)


@pytest.fixture(scope="module")
def batch(log):
    return next(log.split("train").batches(64))


def close(found, wanted):
    return np.allclose(found.detach().numpy(), wanted, rtol=0, atol=1e-12)  # float64 sums reordered


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_ple_is_its_formula(log, batch, levels):
    model = PLE(log.schema, levels=levels, num_shared=3, num_own=2, expert=(6, 5), seed=0).double().eval()
    tasks = sorted(log.schema.tasks)
    x = numpy_embedding(model, batch)
    common, own = x, dict.fromkeys(tasks, x)
    for k in range(levels):
        part = {t: {**dict(model.lower[t].items()), **dict(model.own[t].items())} for t in tasks}
        shared = numpy_experts(model.shared_experts[k], common)
        each = {t: numpy_experts(part[t][f"experts{k}"], own[t]) for t in tasks}
        if k < levels - 1:
            everyone = [f for t in tasks for f in each[t]] + shared
            common = numpy_mixture(model.shared_gates[k], common, everyone)
        own = {t: numpy_mixture(part[t][f"gate{k}"], own[t], each[t] + shared) for t in tasks}
    assert len(model.shared_gates) == levels - 1
    for task, out in model(batch).items():
        assert close(out, numpy_tower(model.own[task]["tower"], own[task]))


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_ple_owns_the_last_experts_and_the_last_two_gates(log, levels):
    own = PLE(log.schema, levels=levels).own["buy"]
    gates = {f"gate{k}" for k in range(max(0, levels - 2), levels)}
    assert set(own) == {f"experts{levels - 1}", "tower"} | gates


def test_ple_number_of_parameters(log):
    dim, ids, n = 4, sum(log.schema.num_ids.values()), 3
    model = PLE(
        log.schema, levels=2, num_shared=3, num_own=2, embedding_dim=dim, expert=(8, 5), tower_sizes=(6,)
    )
    wanted, width = dim * ids + n * ((5 * 6 + 6) + (6 + 1)), dim * 3 + 1
    for k, inputs in enumerate((width, 5)):
        wanted += (3 + n * 2) * (inputs * 8 + 8 + 8 * 5 + 5)  # experts
        wanted += n * inputs * (3 + 2)  # gates
        wanted += inputs * (3 + n * 2) if k == 0 else 0  # the shared gate
    assert sum(p.numel() for p in model.parameters()) == wanted


def test_ple_experts_of_every_task_and_level_start_different(log):
    model = PLE(log.schema, levels=2, num_shared=2, num_own=2, expert=(13,), seed=0, embedding_dim=4)
    first = [model.shared_experts[0], *(model.lower[t]["experts0"] for t in log.schema.tasks)]
    weights = [w for experts in first for w in experts.weights[0]]
    weights += [w for t in log.schema.tasks for w in model.own[t]["experts1"].weights[0]]
    for i, a in enumerate(weights):
        assert all((a - b).abs().max() > 1e-3 for b in weights[:i] if a.shape == b.shape)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"levels": 0}, "levels must be >= 1, got 0"),
        ({"num_own": 0}, "num_shared and num_own must be >= 1, got 4 and 0"),
    ],
)
def test_ple_refuses(log, wrong, says):
    with pytest.raises(ValueError, match=says):
        PLE(log.schema, **wrong)
