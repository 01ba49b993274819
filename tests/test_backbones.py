"""What holds for every backbone: gradients, the order of tasks, seeds that stay to themselves, one task a single model."""

from __future__ import annotations

import pytest
import torch
from logs import schema_of, small_log
from torch.nn import functional as F

import equipoise as eq
from equipoise.models import MODELS, build, options
from equipoise.training import train

TINY = {
    "num_experts": 2,
    "num_shared": 2,
    "num_own": 2,
    "embedding_dim": 2,
    "expert": (3,),
    "hidden": (3,),
    "tower_sizes": (2,),
    "id_dropout": 0.0,
}


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    return small_log(tmp_path_factory.mktemp("backbones") / "log", n=240)


def tiny(name, schema, seed=0):
    return build(name, schema, seed=seed, **{k: v for k, v in TINY.items() if k in options(name)})


@pytest.mark.parametrize("name", list(MODELS))
def test_gradients_are_those_of_finite_differences(log, name, monkeypatch):
    monkeypatch.setattr(F, "relu", lambda x, inplace=False: F.softplus(x))  # finite differences need no kinks
    model = tiny(name, schema_of(name, log)).double()
    batch = next(log.split("train").batches(6))
    names, values = zip(*model.named_parameters(), strict=True)

    def outputs(*parameters):
        return tuple(
            torch.func.functional_call(model, dict(zip(names, parameters, strict=True)), batch).values()
        )

    assert torch.autograd.gradcheck(outputs, tuple(v.detach().requires_grad_() for v in values))


@pytest.mark.parametrize("name", [name for name in MODELS if name != "single_task"])
def test_the_order_of_tasks_permutes_the_outputs_and_nothing_else(log, name):
    turned = log.only(["dwell", "click", "buy"]).schema
    model, other = tiny(name, log.schema).eval(), tiny(name, turned, seed=1).eval()
    other.load_state_dict(model.state_dict())
    batch = next(log.split("train").batches(240))
    found, wanted = other(batch), model(batch)
    assert list(found) == turned.tasks and all(torch.equal(found[task], wanted[task]) for task in wanted)
    losses, before = other.losses(batch), model.losses(batch)
    assert list(losses) == turned.tasks and all(torch.equal(losses[t], before[t]) for t in before)


@pytest.mark.parametrize("name", list(MODELS))
def test_a_seed_draws_what_torch_would_and_leaves_its_generator_alone(log, name):
    schema = schema_of(name, log)
    torch.manual_seed(7)
    wanted = build(name, schema).state_dict()
    torch.manual_seed(99)
    before = torch.get_rng_state()
    found = build(name, schema, seed=7).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(found[key], value) for key, value in wanted.items())
    with pytest.raises(ValueError, match="id_dropout must lie in"):
        build(name, schema, seed=7, id_dropout=1.0)
    assert torch.equal(torch.get_rng_state(), before)


def test_towers_and_gates_of_different_tasks_start_different(log):
    own = build("mmoe", log.schema, seed=0).own
    for part in ("tower.0.weight", "gate.weight"):
        first, second = (own[task].get_parameter(part) for task in ("click", "buy"))
        assert (first - second).abs().max() > 1e-3


def test_a_single_task_model_takes_one_task_and_the_balancer_takes_it(log):
    with pytest.raises(
        ValueError, match=r"one task, got click, buy, dwell; .*--tasks click.*--method single"
    ):
        build("single_task", log.schema)
    schema = log.only(["buy"]).schema
    batch = next(log.split("train").batches(240))
    ends = []
    for balanced in (True, False):
        model = build("single_task", schema, seed=0, id_dropout=0.0)
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        balancer = eq.Balancer(optimizer, eq.PUB(), shared=model.shared_parameters())
        for _ in range(3):
            losses = model.losses(batch)
            if balanced:
                balancer.backward(losses)
                balancer.step()
            else:
                optimizer.zero_grad()
                losses["buy"].backward()
                optimizer.step()
        ends.append(list(model.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


def test_train_gives_every_task_its_single_task_model_and_refuses_several_in_one(log, tmp_path):
    chosen = {"epochs": 1, "set": {"model.embedding_dim": 2, "model.hidden": [4], "model.tower_sizes": []}}
    found = train(log, "single_task", "single", out=tmp_path / "each", quiet=True, **chosen)
    assert set(found.metrics["test"]) == {"click", "buy", "dwell"}
    with pytest.raises(ValueError, match="takes a schema of one task"):
        train(log, "single_task", "pub", out=tmp_path / "several", quiet=True, **chosen)
    assert not (tmp_path / "several").exists()
