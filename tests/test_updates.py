"""Update rules against torch's own optimizers: slots bit for bit, parameters to rounding, nothing written."""

import copy
import warnings
from types import SimpleNamespace

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from equipoise.updates import RULES, adam, adamw, generic, prepare, rule_for, sgd

ADAM = [
    {},
    {"amsgrad": True, "maximize": True},
    {"weight_decay": 0.1, "betas": (0.5, 0.9), "eps": 1e-3},
    {"lr": torch.tensor(0.03), "weight_decay": 0.1, "amsgrad": True},
    {"betas": (torch.tensor(0.8), torch.tensor(0.95))},
]
OPTIONS = {
    torch.optim.SGD: [
        {},
        {"weight_decay": 0.1, "maximize": True},
        {"momentum": 0.9},
        {"momentum": 0.9, "dampening": 0.3, "weight_decay": 0.1},
        {"momentum": 0.9, "nesterov": True, "maximize": True, "lr": torch.tensor(0.03)},
    ],
    torch.optim.Adam: [*ADAM, {"decoupled_weight_decay": True, "weight_decay": 0.1}],
    torch.optim.AdamW: ADAM,
    torch.optim.Adagrad: [
        {},
        {"lr_decay": 0.1, "initial_accumulator_value": 0.5},
        {"weight_decay": 0.1, "maximize": True, "eps": 1e-3, "lr": torch.tensor(0.03)},
    ],
    torch.optim.RMSprop: [
        {},
        {"momentum": 0.9, "weight_decay": 0.1},
        {"centered": True, "alpha": 0.9},
        {"centered": True, "momentum": 0.5, "maximize": True, "lr": torch.tensor(0.03)},
    ],
    torch.optim.NAdam: [
        {},
        {"weight_decay": 0.1, "momentum_decay": 0.1},
        {"weight_decay": 0.1, "decoupled_weight_decay": True, "maximize": True},
    ],
    torch.optim.RAdam: [
        {},
        {"weight_decay": 0.1, "maximize": True},
        {"weight_decay": 0.1, "decoupled_weight_decay": True, "betas": (0.5, 0.9)},
    ],
    torch.optim.Adamax: [{}, {"weight_decay": 0.1, "maximize": True, "betas": (0.5, 0.9)}],
    torch.optim.Adadelta: [{}, {"weight_decay": 0.1, "lr": 0.5, "maximize": True}, {"rho": 0.5, "eps": 1e-3}],
}
KNOWN = [
    pytest.param(k, o, id=f"{k.__name__}-{i}") for k, each in OPTIONS.items() for i, o in enumerate(each)
]
GENERIC = [
    (torch.optim.ASGD, {"weight_decay": 0.1, "t0": 3, "maximize": True}),
    (torch.optim.Adafactor, {"weight_decay": 0.1, "lr": 0.3}),
    (torch.optim.Adafactor, {"lr": 0.9, "maximize": True}),
    (torch.optim.Rprop, {"maximize": True}),
]
MUON = getattr(torch.optim, "Muon", None)  # torch 2.9
if MUON is not None:
    GENERIC += [(MUON, {"weight_decay": 0.1}), (MUON, {"nesterov": False, "adjust_lr_fn": "match_rms_adamw"})]
# a rule goes by the exact class: what a subclass does nobody knows
UNKNOWN = {
    name: type(name, (getattr(torch.optim, name),), {}) for name in ("NAdam", "RAdam", "Adamax", "Adadelta")
}
GENERIC += [(kind, {"weight_decay": 0.1}) for kind in UNKNOWN.values()]
DTYPES = [torch.float32, torch.float64, torch.bfloat16]


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)
    generic.COUPLED.clear()


def gradients(num, dtype, scale=1.0):
    """Gradients of changing size, one with zeros in it."""
    made = [(scale * (1 + k % 5) * torch.randn(4, 3, dtype=torch.float64)).to(dtype) for k in range(num)]
    made[1][0] = 0
    return made


def built(kind, options, dtype):
    """The optimizer of one parameter, in torch's single-tensor form; skips what this torch does not know."""
    parameter = torch.nn.Parameter(torch.randn(4, 3, dtype=dtype))
    try:
        optimizer = kind([parameter], **{"lr": 0.03, **options})
    except TypeError as error:
        pytest.skip(f"this torch: {error}")
    for group in optimizer.param_groups:
        group["foreach"] = False
    return optimizer, parameter


