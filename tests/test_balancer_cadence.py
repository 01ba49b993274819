"""The Balancer over many steps: cadence, saving, sequences of optimizers, schedulers."""

import copy

import pytest
import torch
from toy import clones, losses, make, moved, of

import equipoise as eq


def run(parameters, balancer, steps, **arguments):
    for step in steps:
        balancer.backward(losses(parameters, step, **arguments))
        balancer.step()


@pytest.mark.parametrize("between", ("exact", "weighted"))
def test_every_keeps_weights_between_solves(between):
    parameters, _, balancer = make(every=3, between=between)
    seen = []
    for step in range(7):
        run(parameters, balancer, [step])
        seen.append((balancer.last.status, tuple(balancer.last.weights.values())))
    assert [status for status, _ in seen] == ["solved", "kept", "kept", "solved", "kept", "kept", "solved"]
    weights = [w for _, w in seen]
    assert weights[0] == weights[1] == weights[2] != weights[3] == weights[5] != weights[6]


def test_weighted_equals_exact_where_the_rule_is_linear():
    """SGD: one backward of sum w loss, own gradients divided by w, is the exact step."""
    exact, _, one = make(kind=torch.optim.SGD, momentum=0.9, every=4)
    weighted, _, two = make(kind=torch.optim.SGD, momentum=0.9, every=4, between="weighted")
    run(exact, one, range(9))
    run(weighted, two, range(9))
    for name, p in exact.items():  # another order of sums in float64
        torch.testing.assert_close(weighted[name], p, rtol=1e-10, atol=1e-12)


def test_weighted_step_is_torchs_step_of_the_weighted_gradient():
    """Adam: after a solving step, torch's own step on sum w g for the trunk and g_t for the towers."""
    parameters, optimizer, balancer = make(every=5, between="weighted")
    run(parameters, balancer, [0])
    theirs = {n: torch.nn.Parameter(p.detach().clone()) for n, p in parameters.items()}
    plain = torch.optim.Adam(list(theirs.values()), lr=0.05)
    plain.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    run(parameters, balancer, [1])
    found = losses(theirs, 1)
    theirs["trunk"].grad = of(sum(balancer.last.weights[k] * v for k, v in found.items()), theirs["trunk"])
    for name, loss in found.items():
        theirs[name].grad = of(loss, theirs[name])
    plain.step()
    for name, p in theirs.items():
        torch.testing.assert_close(parameters[name], p, rtol=1e-10, atol=1e-12)


def test_a_task_of_a_later_micro_batch_forces_the_next_step_to_solve():
    """Between solves one backward runs for all tasks with kept weights; one without a weight waits for the next step."""
    parameters, optimizer, balancer = make(every=10, between="weighted")
    statuses = []
    for step, micro in enumerate((("ab",), ("ab", "abc"), ("ab", "abc"), ("ab", "abc"))):
        if step == 2:  # a run that goes on from a checkpoint does the same
            state = balancer.state_dict()
            balancer = eq.Balancer(
                optimizer, "pub", shared=[parameters["trunk"]], every=10, between="weighted"
            )
            balancer.load_state_dict(state)
        for names in micro:
            found = losses(parameters, step)
            balancer.backward({name: found[name] if name in names else None for name in "abc"})
        before = clones(parameters)
        balancer.step()
        statuses.append((balancer.last.status, "c" in moved(before, parameters)))
    assert statuses == [("solved", False), ("kept", False), ("solved", True), ("kept", True)]


@pytest.mark.parametrize("between", ("exact", "weighted"))
def test_a_newly_present_task_forces_a_solve(between):
    parameters, _, balancer = make(every=10, between=between)
    statuses = []
    for step, missing in enumerate(("c", "c", "", "", "a")):
        balancer.backward(
            {k: v for k, v in losses(parameters, step).items() if k != missing}
            | ({"c": None} if missing == "c" else {})
        )
        balancer.step()
        statuses.append(balancer.last.status)
    assert statuses == ["solved", "kept", "solved", "kept", "kept"]
    assert balancer.last.weights["a"] == 0.0


