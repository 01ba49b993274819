"""Tracked, bounded, primary-task and row methods against torchjd, cvxpy-free closed forms and the papers' formulas."""

import numpy as np
import pytest
import torch
from rows import GRAM
from torchjd import aggregation as jd

import equipoise as eq
from equipoise.methods import METHODS
from equipoise.methods.simplex_step import on_simplex
from equipoise.solve import Status

D = torch.float64
HERE = torch.ones(3, dtype=torch.bool)
KINDS = ("generic", "wide", "near-opposite", "small", "large")


def rows(kind, seed, t=3):
    """U [T, n] of a kind."""
    g = torch.Generator().manual_seed(seed)
    u = torch.randn(t, 2 if kind == "wide" else 12, generator=g, dtype=D)
    if kind == "near-opposite":
        u[1] = -u[0] + 1e-3 * u[1]
    return u * {"small": 1e-6, "large": 1e6}.get(kind, 1.0)


# ---- SDMGrad, MoCo ----


def test_projection_on_the_simplex():
    g = torch.Generator().manual_seed(0)
    for t in (1, 2, 5, 40):
        x = 3 * torch.randn(t, generator=g, dtype=D)
        w = on_simplex(x)
        assert float(w.sum()) == pytest.approx(1.0)
        assert float(w.min()) >= 0.0
        gap = (x - w)[w > 0]  # optimality: x - w is constant on the support and no larger elsewhere
        assert float(gap.max() - gap.min()) < 1e-12
        assert bool(((x - w)[w == 0] <= gap.mean() + 1e-12).all())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("priorities", (None, {"a": 1.0, "b": 4.0, "c": 1.0}))
def test_sdmgrad_is_torchjds(kind, priorities):
    for seed in range(200):
        vector = None if priorities is None else torch.tensor([1.0, 4.0, 1.0], dtype=D) / 6
        reference = jd.SDMGradWeighting(pref_vector=vector)
        method, state = eq.SDMGrad(priorities=priorities), eq.SDMGrad().init(3)
        for step in range(3):  # weights start where the last solve ended
            u = rows(kind, seed + 100 * step)
            noise = 0.1 * float(u.norm(dim=1).mean()) / 3.5 * rows("generic", seed + 50)[:, : u.shape[1]]
            cross = (u + noise) @ (u - noise.flip(0)).T  # two batches of one task
            found, state = method(GRAM, state, cross=cross, present=HERE, tasks=("a", "b", "c"))
            expected = reference(cross * 2**40 / float(cross.abs().max()))  # so that its 1e-8 vanishes
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)
        assert float(found.sum()) == pytest.approx(1.0)


def test_moco_tracks_and_descends():
    method = eq.MoCo(beta=0.4, gamma=0.2, rho=0.1, sigma=0.5)
    state, y, w = method.init(3), torch.zeros(3, 12, dtype=D), np.full(3, 1 / 3)
    held = [None] * 3
    for step in range(1, 6):
        u = rows("generic", step)
        held = [method.track(row, g, 1.0, step) for row, g in zip(held, u, strict=True)]
        y = y + 0.4 / step**0.5 * (u - y)
        torch.testing.assert_close(torch.stack(held), y, rtol=1e-12, atol=1e-15)
        m = (y @ y.T).numpy()
        w = on_simplex(torch.tensor(w - 0.2 / step**0.5 * (m @ w + 0.1 * w))).numpy()
        found, state = method(torch.tensor(m), state, step=step, present=HERE)
        np.testing.assert_allclose(found.numpy(), w, rtol=1e-10, atol=1e-12)


def test_moco_on_one_gram_matrix_comes_to_the_min_norm_point():
    method, state = eq.MoCo(gamma=0.05, sigma=0.0), eq.MoCo().init(3)
    for _ in range(2000):
        found, state = method(GRAM, state, step=1, present=HERE)
    torch.testing.assert_close(found, eq.MGDA()(GRAM, {})[0], rtol=1e-6, atol=1e-9)


# ---- DB-MTL ----


def test_db_mtl_averages_log_gradients_and_evens_lengths():
    method, held = eq.DBMTL(beta=0.9, sigma=0.5), None
    for step in range(1, 5):
        g, loss = rows("generic", step), 0.3 * step
        fresh = g / (loss + 1e-8)
        y = fresh if held is None else fresh + 0.9 / step**0.5 * (held - fresh)
        held = torch.stack(
            [
                method.track(None if held is None else h, r, loss, step)
                for h, r in zip(held if held is not None else g, g, strict=True)
            ]
        )
        torch.testing.assert_close(held, y, rtol=1e-12, atol=0)
    found, _ = method(held @ held.T, {})
    lengths = (found[:, None] * held).norm(dim=1)
    torch.testing.assert_close(lengths, held.norm(dim=1).max().expand(3), rtol=1e-12, atol=0)
    with pytest.raises(ValueError, match="losses must be > 0 for DB-MTL"):
        method.track(None, g[0], 0.0, 1)