def same(ours, theirs):
    """Slots of the same names, bit for bit, of the same dtype."""
    assert ours.keys() == theirs.keys()
    for name, slot in theirs.items():
        if isinstance(slot, torch.Tensor):
            assert ours[name].dtype == slot.dtype
            assert torch.equal(ours[name], slot), name
        else:
            assert ours[name] == slot


def has_tensors(options):
    """Whether lr or betas are (float32) tensors."""
    return isinstance(options.get("lr"), torch.Tensor) or isinstance(
        options.get("betas", "0")[0], torch.Tensor
    )


def close(ours, theirs, options):
    """To rounding: theta - lr*u and torch's multiply-adds differ by a few units in the last place.

    torch works the step size out in float32 where lr or betas are float32 tensors: there its place counts.
    """
    eps = 8 * max(torch.finfo(theirs.dtype).eps, torch.finfo(torch.float32).eps * has_tensors(options))
    torch.testing.assert_close(ours, theirs.detach(), rtol=eps, atol=eps)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("kind", "options"), KNOWN)
def test_known_rule_is_torch(kind, options, dtype):
    optimizer, parameter = built(kind, options, dtype)
    rule, hyper = rule_for(optimizer), optimizer.param_groups[0]
    state = dict(optimizer.state.get(parameter, {}))
    assert rule is RULES[kind]
    for gradient in gradients(50, dtype):
        seen = prepare(gradient, parameter, hyper, 1.0, rule)
        before, frozen = dict(state), copy.deepcopy(state)
        update = rule.peek(seen, state, hyper)
        moved = rule.apply(parameter, update, state, hyper)
        after = rule.advance(seen, state, hyper)
        same(before, frozen)  # peek, apply and advance only read
        assert all(state[name] is slot for name, slot in before.items())
        parameter.grad = gradient
        optimizer.step()
        same(after, optimizer.state.get(parameter, {}))
        close(moved, parameter, options)
        state = after


