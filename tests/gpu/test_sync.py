"""How often a step waits for its device: once a solve, not at all between solves. On the CPU, of a pretended device."""

import copy
import shutil
from dataclasses import replace

import pytest
import torch
from counting import waiting
from test_balancer_edges import ABSENT, NONFINITE
from test_scaler import made
from toy import clones, losses, make, moved

import equipoise as eq
from equipoise import transfer
from equipoise.data.batches import Batch
from equipoise.data.schema import Label, Numerical, Schema
from equipoise.losses import task_losses

CUDA = pytest.param(
    "cuda",
    marks=[
        pytest.mark.gpu,
        pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    ],
)
BETWEEN = {"every": 3, "between": "weighted"}
COUNTS = {  # of the first four steps
    "pub": ({}, [1, 1, 1, 1]),
    "nash": ({}, [1, 1, 1, 1]),
    "upgrad": ({}, [1, 1, 1, 1]),
    "equal": ({}, [1, 1, 1, 1]),
    "uw": ({}, [1, 1, 1, 1]),
    "graddrop": ({}, [1, 1, 1, 1]),
    "metabalance": ({}, [1, 1, 1, 1]),  # one Gram matrix a tensor
    "upgrad updates": ({"level": "updates"}, [1, 1, 1, 1]),
    "pub bounded": ({"max_norm": 0.1}, [1, 1, 1, 1]),
    "nash bounded": ({"max_norm": 0.1}, [1, 1, 1, 1]),
    "pub tensor": ({"per": "tensor"}, [1, 1, 1, 1]),
    "pub per_task": ({"moments": "per_task"}, [2, 1, 1, 1]),
    "nash representation": ({"level": "representation"}, [1, 1, 1, 1]),
    "pub sketch": ({"gram": "sketch"}, [1, 1, 1, 1]),
    "pub exact": ({"every": 3}, [1, 0, 0, 1]),
    "nash exact": ({"every": 3}, [1, 0, 0, 1]),
    "pub weighted": (BETWEEN, [1, 0, 0, 1]),
    "nash weighted": (BETWEEN, [1, 0, 0, 1]),
    "pub sketch weighted": ({"gram": "sketch", **BETWEEN}, [1, 0, 0, 1]),
    "equal weighted": ({"between": "weighted"}, [1, 0, 0, 0]),
    "uw weighted": ({"between": "weighted"}, [1, 1, 1, 1]),
    # what needs more: the docs say why
    "pub clipped": ({"max_task_norm": 0.5}, [2, 2, 2, 2]),
    "moco": ({}, [2, 2, 2, 2]),
    "excess_mtl": ({}, [2, 2, 2, 2]),
    "sdmgrad": ({}, [2, 2, 2, 2]),
    "famo": ({}, [2, 2, 2, 2]),
    "pub scaler": ({}, [2, 2, 2, 2]),
    "pub weighted scaler": (BETWEEN, [2, 1, 1, 2]),
}


@pytest.fixture
def pretend(monkeypatch):
    """The CPU is taken for a device that is waited for."""
    monkeypatch.setattr(transfer, "waits", lambda device: True)


@pytest.mark.parametrize("device", ("cpu", CUDA))
@pytest.mark.parametrize("mode", COUNTS)
def test_synchronisations_of_a_step(mode, device, request):
    if device == "cpu":
        request.getfixturevalue("pretend")
    options, expected = COUNTS[mode]
    model, balancer = made(mode.split()[0], options, device)
    scaler = torch.amp.GradScaler(device) if "scaler" in mode else None
    found = []
    for step in range(4):
        each = [model.losses(10 * step + k) for k in range(2 if "cross" in balancer.method.needs else 1)]
        again = model.losses(10 * step)
        closure = (lambda again=again: again,) if hasattr(balancer.method, "observe") else ()
        slots = [
            v for s in balancer._layout.optimizers[0].state.values() for k, v in s.items() if k != "step"
        ]
        given = [*model.parameters(), *slots, *again.values(), *(v for one in each for v in one.values())]
        with waiting(given) as reads:
            for one in each:
                balancer.backward(one, scaler=scaler)
            if scaler is None:
                balancer.step(*closure)
            else:
                scaler.step(balancer, *closure)
        if scaler is not None:
            scaler.update()
        found.append(reads)
    up = 2 if device == "cuda" and mode == "graddrop" else 0  # random numbers of its two tensors go up
    assert [len(reads) - up for reads in found] == expected, found


