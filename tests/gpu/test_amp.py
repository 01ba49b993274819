"""Half precision: bfloat16 autocast, float16 under a gradient scaler. On CUDA every method, on the CPU the same bodies."""

import pytest
import torch
from test_scaler import MODES, closure, made, run, same
from test_sync import CUDA

from equipoise.methods import METHODS

SOME = ("pub", "equal weighted")
CASES = [(mode, mode.split()[0].split("@")[0], options) for mode, options in MODES.items()]
CASES += [(name, name, {}) for name in METHODS if name not in MODES]
ROWS = [pytest.param(*case, "cpu", id=f"{case[0]}-cpu") for case in CASES if case[0] in SOME]
ROWS += [pytest.param(*case, *CUDA.values, id=f"{case[0]}-cuda", marks=CUDA.marks) for case in CASES]


@pytest.mark.parametrize(("mode", "method", "options", "device"), ROWS)
def test_a_scaled_step_is_the_plain_one(mode, method, options, device):
    expected, _ = run(method, options, None, device=device)
    found, _ = run(method, options, torch.amp.GradScaler(device, init_scale=65536.0), device=device)
    same(found, expected)


@pytest.mark.parametrize(("mode", "method", "options", "device"), ROWS)
def test_an_overflow_backs_the_scale_off(mode, method, options, device):
    model, balancer = made(method, options, device)
    scaler = torch.amp.GradScaler(device, init_scale=65536.0)
    for seed, factor in enumerate((1.0, 1e36)):
        before = [p.detach().clone() for p in model.parameters()]
        for batch in range(2 if "cross" in balancer.method.needs else 1):
            balancer.backward(model.losses(10 * seed + batch, factor), scaler=scaler)
        scaler.step(balancer, *closure(balancer, model, seed))
        scaler.update()
    assert scaler.get_scale() == 32768.0
    for p, q in zip(model.parameters(), before, strict=True):
        assert torch.equal(p, q)


@pytest.mark.parametrize("device", ("cpu", CUDA))
@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16), ids=str)
@pytest.mark.parametrize("mode", ("pub", "nash", "pub weighted"))
def test_half_precision_trains(mode, dtype, device):
    model, balancer = made(mode.split()[0], MODES[mode], device)
    scaler = torch.amp.GradScaler(device, enabled=dtype == torch.float16)
    totals = []
    for step in range(30):
        with torch.autocast(device, dtype):
            losses = model.losses(step % 3)
        balancer.backward(losses, scaler=scaler)
        scaler.step(balancer)
        scaler.update()
        totals.append(sum(float(loss.detach()) for loss in losses.values()))
    assert totals[-3] < totals[0]  # the same batch
    assert all(p.dtype == torch.float32 for p in model.parameters())
    assert balancer.last.totals == {"absent": {}, "nonfinite": {}}
