"""Loss-level methods: weights are the derivative of the paper's combined loss, and learned numbers take its step."""

import math

import numpy as np
import pytest
import torch
from torchjd import aggregation
from torchjd import scalarization as jd

import equipoise as eq
from equipoise.methods import METHODS

D = torch.float64
LOSSES = torch.tensor([0.5, 2.0, 0.1], dtype=D)
HERE = torch.ones(3, dtype=torch.bool)


def derivative(combined, losses=LOSSES):
    """d combined / d losses by autograd."""
    free = losses.clone().requires_grad_()
    return torch.autograd.grad(combined(free), free)[0]


class TorchAdam:
    """torch's Adam on a few numbers, the reference of the learned ones."""

    def __init__(self, value, lr, decay=0.0):
        self.value = value.clone().requires_grad_()
        self.optimizer = torch.optim.Adam([self.value], lr=lr, weight_decay=decay)

    def step(self, loss):
        self.optimizer.zero_grad()
        loss(self.value).backward()
        self.optimizer.step()


# ---- weights ----


@pytest.mark.parametrize(
    ("method", "combined"),
    [
        (eq.UW(lr=0.3), lambda s, x: ((torch.exp(-s) * x + s) / 2).sum()),
        (eq.IMTLL(lr=0.3), lambda s, x: (torch.exp(s) * x - s).sum()),
    ],
    ids=("uw", "imtl_l"),
)
def test_learned_scales_descend_the_combined_loss(method, combined):
    state, reference = method.init(3), TorchAdam(torch.zeros(3, dtype=D), 0.3)
    for step in range(20):
        losses = LOSSES * (1 + step % 3)
        s = reference.value.detach().clone()
        found, state = method(losses, state, present=HERE)
        expected = derivative(lambda x, s=s: combined(s, x), losses)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
        reference.step(lambda s, losses=losses: combined(s, losses))
        torch.testing.assert_close(state["s"], reference.value.detach(), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(
    ("method", "rest"), [(eq.UW(lr=0.05), 0.5), (eq.IMTLL(lr=0.05), 1.0)], ids=("uw", "imtl_l")
)
def test_learned_scales_come_to_rest_where_weighted_losses_are_alike(method, rest):
    state = method.init(3)
    for _ in range(2000):
        found, state = method(LOSSES, state, present=HERE)
    torch.testing.assert_close(
        found * LOSSES, torch.full((3,), rest, dtype=D), rtol=1e-3, atol=0
    )  # Adam hovers


def test_gls_is_the_geometric_mean():
    found, _ = eq.GLS()(LOSSES, {})
    torch.testing.assert_close(found, derivative(lambda x: x.prod() ** (1 / 3)), rtol=1e-12, atol=0)
    torch.testing.assert_close(eq.GLS()(10 * LOSSES, {})[0], found, rtol=1e-12, atol=0)  # degree 0


def test_stch_is_the_smooth_maximum_after_its_warm_up():
    method = eq.STCH(mu=0.7, warmup=4, priorities={"b": 3.0})
    state, seen = method.init(3), []
    for step in range(6):
        losses = LOSSES * (1.0 + 0.3 * step)
        found, state = method(losses, state, present=HERE, tasks=("a", "b", "c"))
        if step < 4:
            seen.append(losses)
            torch.testing.assert_close(found, derivative(lambda x: x.log().sum(), losses), rtol=1e-12, atol=0)
            continue
        nadir, a = torch.stack(seen).mean(0), torch.tensor([1.0, 3.0, 1.0], dtype=D) * 0.6
        expected = derivative(
            lambda x, n=nadir, a=a: 3 * 0.7 * torch.logsumexp(a * (x / n).log() / 0.7, 0), losses
        )
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


def test_stch_takes_a_late_tasks_first_loss_as_nadir():
    method, late = eq.STCH(warmup=1), torch.tensor([True, True, False])
    _, state = method(LOSSES[:2], method.init(3), present=late)
    found, _ = method(LOSSES, state, present=HERE)
    torch.testing.assert_close(found, 1.0 / LOSSES, rtol=1e-12, atol=0)  # every loss at its nadir


def test_famo_weights_and_its_step():
    method = eq.FAMO()
    state, reference = method.init(3), TorchAdam(torch.zeros(3, dtype=D), 0.025, 0.01)
    for step in range(20):
        before = LOSSES * (1 + step % 2)
        after = before * torch.tensor([0.9, 1.1, 0.7], dtype=D)
        z = torch.softmax(reference.value.detach(), 0)
        found, state = method(before, state, present=HERE)
        c = (z / before).sum()
        torch.testing.assert_close(
            found, derivative(lambda x, z=z, c=c: (z * x.log()).sum() / c, before), rtol=1e-12, atol=0
        )
        assert float(found.sum()) == pytest.approx(1.0)
        delta = before.log() - after.log()
        state = method.observe(state, before, after, present=HERE)
        reference.step(lambda xi, d=delta: (torch.softmax(xi, 0) * d).sum())
        torch.testing.assert_close(state["xi"], reference.value.detach(), rtol=1e-10, atol=1e-15)
    assert int(state["xi"].argmax()) == 1  # the loss that grew


def test_dwa_compares_windows():
    method, state = eq.DWA(window=2, temperature=2.0), eq.DWA(window=2).init(3)
    history = [LOSSES * f for f in (1.0, 0.8, 0.7, 0.5, 0.4)]
    for losses in history:
        found, state = method(losses, state, present=HERE)
    slow = np.array([0.5, 2.0, 0.1])
    r = slow * (0.7 + 0.5) / (slow * (1.0 + 0.8))
    np.testing.assert_allclose(found.numpy(), 3 * np.exp(r / 2) / np.exp(r / 2).sum(), rtol=1e-12)
    uneven, state = method(torch.tensor([9.0, 2.0, 0.1], dtype=D), state, present=HERE)
    after, _ = method(LOSSES, state, present=HERE)
    assert float(uneven.sum()) == pytest.approx(3.0)
    assert int(after.argmax()) == 0


def test_rlw_is_a_softmax_of_normal_numbers():
    drawn = [eq.RLW()(LOSSES, {}, generator=torch.Generator().manual_seed(s))[0] for s in range(2000)]
    mean = torch.stack(drawn).mean(0)
    assert all(float(w.sum()) == pytest.approx(1.0) for w in drawn[:5])
    torch.testing.assert_close(
        mean, torch.full((3,), 1 / 3, dtype=D), rtol=0, atol=0.02
    )  # 3.5 sd of the mean


def test_gradnorm_descends_its_loss_and_keeps_the_sum():
    method = eq.GradNorm(alpha=1.0, lr=0.05)
    norms = torch.tensor([4.0, 1.0, 1.0], dtype=D)
    state = method.init(3)
    for _ in range(300):
        found, state = method(norms.diag() ** 2, state, losses=LOSSES, present=HERE)
        assert float(found.sum()) == pytest.approx(3.0)
    torch.testing.assert_close(
        found * norms, (found * norms).mean().expand(3), rtol=0.1, atol=0
    )  # sign steps hover
    slow, _ = method(norms.diag() ** 2, state, losses=LOSSES, present=HERE)
    for _ in range(100):
        slow, state = method(
            norms.diag() ** 2, state, losses=LOSSES * torch.tensor([1.0, 0.2, 0.2]), present=HERE
        )
    assert float(slow[0]) > float(found[0])  # the task that did not learn


def test_excess_mtl_follows_the_relative_excess():
    method, state, w = eq.ExcessMTL(eta=0.1), eq.ExcessMTL().init(3), np.ones(3)
    first = np.array([1.0, 4.0, 0.5])
    for step in range(5):
        excess = first * np.array([1.0, 0.5, 2.0]) ** step
        w = w * np.exp(0.1 * excess / first)
        w = 3 * w / w.sum()
        found, state = method(torch.tensor(excess), state, present=HERE)
        np.testing.assert_allclose(found.numpy(), w, rtol=1e-12)


def test_bandit_mtl_stays_in_its_ball_and_finds_the_inner_maximum():
    """At rest p maximises sum p L over the ball."""
    from scipy.optimize import brentq

    method, losses = eq.BanditMTL(eta=0.5, rho=0.1), np.array([0.5, 2.0, 0.1, 1.0])
    state, here = method.init(4), torch.ones(4, dtype=torch.bool)
    for _ in range(300):
        found, state = method(torch.tensor(losses), state, present=here)
        p = found.numpy()
        assert (p * np.log(4 * p)).sum() <= 0.1 + 1e-9

    def tilted(heat):  # the maximum over a KL ball is exponentially tilted, on its rim
        q = np.exp(losses / heat)
        return q / q.sum()

    heat = brentq(lambda h: (tilted(h) * np.log(4 * tilted(h))).sum() - 0.1, 0.1, 100.0)
    np.testing.assert_allclose(p, tilted(heat), atol=1e-6)
    even, _ = eq.BanditMTL(rho=0.0)(torch.tensor(losses), method.init(4), present=here)
    np.testing.assert_allclose(even.numpy(), 0.25, atol=1e-6)


def test_equal_takes_the_mean():
    found, _ = eq.Equal(reduce="mean")(LOSSES, {})
    assert found.tolist() == [1 / 3] * 3
    assert (eq.Equal().total, eq.Equal(reduce="mean").total) == ("tasks", "one")
    with pytest.raises(ValueError, match="reduce must be"):
        eq.Equal(reduce="max")


# ---- torchjd ----


@pytest.mark.parametrize("name", ("uw", "imtl_l", "gls", "dwa", "famo"))
def test_weights_are_the_derivative_of_torchjds_scalar(name):
    """Over 200 random losses; learned numbers are set to the reference's before each."""
    reference = {
        "uw": lambda: jd.UW(3),
        "imtl_l": lambda: jd.IMTLL(3),
        "gls": jd.GeometricMean,
        "dwa": jd.DWA,
        "famo": lambda: jd.FAMO(3, weight_decay=0.01),
    }[name]().double()
    method = eq.DWA(window=5) if name == "dwa" else METHODS[name]()
    state, g = method.init(3), torch.Generator().manual_seed(0)
    learned = {"uw": "log_var", "imtl_l": "log_scale"}.get(name)
    for step in range(200):
        losses = torch.rand(3, generator=g, dtype=D) + 0.05
        if learned:
            drawn = torch.randn(3, generator=g, dtype=D)
            getattr(reference, learned).data.copy_(drawn)
            state = {**state, "s": drawn}
        found, state = method(losses, state, **({"present": HERE} if method.needs else {}))
        torch.testing.assert_close(found, derivative(reference, losses), rtol=1e-5, atol=0)
        if name == "dwa" and step % 5 == 4:
            reference.step()
        if name == "famo":
            after = losses * (0.5 + torch.rand(3, generator=g, dtype=D))
            state = method.observe(state, losses, after, present=HERE)
            reference.update(after)


def test_excess_mtl_is_torchjds_but_for_the_first_step():
    u = torch.randn(6, 3, 8, generator=torch.Generator().manual_seed(0), dtype=D)
    reference, method = aggregation.ExcessMTLWeighting(robust_step_size=0.1), eq.ExcessMTL(eta=0.1)
    state, squares = method.init(3), torch.zeros(3, 8, dtype=D)
    ratios = []
    for step in u:
        squares = squares + step**2
        excess = (step**2 / (squares + 1e-7).sqrt()).sum(1)
        found, state = method(excess, state, present=HERE)
        ratios.append(found / reference(step))
    for later in ratios[1:]:  # the reference's undivided first step is a constant factor a task from then on
        torch.testing.assert_close(later / later[0], ratios[0] / ratios[0][0], rtol=1e-5, atol=0)


# ---- absent tasks, bad input ----

STATEFUL = ("uw", "imtl_l", "dwa", "famo", "stch", "gradnorm", "excess_mtl", "bandit_mtl")


@pytest.mark.parametrize("name", STATEFUL)
def test_an_absent_tasks_numbers_stay(name):
    method, here = METHODS[name](), torch.tensor([True, False, True])
    state = method.init(3)
    needs = {"losses": LOSSES[here], "present": here, "tasks": ("a", "c")}
    given = LOSSES[here] if method.level == "losses" else torch.eye(2, dtype=D)
    for _ in range(3):
        found, state = method(given, state, **{n: needs[n] for n in method.needs})
    assert len(found) == 2
    if name == "famo":
        state = method.observe(state, LOSSES[here], LOSSES[here] * 0.5, present=here)
    begun = method.init(3)
    for key, value in state.items():
        if isinstance(value, torch.Tensor):
            assert value[1] == begun[key][1]


@pytest.mark.parametrize("name", ("gls", "dwa", "famo", "stch"))
@pytest.mark.parametrize("bad", (0.0, -1.0))
def test_losses_must_be_positive(name, bad):
    method, losses = METHODS[name](), torch.tensor([0.5, bad, 1.0], dtype=D)
    with pytest.raises(ValueError, match=f"losses must be > 0 for .*got {bad:g}"):
        method(
            losses,
            method.init(3),
            **({"present": HERE} if "present" in method.needs and name != "stch" else {}),
        )


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (eq.UW, "lr"),
        (eq.IMTLL, "lr"),
        (eq.DWA, "window"),
        (eq.DWA, "temperature"),
        (eq.FAMO, "lr"),
        (eq.FAMO, "gamma"),
        (eq.STCH, "mu"),
        (eq.STCH, "warmup"),
        (eq.GradNorm, "alpha"),
        (eq.GradNorm, "lr"),
        (eq.ExcessMTL, "eta"),
        (eq.BanditMTL, "eta"),
        (eq.BanditMTL, "rho"),
    ],
)
def test_constants_are_checked(kind, name):
    for bad in (-1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match=f"{name} must be a finite number"):
            kind(**{name: bad})
