"""The generic peek against torch's own optimizers, and what it leaves alone."""

import copy
import warnings

import pytest
import torch
from optimizers import DTYPES, built, gradients, same
from torch.optim.optimizer import register_optimizer_step_post_hook

import equipoise as eq
from equipoise.updates import adam, generic, prepare, rule_for

# a rule goes by the exact class: what a subclass does nobody knows
NAMES = ("NAdam", "RAdam", "Adamax", "Adadelta", "ASGD", "Adafactor", "Muon")
UNKNOWN = {
    name: type(name, (getattr(torch.optim, name),), {}) for name in NAMES if hasattr(torch.optim, name)
}
MUON = UNKNOWN.get("Muon")  # torch 2.9
GENERIC = [
    (torch.optim.Rprop, {"maximize": True}),
    (UNKNOWN["ASGD"], {"t0": 3, "maximize": True}),
    (UNKNOWN["Adafactor"], {"lr": 0.9, "maximize": True}),
]
if MUON is not None:
    GENERIC.append((MUON, {"nesterov": False, "adjust_lr_fn": "match_rms_adamw"}))
GENERIC += [(kind, {"weight_decay": 0.1}) for kind in UNKNOWN.values()]


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)
    generic.COUPLED.clear()


def quiet(optimizer):
    """The generic rule with its one warning taken, and checked."""
    rule = rule_for(optimizer)
    assert isinstance(rule, generic.Generic)
    rule.told = True
    return rule


@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
@pytest.mark.parametrize("scale", [1.0, 1e-5], ids=["gradient1", "gradient1e-5"])
@pytest.mark.parametrize(
    ("kind", "options"), [pytest.param(k, o, id=f"{k.__name__}-{i}") for i, (k, o) in enumerate(GENERIC)]
)
def test_generic_follows_torch(kind, options, scale, dtype):
    optimizer, parameter = built(kind, options, dtype)
    rule, hyper = quiet(optimizer), optimizer.param_groups[0]
    theta, state = parameter.detach().clone(), {}
    for gradient in gradients(10, dtype, scale):
        seen = prepare(gradient, parameter, hyper, 1.0, rule)
        slots = rule.advance(seen, dict(optimizer.state.get(parameter, {})), hyper, parameter)
        seen = prepare(gradient, theta, hyper, 1.0, rule)
        frozen = copy.deepcopy(state)
        theta_before = theta.clone()
        update = rule.peek(seen, state, hyper, theta)
        same(state, frozen)
        assert torch.equal(theta, theta_before)
        assert update.dtype == dtype
        moved = rule.apply(theta, update, state, hyper)
        state = rule.advance(seen, state, hyper, theta)
        same(rule.advance(seen, frozen, hyper, theta), state)  # pure: again gives the same
        theta = moved
        parameter.grad = gradient
        optimizer.step()
        same(slots, optimizer.state[parameter])
    # Ten steps of rounding. Muon orthogonalises in bfloat16, where one unit is .008 of an update of size 1.
    tolerance = 0.02 * 0.03 if kind is MUON else 1e-5 if dtype == torch.float32 else 1e-9
    torch.testing.assert_close(theta, parameter.detach(), rtol=tolerance, atol=tolerance)


def test_generic_agrees_with_a_known_rule():
    """A subclass of Adam is not known, so it goes the generic way and must come to the same update."""
    mine = type("Mine", (torch.optim.Adam,), {})
    optimizer, parameter = built(mine, {"weight_decay": 0.1}, torch.float64)
    rule, hyper = quiet(optimizer), optimizer.param_groups[0]
    state = {}
    for gradient in gradients(3, torch.float64):
        seen = prepare(gradient, parameter, hyper, 1.0, rule)
        # (theta - theta') / lr loses |theta| / (lr |u|) of the 1e-16
        torch.testing.assert_close(
            rule.peek(seen, state, hyper, parameter), adam.peek(seen, state, hyper), rtol=1e-12, atol=1e-12
        )
        after = rule.advance(seen, state, hyper, parameter)
        same(after, adam.advance(seen, state, hyper))
        state = after


def test_generic_at_learning_rate_zero():
    """The rows keep a direction, the parameter stays, the slots are torch's."""
    optimizer, parameter = built(UNKNOWN["NAdam"], {"lr": 0.0, "weight_decay": 0.1}, torch.float32)
    rule, hyper = quiet(optimizer), optimizer.param_groups[0]
    gradient = torch.randn(4, 3)
    seen = prepare(gradient, parameter, hyper, 1.0, rule)
    update = rule.peek(seen, {}, hyper, parameter)
    after = rule.advance(seen, {}, hyper, parameter)
    assert update.abs().min() > 0
    assert torch.equal(rule.apply(parameter, update, {}, hyper), parameter.detach())
    parameter.grad = gradient
    optimizer.step()
    same(after, optimizer.state[parameter])


