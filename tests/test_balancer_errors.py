"""Every error of the Balancer, at the boundary, and that it leaves no trace."""

import pytest
import torch
from toy import clones, losses, make, moved

import equipoise as eq
from equipoise.gradients import check_losses


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "pubb"}, "method must be one of"),
        ({"method": eq.PUB}, "method must be an instance"),
        ({"method": 3}, "method must be an instance"),
        ({"level": "rows"}, "level must be one of"),
        ({"level": "losses"}, "level must be 'gradients', 'updates' or 'representation' for PUB"),
        ({"between": "never"}, "between must be one of"),
        ({"scale": "long"}, "scale must be one of"),
        ({"moments": "none"}, "moments must be one of"),
        ({"gram": "cheap"}, "gram must be one of"),
        ({"on_stationary": "hope"}, "on_stationary must be one of"),
        ({"on_nonfinite": "hope"}, "on_nonfinite must be one of"),
        ({"every": 0}, "every must be an integer"),
        ({"every": True}, "every must be an integer"),
        ({"every": 2.0}, "every must be an integer"),
        ({"clip": 0.1}, "clip must be"),
        ({"max_norm": 0.0}, "max_norm must be > 0"),
        ({"max_task_norm": -1.0}, "max_task_norm must be > 0"),
        ({"max_norm": float("nan")}, "max_norm must be > 0"),
        ({"between": "weighted", "moments": "per_task"}, "cannot have moments='per_task'"),
        ({"between": "weighted", "clip": eq.Clippy()}, "cannot have clip"),
        ({"between": "weighted", "max_task_norm": 1.0}, "cannot have max_task_norm"),
        ({"shared": ()}, "shared must hold at least one"),
        ({"shared": ("trunk", "trunk")}, "given once"),
    ],
    ids=str,
)
def test_refused_when_built(arguments, message):
    with pytest.raises(ValueError, match=message):
        make(**arguments)


def test_losses_level_refuses_nothing_that_looks_at_no_row():
    for level in ("losses", "gradients", "updates"):
        make("equal", level=level)


def test_refused_parameters():
    p, q = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([p], lr=0.1)
    with pytest.raises(ValueError, match="must be in the optimizer"):
        eq.Balancer(optimizer, "pub", shared=[q])
    q.requires_grad_(False)
    with pytest.raises(ValueError, match="frozen"):
        eq.Balancer(optimizer, "pub", shared=[q])
    with pytest.raises(ValueError, match="frozen"):
        eq.Balancer(optimizer, "pub", shared=["trunk"])
    with pytest.raises(ValueError, match="each parameter once"):
        eq.Balancer([optimizer, torch.optim.SGD([p], lr=0.1)], "pub")
    for bad in ([], [p], [optimizer, 3], 3, torch.nn.Linear(2, 1)):
        with pytest.raises(ValueError, match="optimizer must be a torch optimizer"):
            eq.Balancer(bad, "pub")


class OfMyOwn:
    """What the docs ask of a user's method, no more."""

    level = "gradients"

    def init(self, num_tasks):
        return {}

    def __call__(self, statistic, state):
        return torch.ones(len(statistic), dtype=torch.float64) * 2, state


def test_a_method_of_ones_own_needs_level_init_and_call_only():
    parameters, _, balancer = make(OfMyOwn())
    balancer.backward(losses(parameters, 0))
    balancer.step()
    assert balancer.last.weights == {"a": 2.0, "b": 2.0, "c": 2.0}
    with pytest.raises(ValueError, match="method must be an instance"):
        make(type("Other", (), {"level": "gradients"})())


def test_parameters_that_change_after_the_balancer_was_made():
    parameters, optimizer, balancer = make()
    parameters["trunk"].requires_grad_(False)
    with pytest.raises(ValueError, match="shared parameters must stay trainable"):
        balancer.backward({"a": parameters["a"].sum()})
    parameters["trunk"].requires_grad_(True)
    optimizer.add_param_group({"params": [torch.nn.Parameter(torch.ones(2))]})
    with pytest.raises(ValueError, match="make the Balancer anew after add_param_group"):
        balancer.backward(losses(parameters, 0))


