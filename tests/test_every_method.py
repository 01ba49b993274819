"""Every method at every level that its statistic allows, on every optimizer: trains, repeats, resumes, loses tasks."""

import copy

import pytest
import torch
from rows import METHODS as ROWS

import equipoise as eq
from equipoise.data import simulate
from equipoise.methods import METHODS
from equipoise.models import MMoE
from equipoise.training import take_step

LEVELS = ("losses", "gradients", "updates", "representation")
OPTIMIZERS = {
    "adam": lambda p: torch.optim.Adam(p, lr=1e-2),
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-2, weight_decay=0.01),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=1e-2),
    "sgd": lambda p: torch.optim.SGD(p, lr=1e-2, momentum=0.9),
}


def allowed(kind):
    """Return the levels that a method's statistic allows."""
    if kind.any_level:
        return LEVELS
    if kind.level == "losses":
        return LEVELS[:1]
    rows = hasattr(kind, "track") or hasattr(kind, "combine") or "cross" in kind.needs
    alone = getattr(kind, "per", "model") == "tensor"
    return LEVELS[1:3] if rows or alone else LEVELS[1:]


CASES = [(name, level) for name, kind in METHODS.items() for level in allowed(kind)]


@pytest.fixture(scope="module")
def batches(tmp_path_factory):
    log = simulate(tmp_path_factory.mktemp("log") / "log", 1000, 0, "mixed")
    return log, list(log.split("train").batches(100, shuffle=True))[:4]


def build(log, name, level, optimizer="adam"):
    model = MMoE(
        log.schema, num_experts=2, embedding_dim=2, expert=(4,), tower_sizes=(), seed=0, id_dropout=0.0
    )
    balancer = eq.Balancer(
        OPTIMIZERS[optimizer](model.parameters()), name, level=level, shared=model.shared_parameters()
    )
    return model, balancer


def parameters(model):
    return {n: p.detach().clone() for n, p in model.named_parameters()}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(("name", "level"), CASES)
def test_trains_repeats_and_resumes(batches, name, level, optimizer):
    log, found = batches
    ends = []
    for saved_at in (None, None, 2):
        model, balancer = build(log, name, level, optimizer)
        begun = parameters(model)
        for step, batch in enumerate(found):
            if step == saved_at:
                states = [
                    copy.deepcopy(o.state_dict()) for o in (model, balancer._layout.optimizers[0], balancer)
                ]
                model, balancer = build(log, name, level, optimizer)
                for o, state in zip((model, balancer._layout.optimizers[0], balancer), states, strict=True):
                    o.load_state_dict(state)
            take_step(model, balancer, batch)
        ends.append(parameters(model))
        assert all(torch.isfinite(p).all() for p in ends[-1].values())
        assert any(not torch.equal(p, begun[n]) for n, p in ends[-1].items())
    for again in ends[1:]:
        assert all(torch.equal(again[n], p) for n, p in ends[0].items())


@pytest.mark.parametrize(("name", "kind"), METHODS.items())
def test_other_levels_are_refused(batches, name, kind):
    for level in set(LEVELS) - set(allowed(kind)):
        with pytest.raises(ValueError, match="level"):
            build(batches[0], name, level)


@pytest.mark.parametrize(("name", "level"), CASES)
@pytest.mark.parametrize("num_tasks", (1, 2, 6))
def test_number_of_tasks(name, level, num_tasks):
    """One task is the optimizer's own step, bit for bit, under every method with a scale but raw."""
    shared, own, balancer, x = toy(name, level, num_tasks)
    twin = [p.detach().clone().requires_grad_() for p in (shared, *own)]
    optimizer = torch.optim.Adam(twin, lr=1e-2)
    for step in range(3):
        toy_step(shared, own, balancer, x[step])
        if num_tasks == 1 and balancer.options.scale != "raw":
            optimizer.zero_grad()
            toy_losses(twin[0], twin[1:], x[step])[0]["0"].backward()
            optimizer.step()
            assert torch.equal(twin[0], shared)
    assert torch.isfinite(shared).all()
    assert len(balancer.last.tasks) == num_tasks


@pytest.mark.parametrize(("name", "level"), CASES)
@pytest.mark.parametrize("bad", ("absent", "nan"))
def test_a_task_is_left_out_and_comes_back(name, level, bad):
    shared, own, balancer, x = toy(name, level, 3)
    for step in range(4):
        before = own[1].detach().clone()
        toy_step(shared, own, balancer, x[step], bad if step in (1, 2) else "")
        if step in (1, 2):
            assert torch.equal(before, own[1])
            assert balancer.last.weights["1"] == 0.0
            assert balancer.last.nonfinite == (("1",) if bad == "nan" else ())
        else:
            assert len(balancer.last.tasks) == 3
        assert torch.isfinite(shared).all()


# ---- a trunk and linear towers ----


def toy(name, level, num_tasks):
    g = torch.Generator().manual_seed(num_tasks)
    shared = torch.nn.Parameter(torch.randn(4, 5, generator=g))
    own = [torch.nn.Parameter(torch.randn(4, generator=g)) for _ in range(num_tasks)]
    optimizer = torch.optim.Adam([shared, *own], lr=1e-2)
    return (
        shared,
        own,
        eq.Balancer(optimizer, name, level=level, shared=[shared]),
        torch.randn(4, 6, 5, generator=g),
    )


def toy_losses(shared, own, x):
    h = torch.tanh(x @ shared.T)
    return {str(t): (h @ v - x[:, t % 5]).square().mean() + 0.1 for t, v in enumerate(own)}, h


def toy_step(shared, own, balancer, x, bad=""):
    def losses(part):
        found, h = toy_losses(shared, own, part)
        if bad:
            found["1"] = None if bad == "absent" else found["1"] * float("nan")
        return found, h

    for part in (x[:3], x[3:]) if "cross" in balancer.method.needs else (x,):
        found, h = losses(part)
        balancer.backward(found, representation=h)
    if hasattr(balancer.method, "observe"):
        balancer.step(lambda: losses(x)[0])
    else:
        balancer.step()


def test_rows_cover_the_methods():
    assert [row.name for row in ROWS] == list(METHODS)
