"""The Balancer where a task is missing, broken or opposed, and with each bound: what moves and what does not."""

import copy

import pytest
import torch
from toy import clones, loss_of, losses, make, moved, of

import equipoise as eq

ABSENT = {
    "none": lambda parameters, found: {**found, "b": None},
    "missing": lambda parameters, found: {k: v for k, v in found.items() if k != "b"},
    "no graph": lambda parameters, found: {**found, "b": found["b"].detach()},
    "zero gradient": lambda parameters, found: {**found, "b": found["b"] * 0.0},
}
NONFINITE = {
    "nan": lambda parameters, loss: loss * float("nan"),
    "inf": lambda parameters, loss: loss * float("inf"),
    "1e25": lambda parameters, loss: loss * 1e25,  # finite, its square in float32 is not
    "own": lambda parameters, loss: loss + 1e25 * parameters["b"].sum(),
}


@pytest.mark.parametrize("kind", ABSENT)
@pytest.mark.parametrize("moments", ("shared", "per_task"))
@pytest.mark.parametrize("method", ("pub", "equal"))
def test_absent_task_leaves_its_own_alone(kind, moments, method):
    parameters, optimizer, balancer = make(method, moments=moments)
    reduced, _, without = make(method, moments=moments)
    for balancer_, on in ((balancer, parameters), (without, reduced)):
        balancer_.backward(losses(on, 0))
        balancer_.step()
    before, slots = clones(parameters), clones(optimizer.state[parameters["b"]])
    balancer.backward(ABSENT[kind](parameters, losses(parameters, 1)))
    balancer.step()
    without.backward({k: v for k, v in losses(reduced, 1).items() if k != "b"})
    without.step()
    assert moved(before, parameters) == {"trunk", "a", "c"}
    assert all(torch.equal(v, optimizer.state[parameters["b"]][k]) for k, v in slots.items())
    assert balancer.last.absent == ("b",)
    assert balancer.last.num_absent == 1
    assert balancer.last.weights["b"] == 0.0
    assert balancer.last.totals["absent"] == {"b": 1}
    assert all(torch.equal(parameters[n], reduced[n]) for n in parameters)
    if method == "pub":
        assert sum(balancer.last.weights.values()) == pytest.approx(1.0)  # T counts present tasks


def test_all_absent_skips_the_step():
    parameters, optimizer, balancer = make()
    balancer.backward(losses(parameters, 0))
    balancer.step()
    before, state = clones(parameters), copy.deepcopy(optimizer.state_dict())
    balancer.backward({"a": None, "b": None})
    balancer.step()
    assert moved(before, parameters) == set()
    assert (balancer.last.status, balancer.last.skipped) == ("skipped", True)
    assert str(state) == str(optimizer.state_dict())


def test_tiny_gradient_is_not_absent():
    """1e-30 squared underflows to 0 in float32; the gradient itself is a signal, though."""
    parameters, _, balancer = make("equal", dtype=torch.float32)
    balancer.backward({"a": losses(parameters, 0)["a"], "b": parameters["trunk"].sum() * 1e-30})
    balancer.step()
    assert balancer.last.tasks == ("a", "b")


@pytest.mark.parametrize("kind", NONFINITE)
@pytest.mark.parametrize("method", ("pub", "equal"))
def test_nonfinite_task_is_left_out_and_counted(kind, method):
    parameters, optimizer, balancer = make(method, dtype=torch.float32)
    reduced, _, without = make(method, dtype=torch.float32)
    for step in range(3):
        found = losses(parameters, step)
        if step == 1:
            found["b"] = NONFINITE[kind](parameters, found["b"])
            before, slots = clones(parameters), clones(optimizer.state[parameters["b"]])
        balancer.backward(found)
        balancer.step()
        if step == 1:
            assert moved(before, parameters) == {"trunk", "a", "c"}
            assert all(torch.equal(v, optimizer.state[parameters["b"]][k]) for k, v in slots.items())
            assert (balancer.last.nonfinite, balancer.last.num_nonfinite) == (("b",), 1)
        expected = losses(reduced, step)
        without.backward(expected if step != 1 else {**expected, "b": None})
        without.step()
    assert all(torch.equal(parameters[n], reduced[n]) for n in parameters)
    assert balancer.last.totals["nonfinite"] == {"b": 1}


@pytest.mark.parametrize("kind", NONFINITE)
def test_nonfinite_raises_before_anything_is_written(kind):
    parameters, optimizer, balancer = make(on_nonfinite="raise", dtype=torch.float32)
    before = clones(parameters)
    found = losses(parameters, 0)
    balancer.backward({**found, "b": NONFINITE[kind](parameters, found["b"])})
    with pytest.raises(FloatingPointError, match="'b' has a NaN or Inf"):
        balancer.step()
    assert moved(before, parameters) == set()
    assert not optimizer.state


