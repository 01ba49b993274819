"""PUB's step against its formulas in plain float64 numpy, against torch's step where it is linear, and its slots."""

import numpy as np
import pytest
import torch

import equipoise as eq
from equipoise.updates import prepare, rule_for

LR, BETAS, EPS, DECAY = 0.05, (0.9, 0.999), 1e-8, 0.02
STEPS = 20


# ---- the reference: design's formulas, one line each ----


def balanced(m):
    """w with M w = 1/w: Newton on 1/2 w'Mw - sum log w, halved until it descends. Not the library's code."""
    d = np.sqrt(np.diag(m))
    c, x = m / np.outer(d, d), np.ones(len(m)) / np.sqrt(len(m))
    f = lambda x: x @ c @ x / 2 - np.log(x).sum() if (x > 0).all() else np.inf  # noqa: E731
    for _ in range(100):
        move, t = np.linalg.solve(c + np.diag(1 / x**2), 1 / x - c @ x), 1.0
        while f(x + t * move) > f(x) and t > 1e-8:
            t /= 2
        x = x + t * move
    return x / d


def rescaled(w, m, scale):
    factor = {
        "convex": 1 / w.sum(),
        "sum": len(w) / w.sum(),
        "norm": np.sqrt(np.diag(m)).mean() / np.sqrt(w @ m @ w),
        "frobenius": np.sqrt(np.linalg.norm(m)),
        "raw": 1.0,
    }
    return w * factor[scale]


def adam(g, state):
    """Adam's update and new state (m, v, k)."""
    m, v, k = state
    m, v, k = BETAS[0] * m + (1 - BETAS[0]) * g, BETAS[1] * v + (1 - BETAS[1]) * g * g, k + 1
    u = (m / (1 - BETAS[0] ** k)) / (np.sqrt(v / (1 - BETAS[1] ** k)) + EPS)
    return u, (m, v, k)


class Problem:
    """Tasks t: a trunk A x, a tower b_t each, loss_t = mean (b_t . tanh(A x) - y_t)^2, gradients by hand."""

    def __init__(self, num_tasks):
        rng = np.random.default_rng(num_tasks)
        self.trunk, self.towers = rng.normal(size=(3, 4)), rng.normal(size=(num_tasks, 3))
        self.x, self.y = rng.normal(size=(STEPS, 8, 4)), rng.normal(size=(STEPS, 8, num_tasks))

    def gradients(self, trunk, towers, step):
        x, h = self.x[step], np.tanh(self.x[step] @ trunk.T)
        shared, own = [], []
        for t, b in enumerate(towers):
            e = 2 * (h @ b - self.y[step][:, t]) / len(x)
            own.append(h.T @ e)
            shared.append((e[:, None] * b * (1 - h**2)).T @ x)
        return shared, own

    def parameters(self):
        return [torch.nn.Parameter(torch.tensor(p)) for p in (self.trunk, *self.towers)]

    def losses(self, parameters, step):
        x, y = torch.tensor(self.x[step]), torch.tensor(self.y[step])
        h = torch.tanh(x @ parameters[0].T)
        return {f"t{t}": (h @ b - y[:, t]).square().mean() for t, b in enumerate(parameters[1:])}


def reference(problem, scale, moments, decay):
    """Return trunk, towers and the weights of each step under AdamW with PUB."""
    trunk, towers = problem.trunk.copy(), problem.towers.copy()
    zero = lambda like: (np.zeros_like(like), np.zeros_like(like), 0)  # noqa: E731
    states, own_states = [zero(trunk) for _ in towers], [zero(b) for b in towers]
    history = []
    for step in range(STEPS):
        shared, own = problem.gradients(trunk, towers, step)
        peeks = [adam(g, s) for g, s in zip(shared, states, strict=True)]
        rows = np.stack([u.ravel() for u, _ in peeks])
        m = rows @ rows.T
        w = rescaled(balanced(m), m, scale)
        u = (w @ rows).reshape(trunk.shape)
        if moments == "shared":
            state = adam(sum(a * g for a, g in zip(w, shared, strict=True)), states[0])[1]
            states = [state for _ in towers]
        else:
            states = [s for _, s in peeks]
        trunk = trunk * (1 - LR * decay) - LR * u
        for t in range(len(towers)):
            own_u, own_states[t] = adam(own[t], own_states[t])
            towers[t] = towers[t] * (1 - LR * decay) - LR * own_u
        history.append(w)
    return trunk, towers, history


