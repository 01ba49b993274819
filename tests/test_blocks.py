"""Blocks against their papers' formulas, as options of every backbone; PPNet."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import safetensors.torch
import torch
from logs import schema_of, small_log
from plain import linear, numpy_embedding, numpy_tower, softmax
from torch.nn import functional as F
from typer.testing import CliRunner

import equipoise as eq
from equipoise.cli import app
from equipoise.data.batches import Ragged
from equipoise.metrics import auc
from equipoise.models import MODELS, MMoE, PPNet, SharedBottom, build, options
from equipoise.models.blocks import Blocks
from equipoise.models.embedding import FeatureEmbedding

TINY = {
    "embedding_dim": 4,
    "expert": (6,),
    "hidden": (6,),
    "tower_sizes": (4,),
    "relation": (4,),
    "id_dropout": 0.0,
}
ALL = {
    "wide": True,
    "cross": 2,
    "attention": "city:tags",
    "transformer": "tags",
    "max_length": 3,
    "domain": "city",
    "bias": "user",
    "numerical": "dense",
}


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    return small_log(tmp_path_factory.mktemp("blocks") / "log", n=256)


@pytest.fixture(scope="module")
def batch(log):
    return next(log.split("train").batches(32))


def tiny(name, schema, seed=0, **chosen):
    return build(name, schema, seed=seed, **{k: v for k, v in TINY.items() if k in options(name)}, **chosen)


def bottom(log, **chosen):
    """SharedBottom without hidden layers in float64: its input is what the blocks made."""
    model = SharedBottom(
        log.schema, embedding_dim=4, hidden=(), tower_sizes=(), id_dropout=0.0, seed=0, **chosen
    )
    return model.double().eval()


def close(found, wanted):
    return np.allclose(found.detach().numpy(), wanted, rtol=0, atol=1e-10)  # float64 sums reordered


def lists(batch, name="tags"):
    ragged = batch.multi[name]
    return [ragged.values[a:b].numpy() for a, b in zip(ragged.offsets[:-1], ragged.offsets[1:], strict=True)]


def rows_of(model, batch, length):
    """The last `length` embeddings of each row's list, [n, 4] each."""
    embedding = model.embedding
    table = embedding.table.weight.detach().numpy()
    return [table[embedding.starts["tags"] + ids[-length:]] for ids in lists(batch)]


@pytest.mark.parametrize("rank", [0, 2])
def test_cross_is_dcn_v2(log, batch, rank):
    model = bottom(log, cross=2, cross_rank=rank)
    x0 = x = numpy_embedding(model, batch)
    for layer in model.embedding.cross.layers:
        wx = linear(layer[1], linear(layer[0], x)) if rank else linear(layer, x)
        x = x0 * wx + x
    assert close(model.represent(batch), x)
    n = model.embedding.width
    per_layer = 2 * n * rank + n if rank else n * n + n
    assert sum(p.numel() for p in model.embedding.cross.parameters()) == 2 * per_layer


def test_attention_is_din(log, batch):
    model = bottom(log, attention="city:tags", max_length=2)
    x = numpy_embedding(model, batch)
    table, start = model.embedding.table.weight.detach().numpy(), model.embedding.starts["city"]
    query = table[start + batch.ids[:, 1].numpy()]
    score = model.embedding.attention.score
    wanted = []
    for q, e in zip(query, rows_of(model, batch, 2), strict=True):
        q = np.broadcast_to(q, e.shape)
        hidden = 1 / (1 + np.exp(-linear(score[0], np.concatenate([q, e, q - e, q * e], 1))))
        wanted.append((linear(score[2], hidden) * e).sum(0))
    x[:, 8:12] = np.stack(wanted)  # tags come after user and city
    assert close(model.represent(batch), x)
    empty = [len(ids) == 0 for ids in lists(batch)]
    assert any(empty) and not np.stack(wanted)[empty].any()


def numpy_norm(norm, x):
    centred = x - x.mean(1, keepdims=True)
    scaled = centred / np.sqrt(centred.__pow__(2).mean(1, keepdims=True) + norm.eps)
    return scaled * norm.weight.detach().numpy() + norm.bias.detach().numpy()