def test_all_nonfinite_skips_the_step():
    parameters, optimizer, balancer = make()
    before = clones(parameters)
    balancer.backward({k: v * float("nan") for k, v in losses(parameters, 0).items()})
    balancer.step()
    assert moved(before, parameters) == set()
    assert not optimizer.state
    assert (balancer.last.nonfinite, balancer.last.status) == (("a", "b", "c"), "skipped")


def opposite(parameters):
    """Two tasks that pull the trunk in opposite directions, each with a tower that moves."""
    trunk, a, b = parameters["trunk"], parameters["a"], parameters["b"]
    return {"a": trunk.sum() + a.square().sum(), "b": -2 * trunk.sum() + b.square().sum()}


def test_opposite_damped():
    parameters, _, balancer = make(tasks="ab", kind=torch.optim.SGD)
    before = clones(parameters)
    balancer.backward(opposite(parameters))
    balancer.step()
    assert balancer.last.status == "stationary"
    # damped weights are 1/|u_t| to a factor: 2/3 and 1/3, the pull is 0 to rounding
    assert list(balancer.last.weights.values()) == pytest.approx([2 / 3, 1 / 3])
    torch.testing.assert_close(parameters["trunk"], before["trunk"], rtol=0, atol=1e-6)
    assert {"a", "b"} <= moved(before, parameters)


def test_opposite_skipped():
    parameters, optimizer, balancer = make(tasks="ab", on_stationary="skip")
    balancer.backward(losses(parameters, 0, "ab"))
    balancer.step()
    optimizer.state.clear()
    before = clones(parameters)
    balancer.backward(opposite(parameters))
    balancer.step()
    assert moved(before, parameters) == {"a", "b"}
    assert parameters["trunk"] not in optimizer.state
    assert (balancer.last.status, balancer.last.skipped) == ("stationary", True)


def test_opposite_raises_before_anything_is_written():
    parameters, optimizer, balancer = make(tasks="ab", on_stationary="raise")
    before = clones(parameters)
    balancer.backward(opposite(parameters))
    with pytest.raises(eq.StationaryError, match="convex hull"):
        balancer.step()
    assert moved(before, parameters) == set()
    assert not optimizer.state


@pytest.mark.parametrize(("angle", "status"), ((0.0, "stationary"), (1e-4, "solved")))
@pytest.mark.parametrize("level", ("gradients", "updates"))
def test_what_all_but_cancels_does_not_hang_on_float32(angle, status, level):
    """-3 times a row of thousand float32 entries, and the same turned by 1e-4."""
    for seed in range(10):
        g = torch.Generator().manual_seed(seed)
        v, z = torch.randn(1000, generator=g), torch.randn(1000, generator=g)
        z = z - (z @ v) / (v @ v) * v
        z = z * (v.norm() / z.norm())
        p = torch.nn.Parameter(torch.zeros(1000))
        balancer = eq.Balancer(torch.optim.SGD([p], lr=1.0), "pub", level=level, shared=[p])
        balancer.backward({"a": (p * v).sum(), "b": (p * (-3 * (v + angle * z))).sum()})
        balancer.step()
        assert balancer.last.status == status


def test_updates_that_are_all_zero_are_stationary():
    """Momentum .5 and a gradient of -.5 after one of 1: each task's update is 0."""
    p = torch.nn.Parameter(torch.ones(3))
    balancer = eq.Balancer(torch.optim.SGD([p], lr=0.1, momentum=0.5), "pub", shared=[p])
    balancer.backward({"a": p.sum(), "b": p.sum()})
    balancer.step()
    before = p.detach().clone()
    balancer.backward({"a": -0.5 * p.sum(), "b": -0.5 * p.sum()})
    balancer.step()
    assert balancer.last.status == "stationary"
    assert torch.equal(p, before)


@pytest.mark.parametrize("method", ("pub", "nash", "equal"))
def test_gradients_left_by_a_plain_loop_are_not_stepped(method):
    """A loop that zeroes at its start leaves `p.grad` behind when it changes to the Balancer."""
    parameters, _, balancer = make(method)
    twin, _, other = make(method)
    sum(losses(parameters, 3).values()).backward()
    for p, b in ((parameters, balancer), (twin, other)):
        b.backward(losses(p, 0))
        b.step()
    assert all(torch.equal(parameters[n], twin[n]) for n in twin)


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("nash", {"between": "weighted"}),
        ("nash", {"gram": "sketch"}),
        ("mgda", {"between": "weighted", "scale": "norm"}),
        ("pub", {"gram": "sketch", "scale": "frobenius"}),
    ],
)
def test_one_task_between_solves_has_the_weight_1(method, options):
    parameters, _, balancer = make(method, every=5, shared=("trunk",), **options)
    for step in range(3):
        balancer.backward(losses(parameters, step))
        balancer.step()
    balancer.backward({"a": losses(parameters, 3)["a"], "b": None, "c": None})
    balancer.step()
    assert balancer.last.weights == {"a": 1.0, "b": 0.0, "c": 0.0}


