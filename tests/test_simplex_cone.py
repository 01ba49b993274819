"""Min-norm, dual cone, ball and fairness solvers: cone programs as reference by kind of Gram matrix, every raise."""

import doctest
import importlib

import cvxpy
import numpy as np
import pytest
import torch

from equipoise.solve import Status, balance, conflict_averse, conic, fair, min_norm, project

KINDS = ("generic", "conflict", "low_rank", "near_opposite", "zero_row", "lengths")
SIZES = (1, 2, 3, 8, 40)
SCALES = (1e-12, 1.0, 1e12)
CASES = pytest.mark.parametrize(("kind", "t"), [(k, t) for k in KINDS for t in SIZES])


def rows(kind, t, seed=0):
    """Rows [T, n] by kind."""
    rng = np.random.default_rng(seed)
    u = rng.normal(size=(t, t + 3))
    if kind == "conflict":  # rows close to a hyperplane through 0: many weights end at their bound
        u = rng.normal(size=(t, 4)) + np.array([0.7, 0.0, 0.0, 0.0])
    elif kind == "low_rank":
        u = rng.normal(size=(t, 2)) @ rng.normal(size=(2, 5)) + 0.3 * rng.normal(size=5)
    elif kind == "near_opposite" and t > 1:
        u[1] = -u[0] + 1e-4 * rng.normal(size=u.shape[1])
    elif kind == "zero_row":
        u[t // 2] = 0.0
    elif kind == "lengths":
        u *= np.geomspace(1e-2, 1e2, t)[:, None]
    return u


def cone_program(build, t, tolerance=1e-12):
    """Return the minimiser of a convex program in w [T] by CLARABEL, which says so when it misses the tolerance."""
    cvxpy = pytest.importorskip("cvxpy")
    w = cvxpy.Variable(t)
    objective, constraints = build(cvxpy, w)
    tight = {f"tol_{name}": tolerance for name in ("gap_abs", "gap_rel", "feas", "ktratio")}
    problem = cvxpy.Problem(cvxpy.Minimize(objective), constraints)
    problem.solve(solver="CLARABEL", max_iter=500, **tight)
    return w.value


# The interior point reference knows its minimum to about 1e-8 of the program's own size, here sum |w_t| |u_t| squared.
# Ours must not lie above it by more, and be feasible to rounding; the residual says the rest, from the conditions alone.


@CASES
def test_min_norm_equals_a_cone_program(kind, t):
    u = rows(kind, t)
    found = min_norm(u @ u.T)
    w = found.weights.numpy()
    ref = cone_program(lambda c, v: (c.sum_squares(u.T @ v), [v >= 0, c.sum(v) == 1]), t)
    ref = np.maximum(ref, 0) / np.maximum(ref, 0).sum()
    size = np.square(w @ np.linalg.norm(u, axis=1))
    assert (w >= 0).all()
    assert w.sum() == pytest.approx(1.0, abs=1e-14)
    assert np.square(w @ u).sum() <= np.square(ref @ u).sum() + 1e-15 * size
    np.testing.assert_allclose(w @ u, ref @ u, atol=1e-4 * np.sqrt(size) + 1e-6 * np.abs(u).max())
    assert found.residual <= 1e-12
    assert found.status is not Status.NOT_CONVERGED


@CASES
def test_min_norm_with_lower_bounds_equals_a_cone_program(kind, t):
    u = rows(kind, t)
    lower = np.random.default_rng(1).uniform(size=t) * 0.9 / t
    found = min_norm(u @ u.T, lower.tolist())
    w = found.weights.numpy()
    ref = cone_program(lambda c, v: (c.sum_squares(u.T @ v), [v >= lower, c.sum(v) == 1]), t)
    assert (w >= lower).all()
    assert w.sum() == pytest.approx(1.0, abs=1e-14)
    size = np.square(w @ np.linalg.norm(u, axis=1))
    assert np.square(w @ u).sum() <= np.square(ref @ u).sum() + 1e-9 * size
    np.testing.assert_allclose(w @ u, ref @ u, atol=1e-4 * np.sqrt(size))
    assert found.residual <= 1e-12


@CASES
def test_projection_equals_a_cone_program(kind, t):
    u = rows(kind, t)
    x = np.random.default_rng(2).normal(size=t)
    found = project(u @ u.T, x.tolist())
    v = found.weights.numpy()
    ref = cone_program(lambda c, y: (c.sum_squares(u.T @ y), [y >= x]), t)
    size = np.square(np.abs(v) @ np.linalg.norm(u, axis=1))
    assert (v >= x).all()
    assert (u @ (v @ u) >= -1e-12 * np.linalg.norm(u, axis=1) * np.sqrt(size)).all()
    assert np.square(v @ u).sum() <= np.square(ref @ u).sum() + 1e-9 * size
    assert found.residual <= 1e-11
    assert found.status is Status.SOLVED
    direct = cone_program(lambda c, y: (c.sum_squares(y - x @ u), [u @ y >= 0]), u.shape[1])
    np.testing.assert_allclose(v @ u, direct, atol=1e-5 * np.sqrt(size) + 1e-7 * np.linalg.norm(x @ u))


@pytest.mark.parametrize("radius", (0.1, 0.5, 0.9))
@CASES
def test_ball_equals_a_cone_program(kind, t, radius):
    u = rows(kind, t)
    mean = u.mean(0)
    reach = radius * np.linalg.norm(mean)
    found = conflict_averse(u @ u.T, radius)
    d = found.weights.numpy() @ u
    if found.status is Status.STATIONARY:  # a row of zeros, and some d opposes no other
        assert kind == "zero_row"
        assert not d.any()
        return
    ref = cone_program(lambda c, y: (-c.min(u @ y), [c.norm(y - mean) <= reach]), u.shape[1], 1e-9)
    assert np.linalg.norm(d - mean) == pytest.approx(reach, rel=1e-9 if kind != "near_opposite" else 1e-6)
    scale = np.square(np.linalg.norm(u, axis=1).max())
    assert (u @ d).min() >= (u @ ref).min() - 1e-9 * scale
    if kind != "near_opposite":  # there the value is flat in d beyond the reference's digits
        np.testing.assert_allclose(d, ref, atol=1e-4 * np.linalg.norm(mean))
    assert found.residual <= (1e-9 if kind != "near_opposite" else 1e-7)  # mu is of order 1e4 there
    assert found.status is Status.SOLVED


@pytest.mark.parametrize("alpha", (0.25, 0.5, 1.0, 2.0, 5.0))
@pytest.mark.parametrize("t", SIZES)
@pytest.mark.parametrize("kind", ("generic", "near_opposite", "lengths", "zero_row", "common"))
def test_fair_solves_its_equation(kind, t, alpha):
    if kind in ("near_opposite", "lengths") and alpha < 1.0:
        kind = "generic"  # float64 need not hold those solutions, see below
    rng = np.random.default_rng(t)
    u = rows(kind, t)
    if kind == "common":
        u = 0.2 * u + rng.normal(size=u.shape[1])
    found = fair(u @ u.T, alpha)
    w = found.weights.numpy()
    there = np.linalg.norm(u, axis=1) > 0
    assert (w[there] > 0).all() and (w[~there] == 0).all()
    assert found.status is (Status.SOLVED if there.any() else Status.STATIONARY)
    tolerance = 1e-5 if kind == "near_opposite" else 1e-9  # float64 leaves no more of a pair opposite to 1e-4
    gains = (u @ (w @ u))[there]
    np.testing.assert_allclose(w[there] ** (1 / alpha) * gains, 1.0, rtol=tolerance)
    assert found.residual <= tolerance


@pytest.mark.parametrize("scale", SCALES)
def test_scale_of_all_rows_moves_nothing_that_it_should_not(scale):
    u = rows("generic", 8)
    m, scaled = u @ u.T, (scale * u) @ (scale * u).T
    x = np.linspace(-1, 1, 8).tolist()
    for solve in (min_norm, lambda g: project(g, x), lambda g: conflict_averse(g, 0.5)):
        np.testing.assert_allclose(solve(scaled).weights, solve(m).weights, rtol=1e-9, atol=1e-12)
    ratio = fair(scaled, 2.0).weights / fair(m, 2.0).weights
    np.testing.assert_allclose(ratio, scale ** (-2 / 1.5), rtol=1e-9)


@pytest.mark.parametrize("t", (2, 3, 8, 40))
def test_lengths_over_24_orders_keep_the_conditions(t):
    """Squared norms from 1e-24 to 1e24: no reference solves these, the conditions of the minimum do."""
    u = np.random.default_rng(3).normal(size=(t, t + 3)) * np.geomspace(1e-12, 1e12, t)[:, None]
    m = u @ u.T
    assert min_norm(m).residual <= 1e-12
    assert project(m, np.ones(t).tolist()).residual <= 1e-12
    assert fair(m, 1.0).residual <= 1e-9
    assert conflict_averse(m, 0.5).residual <= 1e-9
    assert conflict_averse(m, 0.5).status is Status.SOLVED


@pytest.mark.parametrize("kind", ("low_rank", "duplicates", "opposite", "hull", "conflict"))
@pytest.mark.parametrize("t", (3, 8, 40))
def test_rounding_of_float32_products_is_borne(kind, t):
    """Cosines off by 1e-7 leave M indefinite: every solver ends, finite, and no row is opposed beyond that."""
    rng = np.random.default_rng(t)
    u = rows("conflict" if kind == "conflict" else "low_rank" if kind == "low_rank" else "generic", t)
    if kind == "duplicates":
        u[t // 2 :] = u[: t - t // 2]
    elif kind == "opposite":
        u[1] = -1.5 * u[0]
    elif kind == "hull":
        u -= u.mean(0)
    m, off = u @ u.T, 1e-7 * rng.uniform(-1, 1, size=(t, t))
    norms = np.sqrt(np.diag(m))
    c = np.clip(m / norms[:, None] / norms + (off + off.T) / 2, -1, 1)
    np.fill_diagonal(c, 1.0)
    noisy = c * norms[:, None] * norms
    x = np.random.default_rng(0).normal(size=t).tolist()
    found = [min_norm(noisy), project(noisy, x), *(conflict_averse(noisy, r) for r in (0.5, 1.0, 2.0))]
    found += [fair(noisy, alpha) for alpha in (0.5, 2.0)]
    assert all(bool(torch.isfinite(f.weights).all()) for f in found)
    for f in found[:2]:
        w = f.weights.numpy()
        assert (noisy @ w / norms >= -1e-6 * (np.abs(w) @ norms)).all()
        assert f.residual <= 1e-6


@pytest.mark.parametrize("radius", (0.2, 0.9))
def test_dependent_rows_take_each_others_place(radius):
    """In the ball's program the best support need not be reached by adding independent rows only."""
    for seed in range(60):
        rng = np.random.default_rng(seed)
        u = rng.normal(size=(6, 2))
        found = conflict_averse(u @ u.T, radius)
        assert found.residual <= 1e-9
        angles = np.linspace(0, 2 * np.pi, 20001)  # every d on the ball's rim
        d = u.mean(0) + radius * np.linalg.norm(u.mean(0)) * np.stack([np.cos(angles), np.sin(angles)], 1)
        if found.status is Status.SOLVED:
            assert (u @ (found.weights.numpy() @ u)).min() >= (d @ u.T).min(1).max() - 1e-12
        else:
            assert (d @ u.T).min(1).max() <= 1e-12


@pytest.mark.parametrize("alpha", (0.5, 2.0))
@pytest.mark.parametrize("t", (3, 8))
def test_fair_of_opposite_rows_among_others_is_stationary(t, alpha):
    for seed in range(20):
        u = rows("generic", t, seed)
        u[1] = -u[0] * np.random.default_rng(seed).uniform(0.5, 2.0)
        found = fair(u @ u.T, alpha)
        assert found.status is Status.STATIONARY
        assert (found.weights > 0).all()


def test_opposite_rows_leave_cagrads_ball_nothing_that_helps_all():
    u = rows("generic", 8)
    u[1] = -1.5 * u[0]
    for radius in (0.9, 1.0, 2.0):
        found = conflict_averse(u @ u.T, radius)
        assert found.status is Status.STATIONARY
        assert not found.weights.any()
    assert (
        conflict_averse(u @ u.T, 0.01).status is Status.SOLVED
    )  # here the worst-off loses, as little as can be


def test_fair_with_alpha_one_is_the_balance_equation():
    u = rows("generic", 8)
    assert torch.equal(fair(u @ u.T, 1.0).weights, balance(u @ u.T).weights)
    near = fair(u @ u.T, 1.0 + 1e-9).weights  # the general solver, by its own path
    torch.testing.assert_close(near, balance(u @ u.T).weights, rtol=1e-7, atol=0)


def test_fair_says_when_float64_does_not_hold_the_solution():
    u = rows("near_opposite", 40)
    found = fair(u @ u.T, 0.25)
    assert found.status is Status.NOT_CONVERGED
    assert found.residual > 1e-5
    assert (found.weights > 0).all()


def test_opposite_rows_are_stationary():
    m = np.array([[1.0, -1.0], [-1.0, 1.0]])
    assert min_norm(m).status is Status.STATIONARY
    np.testing.assert_allclose(min_norm(m).weights, 0.5)
    assert fair(m, 2.0).status is Status.STATIONARY
    assert (fair(m, 2.0).weights > 0).all()
    assert conflict_averse([[1.0, -2.0], [-2.0, 4.0]], 1.5).status is Status.STATIONARY
    assert conflict_averse([[1.0, -2.0], [-2.0, 4.0]], 1.5).weights.tolist() == [0.0, 0.0]
    assert conflict_averse(m, 0.5).weights.tolist() == [0.5, 0.5]  # the mean is 0
    joint = project(m, [0.7, 0.2]).weights @ torch.as_tensor([1.0, -1.0]).double()
    assert float(joint) == pytest.approx(0.0, abs=1e-15)


def test_rows_of_zeros():
    zero = np.zeros((2, 2))
    assert min_norm(zero).weights.tolist() == [0.5, 0.5]
    assert project(zero, [1.0, -2.0]).weights.tolist() == [1.0, -2.0]
    assert conflict_averse(zero, 0.5).weights.tolist() == [0.5, 0.5]
    assert fair(zero, 2.0).weights.tolist() == [0.0, 0.0]
    assert fair(zero, 2.0).status is Status.STATIONARY


def test_nothing_to_do():
    assert conflict_averse([[1.0, 0.2], [0.2, 3.0]], 0.0).weights.tolist() == [0.5, 0.5]
    assert project([[1.0, 0.2], [0.2, 3.0]], [0.0, 0.0]).weights.tolist() == [0.0, 0.0]
    assert project([[1.0, 0.2], [0.2, 3.0]], [2.0, 1.0]).weights.tolist() == [2.0, 1.0]
    assert min_norm([[4.0]]).weights.tolist() == [1.0]
    assert min_norm([[4.0, 0.0], [0.0, 1.0]], [0.6, 0.4]).weights.tolist() == [0.6, 0.4]


def test_keeps_dtype_and_argument():
    m = torch.eye(3)
    for found in (min_norm(m), project(m, [1.0, 1.0, 1.0]), conflict_averse(m, 0.5), fair(m, 2.0)):
        assert found.weights.dtype == torch.float32
    assert torch.equal(m, torch.eye(3))


def test_raises():
    m = [[1.0, 0.0], [0.0, 1.0]]
    for solve in (
        min_norm,
        lambda g: project(g, [1.0]),
        lambda g: conflict_averse(g, 0.5),
        lambda g: fair(g, 2.0),
    ):
        with pytest.raises(ValueError, match="gram must have shape"):
            solve([1.0, 2.0])
    for lower, words in (([0.5], "one number for each"), ([-0.1, 0.5], "sum <= 1"), ([0.9, 0.9], "sum <= 1")):
        with pytest.raises(ValueError, match=words):
            min_norm(m, lower)
    for x in ([1.0], [1.0, float("nan")]):
        with pytest.raises(ValueError, match="weights must be 2 finite numbers"):
            project(m, x)
    for radius in (-0.5, float("inf")):
        with pytest.raises(ValueError, match="radius must be"):
            conflict_averse(m, radius)
    for alpha in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="alpha must be"):
            fair(m, alpha)


@pytest.mark.parametrize("name", ("equation", "simplex", "cone", "ball", "fairness"))
def test_examples_print_what_they_say(name):
    found = doctest.testmod(importlib.import_module(f"equipoise.solve.{name}"))
    assert found.attempted
    assert not found.failed


@pytest.mark.parametrize("cosine", (0.2, 0.5, 0.9, 0.99))
@CASES
def test_conic_is_the_best_direction_of_the_cone(kind, t, cosine):
    """cvxpy solves the cone program over length 1; a best value of 0 means that no direction helps every task."""
    u = rows(kind, t)
    found = conic(u @ u.T, cosine)
    if not u.any():
        assert found.weights.tolist() == [1.0 / t] * t
        return
    mean = u.mean(0) / np.linalg.norm(u.mean(0))
    d, v = cvxpy.Variable(u.shape[1]), cvxpy.Variable()
    size = np.linalg.norm(u, axis=1).max()
    constraints = [u / size @ d >= v, cvxpy.norm(d) <= 1, mean @ d >= cosine * cvxpy.norm(d)]
    cvxpy.Problem(cvxpy.Maximize(v), constraints).solve(solver="CLARABEL")
    ours = found.weights.numpy() @ u
    ours /= np.linalg.norm(ours)
    if found.status is Status.STATIONARY:
        assert v.value <= 1e-5
        np.testing.assert_allclose(found.weights, 1.0 / t)
    else:
        assert found.status is Status.SOLVED
        assert (u @ ours).min() / size >= v.value - 1e-6  # what the reference leaves open
        assert mean @ ours >= cosine - 2e-6  # weights of 1e4 cancel in the nearly opposite pair


def test_conic_at_the_edges():
    assert conic([[4.0]], 0.5).weights.tolist() == [1.0]
    assert conic([[1.0, 0.5], [0.5, 1.0]], 1.0).weights.tolist() == [0.5, 0.5]  # the mean alone
    assert conic([[1.0, -1.0], [-1.0, 1.0]], 0.5).status is Status.STATIONARY  # the mean is 0
    # rows (1, 0), (0, 4): the nearest point of the hull lies at 43 degrees from the mean
    gram = torch.tensor([[1.0, 0.0], [0.0, 16.0]], dtype=torch.float64)
    for cosine in (0.8, 0.5):
        d = conic(gram, cosine).weights * torch.tensor([1.0, 4.0]).double()
        assert float(d.norm()) == pytest.approx(17**0.5 / 2, rel=1e-12)
        along = float(d @ torch.tensor([1.0, 4.0]).double()) / float(d.norm()) / 17**0.5
        assert along == pytest.approx(max(cosine, 8 / 17), rel=1e-9)
    with pytest.raises(ValueError, match="cosine must lie in"):
        conic(gram, 0.0)