@pytest.mark.parametrize("num_tasks", (2, 5))
@pytest.mark.parametrize("moments", ("shared", "per_task"))
@pytest.mark.parametrize("scale", ("convex", "sum", "norm", "frobenius", "raw"))
def test_twenty_steps_are_the_formulas(scale, moments, num_tasks):
    problem = Problem(num_tasks)
    parameters = problem.parameters()
    optimizer = torch.optim.AdamW(parameters, lr=LR, betas=BETAS, eps=EPS, weight_decay=DECAY)
    balancer = eq.Balancer(optimizer, eq.PUB(), shared=parameters[:1], scale=scale, moments=moments)
    trunk, towers, history = reference(problem, scale, moments, DECAY)
    for w in history:
        balancer.backward(problem.losses(parameters, balancer.last.step if balancer.last else 0))
        assert parameters[0].grad is None
        balancer.step()
        # float64 throughout, two solvers to 1e-9 or better, 20 steps that feed on each other
        np.testing.assert_allclose(list(balancer.last.weights.values()), w, rtol=1e-7)
        assert balancer.last.status == "solved"
    for found, expected in zip(parameters, (trunk, *towers), strict=True):
        np.testing.assert_allclose(found.detach().numpy(), expected, rtol=1e-7, atol=1e-9)


def test_record_tells_what_the_formulas_say():
    problem = Problem(5)
    parameters = problem.parameters()
    balancer = eq.Balancer(torch.optim.Adam(parameters, LR), "pub", shared=parameters[:1])
    balancer.backward(problem.losses(parameters, 0))
    balancer.step()
    shared, _ = problem.gradients(problem.trunk, problem.towers, 0)
    rows = np.stack([adam(g, (0.0, 0.0, 0))[0].ravel() for g in shared])
    lengths, m = np.linalg.norm(rows, axis=1), rows @ rows.T
    last, w = balancer.last, np.array(list(balancer.last.weights.values()))
    np.testing.assert_allclose(last.gram.numpy(), m, rtol=1e-6, atol=1e-6)  # Adam's first step: signs
    np.testing.assert_allclose(last.cosines["updates"].numpy(), m / np.outer(lengths, lengths), atol=1e-7)
    np.testing.assert_allclose(list(last.norms["updates"].values()), lengths, rtol=1e-7)
    assert last.collapse == pytest.approx(np.linalg.norm(w @ rows) / lengths.mean(), rel=1e-7)
    assert last.residual <= 1e-9
    assert (last.tasks, last.absent, last.nonfinite) == (tuple(f"t{t}" for t in range(5)), (), ())


# ---- where the rule is linear, torch's own step ----


@pytest.mark.parametrize("method", ("pub", "nash"))
@pytest.mark.parametrize("options", ({}, {"momentum": 0.9}, {"momentum": 0.9, "nesterov": True}), ids=str)
def test_sgd_with_sum_one_is_torch_on_the_weighted_loss(options, method):
    problem = Problem(3)
    ours, theirs = problem.parameters(), problem.parameters()
    balancer = eq.Balancer(
        torch.optim.SGD(ours, LR, weight_decay=DECAY, **options), method, shared=ours[:1], scale="convex"
    )
    plain = torch.optim.SGD(theirs, LR, weight_decay=DECAY, **options)
    for step in range(STEPS):
        balancer.backward(problem.losses(ours, step))
        balancer.step()
        plain_step(plain, theirs, problem.losses(theirs, step), balancer.last.weights)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)  # another order of sums in float64