# ---- accumulation ----


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("equal", {"between": "weighted"}),
        ("uw", {"between": "weighted"}),
        ("pub", {"gram": "sketch"}),
    ],
)
def test_micro_batches_with_other_tasks_are_all_recorded(method, options):
    """Weights come before the backward: a task that comes with a later micro-batch gets its own then."""
    parameters, _, balancer = make(method, **options)
    balancer.backward(losses(parameters, 0))
    balancer.step()
    before = clones(parameters)
    for tasks in ("ab", "bc"):
        found = losses(parameters, 1)
        balancer.backward({name: found[name] if name in tasks else None for name in "abc"})
    balancer.step()
    assert moved(before, parameters) == {"trunk", "a", "b", "c"}
    assert balancer.last.tasks == ("a", "b", "c")
    assert balancer.last.absent == ()
    assert all(w > 0 for w in balancer.last.weights.values())
    if method == "equal":
        assert set(balancer.last.weights.values()) == {1.0}
    if method == "uw":  # its state moved once: that of one call with all tasks
        twin, _, other = make(method, **options)
        for step in (0, 1):
            other.backward(losses(twin, step))
            other.step()
        found, expected = (b.state_dict()["method_state"][0] for b in (balancer, other))
        assert all(torch.equal(v, expected[k]) for k, v in found.items() if isinstance(v, torch.Tensor))


@pytest.mark.parametrize("given", ("argument", "attribute"))
def test_micro_batches_with_counts_are_one_batch(given):
    torch.manual_seed(0)
    x, mask = torch.randn(12, 4, dtype=torch.float64), torch.rand(12, 3) < 0.6
    parts = (slice(0, 2), slice(2, 7), slice(7, 12))
    whole, _, one = make()
    pieces, _, many = make()

    def masked(parameters, rows):
        found, counts = {}, {}
        for t, name in enumerate("abc"):
            m = mask[rows, t].double()
            found[name] = (loss_of(parameters, name, x[rows]) * m).sum() / m.sum().clamp(min=1)
            counts[name] = float(m.sum())
        return found, counts

    for _ in range(3):
        one.backward(masked(whole, slice(0, 12))[0])
        one.step()
        for rows in parts:
            found, counts = masked(pieces, rows)
            if given == "attribute":
                many.backward(eq.Losses(found, counts))
            else:
                many.backward(found, counts=counts)
        many.step()
    for name, p in whole.items():  # another order of sums in float64, through Adam
        torch.testing.assert_close(pieces[name], p, rtol=1e-8, atol=1e-9)


def test_counts_of_zero_and_losses_as_a_tensor():
    parameters, _, balancer = make()
    named, _, by_name = make()
    stack = torch.stack(list(losses(parameters, 0).values()))
    balancer.backward(stack, counts={"1": 0.0})
    balancer.step()
    assert list(balancer.last.weights) == ["0", "1", "2"]
    assert balancer.last.absent == ("1",)
    by_name.backward({**losses(named, 0), "b": None})
    by_name.step()
    assert all(torch.equal(parameters[n], named[n]) for n in parameters)


def test_shared_is_found_by_reach():
    parameters, _, balancer = make(shared=None)
    given, _, told = make()
    for step in range(3):
        balancer.backward(losses(parameters, step))
        balancer.step()
        told.backward(losses(given, step))
        told.step()
    assert all(torch.equal(parameters[n], given[n]) for n in parameters)


def test_shared_is_found_from_a_generator_and_by_one_task():
    parameters, optimizer, _ = make()
    balancer = eq.Balancer(optimizer, "pub", shared=(p for n, p in parameters.items() if n == "trunk"))
    balancer.backward(losses(parameters, 0))
    assert parameters["trunk"].grad is None
    assert parameters["a"].grad is not None
    parameters, _, alone = make(shared=None)
    alone.backward(losses(parameters, 0, "a"))
    assert parameters["a"].grad is None  # all that one task reaches is shared


# ---- bounds ----


