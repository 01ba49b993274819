"""The representation level, weights before the backward, one Gram matrix a tensor, and what methods may ask for."""

import dataclasses

import pytest
import torch
from toy import clones, losses, make, moved

import equipoise as eq
from equipoise.solve import balance

D = torch.float64


def represented(parameters, step, tasks="abc"):
    """Return the toy's losses with the trunk's output, which every tower reads."""
    generator = torch.Generator().manual_seed(100 + step)
    x = torch.randn(8, 4, generator=generator, dtype=D)
    h = torch.tanh(x @ parameters["trunk"].T)
    return {n: (h @ parameters[n] - x[:, ord(n) % 4] - 0.5).square().mean() for n in tasks}, h


@dataclasses.dataclass(frozen=True)
class Ones:
    """Weight 1 for each task; `needs` are noted in `seen`."""

    seen: list = dataclasses.field(default_factory=list)
    level = "gradients"
    any_level = False
    scale = "raw"
    total = "tasks"
    needs = ()
    solves = False

    def init(self, num_tasks):
        return {}

    def __call__(self, statistic, state, **needs):
        self.seen.append((statistic, needs))
        return torch.ones(len(statistic), dtype=D), state


# ---- representation ----


@pytest.mark.parametrize("kind", (torch.optim.SGD, torch.optim.Adam))
def test_representation_is_the_weighted_gradient_of_its_gram(kind):
    """Weights from the gradients at the representation; then torch's own step on the weighted sum, towers plain."""
    parameters, _, balancer = make("pub", kind, level="representation")
    twin, optimizer, _ = make("pub", kind)
    for step in range(4):
        found, h = represented(parameters, step)
        balancer.backward(found, representation=h)
        balancer.step()
        expected, h = represented(twin, step)
        rows = torch.stack(
            [torch.autograd.grad(v, h, retain_graph=True)[0].flatten() for v in expected.values()]
        )
        w = balance(rows @ rows.T).weights
        w = w / w.sum()
        torch.testing.assert_close(
            torch.tensor(list(balancer.last.weights.values()), dtype=D), w, rtol=1e-12, atol=0
        )
        assert set(balancer.last.cosines) == {"representation"}
        optimizer.zero_grad()
        for name, loss in expected.items():
            twin[name].grad = torch.autograd.grad(loss, twin[name], retain_graph=True)[0]
        total = (w * torch.stack(list(expected.values()))).sum()
        twin["trunk"].grad = torch.autograd.grad(total, twin["trunk"])[0]
        optimizer.step()
        for name, p in twin.items():  # another order of sums
            torch.testing.assert_close(parameters[name], p, rtol=1e-10, atol=1e-12)


def test_representation_finds_shared_and_reads_it_from_the_losses():
    parameters, _, balancer = make("pub", level="representation", shared=None)
    found, h = represented(parameters, 0)
    balancer.backward(eq.Losses(found, dict.fromkeys(found, 8.0), h))
    balancer.step()
    assert balancer.last.status == "solved"


def test_representation_between_solves_keeps_the_weights():
    parameters, _, balancer = make("pub", level="representation", every=3)
    statuses = []
    for step in range(4):
        found, h = represented(parameters, step)
        balancer.backward(found, representation=h)
        balancer.step()
        statuses.append(balancer.last.status)
    assert statuses == ["solved", "kept", "kept", "solved"]


@pytest.mark.parametrize("what", ("absent", "nan", "zero"))
def test_representation_leaves_a_task_out(what):
    parameters, _, balancer = make("pub", level="representation")
    before = clones(parameters)
    found, h = represented(parameters, 0)
    found["b"] = {"absent": None, "nan": found["b"] * float("nan"), "zero": found["b"] * 0.0}[what]
    balancer.backward(found, representation=h)
    balancer.step()
    assert moved(before, parameters) == {"trunk", "a", "c"}
    assert balancer.last.weights["b"] == 0.0
    assert balancer.last.nonfinite == (("b",) if what == "nan" else ())


