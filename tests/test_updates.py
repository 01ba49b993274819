"""Known update rules against torch's own optimizers: slots bit for bit, parameters to rounding, nothing written."""

import copy

import pytest
import torch
from optimizers import DTYPES, built, close, gradients, has_tensors, same

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
    torch.optim.ASGD: [{}, {"weight_decay": 0.1, "t0": 3, "maximize": True, "lambd": 0.1}],
    torch.optim.Adafactor: [
        {},
        {"weight_decay": 0.1, "lr": 0.3, "maximize": True},
        {"lr": 0.9, "d": 1.5, "eps": (1e-3, 0.1)},
    ],
}
if hasattr(torch.optim, "Muon"):  # torch 2.9
    OPTIONS[torch.optim.Muon] = [
        {"weight_decay": 0.1},
        {"nesterov": False, "adjust_lr_fn": "match_rms_adamw"},
    ]
KNOWN = [
    pytest.param(k, o, id=f"{k.__name__}-{i}") for k, each in OPTIONS.items() for i, o in enumerate(each)
]


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)
    generic.COUPLED.clear()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("kind", "options"), KNOWN)
def test_known_rule_is_torch(kind, options, dtype):
    optimizer, parameter = built(kind, options, dtype)
    if dtype == torch.bfloat16 and not options.get("nesterov", True) and kind not in (torch.optim.SGD,):
        pytest.skip(
            "torch's Muon divides its own momentum buffer by its norm here: bfloat16() copies nothing"
        )
    rule, hyper = rule_for(optimizer), optimizer.param_groups[0]
    state = dict(optimizer.state.get(parameter, {}))
    assert rule is RULES[kind]
    for gradient in gradients(50, dtype):
        seen = prepare(gradient, parameter, hyper, 1.0, rule)
        before, frozen = dict(state), copy.deepcopy(state)
        update = rule.peek(seen, state, hyper, parameter)
        moved = rule.apply(parameter, update, state, hyper)
        after = rule.advance(seen, state, hyper, parameter)
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
            rule.apply(theta, rule.peek(seen, state, hyper, theta), state, hyper),
            rule.advance(seen, state, hyper, theta),
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
        after = rule.advance(gradient.detach(), begun, hyper, parameter.detach().clone())
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
        moved = rule.apply(parameter, rule.peek(seen, state, hyper, parameter), state, hyper)
        state = rule.advance(seen, state, hyper, parameter)
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