def numpy_causal(layer, x):
    q, k, v = np.split(linear(layer.qkv, numpy_norm(layer.norm1, x)), 3, axis=1)
    heads, seen = [], np.tril(np.ones((len(x), len(x))))
    for h in np.split(np.arange(x.shape[1]), layer.heads):
        scores = q[:, h] @ k[:, h].T / math.sqrt(len(h))
        heads.append(softmax(np.where(seen, scores, -np.inf)) @ v[:, h])
    x = x + linear(layer.out, np.concatenate(heads, 1))
    up = linear(layer.up, numpy_norm(layer.norm2, x))
    gelu = up * 0.5 * (1 + torch.erf(torch.tensor(up) / math.sqrt(2)).numpy())
    return x + linear(layer.down, gelu)


def test_transformer_is_two_causal_layers_read_at_the_last_id(log, batch):
    model = bottom(log, transformer="tags", max_length=3)
    x, block = numpy_embedding(model, batch), model.embedding.transformer
    wanted = np.zeros((len(batch), 4))
    for at, e in enumerate(rows_of(model, batch, 3)):
        if len(e):
            h = e + block.positions.detach().numpy()[: len(e)]
            for layer in block.layers:
                h = numpy_causal(layer, h)
            wanted[at] = numpy_norm(block.norm, h)[-1]
    x[:, 8:12] = wanted
    assert close(model.represent(batch), x)


def test_domain_gates_the_input_and_stops_the_gradient(log, batch):
    model = bottom(log, domain="city")
    x, gate = numpy_embedding(model, batch), model.embedding.domain
    prior = x[:, 4:8]
    hidden = np.maximum(linear(gate.hidden, np.concatenate([prior, x], 1)), 0)
    assert close(model.represent(batch), x * 2 / (1 + np.exp(-linear(gate.out, hidden))))
    given = torch.randn(3, model.embedding.width, dtype=torch.float64, requires_grad=True)
    gate.gate(torch.randn(3, 4, dtype=torch.float64, requires_grad=True), given).sum().backward()
    assert given.grad is None


def test_dense_numbers_are_an_embedding_each(log, batch):
    model = bottom(log, numerical="dense")
    x, block = numpy_embedding(model, batch), model.embedding.numbers
    value = batch.numerical.double().numpy()
    dense = np.maximum(value[:, :, None] * block.weight.detach().numpy() + block.bias.detach().numpy(), 0)
    assert close(model.represent(batch), np.concatenate([x[:, :12], dense.reshape(len(batch), -1)], 1))


def test_wide_adds_one_number_an_id_and_a_linear_part(log, batch):
    plain, model = bottom(log), bottom(log, wide=True)
    with torch.no_grad():
        for side in model.sides.values():
            side.weight.normal_(generator=torch.Generator().manual_seed(1))
    side = model.sides["buy"]
    deep = model.logits(batch, model.represent(batch))["buy"].detach().numpy()
    table, starts = side.wide.table.weight.detach().numpy()[:, 0], side.wide.starts
    ids = batch.ids.numpy()
    wide = table[starts["user"] + ids[:, 0]] + table[starts["city"] + ids[:, 1]]
    wide += [table[starts["tags"] + row].mean() if len(row) else 0.0 for row in lists(batch)]
    wide += batch.numerical.double().numpy() @ side.weight.detach().numpy()
    assert close(model(batch)["buy"], deep + wide)
    extra = len(table) + 1
    count = sum(p.numel() for p in model.task_parameters("buy"))
    assert count == sum(p.numel() for p in plain.task_parameters("buy")) + extra


def test_bias_is_read_in_training_and_a_constant_in_serving(log, batch):
    model = bottom(log, bias="user,x")
    assert model.embedding.width == 8  # city and tags; user and x are taken out
    side = model.sides["click"]
    deep = model.logits(batch, model.represent(batch))["click"].detach().numpy()
    table = side.bias.table.weight.detach().numpy()
    given = np.concatenate([table[batch.ids[:, 0].numpy()], batch.numerical.double().numpy()], 1)
    nothing = np.concatenate([np.tile(table[0], (len(batch), 1)), np.zeros((len(batch), 1))], 1)
    assert close(model(batch)["click"], deep + numpy_tower(side.tower, nothing))
    model.train()
    assert close(model(batch)["click"], deep + numpy_tower(side.tower, given))
    model.eval()
    moved = replace(batch, ids=batch.ids.clone())
    moved.ids[:, 0] = 1
    assert torch.equal(model(moved)["click"], model(batch)["click"])