# ---- PE-LTR ----


@pytest.mark.parametrize("floor", (0.0, 0.5, 1.0))
def test_pe_ltr_is_the_least_norm_over_its_bounds(floor):
    method = eq.PELTR(floor=floor, priorities=(1.0, 2.0, 3.0))
    least = floor * np.array([1, 2, 3]) / 6
    for seed in range(20):
        u = rows("generic", seed)
        m = (u @ u.T).numpy()
        found, _ = method(torch.tensor(m), {}, present=HERE, tasks=("a", "b", "c"))
        w = found.numpy()
        assert w.sum() == pytest.approx(1.0)
        assert (w >= least - 1e-12).all()
        g = np.random.default_rng(seed)
        others = least + (1 - least.sum()) * g.dirichlet(np.ones(3), 2000)
        assert (np.einsum("it,ts,is->i", others, m, others) >= w @ m @ w * (1 - 1e-9)).all()
    if floor == 0.0:
        torch.testing.assert_close(found, eq.MGDA()(torch.tensor(m), {})[0], rtol=1e-9, atol=1e-12)


# ---- PCD ----


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tau", (0.0, 0.02, 0.5))
def test_pcd_is_torchjds(kind, tau):
    for seed in range(200):
        for t in (2, 3, 6):
            reference, method = jd.PCDWeighting(tau=tau), eq.PCD(tau=tau)
            state, present = method.init(t), torch.ones(t, dtype=torch.bool)
            for step in range(3):
                u = rows(kind, 10 * seed + step, t)
                found, state = method(u @ u.T, state, present=present)
                expected = reference(u @ u.T) @ u
                if found.status is Status.SOLVED:  # vectors: weights are not unique where rows depend
                    torch.testing.assert_close(
                        found.weights @ u, expected, rtol=1e-5, atol=1e-5 * float(expected.norm())
                    )
                    continue
                assert kind in ("wide", "near-opposite")
                primary = float(found.weights[0])
                assert primary == 0.0 or primary == pytest.approx(1.0, rel=1e-12)
                assert not found.weights[1:].any()


def test_pcd_keeps_its_promise_and_goes_by_priority():
    method, u = eq.PCD(tau=0.1, priorities={"c": 2.0}), rows("generic", 4)
    u[0] -= 0.8 * u[2]
    found, _ = method(u @ u.T, method.init(3), present=HERE, tasks=("a", "b", "c"))
    unit = u / u.norm(dim=1, keepdim=True)
    d = found.weights @ u
    assert float(d.norm()) == pytest.approx(float(u[2].norm()))
    assert bool((unit[:2] @ d > 0).all())
    moved, _ = method(u.flip(0) @ u.flip(0).T, method.init(3), present=HERE, tasks=("c", "b", "a"))
    torch.testing.assert_close(moved.weights.flip(0), found.weights, rtol=1e-9, atol=1e-12)


def test_pcd_says_that_bounds_cannot_be_met():
    u = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, -1.0]], dtype=D)
    found, _ = eq.PCD(tau=0.5)(u @ u.T, eq.PCD().init(3), present=HERE)
    assert found.status is Status.STATIONARY
    assert found.weights.tolist() == pytest.approx([1.0, 0.0, 0.0])


# ---- MultiBalance, MetaBalance, GradCraft ----


def test_multibalance_is_mgda_on_even_lengths():
    found, state = eq.MultiBalance()(GRAM, eq.MultiBalance().init(3), present=HERE)
    norms = GRAM.diagonal().sqrt()
    s = eq.MGDA()(GRAM / norms[:, None] / norms[None, :], {})[0]
    torch.testing.assert_close(found, s * norms.mean() / norms, rtol=1e-9, atol=1e-12)
    assert bool((GRAM @ found >= -1e-12).all())  # opposes no task
    _, state = eq.MultiBalance(beta=0.5)(4 * GRAM, state, present=HERE)
    torch.testing.assert_close(state["m"], 1.5 * norms)


@pytest.mark.parametrize("which", ("both", "reduce", "raise"))
def test_metabalance_is_its_formula(which):
    method = eq.MetaBalance(relax=0.6, beta=0.8, which=which, priorities={"b": 2.0})
    state, m = method.init(3), np.zeros(3)
    for step in range(1, 5):
        found, state = method(GRAM * step, state, present=HERE, tasks=("a", "b", "c"))
        m = 0.8 * m + 0.2 * np.sqrt(np.diag(GRAM.numpy()) * step)
        expected = []
        for t in range(3):
            ratio = m[1] / m[t]
            acts = t != 1 and (which == "both" or (ratio < 1) == (which == "reduce"))
            expected.append(0.6 * ratio + 0.4 if acts else 1.0)
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12)