@pytest.mark.parametrize("weights", (None, [2.0, 0.5, 0.25], {"t1": 3.0}, [0.0, 0.0, 0.0]), ids=str)
@pytest.mark.parametrize("options", ({"level": "updates"}, {"moments": "per_task"}), ids=str)
def test_fixed_weights_on_updates_decay_once_as_torch_does(options, weights):
    """Their sum S over the tasks of a step is known, so each peek has wd theta / S; at step 2 a task is absent."""
    problem = Problem(3)
    ours, theirs = problem.parameters(), problem.parameters()
    optimizer, plain = (torch.optim.SGD(p, LR, weight_decay=DECAY) for p in (ours, theirs))
    balancer = eq.Balancer(optimizer, eq.Fixed(weights), shared=ours[:1], **options)
    for step in range(STEPS if weights != [0.0, 0.0, 0.0] else 1):
        losses, reference = problem.losses(ours, step), problem.losses(theirs, step)
        if step == 2:
            losses["t1"] = None
            del reference["t1"]
        balancer.backward(losses)
        balancer.step()
        if weights == [0.0, 0.0, 0.0]:  # nothing is mixed, so nothing decays
            torch.testing.assert_close(ours[0], theirs[0], rtol=0, atol=0)
        else:
            plain_step(plain, theirs, reference, balancer.last.weights)
            torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def plain_step(plain, parameters, losses, weights):
    """torch's own step on the weighted loss; own gradients are not weighted."""
    plain.zero_grad()
    for task, loss in losses.items():
        own = parameters[1 + int(task[1:])]
        own.grad = torch.autograd.grad(loss, own, retain_graph=True)[0]
    weighted = sum(weights[task] * loss for task, loss in losses.items())
    parameters[0].grad = torch.autograd.grad(weighted, parameters[0])[0]
    plain.step()


def test_equal_is_torch_on_the_summed_loss():
    problem = Problem(3)
    ours, theirs = problem.parameters(), problem.parameters()
    balancer, plain = eq.Balancer(torch.optim.Adam(ours, LR), "equal"), torch.optim.Adam(theirs, LR)
    for step in range(STEPS):
        balancer.backward(problem.losses(ours, step))
        balancer.step()
        plain.zero_grad()
        sum(problem.losses(theirs, step).values()).backward()
        plain.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-10)


# ---- slots bit for bit ----

FORMS = [
    (torch.optim.SGD, {"momentum": 0.9, "weight_decay": 0.1}),
    (torch.optim.Adam, {"weight_decay": 0.1, "amsgrad": True}),
    (torch.optim.Adam, {"maximize": True}),
    (torch.optim.AdamW, {"weight_decay": 0.1}),
    (torch.optim.Adagrad, {"weight_decay": 0.1}),
    (torch.optim.RMSprop, {"centered": True, "momentum": 0.5}),
]


@pytest.mark.parametrize("scale", ("convex", "sum", "norm"))
@pytest.mark.parametrize(("kind", "options"), FORMS)
@pytest.mark.parametrize("dtype", (torch.float32, torch.float64))
def test_slots_are_torchs_and_parameters_are_apply(kind, options, dtype, scale):
    """Slots: torch's single-tensor form with p.grad = sum w g. Parameters: apply of sum w peek. Bit for bit."""
    torch.manual_seed(0)
    theta = torch.nn.Parameter(torch.randn(4, 3, dtype=dtype))
    optimizer = kind([theta], lr=LR, foreach=False, **options)
    balancer = eq.Balancer(optimizer, "pub", shared=[theta], scale=scale)
    twin = torch.nn.Parameter(theta.detach().clone())
    torchs, rule = kind([twin], lr=LR, foreach=False, **options), rule_for(optimizer)
    hyper = optimizer.param_groups[0]
    for _ in range(8):
        with torch.no_grad():
            twin.copy_(theta)
        common = torch.randn(4, 3, dtype=dtype)
        rows = [common + 0.8 * torch.randn(4, 3, dtype=dtype) for _ in range(3)]
        before, state = theta.detach().clone(), dict(optimizer.state.get(theta, {}))
        state = {name: value.clone() for name, value in state.items()}
        balancer.backward({str(t): (theta * g).sum() for t, g in enumerate(rows)})
        balancer.step()
        w = list(balancer.last.weights.values())
        twin.grad = (rows[0] * w[0] + rows[1] * w[1]) + rows[2] * w[2]
        torchs.step()
        slots, theirs = optimizer.state[theta], torchs.state[twin]
        assert slots.keys() == theirs.keys()
        assert all(torch.equal(slots[name], theirs[name]) for name in slots)
        share = 1 / 3 if scale == "sum" else 1.0
        peeks = [rule.peek(prepare(g, before, hyper, share, rule), state, hyper) for g in rows]
        update = (peeks[0] * w[0] + peeks[1] * w[1]) + peeks[2] * w[2]
        assert torch.equal(theta.detach(), rule.apply(before, update, state, hyper))