def test_only_the_last_ids_of_a_sequence_are_read(log, batch):
    model = bottom(log, attention="city:tags", transformer="tags", max_length=2)
    cut = [ids[-2:] for ids in lists(batch)]
    offsets = torch.tensor([0, *np.cumsum([len(ids) for ids in cut])])
    short = replace(batch, multi={"tags": Ragged(torch.tensor(np.concatenate(cut)), offsets)})
    assert torch.equal(model.represent(short), model.represent(batch))


@pytest.mark.parametrize("name", list(MODELS))
def test_every_backbone_takes_all_blocks_at_once(log, name, tmp_path):
    schema = schema_of(name, log)
    model = tiny(name, schema, **ALL)
    batch = next(log.only(schema.tasks).split("train").batches(48))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    balancer = eq.Balancer(optimizer, eq.PUB(), shared=model.shared_parameters())
    before = {k: v.clone() for k, v in model.state_dict().items()}
    for _ in range(2):
        balancer.backward(model.losses(batch))
        balancer.step()
    still = [k for k, v in model.state_dict().items() if torch.equal(v, before[k])]
    assert not still, still
    model.eval()
    whole = model.predict(batch)
    assert all(torch.isfinite(v).all() for v in whole.values())
    part = model.predict(batch.part(10, 17))
    for task, values in part.items():  # a row does not depend on its batch; kernels may differ
        torch.testing.assert_close(values, whole[task][10:17], rtol=1e-5, atol=1e-6)
    safetensors.torch.save_file(model.state_dict(), tmp_path / "m.safetensors")
    other = tiny(name, schema, seed=1, **ALL)
    other.load_state_dict(safetensors.torch.load_file(tmp_path / "m.safetensors"))
    again = other.eval().predict(batch)
    assert all(torch.equal(again[task], whole[task]) for task in whole)


@pytest.mark.parametrize("name", [name for name in MODELS if name != "single_task"])
def test_sides_are_the_tasks_own_by_autograd(log, name):
    model = tiny(name, log.schema, wide=True, bias="user")
    losses = model.losses(next(log.split("train").batches(64)))
    everything = list(model.parameters())
    reached = {
        task: torch.autograd.grad(loss, everything, retain_graph=True, allow_unused=True)
        for task, loss in losses.items()
    }
    for task in losses:
        own = {id(p) for p in model.task_parameters(task)}
        for at, p in enumerate(everything):
            if id(p) in own:
                assert all(reached[other][at] is None for other in losses if other != task)
        if task not in model.shared_sides:
            assert {id(p) for p in model.sides[task].parameters()} <= own
    shared = {id(p) for p in model.shared_parameters()}
    assert shared.isdisjoint({id(p) for t in losses for p in model.task_parameters(t)})
    assert len(shared) + sum(len(model.task_parameters(t)) for t in losses) == len(everything)


def test_gradients_of_all_blocks_are_those_of_finite_differences(log, monkeypatch):
    monkeypatch.setattr(F, "relu", lambda x, inplace=False: F.softplus(x))  # finite differences need no kinks
    # the domain gate stops a gradient that finite differences would see
    model = bottom(log, **{**ALL, "domain": ""}).train()
    batch = next(log.split("train").batches(5))
    names, values = zip(*model.named_parameters(), strict=True)

    def outputs(*parameters):
        named = dict(zip(names, parameters, strict=True))
        return tuple(torch.func.functional_call(model, named, batch).values())

    start = tuple(v.detach().requires_grad_() for v in values)
    assert torch.autograd.gradcheck(outputs, start, fast_mode=True)