@pytest.mark.parametrize("between", ("exact", "weighted"))
def test_a_task_of_weight_zero_steps_its_own_parameters(between):
    parameters, _, balancer = make(eq.Fixed({"b": 0.0}), every=3, between=between)
    twin, _, every_step = make(eq.Fixed({"b": 0.0}))
    for step in range(6):
        before = clones(parameters)
        run(parameters, balancer, [step])
        run(twin, every_step, [step])
        assert moved(before, parameters) == {"trunk", "a", "b", "c"}
        assert balancer.last.weights["b"] == 0.0
    for name, p in twin.items():  # division by w and another order of sums
        torch.testing.assert_close(parameters[name], p, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("kind", ("loss", "gradient", "all"))
def test_weighted_nonfinite(kind):
    parameters, _, balancer = make(every=10, between="weighted", dtype=torch.float32)
    run(parameters, balancer, [0])
    before = clones(parameters)
    found = losses(parameters, 1)
    if kind == "gradient":  # finite loss, squares that are not: the whole step is skipped
        found["b"] = (
            found["b"] + 1e25 * parameters["trunk"].sum() * 0 + (parameters["b"] - before["b"]).sum() * 1e25
        )
    else:
        found = {k: v * float("nan") if k == "b" or kind == "all" else v for k, v in found.items()}
    balancer.backward(found)
    balancer.step()
    if kind == "loss":
        assert moved(before, parameters) == {"trunk", "a", "c"}
        assert balancer.last.nonfinite == ("b",)
    else:
        assert moved(before, parameters) == set()
        assert balancer.last.skipped
        assert balancer.last.num_nonfinite == 3


def test_weighted_nonfinite_raises():
    parameters, _, balancer = make(every=10, between="weighted", on_nonfinite="raise")
    run(parameters, balancer, [0])
    balancer.backward({**losses(parameters, 1), "b": parameters["b"].sum() * float("nan")})
    with pytest.raises(FloatingPointError, match="'b'"):
        balancer.step()


def test_weighted_accumulates():
    """Micro-batches of equal counts: the mean of two backwards."""
    parameters, _, balancer = make(kind=torch.optim.SGD, every=10, between="weighted")
    twin, _, exact = make(kind=torch.optim.SGD, every=10)
    for b, p in ((balancer, parameters), (exact, twin)):
        run(p, b, [0])
        b.backward(losses(p, 1))
        b.backward(losses(p, 2))
        b.step()
    for name, p in twin.items():
        torch.testing.assert_close(parameters[name], p, rtol=1e-10, atol=1e-12)


# ---- saving ----


@pytest.mark.parametrize(
    "arguments",
    (
        {},
        {"moments": "per_task"},
        {"every": 3},
        {"every": 3, "between": "weighted"},
        {"every": 3, "moments": "per_task"},
        {"shared": None},
        {"method": "nash"},
    ),
    ids=str,
)
def test_saved_run_goes_on_bit_for_bit(arguments, tmp_path):
    through, _, balancer = make(**arguments)
    run(through, balancer, range(9))
    parameters, optimizer, first = make(**arguments)
    run(parameters, first, range(4))
    saved = (clones(parameters), optimizer.state_dict(), first.state_dict())
    torch.save(saved, tmp_path / "saved.pt")
    values, slots, state = torch.load(
        tmp_path / "saved.pt", weights_only=True
    )  # tensors and plain types only
    fresh, optimizer, second = make(**arguments)
    with torch.no_grad():
        for name, p in fresh.items():
            p.copy_(values[name])
    optimizer.load_state_dict(slots)
    second.load_state_dict(state)
    run(fresh, second, range(4, 9))
    assert all(torch.equal(fresh[n], through[n]) for n in through)
    assert second.last.weights == balancer.last.weights
    assert second.last.step == 9


def test_state_does_not_change_with_the_run():
    parameters, _, balancer = make(moments="per_task")
    run(parameters, balancer, range(2))
    state = balancer.state_dict()
    kept = copy.deepcopy(state)
    run(parameters, balancer, range(2, 4))
    assert str(state) == str(kept)


def test_per_task_slots_are_saved_as_their_mean():
    parameters, optimizer, balancer = make(moments="per_task")
    run(parameters, balancer, range(3))
    slots = [s[str(0)] for s in balancer.state_dict()["moments"].values()]
    saved = optimizer.state_dict()["state"][0]
    assert len(slots) == 3
    for name in ("exp_avg", "exp_avg_sq"):
        assert torch.equal(saved[name], torch.stack([s[name] for s in slots]).mean(0))
        assert not torch.equal(slots[0][name], slots[1][name])
    assert float(saved["step"]) == 3.0


def test_per_task_is_seeded_from_the_optimizer_and_a_plain_run_goes_on():
    parameters, optimizer, balancer = make()
    run(parameters, balancer, range(3))
    seeded = eq.Balancer(optimizer, "pub", shared=[parameters["trunk"]], moments="per_task")
    run(parameters, seeded, range(3, 5))
    assert {float(s["0"]["step"]) for s in seeded.state_dict()["moments"].values()} == {5.0}


def test_refuses_another_state():
    parameters, optimizer, balancer = make()
    run(parameters, balancer, [0])
    state = balancer.state_dict()
    with pytest.raises(ValueError, match="method Nash"):
        make("nash")[2].load_state_dict(state)
    with pytest.raises(ValueError, match="version"):
        balancer.load_state_dict({**state, "version": 99})
    other = eq.Balancer(optimizer, "pub", shared=[parameters["trunk"], parameters["a"]])
    with pytest.raises(ValueError, match="same shared parameters"):
        other.load_state_dict(state)


# ---- optimizers and schedulers ----


def test_a_sequence_of_optimizers_is_one_with_groups():
    parameters, _, balancer = make()
    twin, _, _ = make()
    pair = [
        torch.optim.Adam([twin["trunk"]], lr=0.05),
        torch.optim.Adam([twin[n] for n in "abc"], lr=0.05),
    ]
    both = eq.Balancer(pair, "pub", shared=[twin["trunk"]])
    run(parameters, balancer, range(5))
    run(twin, both, range(5))
    assert all(torch.equal(parameters[n], twin[n]) for n in parameters)
    assert both.param_groups == [*pair[0].param_groups, *pair[1].param_groups]


@pytest.mark.parametrize("moments", ("shared", "per_task"))
def test_scheduler_and_hooks(moments):
    """Warnings are errors here: torch's scheduler must see the optimizer's own step. lr 0 moves nothing but slots."""
    parameters, optimizer, balancer = make(moments=moments)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: 0.0 if k == 0 else 1.0)
    calls = []
    optimizer.register_step_post_hook(lambda *_: calls.append(1))
    before = clones(parameters)
    run(parameters, balancer, [0])
    schedule.step()
    assert moved(before, parameters) == set()
    run(parameters, balancer, [1])
    schedule.step()
    assert moved(before, parameters) == set(parameters)
    assert len(calls) == 2
    assert float(optimizer.state_dict()["state"][0]["step"]) == 2.0


def test_zero_grad_forgets_the_step():
    parameters, _, balancer = make()
    balancer.backward(losses(parameters, 0))
    balancer.zero_grad()
    assert all(p.grad is None for p in parameters.values())
    with pytest.raises(RuntimeError, match="step needs a backward"):
        balancer.step()


def test_skipped_step_counts_for_a_scheduler_without_a_warning():
    """A first step that is skipped, then scheduler.step(): training under a scheduler must not trip over it."""
    parameters, optimizer, balancer = make()
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: 1.0)
    balancer.backward({k: v * float("nan") for k, v in losses(parameters, 0).items()})
    balancer.step()
    schedule.step()
    assert not optimizer.state
