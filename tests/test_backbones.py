"""What holds for every backbone: gradients, the order of tasks, seeds that stay to themselves, one task a single model."""

from __future__ import annotations

from dataclasses import replace

import pytest
import safetensors.torch
import torch
from logs import schema_of, small_log
from torch.nn import functional as F

import equipoise as eq
from equipoise.data import Label
from equipoise.data.batches import Ragged
from equipoise.models import MODELS, build, options
from equipoise.models.blocks import DomainGate
from equipoise.training import train

TINY = {
    "num_experts": 2,
    "num_shared": 2,
    "num_own": 2,
    "embedding_dim": 2,
    "expert": (3,),
    "hidden": (3,),
    "relation": (3,),
    "tower_sizes": (2,),
    "id_dropout": 0.0,
}


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    return small_log(tmp_path_factory.mktemp("backbones") / "log", n=240)


SMALL = {**TINY, "embedding_dim": 4, "expert": (12,), "hidden": (12,), "tower_sizes": (), "relation": (12,)}


def tiny(name, schema, seed=0, sizes=TINY):
    return build(name, schema, seed=seed, **{k: v for k, v in sizes.items() if k in options(name)})


def seen_through(self, prior, x):
    return 2 * torch.sigmoid(self.out(F.relu(self.hidden(torch.cat([prior, x], dim=1)))))


@pytest.mark.parametrize("name", list(MODELS))
def test_gradients_are_those_of_finite_differences(log, name, monkeypatch):
    monkeypatch.setattr(F, "relu", lambda x, inplace=False: F.softplus(x))  # finite differences need no kinks
    alone = name == "stem"  # which stops gradients between tasks, where finite differences see them
    if name == "ppnet":  # whose gates stop the input's gradient
        monkeypatch.setattr(DomainGate, "gate", seen_through)
    model = tiny(name, log.only(["click"]).schema if alone else schema_of(name, log)).double()
    batch = next(log.split("train").batches(6))
    names, values = zip(*model.named_parameters(), strict=True)

    def outputs(*parameters):
        return tuple(
            torch.func.functional_call(model, dict(zip(names, parameters, strict=True)), batch).values()
        )

    start = tuple(v.detach().requires_grad_() for v in values)
    assert torch.autograd.gradcheck(outputs, start, fast_mode=sum(v.numel() for v in start) > 500)


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


@pytest.mark.parametrize("name", list(MODELS))
def test_experts_gates_and_towers_start_different(log, name):
    model = build(name, schema_of(name, log), seed=0)
    matrices = [p for p in model.parameters() if p.ndim == 2]
    matrices += [part for p in model.parameters() if p.ndim == 3 for part in p]
    for i, a in enumerate(matrices):
        assert all((a - b).abs().max() > 1e-3 for b in matrices[:i] if a.shape == b.shape)


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


def wide(log, num_tasks, rows=24):
    """A schema of so many tasks, of both kinds and with two funnels of two and three steps, and a batch of it."""
    given = {1: "t0", 3: "t1", 4: "t0", 6: "t5"}
    labels = [
        Label(name=f"t{i}", kind="regression" if i in (2, 4) else "binary", given=given.get(i))
        for i in range(num_tasks)
    ]
    g = torch.Generator().manual_seed(num_tasks)
    values = {y.name: torch.rand(rows, generator=g) for y in labels}
    known = {y.name: torch.rand(rows, generator=g) > 0.2 for y in labels}
    batch = replace(
        next(log.split("train").batches(rows)),
        labels={y.name: values[y.name].round() if y.kind == "binary" else values[y.name] for y in labels},
        masks=known,
    )
    batch = replace(batch, labels={t: v * known[t] for t, v in batch.labels.items()})
    return log.schema.model_copy(update={"labels": tuple(labels), "label_scale": {}}), batch


@pytest.mark.parametrize(
    ("name", "num_tasks"),
    [(name, n) for name in MODELS for n in (1, 2, 5, 10) if name != "single_task" or n == 1],
)
def test_one_to_ten_tasks_of_both_kinds_train_under_pub(log, name, num_tasks):
    schema, batch = wide(log, num_tasks)
    model = tiny(name, schema, sizes=SMALL)
    balancer = eq.Balancer(
        torch.optim.Adam(model.parameters(), lr=0.02), eq.PUB(), shared=model.shared_parameters()
    )
    first = {task: loss.item() for task, loss in model.losses(batch).items()}
    for _ in range(40):
        balancer.backward(model.losses(batch))
        balancer.step()
    last = model.losses(batch)
    assert list(last) == schema.tasks and all(last[task].item() < first[task] for task in first)
    assert all(last.counts[task] == batch.weight[batch.masks[task]].sum().item() for task in schema.tasks)
    predicted = model.eval().predict(batch)
    assert list(predicted) == schema.tasks
    assert all(v.shape == (len(batch),) and v.isfinite().all() for v in predicted.values())