def test_row_sparse_tables_give_the_same_losses_and_gradients(log, batch):
    dense, sparse = (tiny("mmoe", log.schema, sparse=s, **ALL) for s in (False, True))
    first, second = dense.losses(batch), sparse.losses(batch)
    for task in first:
        torch.testing.assert_close(first[task], second[task])
    sum(first.values()).backward()
    sum(second.values()).backward()
    for (name, p), q in zip(dense.named_parameters(), sparse.parameters(), strict=True):
        found = q.grad.to_dense() if q.grad.is_sparse else q.grad
        assert torch.allclose(p.grad, found, rtol=1e-5, atol=1e-7), name
    assert len(sparse.tables()) == 1 + 2 * len(log.schema.tasks)


def test_all_blocks_over_fit_256_rows(log):
    model = SharedBottom(
        log.only(["click", "buy"]).schema,
        embedding_dim=8,
        hidden=(32,),
        tower_sizes=(),
        id_dropout=0.0,
        seed=0,
        **{**ALL, "bias": ""},
    )
    batch = next(log.split("train").batches(256))
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-2)
    for _ in range(120):
        optimizer.zero_grad()
        sum(model.losses(batch).values()).backward()
        optimizer.step()
    found = model.eval().predict(batch)
    for task in ("click", "buy"):
        known = batch.masks[task].numpy()
        assert auc(batch.labels[task].numpy()[known], found[task].detach().numpy()[known]) > 0.99


def test_export_with_blocks_gives_the_same_for_other_rows(log):
    model = tiny("mmoe", log.schema, **ALL).eval()

    class Whole(torch.nn.Module):
        def __init__(self, model, batch):
            super().__init__()
            self.model, self.batch = model, batch

        def forward(self, ids, numerical, values, offsets):
            return self.model(
                replace(self.batch, ids=ids, numerical=numerical, multi={"tags": Ragged(values, offsets)})
            )

    first, second = (b for b, _ in zip(log.split("train").batches(24), range(2), strict=False))
    rows, values = (torch.export.Dim(name, min=2, max=2**31) for name in ("rows", "values"))
    shapes = ({0: rows}, {0: rows}, {0: values}, {0: 1 + rows})
    tensors = [
        (b.ids, b.numerical, b.multi["tags"].values, b.multi["tags"].offsets)
        for b in (first, second.part(0, 9))
    ]
    program = torch.export.export(
        Whole(model, replace(first, weight=None)), tensors[0], dynamic_shapes=shapes, strict=False
    )
    for given, wanted in zip(tensors, (model(first), model(second.part(0, 9))), strict=True):
        found = program.module()(*given)
        assert all(
            torch.allclose(found[t], wanted[t], rtol=0, atol=1e-5) for t in wanted
        )  # kernels may differ


def test_without_blocks_a_seed_draws_what_it_drew(log):
    model = MMoE(log.schema, seed=0)
    assert not model.sides and all(not k.startswith(("sides", "embedding.cross")) for k in model.state_dict())


@pytest.mark.parametrize(
    "chosen, says",
    [
        ({"cross": -1}, "cross and cross_rank must be >= 0"),
        ({"max_length": 201}, "max_length must lie in"),
        ({"numerical": "deep"}, "numerical must be 'raw' or 'dense'"),
        ({"attention": "tags"}, "candidate:sequence"),
        ({"attention": "tags:tags"}, "must name a categorical feature, got 'tags'"),
        ({"attention": "city:user"}, "must name a multi-valued feature, got 'user'"),
        ({"transformer": "tag"}, "did you mean 'tags'"),
        ({"domain": "x"}, "must name a categorical feature"),
        ({"bias": "posision"}, "bias must name"),
        ({"bias": "city", "domain": "city"}, "takes out of the input"),
    ],
)
def test_what_cannot_be_built_is_said(log, chosen, says):
    with pytest.raises(ValueError, match=says):
        MMoE(log.schema, **chosen)


def test_bias_leaves_a_feature_to_the_backbone(log):
    fewer = log.schema.model_copy(update={"features": log.schema.features[:1]})
    with pytest.raises(ValueError, match="must leave a feature"):
        Blocks(bias="user").check(fewer)
    with pytest.raises(TypeError, match="deep"):
        MMoE(log.schema, deep=True)