def test_the_counter_counts():
    p = torch.ones(3)
    q = torch.ones(3, requires_grad=True)
    for read in (
        lambda: float(p.sum()),
        lambda: bool((p > 0).all()),
        lambda: p.tolist(),
        lambda: p.cpu(),
        lambda: p.to("cpu"),
        lambda: p.numpy(),
        lambda: p[p > 0],
        lambda: p.nonzero(),
        lambda: torch.equal(p, p),
        lambda: torch.autograd.grad(q.sum(), q)[0].sum().item(),
    ):
        with waiting([p, q]) as reads:
            read()
        assert len(reads) == 1
    with waiting([p]) as reads:
        float(torch.ones(3).sum()), (p * 2).cpu().tolist()
    assert len(reads) == 1  # what has been read lies on the host


def pair(monkeypatch, **arguments):
    """Two runs of the same values, the second with the CPU taken for a device."""
    runs = [make(dtype=torch.float32, **arguments) for _ in range(2)]

    def step(given):
        for pretended, (parameters, _, balancer) in enumerate(runs):
            with monkeypatch.context() as patch:
                patch.setattr(transfer, "waits", lambda device, on=bool(pretended): on)
                balancer.backward(given(parameters))
                balancer.step()

    return runs, step


@pytest.mark.parametrize("kind", [*ABSENT, *NONFINITE])
@pytest.mark.parametrize(
    "options",
    (
        {"method": "pub"},
        {"method": "nash"},
        {"method": "equal"},
        {"method": "upgrad", "level": "updates", "scale": "sum", "weight_decay": 0.1},
        {"method": "pub", "moments": "per_task"},
        {"method": "pub", "gram": "sketch"},
        {"method": "uw", "between": "weighted"},
    ),
    ids=str,
)
def test_who_takes_part_in_a_solve_is_as_on_the_cpu(kind, options, monkeypatch):
    """Bit for bit, with all of the record: a task that is found out late is as one that was never there."""
    if options.get("between") and kind in ("zero gradient", "1e25", "own"):
        pytest.skip("decided on the losses")
    (expected, _, theirs), (found, _, mine) = (runs := pair(monkeypatch, **options))[0]
    step = runs[1]
    step(lambda p: losses(p, 0))
    if kind in ABSENT:
        step(lambda p: ABSENT[kind](p, losses(p, 1)))
    else:
        step(lambda p: {**losses(p, 1), "b": NONFINITE[kind](p, losses(p, 1)["b"])})
    assert str(mine.last) == str(theirs.last)
    assert mine.last.tasks == ("a", "c")
    step(lambda p: losses(p, 2))
    assert all(torch.equal(found[name], p) for name, p in expected.items())


@pytest.mark.parametrize("kind", NONFINITE)
@pytest.mark.parametrize("method", ("pub", "nash"))
def test_not_finite_between_solves_counts_as_zeros(kind, method, monkeypatch):
    (_, (found, _, mine)), step = pair(monkeypatch, method=method, every=3)
    twins, twice = pair(monkeypatch, method=method, every=3)
    zeros = twins[1][0]
    step(lambda p: losses(p, 0))
    twice(lambda p: losses(p, 0))
    step(lambda p: {**losses(p, 1), "b": NONFINITE[kind](p, losses(p, 1)["b"])})
    twice(lambda p: {**losses(p, 1), "b": losses(p, 1)["b"] * 0.0})
    assert all(torch.equal(found[name], p) for name, p in zeros.items())
    assert mine.last.totals["nonfinite"] == {}
    step(lambda p: losses(p, 2))
    assert mine.last.totals["nonfinite"] == {}
    step(lambda p: losses(p, 3))
    assert mine.last.totals["nonfinite"] == {"b": 1}


@pytest.mark.parametrize("kind", NONFINITE)
def test_a_weighted_gradient_that_is_not_finite_counts_as_zeros(kind, pretend):
    """Every parameter moves by its momentum alone; the counts come with the next solve, or a state_dict."""
    runs = [make("pub", every=3, between="weighted", dtype=torch.float32) for _ in range(2)]
    for parameters, _, balancer in runs:
        balancer.backward(losses(parameters, 0))
        balancer.step()
    (found, _, balancer), (twin, _, other) = runs
    balancer.backward({**losses(found, 1), "b": NONFINITE[kind](found, losses(found, 1)["b"])})
    balancer.step()
    other.backward({name: loss * 0.0 for name, loss in losses(twin, 1).items()})
    other.step()
    assert all(torch.equal(found[name], p) for name, p in twin.items())
    assert (balancer.last.status, balancer.last.nonfinite) == ("kept", ())
    assert balancer.state_dict()["totals"]["nonfinite"] == {"a": 1, "b": 1, "c": 1}
    assert other.state_dict()["totals"]["nonfinite"] == {}