@pytest.mark.parametrize("limit", (1e-3, 1e3))
def test_max_task_norm_of_one_task_is_clip_grad_norm(limit):
    ours, _, balancer = make("equal", max_task_norm=limit)
    theirs, optimizer, _ = make()
    for step in range(4):
        balancer.backward(losses(ours, step, "a"))
        balancer.step()
        optimizer.zero_grad()
        losses(theirs, step, "a")["a"].backward()
        torch.nn.utils.clip_grad_norm_(list(theirs.values()), limit)
        optimizer.step()
    for name, p in theirs.items():  # the norm is summed in another order
        torch.testing.assert_close(ours[name], p, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("level", ("gradients", "updates"))
def test_max_norm_bounds_the_joint_step(level):
    parameters, _, balancer = make("pub", level=level, kind=torch.optim.SGD, max_norm=1e-2)
    before = clones(parameters)
    balancer.backward(losses(parameters, 0))
    balancer.step()
    length = float((parameters["trunk"].detach() - before["trunk"]).norm()) / 0.05  # lr
    assert length == pytest.approx(1e-2, rel=1e-3)  # 1e-6 beside the norm
    free, _, unbounded = make("pub", level=level, kind=torch.optim.SGD, max_norm=1e6)
    plain, _, without = make("pub", level=level, kind=torch.optim.SGD)
    for balancer_, on in ((unbounded, free), (without, plain)):
        balancer_.backward(losses(on, 0))
        balancer_.step()
    assert all(torch.equal(free[n], plain[n]) for n in plain)


@pytest.mark.parametrize("method", ("pub", "equal"))
def test_clippy_bounds_each_variable(method):
    clip = eq.Clippy(relative=1e-3, absolute=1e-4)
    parameters, _, balancer = make(method, clip=clip, scale="convex")
    for step in range(3):
        before = clones(parameters)
        balancer.backward(losses(parameters, step))
        balancer.step()
        change = (parameters["trunk"].detach() - before["trunk"]).abs()
        bound = 1e-3 * before["trunk"].abs() + 1e-4
        assert (change <= bound * (1 + 1e-12)).all()  # a convex mix of bounded updates, to rounding
        assert float((change / bound).max()) > 0.3  # Adam's own step is .05


@pytest.mark.parametrize("scale", ("convex", "sum"))
@pytest.mark.parametrize("moments", ("shared", "per_task"))
def test_coupled_decay_enters_once(scale, moments):
    """SGD is linear: the joint update holds wd theta once, whatever the weight sum S (peeks get wd theta / S)."""
    parameters, _, balancer = make(kind=torch.optim.SGD, scale=scale, moments=moments, weight_decay=0.5)
    before = clones(parameters)
    found = losses(parameters, 0)
    raw = {k: of(v, parameters["trunk"]) for k, v in found.items()}
    balancer.backward(found)
    balancer.step()
    mixed = sum(balancer.last.weights[k] * g for k, g in raw.items())
    expected = before["trunk"] - 0.05 * (mixed + 0.5 * before["trunk"])
    torch.testing.assert_close(parameters["trunk"].detach(), expected, rtol=1e-12, atol=1e-13)


def test_the_graph_is_freed_unless_it_is_to_be_kept():
    """As torch's own backward: activations go with the last task's; a second call needs retain_graph."""
    for keep in (False, True):
        p = torch.nn.Parameter(torch.ones(3))
        balancer = eq.Balancer(torch.optim.SGD([p], lr=0.1), "pub", shared=[p])
        h = p.exp()
        losses = {"a": h.sum(), "b": (h * h).sum()}
        balancer.backward(losses, retain_graph=keep)
        if keep:
            balancer.backward(losses)
            balancer.step()
        else:
            with pytest.raises(RuntimeError, match="second time"):
                balancer.backward(losses)


@pytest.mark.parametrize(
    "kind", (torch.optim.Adam, torch.optim.SGD, torch.optim.Adagrad, torch.optim.RMSprop)
)
@pytest.mark.parametrize("moments", ("shared", "per_task"))
def test_a_shared_scalar_is_a_parameter_like_any_other(kind, moments):
    """A temperature or gate of shape []: the same steps as of shape [1]."""
    found = []
    for shape in ((), (1,)):
        scalar = torch.nn.Parameter(torch.full(shape, 1.5))
        vector = torch.nn.Parameter(torch.tensor([1.0, -2.0, 0.5]))
        optimizer = kind([scalar, vector], lr=0.1)
        balancer = eq.Balancer(optimizer, "pub", shared=[scalar, vector], moments=moments)
        for _ in range(3):
            balancer.backward(
                {"a": (scalar * vector).sum().square(), "b": (scalar - vector).square().sum() + scalar.sum()}
            )
            balancer.step()
        slots = [s for s in optimizer.state[scalar].values() if isinstance(s, torch.Tensor)]
        found.append(torch.cat([v.detach().reshape(-1) for v in (scalar, vector, *slots)]))
    torch.testing.assert_close(found[0], found[1])
