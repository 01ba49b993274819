"""Under a gradient scaler every method makes the step that it makes without one; an overflow skips it and the scale backs off."""

import pytest
import torch
from torch import nn

import equipoise as eq
from equipoise.methods import METHODS

MODES = {
    "pub": {},
    "nash": {},
    "equal": {},
    "upgrad@updates": {"level": "updates"},
    "pub weighted": {"every": 2, "between": "weighted"},
    "equal weighted": {"between": "weighted"},
    "nash representation": {"level": "representation"},
    "pub sketch": {"gram": "sketch"},
    "pub clipped": {"max_task_norm": 0.5},
    "pub per_task": {"moments": "per_task"},
}


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.trunk = nn.Sequential(nn.Linear(5, 8), nn.Tanh())
        self.towers = nn.ModuleList(nn.Linear(8, 1) for _ in range(3))

    def losses(self, seed, factor=1.0):
        g, device = torch.Generator().manual_seed(seed), self.trunk[0].weight.device
        h = self.trunk(torch.randn(16, 5, generator=g).to(device))
        found = {
            str(t): (tower(h).squeeze(-1) - torch.randn(16, generator=g).to(device)).square().mean()
            * (factor if t == 1 else 1.0)
            for t, tower in enumerate(self.towers)
        }
        return eq.Losses(found, dict.fromkeys(found, 1.0), h)


def made(method, options, device="cpu"):
    model = Model().to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    balancer = eq.Balancer(optimizer, method, shared=model.trunk.parameters(), **options)
    return model, balancer


def closure(balancer, model, seed):
    return (lambda: model.losses(seed),) if hasattr(balancer.method, "observe") else ()


def run(method, options, scaler, steps=4, batches=1, device="cpu"):
    model, balancer = made(method, options, device)
    for seed in range(steps):
        for batch in range(2 if "cross" in balancer.method.needs else batches):
            balancer.backward(model.losses(10 * seed + batch), scaler=scaler)
        if scaler is None:
            balancer.step(*closure(balancer, model, seed))
        else:
            scaler.step(balancer, *closure(balancer, model, seed))
            scaler.update()
    return model, balancer


def same(found, expected):
    for p, q in zip(found.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("batches", (1, 2))
@pytest.mark.parametrize("mode", MODES)
def test_modes_make_the_step_that_they_make_without(mode, batches):
    method = mode.split()[0].split("@")[0]
    expected, _ = run(method, MODES[mode], None, batches=batches)
    found, balancer = run(
        method, MODES[mode], torch.amp.GradScaler("cpu", init_scale=65536.0), batches=batches
    )
    same(found, expected)
    assert balancer.last.step == 4


@pytest.mark.parametrize("method", METHODS)
def test_every_method_makes_the_step_that_it_makes_without(method):
    expected, _ = run(method, {}, None)
    found, _ = run(method, {}, torch.amp.GradScaler("cpu", init_scale=65536.0))
    same(found, expected)


@pytest.mark.parametrize("mode", MODES)
def test_an_overflow_skips_the_step_and_lowers_the_scale(mode):
    """Task 1's loss is 1e36: finite, and scaled by 65,536 it is not."""
    method = mode.split()[0].split("@")[0]
    model, balancer = made(method, MODES[mode])
    scaler = torch.amp.GradScaler("cpu", init_scale=65536.0)
    balancer.backward(model.losses(0), scaler=scaler)
    scaler.step(balancer)
    scaler.update()
    before = [p.detach().clone() for p in model.parameters()]
    balancer.backward(model.losses(1, factor=1e36), scaler=scaler)
    scaler.step(balancer)
    scaler.update()
    assert scaler.get_scale() == 32768.0
    of_sum = mode.endswith("weighted")  # where only the gradient of the sum is known
    assert balancer.last.nonfinite == (("0", "1", "2") if of_sum else ("1",))
    for p, q in zip(model.parameters(), before, strict=True):
        assert torch.equal(p, q)
    # the step after it starts anew: nothing of the skipped one is left
    balancer.backward(model.losses(2), scaler=scaler)
    scaler.step(balancer)
    scaler.update()
    twin, other = made(method, MODES[mode])
    for seed in (0, 2):
        other.backward(twin.losses(seed))
        other.step()
    if "every" not in MODES[mode]:
        same(model, twin)
    assert scaler.get_scale() == 32768.0


def test_gradients_may_be_clipped_between():
    """scaler.unscale_(balancer) once, then torch's clip of the towers, as in a plain loop."""
    model, balancer = made("pub", {})
    scaler = torch.amp.GradScaler("cpu")
    balancer.backward(model.losses(0), scaler=scaler)
    scaler.unscale_(balancer)
    scaler.step(balancer)
    scaler.update()
    expected, _ = run("pub", {}, None, steps=1)
    same(model, expected)


def test_a_disabled_scaler_changes_nothing():
    expected, _ = run("pub", {}, None)
    found, _ = run("pub", {}, torch.amp.GradScaler("cpu", enabled=False))
    for p, q in zip(found.parameters(), expected.parameters(), strict=True):
        assert torch.equal(p, q)


def test_bfloat16_autocast_trains_and_keeps_float32_state():
    model, balancer = made("pub", {})
    for seed in range(30):
        with torch.autocast("cpu", torch.bfloat16):
            losses = model.losses(seed % 3)
        balancer.backward(losses)
        balancer.step()
        if seed == 0:
            first = sum(float(x.detach()) for x in losses.values())
    assert sum(float(x.detach()) for x in losses.values()) < first
    assert all(p.dtype == torch.float32 for p in model.parameters())
    assert balancer.last.status == "solved"