def test_gradcraft_resolves_all_conflicts_of_a_task_at_once():
    method = eq.GradCraft(relax=1.0, eps=0.1)
    for seed in range(30):
        u = rows("generic", seed, 4)
        u[0] -= 0.7 * (u[1] + u[2])
        here = torch.ones(4, dtype=torch.bool)
        found, _ = method(u @ u.T, method.init(4), present=here)
        g = (u / u.norm(dim=1, keepdim=True) * u.norm(dim=1).max()).numpy()
        total = np.zeros(12)
        for i in range(4):
            against = [j for j in range(4) if g[i] @ g[j] < 0]
            row = g[i].copy()
            if against:
                wanted = 0.1 * np.linalg.norm(g[i]) * np.linalg.norm(g[against], axis=1)
                row += g[against].T @ np.linalg.solve(g[against] @ g[against].T, wanted - g[against] @ g[i])
                np.testing.assert_allclose(g[against] @ row, wanted, rtol=1e-9)
            total += row
        np.testing.assert_allclose((found @ u).numpy(), total / 4, rtol=1e-8, atol=1e-10)


def test_gradcraft_averages_norms_from_zero():
    """Orthogonal rows, norms (2, 1) then (1, 1), beta .5: m = (1, .5), then (1, .75); weights max m / m / 2."""
    method = eq.GradCraft(relax=1.0, beta=0.5)
    found, state = method(torch.diag(torch.tensor([4.0, 1.0], dtype=D)), method.init(2), present=HERE[:2])
    assert found.tolist() == [0.5, 1.0]
    found, _ = method(torch.eye(2, dtype=D), state, present=HERE[:2])
    np.testing.assert_allclose(found.numpy(), [0.5, 2.0 / 3.0], rtol=1e-15)


def test_gradcraft_leaves_agreeing_tasks_alone():
    m = torch.tensor([[4.0, 1.0], [1.0, 1.0]], dtype=D)
    found, _ = eq.GradCraft(relax=0.0)(m, eq.GradCraft().init(2), present=HERE[:2])
    assert found.tolist() == [0.5, 0.5]


# ---- GradDrop ----


@pytest.mark.parametrize("leak", (0.0, 0.3, 1.0))
def test_graddrop_is_torchjds_on_the_same_draw(leak, monkeypatch):
    for seed in range(200):
        u = rows("generic", seed, 4)
        drawn = torch.rand(12, generator=torch.Generator().manual_seed(seed), dtype=D)
        monkeypatch.setattr(torch, "rand", lambda *_, d=drawn, **__: d)
        expected = jd.GradDrop(leak=torch.full((4,), leak, dtype=D))(u)
        found = eq.GradDrop(leak=leak).combine(list(u), {}, torch.Generator())
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_graddrop_keeps_what_agrees_and_drops_by_chance():
    g = torch.Generator().manual_seed(0)
    a, b = torch.tensor([1.0, 1.0, 0.0]).expand(4000, 3), torch.tensor([2.0, -1.0, 0.0]).expand(4000, 3)
    found = eq.GradDrop().combine([a, b], {}, g)
    assert bool((found[:, 0] == 3.0).all())
    assert set(found[:, 1].tolist()) == {1.0, -1.0}
    assert abs(float(found[:, 1].mean())) < 0.06  # 4 sd
    assert bool((found[:, 2] == 0.0).all())


@pytest.mark.parametrize(
    ("name", "bad", "message"),
    [
        ("moco", {"beta": 0.0}, "beta must be"),
        ("moco", {"gamma": -1.0}, "gamma must be"),
        ("moco", {"rho": -1.0}, "rho must be"),
        ("moco", {"sigma": -1.0}, "sigma must be"),
        ("sdmgrad", {"lam": -1.0}, "lam must be"),
        ("sdmgrad", {"steps": 0}, "steps must be"),
        ("sdmgrad", {"lr": 0.0}, "lr must be"),
        ("sdmgrad", {"momentum": 1.0}, "momentum must lie"),
        ("db_mtl", {"beta": 1.0}, "beta must be"),
        ("db_mtl", {"sigma": -1.0}, "sigma must be"),
        ("pe_ltr", {"floor": 1.5}, "floor must lie"),
        ("pcd", {"tau": 2.0}, "tau must lie"),
        ("pcd", {"beta": 1.0}, "beta must lie"),
        ("pcd", {"eps": -1.0}, "eps must be"),
        ("multibalance", {"beta": 1.0}, "beta must lie"),
        ("metabalance", {"relax": 2.0}, "relax must lie"),
        ("metabalance", {"beta": 1.0}, "beta must lie"),
        ("metabalance", {"which": "some"}, "which must be"),
        ("gradcraft", {"relax": -1.0}, "relax must lie"),
        ("gradcraft", {"beta": 1.0}, "beta must lie"),
        ("gradcraft", {"eps": -1.0}, "eps must be"),
        ("graddrop", {"leak": 2.0}, "leak must lie"),
    ],
)
def test_constants_are_checked(name, bad, message):
    with pytest.raises(ValueError, match=message):
        METHODS[name](**bad)