@pytest.mark.parametrize(
    ("options", "bad", "error"),
    [
        (
            {"on_stationary": "raise"},
            lambda p: {"a": p["trunk"].sum(), "b": -p["trunk"].sum()},
            eq.StationaryError,
        ),
        (
            {"on_nonfinite": "raise"},
            lambda p: losses(p, 1) | {"b": p["trunk"].sum() * float("nan")},
            FloatingPointError,
        ),
        ({"method": "gls"}, lambda p: losses(p, 1) | {"b": losses(p, 1)["b"] - 900.0}, ValueError),
        ({"method": "db_mtl"}, lambda p: losses(p, 1) | {"b": losses(p, 1)["b"] - 900.0}, ValueError),
    ],
)
def test_an_error_of_step_leaves_no_trace(options, bad, error):
    parameters, _, balancer = make(kind=torch.optim.SGD, **options)
    twin, _, other = make(kind=torch.optim.SGD, **options)
    if options.get("method") in ("gls", "db_mtl"):  # which wants no loss below 0
        assert all(loss > 0 for step in (0, 2) for loss in losses(parameters, step).values())
    balancer.backward(losses(parameters, 0))
    balancer.step()
    balancer.backward(bad(parameters))
    with pytest.raises(error):
        balancer.step()
    balancer.backward(losses(parameters, 2))
    balancer.step()
    for step in (0, 2):
        other.backward(losses(twin, step))
        other.step()
    assert all(torch.equal(parameters[n], twin[n]) for n in twin)


def test_a_first_backward_that_fails_fixes_nothing():
    parameters, _, balancer = make(shared=None)
    with pytest.raises(ValueError, match="none in common"):
        balancer.backward({"x": parameters["a"].sum(), "y": parameters["b"].sum()})
    balancer.backward(losses(parameters, 0))
    balancer.step()
    assert balancer.last.tasks == ("a", "b", "c")


def test_losses_after_the_step_that_famo_cannot_take_leave_a_whole_step():
    parameters, _, balancer = make("famo")
    balancer.backward(losses(parameters, 0))
    with pytest.raises(ValueError, match="FAMO"):
        balancer.step(lambda: {name: torch.zeros(()) for name in "abc"})
    assert balancer.last.step == 1
    balancer.backward(losses(parameters, 1))
    balancer.step(lambda: losses(parameters, 1))
    assert balancer.last.step == 2


def test_many_16_bit_gradients_are_finite():
    p = torch.nn.Parameter(torch.zeros(100_000, dtype=torch.float16))
    balancer = eq.Balancer(torch.optim.SGD([p], lr=1.0), "equal", shared=[p])
    balancer.backward({"a": p.sum(), "b": p.sum()})
    balancer.step()
    assert balancer.last.nonfinite == ()
    assert float(p.detach()[0]) == -2.0


def refused(message, bad, first=None, error=ValueError, **arguments):
    """`bad(parameters)` as losses raises, and a good step afterwards is that of a Balancer that never saw it."""
    parameters, _, balancer = make(**arguments)
    twin, _, other = make(**arguments)
    for step in range(1 if first is None else first):
        for b, p in ((balancer, parameters), (other, twin)):
            b.backward(losses(p, step))
            b.step()
    before = clones(parameters)
    with pytest.raises(error, match=message):
        balancer.backward(bad(parameters))
    assert moved(before, parameters) == set()
    for b, p in ((balancer, parameters), (other, twin)):
        b.backward(losses(p, 7))
        b.step()
    assert all(torch.equal(parameters[n], twin[n]) for n in twin)


@pytest.mark.parametrize("first", (0, 1))
@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (lambda p: {**losses(p, 1), "b": p["b"] * 2}, r"must be a scalar, got shape \(3,\)"),
        (lambda p: {**losses(p, 1), "b": 0.5}, "must be a scalar tensor, got float"),
        (lambda p: p["trunk"], "must be a mapping"),
        (lambda p: p["trunk"].sum(), "must be a mapping"),
        (lambda p: [p["trunk"].sum()], "must be a mapping"),
        (lambda p: {}, "at least one task"),
        (lambda p: {0: p["trunk"].sum(), 1: p["a"].sum()}, "must name its tasks by text, got 0"),
        (lambda p: {**losses(p, 1), "b": p["b"].sum()}, "reach at least one shared"),
    ],
)
def test_refused_losses_leave_no_trace(bad, message, first):
    refused(message, bad, first)