@pytest.mark.parametrize("batch_norm", [False, True])
def test_ppnet_is_its_formula(log, batch, batch_norm):
    model = PPNet(
        log.schema,
        priors="city",
        embedding_dim=4,
        hidden=(5, 3),
        id_dropout=0.0,
        batch_norm=batch_norm,
        seed=0,
    )
    model.double().eval()
    x = numpy_embedding(model, batch)
    prior = x[:, 4:8]
    for task, z in model(batch).items():
        of, h = model.own[task], x
        for at in range(2):
            h = linear(of[f"layer{at}"], h)
            if batch_norm:  # running mean 0 and variance 1
                h = h / np.sqrt(1 + of[f"norm{at}"].eps)
            gate = of[f"gate{at}"]
            hidden = np.maximum(linear(gate.hidden, np.concatenate([prior, x], 1)), 0)
            h = np.maximum(h, 0) * 2 / (1 + np.exp(-linear(gate.out, hidden)))
        assert close(z, linear(of["tower"], h)[:, 0])


def test_ppnet_takes_the_group_for_a_prior_and_refuses_others(log):
    assert PPNet(log.schema, embedding_dim=4, seed=0).at.tolist() == [0, 1, 2, 3]  # user, the group
    both = PPNet(log.schema.model_copy(update={"group": None}), embedding_dim=4, seed=0)
    assert len(both.at) == 8
    with pytest.raises(
        ValueError, match="priors must name categorical features, got 'usr'; did you mean 'user'"
    ):
        PPNet(log.schema, priors="usr")
    with pytest.raises(ValueError, match="at least one size"):
        PPNet(log.schema, hidden=())


def test_blocks_are_options_of_a_run_that_evaluates_again(log, tmp_path):
    arguments = [
        "train",
        str(log.path),
        "--model",
        "shared_bottom",
        "--epochs",
        "1",
        "--out",
        str(tmp_path / "run"),
        "--json",
    ]
    arguments += [
        "--set",
        "cross=1",
        "--set",
        "wide=true",
        "--set",
        "attention=city:tags",
        "--set",
        "hidden=[4]",
    ]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    test = json.loads(done.stdout.strip().splitlines()[-1])["test"]
    again = CliRunner().invoke(app, ["evaluate", str(tmp_path / "run"), "--json"])
    found = json.loads(again.stdout.strip().splitlines()[-1])["test"]
    assert found["click"]["auc"] == test["click"]["auc"]
    listed = CliRunner().invoke(app, ["models"]).stdout
    assert "blocks of every backbone" in listed and "--set cross=0" in listed and "DCN V2" in listed


def test_blocks_and_ppnet_have_the_numbers_of_parameters_of_their_formulas(log):
    def count(module):
        return sum(p.numel() for p in module.parameters())

    d, embedding = (
        4,
        bottom(log, attention="city:tags", transformer="tags", max_length=7, domain="city").embedding,
    )
    width = 3 * d + d + 1  # user, city, tags twice, x
    assert embedding.width == width
    assert count(embedding.attention) == (4 * d + 1) * 36 + 36 + 1
    layer = 4 * d + (d + 1) * 3 * d + (d + 1) * d + (d + 1) * 4 * d + (4 * d + 1) * d
    assert count(embedding.transformer) == 7 * d + 2 * layer + 2 * d
    assert count(embedding.domain) == (d + width + 1) * 64 + 65 * width
    assert count(bottom(log, numerical="dense").embedding.numbers) == 2 * d
    model = PPNet(log.schema, priors="city", embedding_dim=d, hidden=(5, 3), seed=0)
    n = model.embedding.width
    gates = 2 * (d + n + 1) * 64 + 65 * (5 + 3)
    assert count(model.own["buy"]) == (n + 1) * 5 + 6 * 3 + 4 + gates


@pytest.mark.parametrize("name", list(MODELS))
def test_a_batch_is_embedded_once_whatever_the_number_of_tasks(log, name, monkeypatch):
    calls = []
    whole = FeatureEmbedding.forward
    monkeypatch.setattr(
        FeatureEmbedding, "forward", lambda self, batch: calls.append(1) or whole(self, batch)
    )
    schema = schema_of(name, log)
    tiny(name, schema).losses(next(log.only(schema.tasks).split("train").batches(16)))
    assert len(calls) == (1 + len(schema.tasks) if name == "stem" else 1)  # STEM has a table a task