def test_a_fused_optimizer_skips_a_weighted_step_that_is_not_finite(pretend):
    parameters = {n: torch.nn.Parameter(p.detach()) for n, p in make(dtype=torch.float32)[0].items()}
    optimizer = torch.optim.Adam(list(parameters.values()), lr=0.05, fused=True)
    balancer = eq.Balancer(optimizer, "nash", shared=[parameters["trunk"]], every=3, between="weighted")
    for step in range(2):
        balancer.backward(losses(parameters, step))
        balancer.step()
    before, state = clones(parameters), copy.deepcopy(optimizer.state_dict())
    balancer.backward({**losses(parameters, 2), "b": losses(parameters, 2)["b"] * float("nan")})
    balancer.step()
    assert moved(before, parameters) == set()
    assert str(optimizer.state_dict()) == str(state)
    balancer.backward(losses(parameters, 3))
    balancer.step()
    assert moved(before, parameters) == set(parameters)
    assert balancer.last.totals["nonfinite"] == {"a": 1, "b": 1, "c": 1}


def test_counts_of_labels_come_with_the_batch(monkeypatch):
    """Known before the batch goes to a device; a batch made of its fields drops them, as its masks may be others."""
    schema = Schema(features=(Numerical(name="x"),), labels=(Label(name="click"), Label(name="buy")))
    masks = {"click": torch.tensor([True, True, False]), "buy": torch.zeros(3, dtype=torch.bool)}
    labels = {name: torch.ones(3) for name in masks}
    weight = torch.tensor([0.5, 2.0, 4.0])
    batch = Batch(torch.zeros(3, 0), torch.zeros(3, 1), {}, labels, masks, torch.arange(3), weight)
    outputs = {name: torch.zeros(3, requires_grad=True) for name in masks}
    expected = task_losses(outputs, batch, schema)
    assert batch.to("cpu").counts == {}
    monkeypatch.setattr("equipoise.data.batches.waits", lambda device: device.type == "meta")
    moved_ = batch.to("meta")
    assert moved_.counts == {"click": 2.5, "buy": 0.0} == expected.counts
    assert (
        replace(moved_, masks=masks).counts == {} == Batch(**vars(moved_)).counts == moved_.part(0, 2).counts
    )
    batch._counts = moved_.counts
    with waiting([*outputs.values(), *masks.values(), *labels.values(), weight]) as reads:
        found = task_losses(outputs, batch, schema)
    assert not reads
    assert found["buy"] is expected["buy"] is None
    assert torch.equal(found["click"], expected["click"])


@pytest.mark.parametrize("between", ("exact", "weighted"))
def test_raises_between_solves_before_anything_is_written(between, pretend):
    parameters, _, balancer = make("pub", every=3, between=between, on_nonfinite="raise")
    balancer.backward(losses(parameters, 0))
    balancer.step()
    before = clones(parameters)
    balancer.backward({**losses(parameters, 1), "b": losses(parameters, 1)["b"] * float("nan")})
    with pytest.raises(FloatingPointError, match="'b'"):
        balancer.step()
    assert moved(before, parameters) == set()


@pytest.mark.parametrize("norm", (1e-2, 1e6))
@pytest.mark.parametrize("method", ("pub", "nash"))
def test_a_bound_on_the_device_is_that_of_the_cpu(method, norm, monkeypatch):
    (expected, found), step = pair(monkeypatch, method=method, max_norm=norm, kind=torch.optim.SGD)
    for k in range(3):
        step(lambda p, k=k: losses(p, k))
    for name, p in expected[0].items():  # the factor is rounded to float32 on the device
        torch.testing.assert_close(found[0][name], p, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("device", (pytest.param("cpu", marks=pytest.mark.slow), CUDA))
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.skipif(not any(shutil.which(n) for n in ("c++", "g++", "clang++")), reason="no C++ compiler")
def test_a_compiled_model(device):
    """The steps that the model makes without, and on CUDA with one synchronisation each."""
    runs = []
    for compiled in (False, True):
        model, balancer = made("pub", {}, device)
        if compiled:
            model.trunk.compile()
        for step in range(3):
            found = model.losses(step)
            if device == "cuda":
                with waiting(list(model.parameters())) as reads:
                    balancer.backward(found)
                    balancer.step()
                assert step == 0 or len(reads) == 1  # the first backward is compiled
            else:
                balancer.backward(found)
                balancer.step()
        runs.append(list(model.parameters()))
    for p, q in zip(*runs, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)