def test_representation_accumulates_with_the_weights_of_the_first_call():
    parameters, _, balancer = make("pub", torch.optim.SGD, level="representation")
    before = clones(parameters)
    gradient = torch.zeros_like(parameters["trunk"])
    for step in range(2):
        found, h = represented(parameters, step)
        if step == 0:
            rows = torch.stack(
                [torch.autograd.grad(v, h, retain_graph=True)[0].flatten() for v in found.values()]
            )
            w = balance(rows @ rows.T).weights
        total = (w / w.sum() * torch.stack(list(found.values()))).sum()
        gradient += torch.autograd.grad(total, parameters["trunk"], retain_graph=True)[0] / 2
        balancer.backward(found, representation=h)
    balancer.step()
    torch.testing.assert_close(parameters["trunk"], before["trunk"] - 0.05 * gradient, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("choice", ("damp", "skip", "raise"))
def test_representation_without_a_common_descent(choice):
    parameters, _, balancer = make("pub", level="representation", on_stationary=choice, tasks="ab")
    before = clones(parameters)
    h = parameters["trunk"].sum(1)
    found = {"a": (h * parameters["a"].detach()).sum() + parameters["a"].sum()}
    found["b"] = -(h * parameters["a"].detach()).sum() + parameters["b"].sum()
    if choice == "raise":
        with pytest.raises(eq.StationaryError, match="representation"):
            balancer.backward(found, representation=h)
        assert moved(before, parameters) == set()
        with pytest.raises(RuntimeError, match="step needs a backward"):
            balancer.step()
        return
    balancer.backward(found, representation=h)
    balancer.step()
    assert balancer.last.status == "stationary"
    assert moved(before, parameters) - {"trunk"} == {"a", "b"}
    if choice == "skip":
        assert balancer.last.skipped
        assert torch.equal(before["trunk"], parameters["trunk"])


def test_representation_refuses():
    parameters, _, balancer = make("pub", level="representation")
    with pytest.raises(ValueError, match="representation must be given"):
        balancer.backward(represented(parameters, 0)[0])
    with pytest.raises(ValueError, match=r"losses\['a'\] must reach the representation"):
        balancer.backward(represented(parameters, 0)[0], representation=torch.ones(2, requires_grad=True))
    for arguments, what in (({"moments": "per_task"}, "moments"), ({"clip": eq.Clippy()}, "clip")):
        with pytest.raises(ValueError, match=f"cannot have {what}"):
            make("pub", level="representation", **arguments)


# ---- weights before the backward ----


def test_a_loss_level_method_is_solved_each_step_from_one_backward():
    """between='weighted' at level "losses": new weights every step, the same parameters as with T backwards."""

    @dataclasses.dataclass(frozen=True)
    class ByLoss(Ones):
        level = "losses"

        def __call__(self, statistic, state, **needs):
            return statistic / statistic.sum(), state

    parameters, _, one = make(ByLoss(), between="weighted")
    twin, _, each = make(ByLoss())
    for step in range(5):
        for b, p in ((one, parameters), (each, twin)):
            b.backward(losses(p, step))
            b.step()
        assert one.last.weights == pytest.approx(each.last.weights, rel=1e-9)
        assert one.last.status == "solved"
    for name, p in twin.items():
        torch.testing.assert_close(parameters[name], p, rtol=1e-8, atol=1e-10)


# ---- one Gram matrix a tensor ----


def test_per_tensor_balances_each_tensor_by_itself():
    parameters, _, balancer = make(
        "pub", torch.optim.SGD, shared=("trunk", "bias"), tasks=("a", "b", "bias"), per="tensor"
    )
    before = clones(parameters)
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(2, 3, 4, generator=generator, dtype=D)
    found = {
        n: (x[i] * parameters["trunk"]).sum() + (i + 1) * parameters["bias"].sum() + parameters[n].sum()
        for i, n in enumerate(("a", "b"))
    }
    balancer.backward(found)
    balancer.step()
    for name, rows in (("trunk", x.flatten(1)), ("bias", torch.tensor([[1.0] * 3, [2.0] * 3], dtype=D))):
        w = balance(rows @ rows.T).weights
        step = (w / w.sum()) @ rows
        torch.testing.assert_close(
            before[name] - parameters[name], 0.05 * step.reshape(before[name].shape), rtol=1e-9, atol=0
        )
    assert sum(balancer.last.weights.values()) == pytest.approx(1.0)


def test_per_tensor_gives_no_weight_to_a_task_that_does_not_reach_the_tensor():
    parameters, _, balancer = make(
        "pub", torch.optim.SGD, shared=("trunk", "bias"), tasks=("a", "b", "bias"), per="tensor"
    )
    before = clones(parameters)
    balancer.backward(
        {"a": parameters["trunk"].sum() + parameters["bias"].sum(), "b": parameters["trunk"].sum() * 2}
    )
    balancer.step()
    torch.testing.assert_close(before["bias"] - parameters["bias"], torch.full((3,), 0.05, dtype=D))


def test_per_tensor_refuses():
    with pytest.raises(ValueError, match="per='tensor' needs a Gram matrix"):
        make("equal", per="tensor")
    with pytest.raises(ValueError, match="cannot have per='tensor'"):
        make("pub", per="tensor", between="weighted")


# ---- what methods may ask for ----


@pytest.mark.parametrize("level", ("gradients", "updates"))
def test_row_method_combines_tensor_by_tensor(level):
    @dataclasses.dataclass(frozen=True)
    class Largest(Ones):
        def combine(self, rows, state, generator):
            return torch.stack(list(rows)).max(0).values

    parameters, _, balancer = make(Largest(), torch.optim.SGD, level=level)
    before = clones(parameters)
    rows = torch.stack(
        [torch.autograd.grad(v, parameters["trunk"])[0] for v in losses(parameters, 0).values()]
    )
    balancer.backward(losses(parameters, 0))
    balancer.step()
    torch.testing.assert_close(parameters["trunk"], before["trunk"] - 0.05 * rows.max(0).values)
    assert balancer.last.status == "rows"
    assert set(balancer.last.weights.values()) == {1.0}


def test_tracked_rows_stand_for_the_gradients_and_are_saved():
    @dataclasses.dataclass(frozen=True)
    class Half(Ones):
        def track(self, row, gradient, loss, step):
            return gradient if row is None else row + (gradient - row) / 2

    parameters, optimizer, balancer = make(Half(), torch.optim.SGD)
    rows = None
    for step in range(4):
        if step == 2:  # through a saved state
            state = balancer.state_dict()
            balancer = eq.Balancer(optimizer, Half(), shared=[parameters["trunk"]])
            balancer.load_state_dict(state)
        before = clones(parameters)
        found = torch.stack(
            [torch.autograd.grad(v, parameters["trunk"])[0] for v in losses(parameters, step).values()]
        )
        rows = found if rows is None else rows + (found - rows) / 2
        balancer.backward(losses(parameters, step))
        balancer.step()
        torch.testing.assert_close(
            parameters["trunk"], before["trunk"] - 0.05 * rows.sum(0), rtol=1e-10, atol=1e-12
        )
        torch.testing.assert_close(
            balancer.last.gram, rows.flatten(1) @ rows.flatten(1).T, rtol=1e-10, atol=1e-12
        )


def test_excess_is_gradient_times_adagrad_update():
    class Excess(Ones):
        needs = ("excess",)

    method = Excess()
    parameters, _, balancer = make(method)
    squares = 0.0
    for step in range(3):
        rows = torch.stack(
            [
                torch.autograd.grad(v, parameters["trunk"])[0].flatten()
                for v in losses(parameters, step).values()
            ]
        )
        squares = squares + rows**2
        balancer.backward(losses(parameters, step))
        balancer.step()
        expected = (rows**2 / (squares + 1e-7).sqrt()).sum(1)
        torch.testing.assert_close(method.seen[-1][1]["excess"], expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("level", ("gradients", "updates"))
def test_cross_is_first_call_against_second(level):
    class Cross(Ones):
        needs = ("cross", "step")

    method = Cross()
    parameters, _, balancer = make(method, torch.optim.SGD, level=level)
    halves = [
        torch.stack(
            [
                torch.autograd.grad(v, parameters["trunk"])[0].flatten()
                for v in losses(parameters, step).values()
            ]
        )
        for step in (0, 1)
    ]
    for step in (0, 1):
        balancer.backward(losses(parameters, step))
    balancer.step()
    torch.testing.assert_close(method.seen[0][1]["cross"], halves[0] @ halves[1].T)
    assert method.seen[0][1]["step"] == 1
    balancer.backward(losses(parameters, 2))
    with pytest.raises(ValueError, match="two backward calls a step"):
        balancer.step()


@pytest.mark.parametrize("between", ("exact", "weighted"))
def test_observe_is_told_the_losses_before_and_after(between):
    told = []

    class Watch(Ones):
        level = "losses"

        def observe(self, state, before, after, *, present):
            told.append((before, after, present))
            return state

    parameters, _, balancer = make(Watch(), between=between)
    for step in range(3):
        before = [v.item() for v in losses(parameters, step).values()]
        balancer.backward({**losses(parameters, step), "c": None})
        balancer.step(lambda step=step: losses(parameters, step))
        after = [v.item() for v in losses(parameters, step).values()]
        assert told[-1][0].tolist() == pytest.approx(before[:2])
        assert told[-1][1].tolist() == pytest.approx(after[:2])
        assert told[-1][2].tolist() == [True, True, False]
    balancer.backward(losses(parameters, 0))
    with pytest.raises(ValueError, match="closure must return the losses"):
        balancer.step()
    with pytest.raises(ValueError, match="closure must be None for PUB"):
        parameters, _, other = make("pub")
        other.backward(losses(parameters, 0))
        other.step(lambda: None)
