"""Row-sparse tables: the touched rows move as the same rows of a small dense problem would, and the others not at all."""

import copy

import pytest
import torch
from logs import small_log
from torch import nn

import equipoise as eq
from equipoise.updates import rows, rule_for

ROWS, DIM = 12, 3
KINDS = {
    "sparse_adam": lambda p: torch.optim.SparseAdam(p, lr=0.05),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.05, initial_accumulator_value=0.1),
    "rowwise_adagrad": lambda p: eq.RowWiseAdagrad(p, lr=0.05),
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05),
}
pytestmark = pytest.mark.filterwarnings("ignore:Sparse invariant checks:UserWarning")  # torch's own Adagrad
BY_KIND = pytest.mark.parametrize("kind", KINDS)


class Model(nn.Module):
    """A table that two tasks read, one of them fewer ids, a shared layer, two towers."""

    def __init__(self, sparse=True):
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(ROWS, DIM, sparse=sparse)
        self.shared = nn.Linear(DIM, 4)
        self.towers = nn.ModuleList(nn.Linear(4, 1) for _ in range(2))

    def losses(self, seed, extra=True):
        g = torch.Generator().manual_seed(seed)
        ids = torch.randint(0, 6, (8,), generator=g)
        also = torch.randint(0, 9, (8,), generator=g) if extra else ids
        y = torch.randn(2, 8, generator=g)
        found = [torch.tanh(self.shared(self.table(i))) for i in (ids, also)]
        return {
            name: (tower(h).squeeze(-1) - target).square().mean()
            for name, tower, h, target in zip("ab", self.towers, found, y, strict=True)
        }

    def rest(self):
        return [*self.shared.parameters(), *self.towers.parameters()]

    def shared_parameters(self):
        return [*self.table.parameters(), *self.shared.parameters()]


def balanced(kind, method="pub", **options):
    model = Model()
    optimizers = [KINDS[kind](model.table.parameters()), torch.optim.Adam(model.rest(), lr=0.05)]
    return model, eq.Balancer(optimizers, method, shared=model.shared_parameters(), **options)


def step(model, balancer, seed, **options):
    balancer.backward(model.losses(seed, **options))
    balancer.step()


@BY_KIND
@pytest.mark.parametrize("method", ("pub", "nash", "equal"))
def test_one_task_is_the_optimizers_own_step(kind, method):
    model, balancer = balanced(kind, method)
    twin = Model()
    own = [KINDS[kind](twin.table.parameters()), torch.optim.Adam(twin.rest(), lr=0.05)]
    for seed in range(4):
        balancer.backward({"a": model.losses(seed)["a"]}) if seed else balancer.backward(
            {"a": model.losses(seed)["a"], "b": None}
        )
        balancer.step()
        twin.losses(seed)["a"].backward()
        for o in own:
            o.step()
            o.zero_grad()
        for p, q in zip(model.parameters(), twin.parameters(), strict=True):
            # torch's SGD adds an id's several gradients one by one, we add their sum
            torch.testing.assert_close(p, q, rtol=0, atol=1e-6 if kind == "sgd" else 0)


@BY_KIND
def test_equal_updates_move_rows_by_the_rule(kind):
    """Level updates with weights 1/2 each: theta moves by the mean of what the rule makes of each task's gradient."""
    model, balancer = balanced(kind, eq.Fixed([0.5, 0.5]), level="losses", moments="per_task")
    for seed in range(3):
        before = copy.deepcopy(balancer.state_dict()["moments"])
        table = model.table.weight.detach().clone()
        losses = model.losses(seed)
        grads = {
            name: torch.autograd.grad(loss, model.table.weight, retain_graph=True)[0].coalesce()
            for name, loss in losses.items()
        }
        optimizer = balancer._layout.optimizers[0]
        rule, group = rule_for(optimizer), optimizer.param_groups[0]
        touched = torch.unique(torch.cat([g.indices()[0] for g in grads.values()]))
        moved = torch.zeros(len(touched), DIM)
        for name, g in grads.items():
            slots = before.get(name, {}).get("0") or rule.init(model.table.weight, group)
            here = {
                k: v[touched] if isinstance(v, torch.Tensor) and v.dim() > 0 else v for k, v in slots.items()
            }
            moved += 0.5 * rule.peek(g.to_dense()[touched], here, group)
        balancer.backward(losses)
        balancer.step()
        expected = table.clone()
        expected[touched] -= 0.05 * moved
        torch.testing.assert_close(model.table.weight.detach(), expected, rtol=1e-6, atol=1e-7)
        untouched = [i for i in range(ROWS) if i not in touched]
        assert torch.equal(model.table.weight[untouched], table[untouched])