def test_unknown_task_leaves_no_trace():
    refused("unknown task 'd'", lambda p: {**losses(p, 1), "d": p["trunk"].sum()})


def test_unknown_task_in_the_middle_of_a_step_keeps_the_step():
    parameters, _, balancer = make()
    twin, _, other = make()
    balancer.backward(losses(parameters, 0))
    with pytest.raises(ValueError, match="unknown task"):
        balancer.backward({"d": parameters["trunk"].sum()})
    balancer.step()
    other.backward(losses(twin, 0))
    other.step()
    assert all(torch.equal(parameters[n], twin[n]) for n in twin)


@pytest.mark.parametrize("bad", (-1.0, float("nan"), float("inf")))
def test_refused_counts(bad):
    loss = torch.ones((), requires_grad=True)
    with pytest.raises(ValueError, match="must be a finite number >= 0"):
        check_losses({"a": loss}, {"a": bad})
    with pytest.raises(ValueError, match="counts has task 'b'"):
        check_losses({"a": loss}, {"b": 1.0})


def test_step_without_backward():
    parameters, _, balancer = make()
    with pytest.raises(RuntimeError, match="step needs a backward"):
        balancer.step()
    balancer.backward(losses(parameters, 0))
    balancer.step()
    with pytest.raises(RuntimeError, match="step needs a backward"):
        balancer.step()


def test_nothing_in_common_is_refused():
    parameters, _, balancer = make(shared=None)
    with pytest.raises(ValueError, match="none in common"):
        balancer.backward({n: parameters[n].sum() for n in "abc"})


@pytest.mark.parametrize("options", ({}, {"level": "representation"}, {"gram": "sketch"}), ids=str)
def test_weighted_refuses_an_unshared_parameter_that_several_tasks_reach(options):
    parameters, _, balancer = make("mgda", between="weighted", every=2, **options)
    found = losses(parameters, 0)
    h = (parameters["trunk"] * 1.0).sum()
    found = {name: (h * parameters[name].sum()).square() for name in "abc"}
    found["a"] = found["a"] + parameters["b"].sum()
    for _ in range(2):
        with pytest.raises(ValueError, match="several tasks reach"):
            balancer.backward(found, representation=h)
        h = (parameters["trunk"] * 1.0).sum()
        found = {name: (h * parameters[name].sum()).square() for name in "abc"}
        found["a"] = found["a"] + parameters["b"].sum()


def test_weighted_refuses_an_owner_it_does_not_know():
    """A tower that no solving step has seen, reached between two solves: whose it is cannot be told."""
    parameters, _, balancer = make(between="weighted", every=3)
    trunk = parameters["trunk"]
    balancer.backward({"a": trunk.sum(), "b": trunk.square().sum()})
    balancer.step()
    with pytest.raises(ValueError, match="first reached between two solves"):
        balancer.backward({"a": trunk.sum() + parameters["c"].sum(), "b": trunk.square().sum()})


@pytest.mark.parametrize("scale", ("convex", "sum"))
def test_weights_that_sum_to_nothing_are_refused_before_anything_is_written(scale):
    parameters, optimizer, balancer = make(eq.Fixed([0.0, 0.0, 0.0]), scale=scale)
    before = clones(parameters)
    balancer.backward(losses(parameters, 0))
    with pytest.raises(ValueError, match="positive sum"):
        balancer.step()
    assert moved(before, parameters) == set()
    assert not optimizer.state


def test_fixed_names_a_task_that_does_not_exist():
    for fixed, message in (
        (eq.Fixed({"z": 2.0}), "unknown task 'z'"),
        (eq.Fixed([1.0]), "each of the 3 tasks"),
    ):
        parameters, _, balancer = make(fixed)
        for _ in range(2):  # a second try meets the same error
            with pytest.raises(ValueError, match=message):
                balancer.backward(losses(parameters, 0))