def test_generic_leaves_the_users_optimizer_alone():
    """No hook, scheduler or slot of the user's optimizer notices a peek."""
    optimizer, parameter = built(UNKNOWN["RAdam"], {}, torch.float32)
    seen = []
    optimizer.register_step_pre_hook(lambda *_: seen.append("own"))
    everywhere = register_optimizer_step_post_hook(lambda *_: seen.append("global"))
    try:
        torch.optim.lr_scheduler.StepLR(optimizer, 1)
        assert "step" in vars(optimizer)  # the scheduler's counting wrapper, which a peek must not call
        rule, hyper = quiet(optimizer), optimizer.param_groups[0]
        before = parameter.detach().clone()
        rule.peek(torch.ones(4, 3), {}, hyper, parameter)
        rule.advance(torch.ones(4, 3), {}, hyper, parameter)
    finally:
        everywhere.remove()
    assert not seen and not optimizer.state and parameter.grad is None
    assert torch.equal(parameter, before) and hyper["params"][0] is parameter
    assert not getattr(optimizer, "_opt_called", False)


def test_generic_says_so_once():
    optimizer, parameter = built(UNKNOWN["Adamax"], {}, torch.float32)
    rule, hyper = rule_for(optimizer), optimizer.param_groups[0]
    with pytest.warns(UserWarning, match="Adamax has no update rule"):
        rule.peek(torch.ones(4, 3), {}, hyper, parameter)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rule.peek(torch.ones(4, 3), {}, hyper, parameter)


def test_generic_needs_the_parameter_and_an_optimizer_of_its_own():
    optimizer, parameter = built(UNKNOWN["Adamax"], {}, torch.float32)
    rule, hyper = quiet(optimizer), optimizer.param_groups[0]
    with pytest.raises(ValueError, match="parameter must be given"):
        rule.peek(torch.ones(4, 3), {}, hyper)
    optimizer.inner = torch.optim.SGD([parameter], lr=1.0)
    with pytest.raises(ValueError, match="wraps another"):
        rule.peek(torch.ones(4, 3), {}, hyper, parameter)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (UNKNOWN["Adamax"], True),
        (UNKNOWN["Adadelta"], True),
        (UNKNOWN["ASGD"], True),
        (UNKNOWN["Adafactor"], False),
    ]
    + [(MUON, False)] * (MUON is not None),
)
def test_probe_finds_the_kind_of_decay(kind, expected):
    optimizer, _ = built(kind, {"lr": 0.0}, torch.float32)
    rule = quiet(optimizer)
    assert rule.coupled(optimizer.param_groups[0]) is expected
    generic.COUPLED = dict.fromkeys(generic.COUPLED, not expected)  # what was found is kept
    assert rule.coupled({**optimizer.param_groups[0], "lr": 0.3}) is not expected
    generic.COUPLED.clear()


class Flagged(torch.optim.Optimizer):
    """Momentum with weight decay on either side of it, by an option of the group."""

    def __init__(self, parameters, lr=0.1, weight_decay=0.0, weight_decouple=True):
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay, "decouple": weight_decouple})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in (p for p in group["params"] if p.grad is not None):
                decay, state = group["weight_decay"], self.state[p]
                g = p.grad if group["decouple"] else p.grad + decay * p
                state["m"] = state.get("m", torch.zeros_like(p)) * 0.9 + 0.1 * g
                p.mul_(1 - group["lr"] * decay * group["decouple"]).sub_(state["m"], alpha=group["lr"])


@pytest.mark.parametrize("order", ((True, False), (False, True)))
def test_the_kind_of_decay_is_each_groups_own(order):
    for decoupled in order:
        p, q = (torch.nn.Parameter(torch.tensor([1.0, 2.0, -1.0])) for _ in range(2))
        ours, theirs = (Flagged([x], weight_decay=0.5, weight_decouple=decoupled) for x in (p, q))
        balancer = eq.Balancer(ours, "equal", shared=[p], level="updates", scale="convex")
        for _ in range(3):
            with warnings.catch_warnings(action="ignore"):
                balancer.backward({"a": p[0] * 1.0, "b": p[1] * 1.0})
                balancer.step()
            q.grad = torch.tensor([0.5, 0.5, 0.0])
            theirs.step()
        torch.testing.assert_close(p, q)
        torch.testing.assert_close(ours.state[p]["m"], theirs.state[q]["m"])


def test_nested_slots_are_copied():
    """An optimizer of one's own that keeps tensors in lists and moves them in place."""

    class Listed(torch.optim.Optimizer):
        def __init__(self, params, lr):
            super().__init__(params, {"lr": lr})

        @torch.no_grad()
        def step(self, closure=None):
            for group in self.param_groups:
                for p in group["params"]:
                    slot = self.state[p].setdefault("sums", [torch.zeros_like(p), {"count": 0}])
                    slot[0] += p.grad
                    slot[1]["count"] += 1
                    p -= group["lr"] * slot[0]

    parameter = torch.nn.Parameter(torch.ones(2))
    optimizer = Listed([parameter], lr=0.5)
    rule, hyper = quiet(optimizer), optimizer.param_groups[0]
    state = rule.advance(torch.ones(2), {}, hyper, parameter)
    assert rule.peek(torch.ones(2), state, hyper, parameter).tolist() == [2.0, 2.0]
    after = rule.advance(torch.ones(2), state, hyper, parameter)
    assert state["sums"][0].tolist() == [1.0, 1.0] and state["sums"][1] == {"count": 1}
    assert after["sums"][0].tolist() == [2.0, 2.0] and after["sums"][1] == {"count": 2}