@BY_KIND
def test_pub_slots_are_those_of_the_weighted_gradient(kind):
    """The optimizer's slots after a balanced step equal bit for bit torch's after a step of `sum_t w_t g_t`."""
    model, balancer = balanced(kind)
    for seed in range(4):
        twin = copy.deepcopy(model)
        own = KINDS[kind](twin.table.parameters())
        real = balancer._layout.optimizers[0]
        own.load_state_dict(copy.deepcopy(real.state_dict()))
        twin_losses = twin.losses(seed)
        step(model, balancer, seed)
        w = balancer.last.weights
        rows = torch.unique(
            torch.cat(
                [
                    torch.autograd.grad(x, twin.table.weight, retain_graph=True)[0].coalesce().indices()[0]
                    for x in twin_losses.values()
                ]
            )
        )
        dense = [
            torch.autograd.grad(x, twin.table.weight, retain_graph=True)[0].to_dense()[rows]
            for x in twin_losses.values()
        ]
        mixed = dense[0] * w["a"] + dense[1] * w["b"]
        twin.table.weight.grad = torch.sparse_coo_tensor(rows[None], mixed, (ROWS, DIM))
        own.step()
        for name, slot in own.state[twin.table.weight].items():
            mine = real.state[model.table.weight][name]
            assert torch.equal(torch.as_tensor(mine), torch.as_tensor(slot)), name


@pytest.mark.parametrize("method", ("pub", "nash", "upgrad", "mgda"))
def test_adagrad_and_sgd_do_not_care_whether_a_table_is_sparse(method):
    for kind in ("adagrad", "sgd", "rowwise_adagrad"):
        models = []
        for sparse in (True, False):
            model = Model(sparse)
            optimizers = [KINDS[kind](model.table.parameters()), torch.optim.Adam(model.rest(), lr=0.05)]
            balancer = eq.Balancer(optimizers, method, shared=model.shared_parameters())
            for seed in range(6):
                step(model, balancer, seed)
            models.append(model)
        for p, q in zip(models[0].parameters(), models[1].parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("options", ({}, {"moments": "per_task"}, {"moments": "per_task_dense"}), ids=str)
def test_resumes_from_its_state(options):
    model, balancer = balanced("sparse_adam", **options)
    for seed in range(3):
        step(model, balancer, seed)
    again = copy.deepcopy(model)
    optimizers = [KINDS["sparse_adam"](again.table.parameters()), torch.optim.Adam(again.rest(), lr=0.05)]
    for mine, theirs in zip(optimizers, balancer._layout.optimizers, strict=True):
        mine.load_state_dict(copy.deepcopy(theirs.state_dict()))
    other = eq.Balancer(optimizers, "pub", shared=again.shared_parameters(), **options)
    other.load_state_dict(balancer.state_dict())
    for seed in range(3, 6):
        step(model, balancer, seed)
        step(again, other, seed)
    for p, q in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(p, q)


def test_moments_of_tables_may_stay_shared():
    model, balancer = balanced("sparse_adam", moments="per_task_dense")
    for seed in range(3):
        step(model, balancer, seed)
    held = balancer.state_dict()["moments"]
    table = balancer._layout.shared.index(0)
    assert held["a"] and all(str(table) not in slots for slots in held.values())
    assert balancer._layout.optimizers[0].state[model.table.weight]["step"] == 3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", ("pub", "graddrop"))
def test_a_step_without_any_id_leaves_the_table(kind, method, monkeypatch):
    model, balancer = balanced(kind, method)
    step(model, balancer, 0)
    before = model.table.weight.detach().clone()
    plain = rows.torch.zeros_like

    def small(tensor, **options):
        assert tensor.shape != (ROWS, DIM), "all of the table was made for a step that needs none of it"
        return plain(tensor, **options)

    monkeypatch.setattr(rows.torch, "zeros_like", small)
    h = torch.tanh(model.shared(torch.ones(4, DIM)))
    losses = {name: tower(h).square().mean() for name, tower in zip("ab", model.towers, strict=True)}
    balancer.backward(losses)
    balancer.step()
    assert torch.equal(model.table.weight, before)


def test_micro_batches_are_their_union():
    found = []
    for halves in (True, False):
        model, balancer = balanced("adagrad")
        for seed in range(0, 6, 2):
            if halves:
                balancer.backward(model.losses(seed))
                balancer.backward(model.losses(seed + 1))
            else:
                first, second = model.losses(seed), model.losses(seed + 1)
                balancer.backward({name: (first[name] + second[name]) / 2 for name in first})
            balancer.step()
        found.append(model.table.weight.detach())
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda p: torch.optim.Adam(p), "must be in SparseAdam, Adagrad, RowWiseAdagrad or SGD"),
        (lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9), "momentum must be 0"),
        (lambda p: torch.optim.Adagrad(p, weight_decay=0.1), "weight_decay must be 0"),
    ],
)
@pytest.mark.parametrize("method", ("pub", "nash"))
def test_what_a_table_cannot_have(make, match, method):
    model = Model()
    before = copy.deepcopy(model.state_dict())
    optimizers = [make(model.table.parameters()), torch.optim.Adam(model.rest(), lr=0.05)]
    balancer = eq.Balancer(optimizers, method, shared=model.shared_parameters())
    with pytest.raises(ValueError, match=match):
        step(model, balancer, 0)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


