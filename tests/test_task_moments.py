"""Per-task moments: what the optimizer saves of them, and that saving, loading and plain steps beside them change nothing."""

import copy

import pytest
import torch
from toy import losses, make

import equipoise as eq


def train(parameters, balancer, steps, missing=""):
    for step in steps:
        balancer.backward({k: None if k in missing else v for k, v in losses(parameters, step).items()})
        balancer.step()


def plain(parameters, optimizer, step):
    optimizer.zero_grad()
    sum(losses(parameters, step).values()).backward()
    optimizer.step()


def trunk_of(optimizer):
    return optimizer.state_dict()["state"][0]


def test_the_optimizer_saves_the_tasks_mean_and_keeps_its_own_slots():
    parameters, optimizer, balancer = make(moments="per_task")
    train(parameters, balancer, range(3))
    held = [slots["0"] for slots in balancer.state_dict()["moments"].values()]
    mean = torch.stack([slots["exp_avg"] for slots in held]).mean(0)
    saved = trunk_of(optimizer)
    torch.testing.assert_close(saved["exp_avg"], mean, rtol=0, atol=0)
    assert float(saved["step"]) == 3.0
    assert parameters["trunk"] not in optimizer.state  # nothing is written by saving


@pytest.mark.parametrize("options", ({}, {"foreach": True}, {"fused": True}))
@pytest.mark.parametrize("later", ("plain", "balancer"))
def test_what_moved_the_slots_since_is_what_is_saved(options, later):
    parameters, optimizer, balancer = make(
        moments="per_task", kind=lambda p, lr: torch.optim.Adam(p, lr=lr, **options)
    )
    train(parameters, balancer, range(3))
    optimizer.load_state_dict(optimizer.state_dict())
    if later == "plain":
        plain(parameters, optimizer, 3)
    else:
        train(parameters, eq.Balancer(optimizer, "pub", shared=[parameters["trunk"]]), [3])
    now = copy.deepcopy(optimizer.state[parameters["trunk"]])
    assert float(now["step"]) == 4.0
    saved = trunk_of(optimizer)
    assert all(torch.equal(saved[name], value) for name, value in now.items())


def test_a_loaded_state_is_saved_as_it_came():
    parameters, optimizer, balancer = make(moments="per_task")
    train(parameters, balancer, range(3))
    third = copy.deepcopy(optimizer.state_dict())
    train(parameters, balancer, range(3, 6))
    optimizer.load_state_dict(copy.deepcopy(third))
    assert torch.equal(trunk_of(optimizer)["exp_avg"], third["state"][0]["exp_avg"])


@pytest.mark.parametrize("method", ("pub", "equal", "sdmgrad"))
def test_saving_changes_nothing(method):
    """A task that comes later starts from the optimizer's own slots, saved or not."""
    runs = []
    for saves in (False, True):
        parameters, optimizer, balancer = make(method, moments="per_task")
        for step in range(6):
            for _ in range(2 if method == "sdmgrad" else 1):
                found = losses(parameters, step)
                balancer.backward({k: None if k == "c" and step < 4 else v for k, v in found.items()})
            balancer.step()
            if saves:
                optimizer.state_dict()
        runs.append(parameters)
    assert all(torch.equal(runs[0][name], runs[1][name]) for name in runs[0])


@pytest.mark.parametrize("level", ("gradients", "updates"))
def test_sdmgrad_reads_the_rows_of_its_level(level):
    """Its second call is the first again, so its cross products are the Gram matrix of the same rows."""
    parameters, _, balancer = make("sdmgrad", level=level, moments="per_task")
    for step in range(3):
        for _ in range(2):
            balancer.backward(losses(parameters, step))
        kept = {}
        method = balancer._weigher.method
        balancer._weigher.method = lambda gram, state, cross, kept=kept, method=method, **needs: (
            kept.update(gram=gram, cross=cross) or method(gram, state, cross=cross, **needs)
        )
        balancer.step()
        balancer._weigher.method = method
    torch.testing.assert_close(kept["cross"], kept["gram"], rtol=1e-9, atol=0)


def test_a_state_goes_on_where_it_was_saved():
    parameters, optimizer, balancer = make("sdmgrad", moments="per_task")
    twin, other, second = make("sdmgrad", moments="per_task")

    def go(p, b, steps):
        for step in steps:
            b.backward(losses(p, step))
            b.backward(losses(p, step + 50))
            b.step()

    go(parameters, balancer, range(3))
    state = copy.deepcopy((balancer.state_dict(), optimizer.state_dict()))
    for name, p in parameters.items():
        twin[name].data.copy_(p.detach())
    other.load_state_dict(state[1])
    second.load_state_dict(state[0])
    go(parameters, balancer, range(3, 6))
    go(twin, second, range(3, 6))
    assert all(torch.equal(parameters[n], twin[n]) for n in twin)