@pytest.mark.parametrize(("kind", "options"), KNOWN)
def test_own_trajectory_follows_torch(kind, options):
    """The rule alone, on its own parameter, for 50 steps; errors of 1e-16 a step may add up to 1e-12."""
    optimizer, parameter = built(kind, options, torch.float64)
    rule, hyper = rule_for(optimizer), optimizer.param_groups[0]
    theta, state = parameter.detach().clone(), {}
    for gradient in gradients(50, torch.float64):
        seen = prepare(gradient, theta, hyper, 1.0, rule)
        theta, state = (
            rule.apply(theta, rule.peek(seen, state, hyper), state, hyper),
            rule.advance(seen, state, hyper),
        )
        parameter.grad = gradient
        optimizer.step()
    # a float32 lr or beta inside a float64 step is rounded to float32 by torch, at its own places
    tolerance = 1e-6 if has_tensors(options) else 1e-12
    torch.testing.assert_close(theta, parameter.detach(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("kind", OPTIONS, ids=lambda k: k.__name__)
@pytest.mark.parametrize("default", [torch.float32, torch.float64], ids=str)
def test_init_is_the_state_that_torch_begins(kind, default):
    torch.set_default_dtype(default)
    try:
        optimizer, parameter = built(kind, {}, torch.float32)
        rule, hyper = rule_for(optimizer), optimizer.param_groups[0]
        begun = rule.init(parameter, hyper)
        optimizer.zero_grad()
        gradient = torch.ones_like(parameter)
        after = rule.advance(gradient.detach(), begun, hyper)
        parameter.grad = gradient.detach()
        optimizer.step()
    finally:
        torch.set_default_dtype(torch.float32)
    same(after, optimizer.state.get(parameter, {}))
    assert not any(slot.requires_grad for slot in begun.values())


def test_slots_continue_from_torch_and_back():
    """A state_dict taken in the middle goes on under the rule, and the rule's slots under torch."""
    (optimizer, parameter), steps = built(torch.optim.Adam, {}, torch.float32), gradients(9, torch.float32)
    other = torch.nn.Parameter(parameter.detach().clone())
    twin = torch.optim.Adam([other], lr=0.03, foreach=False)
    for k, gradient in enumerate(steps):
        parameter.grad, other.grad = gradient, gradient
        if 3 <= k < 6:
            twin.state[other] = adam.advance(gradient, twin.state[other], twin.param_groups[0])
        else:
            twin.step()
        optimizer.step()
    same(twin.state[other], optimizer.state[parameter])


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (torch.optim.Adam, {}),
        (torch.optim.AdamW, {"amsgrad": True, "weight_decay": 0.1}),
        (torch.optim.SGD, {"momentum": 0.9}),
        (torch.optim.Adagrad, {}),
    ],
)
def test_fused_state(kind, options):
    """Fused slots are read the same; the fused kernel rounds in its own order, hence 1e-5."""
    optimizer, parameter = built(kind, {**options, "fused": True}, torch.float32)
    optimizer.param_groups[0]["foreach"] = None
    rule, hyper, state = rule_for(optimizer), optimizer.param_groups[0], {}
    for gradient in gradients(10, torch.float32):
        seen = prepare(gradient, parameter, hyper, 1.0, rule)
        moved = rule.apply(parameter, rule.peek(seen, state, hyper), state, hyper)
        state = rule.advance(seen, state, hyper)
        parameter.grad = gradient
        optimizer.step()
        for name, slot in optimizer.state[parameter].items():
            torch.testing.assert_close(state[name], slot, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(moved, parameter.detach(), rtol=1e-5, atol=1e-6)


def test_frozen_values():
    """By hand. Adam's first update is g/|g| but for eps: 1 / (1 + 0.5); Adagrad after s = 3: 1 / sqrt(4)."""
    one = torch.ones(1)
    group = {"betas": (0.9, 0.999), "eps": 0.5, "amsgrad": False, "lr": 0.1, "weight_decay": 0.5}
    assert adam.peek(one, {}, group).item() == pytest.approx(2 / 3, rel=1e-6)
    assert adamw.apply(one, 2 * one, {}, group).item() == pytest.approx(1 * (1 - 0.05) - 0.2)
    assert adam.apply(one, 2 * one, {}, group).item() == pytest.approx(0.8)  # coupled: not here
    slots = {"step": torch.tensor(2.0), "sum": 3 * one}
    rule = RULES[torch.optim.Adagrad]
    hyper = {"eps": 0.0, "lr": 0.1, "lr_decay": 0.5}
    assert rule.peek(one, slots, hyper).item() == 0.5
    assert rule.apply(one, one, slots, hyper).item() == pytest.approx(1 - 0.1 / 2)


def test_prepare_adds_the_share_of_coupled_decay():
    theta, g = torch.nn.Parameter(torch.tensor([4.0])), torch.tensor([1.0])
    assert prepare(g, theta, {"weight_decay": 0.5}, 0.25, sgd).tolist() == [1.5]
    assert prepare(g, theta, {"weight_decay": 0.5, "maximize": True}, 1.0, sgd).tolist() == [1.0]
    assert prepare(g, theta, {"weight_decay": 0.5}, 1.0, adamw).tolist() == [1.0]
    assert not prepare(g, theta, {"weight_decay": 0.5}, 1.0, sgd).requires_grad
    assert adam.coupled({}) and not adam.coupled({"decoupled_weight_decay": True})


@pytest.mark.parametrize("bad", [torch.ones(2).to_sparse(), torch.ones(2, dtype=torch.complex64)])
def test_prepare_refuses(bad):
    with pytest.raises(ValueError, match="dense and real"):
        prepare(bad, torch.ones(2), {}, 1.0, sgd)


def test_adamw_without_the_group_key():
    """torch 2.6 keeps no `decoupled_weight_decay` in AdamW's group: the class decides."""
    optimizer, parameter = built(torch.optim.AdamW, {"weight_decay": 0.5}, torch.float32)
    hyper = {k: v for k, v in optimizer.param_groups[0].items() if k != "decoupled_weight_decay"}
    rule = rule_for(optimizer)
    assert not rule.coupled(hyper)
    torch.testing.assert_close(
        rule.apply(parameter, torch.zeros(4, 3), {}, hyper), parameter.detach() * (1 - 0.015)
    )


def test_lbfgs_is_refused():
    with pytest.raises(ValueError, match="LBFGS"):
        rule_for(torch.optim.LBFGS([torch.nn.Parameter(torch.ones(1))]))


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
        (torch.optim.ASGD, True),
        (torch.optim.Adafactor, False),
    ]
    + [(MUON, False)] * (MUON is not None),
)
def test_probe_finds_the_kind_of_decay(kind, expected):
    optimizer, _ = built(kind, {"lr": 0.0}, torch.float32)
    rule = quiet(optimizer)
    assert rule.coupled(optimizer.param_groups[0]) is expected
    rule.optimizer = SimpleNamespace()  # a second look would fail, were the class not kept
    generic.COUPLED[SimpleNamespace] = expected
    assert rule.coupled(optimizer.param_groups[0]) is expected
    assert generic.COUPLED[kind] is expected


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