@pytest.mark.parametrize("method", ("moco", "db_mtl", "excess_mtl"))
def test_methods_that_keep_rows_refuse_a_table(method):
    model, balancer = balanced("sgd", method)
    with pytest.raises(ValueError, match="needs dense gradients"):
        step(model, balancer, 0)


def test_rowwise_adagrad_by_hand_and_its_errors():
    table = nn.Parameter(torch.ones(3, 2))
    optimizer = eq.RowWiseAdagrad([table], lr=1.0, eps=0.0)
    table.grad = torch.sparse_coo_tensor(
        torch.tensor([[1, 1]]), torch.tensor([[1.0, 3.0], [0.0, 4.0]]), (3, 2)
    )
    optimizer.step()  # the row's gradient is (1, 7): s = 25, u = g / 5
    torch.testing.assert_close(table.detach(), torch.tensor([[1.0, 1.0], [0.8, -0.4], [1.0, 1.0]]))
    assert optimizer.state[table]["sum"].tolist() == [0.0, 25.0, 0.0]
    with pytest.raises(ValueError, match="lr must be >= 0"):
        eq.RowWiseAdagrad([table], lr=-1.0)


# ---- the backbones' embedding ----


@pytest.mark.parametrize("model", ("shared_bottom", "mmoe", "ple", "stem", "home"))
def test_sparse_embedding_gives_the_dense_one_s_gradient(tmp_path, model):
    log = small_log(tmp_path / "log")
    batch = next(log.split("train").batches(64))
    grads = []
    for sparse in (False, True):
        made = eq.models.build(model, log.schema, seed=0, id_dropout=0.0, sparse=sparse)
        loss = torch.stack(list(made.losses(batch).values())).sum()
        (g,) = torch.autograd.grad(loss, [made.embedding.table.weight])
        assert g.is_sparse is sparse and (not sparse or g.is_coalesced())
        grads.append(g.to_dense() if sparse else g)
        assert len(made.tables()) == (sparse and (1 + len(log.schema.tasks) if model == "stem" else 1))
    torch.testing.assert_close(*grads, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize(
    ("optimizer", "method"), [("adam", "pub"), ("adagrad", "nash"), ("sgd", "equal"), ("adamw", "pub")]
)
def test_trains_and_resumes_with_row_sparse_tables(tmp_path, optimizer, method):
    log = small_log(tmp_path / "log")
    arguments = {
        "model": "shared_bottom",
        "method": method,
        "optimizer": optimizer,
        "epochs": 2,
        "set": {"sparse": True},
    }
    whole = eq.train(log, out=tmp_path / "whole", seed=3, **arguments)
    again = eq.train(log, out=tmp_path / "again", seed=3, **arguments)
    for p, q in zip(whole.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(p, q)


def test_row_sparse_tables_need_an_optimizer_that_takes_them(tmp_path):
    with pytest.raises(ValueError, match="must be adam, adamw, adagrad or sgd for row-sparse tables"):
        eq.train(small_log(tmp_path / "log"), optimizer="rmsprop", set={"sparse": True})