@pytest.mark.parametrize("name", [name for name in MODELS if name != "single_task"])
def test_a_task_without_a_loss_keeps_its_own_parameters(log, name):
    schema, batch = wide(log, 5)
    model = tiny(name, schema, sizes=SMALL)
    balancer = eq.Balancer(
        torch.optim.Adam(model.parameters(), lr=0.01), eq.PUB(), shared=model.shared_parameters()
    )
    balancer.backward(model.losses(batch))
    balancer.step()
    for task in ("t2", "t3"):  # t3 is the end of a funnel
        own = model.task_parameters(task)
        before = [p.detach().clone() for p in own]
        hidden = replace(batch, masks={**batch.masks, task: torch.zeros(len(batch), dtype=torch.bool)})
        losses = model.losses(hidden)
        assert own and losses[task] is None
        balancer.backward(losses)
        balancer.step()
        assert all(torch.equal(a, b) for a, b in zip(own, before, strict=True))


@pytest.mark.parametrize("name", [name for name in MODELS if name != "single_task"])
def test_the_balancer_finds_the_declared_shared_parameters(log, name):
    schema, batch = wide(log, 5)
    model = tiny(name, schema, sizes=SMALL)
    balancer = eq.Balancer(
        torch.optim.SGD(model.parameters(), lr=0.1), eq.PUB()
    )  # shared=None: by two tasks or more
    balancer.backward(model.losses(batch))
    declared = {id(p) for p in model.shared_parameters()}
    own = {id(p) for task in schema.tasks for p in model.task_parameters(task)}
    assert all((id(p) in declared) != (id(p) in own) for p in model.parameters())
    assert all((p.grad is None) == (id(p) in declared) for p in model.parameters())


@pytest.mark.parametrize("name", list(MODELS))
def test_the_representation_is_reached_by_every_task_and_alone_leads_to_the_trunk(log, name):
    schema, batch = wide(log, 1 if name == "single_task" else 5)
    model = tiny(name, schema, sizes=SMALL).double()
    losses = model.losses(batch)
    for loss in losses.values():
        (slope,) = torch.autograd.grad(loss, losses.representation, retain_graph=True)
        (table,) = torch.autograd.grad(loss, model.embedding.table.weight, retain_graph=True)
        (through,) = torch.autograd.grad(
            losses.representation, model.embedding.table.weight, slope, retain_graph=True
        )
        assert slope.abs().max() > 0 and torch.allclose(table, through, rtol=0, atol=1e-15)  # float64 sums


class OfTensors(torch.nn.Module):
    """A backbone as a function of tensors, which is what `torch.export` takes."""

    def __init__(self, model, batch):
        super().__init__()
        self.model, self.batch = model, batch

    def forward(self, ids, numerical, values, offsets):
        ragged = Ragged(values, offsets)
        return self.model(replace(self.batch, ids=ids, numerical=numerical, multi={"tags": ragged}))


@pytest.mark.parametrize("name", list(MODELS))
def test_export_gives_the_same_outputs_for_other_rows_too(log, name):
    model = tiny(name, schema_of(name, log)).eval()
    batches = log.split("train").batches(24)
    batch, other = next(batches), next(batches)
    rows, values = (torch.export.Dim(name, min=2, max=2**31) for name in ("rows", "values"))
    shapes = ({0: rows}, {0: rows}, {0: values}, {0: 1 + rows})
    tensors = [
        (b.ids, b.numerical, b.multi["tags"].values, b.multi["tags"].offsets)
        for b in (batch, other.part(0, 9))
    ]
    whole = OfTensors(model, replace(batch, weight=None))
    program = torch.export.export(whole, tensors[0], dynamic_shapes=shapes, strict=False)
    for given, wanted in zip(tensors, (model(batch), model(other.part(0, 9))), strict=True):
        found = program.module()(*given)
        assert list(found) == list(wanted)
        assert all(
            torch.allclose(found[t], wanted[t], rtol=0, atol=1e-6) for t in wanted
        )  # kernels may differ


@pytest.mark.parametrize("name", list(MODELS))
def test_safetensors_keep_the_state(log, name, tmp_path):
    schema = schema_of(name, log)
    model, other = tiny(name, schema), tiny(name, schema, seed=1)
    safetensors.torch.save_file(model.state_dict(), tmp_path / "model.safetensors")
    other.load_state_dict(safetensors.torch.load_file(tmp_path / "model.safetensors"))
    batch = next(log.split("train").batches(24))
    found, wanted = other.eval()(batch), model.eval()(batch)
    assert all(torch.equal(found[task], wanted[task]) for task in wanted)
