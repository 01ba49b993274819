"""The general Gram-level methods against torchjd on factors of the same matrices, and what their papers claim."""

import warnings

import cvxpy
import numpy as np
import pytest
import torch
from scipy.optimize import nnls
from torchjd import aggregation as jd
from torchjd.linalg import DualConeProjector

from equipoise.methods import (
    IMTLG,
    METHODS,
    MGDA,
    AlignedMTL,
    CAGrad,
    ConFIG,
    DualProj,
    FairGrad,
    GradVac,
    Nash,
    PCGrad,
    UPGrad,
)
from equipoise.solve import Status

KINDS = ("generic", "common", "conflict", "low_rank", "duplicates", "lengths")
BY_KIND = pytest.mark.parametrize("kind", KINDS)
NAMES = [
    "mgda",
    "pcgrad",
    "gradvac",
    "imtl_g",
    "cagrad",
    "conic_grad",
    "fairgrad",
    "aligned_mtl",
    "upgrad",
    "dualproj",
    "con_fig",
]
PRIORITIES = [3.0, 1.0, 0.5, 2.0, 1.0, 0.0, 1.0, 4.0]


class Projector(DualConeProjector):
    """The dual form by scipy's nonnegative least squares on a factor; torchjd's own needs quadprog, and adds 1e-4."""

    def __call__(self, U, G):
        values, vectors = np.linalg.eigh(G.numpy())
        root = np.sqrt(np.maximum(values, 0))[:, None] * vectors.T
        return torch.from_numpy(np.apply_along_axis(lambda u: u + nnls(root, -root @ u)[0], -1, U.numpy()))


@pytest.fixture(params=[20, pytest.param(200, marks=pytest.mark.slow)])
def count(request):
    """Return the number of matrices a kind."""
    return request.param


def factors(kind, count):
    """Yield rows U [T, n] float64, T from 2 to 8."""
    for seed in range(count):
        rng = np.random.default_rng(seed)
        t = int(rng.integers(2, 9))
        u = rng.normal(size=(t, t + 4))
        if kind == "common":
            u = 0.5 * u + rng.normal(size=u.shape[1])
        elif kind == "conflict":
            u[: t // 2] -= 0.8 * u[-1]
        elif kind == "low_rank":
            u = rng.normal(size=(t, 2)) @ rng.normal(size=(2, t + 4))
        elif kind == "duplicates":
            u[t // 2 :] = u[: t - t // 2]
        elif kind == "lengths":
            u *= 10.0 ** rng.uniform(-2, 2, size=(t, 1))
        yield torch.from_numpy(u)


def joint(method, u, state=None, **needs):
    """Return the joint vector of a method for rows U."""
    if hasattr(method, "priorities"):
        needs |= {"tasks": tuple(map(str, range(len(u)))), "present": torch.ones(len(u), dtype=torch.bool)}
    return method(u @ u.T, method.init(len(u)) if state is None else state, **needs)[0] @ u


def same(found, expected, u, rtol=1e-5):
    """Equal to rtol of the joint vector, and to rounding of what it was mixed from."""
    room = rtol * float(expected.norm()) + 1e-12 * float(u.norm(dim=1).sum())
    assert float((found - expected).norm()) <= room


# ---- torchjd ----


@BY_KIND
@pytest.mark.parametrize("preferred", (False, True))
@pytest.mark.parametrize("name", ("upgrad", "dualproj", "aligned_mtl", "con_fig"))
def test_equals_torchjd_with_and_without_priorities(name, kind, count, preferred):
    kinds = {"upgrad": jd.UPGrad, "dualproj": jd.DualProj, "aligned_mtl": jd.AlignedMTL, "con_fig": jd.ConFIG}
    more = {"projector": Projector()} if name in ("upgrad", "dualproj") else {}
    for u in factors(kind, count):
        a = torch.tensor(PRIORITIES[: len(u)]).double()
        p = a / a.sum() if name != "con_fig" else a * len(u) / a.sum()
        reference = kinds[name](pref_vector=p if preferred else None, **more)
        same(joint(METHODS[name](priorities=PRIORITIES[: len(u)] if preferred else None), u), reference(u), u)


@BY_KIND
@pytest.mark.parametrize("mode", ("median", "rmse"))
def test_aligned_mtl_modes_equal_torchjd(kind, count, mode):
    for u in factors(kind, count):
        same(joint(AlignedMTL(scale_mode=mode), u), jd.AlignedMTL(scale_mode=mode)(u), u)


@BY_KIND
def test_imtl_g_equals_torchjd(kind, count):
    for u in factors(kind, count):
        same(joint(IMTLG(), u), jd.IMTLG()(u), u)


@BY_KIND
def test_pcgrad_equals_torchjd_under_the_same_order(kind, count):
    for seed, u in enumerate(factors(kind, count)):
        torch.manual_seed(seed)
        expected = jd.PCGrad()(u)
        same(joint(PCGrad(), u, generator=torch.Generator().manual_seed(seed)), expected, u)


@BY_KIND
def test_gradvac_equals_torchjd_over_three_steps_under_the_same_order(kind, count):
    for seed, u in enumerate(factors(kind, count)):
        beta = 0.01 if seed % 2 else 0.5
        reference, method = jd.GradVac(beta=beta, eps=0.0 if kind != "low_rank" else 1e-14), GradVac(beta)
        state, generator = method.init(len(u)), torch.Generator().manual_seed(seed)
        torch.manual_seed(seed)
        for step in range(3):
            moved = u.roll(step, 0)
            expected = reference(moved)
            weights, state = method(moved @ moved.T, state, generator=generator)
            same(weights @ moved, expected, moved)


@BY_KIND
def test_mgda_is_no_longer_than_torchjd_and_as_near_as_its_residual_says(kind, count):
    for u in factors(kind, count):
        ours, reference = joint(MGDA(), u), jd.MGDA(epsilon=1e-9, max_iters=100)(u)
        longer = float(reference @ reference - ours @ ours)
        size = float(u.norm(dim=1).max()) ** 2
        assert longer >= -1e-14 * size
        # any point x of a convex set: |x - x*|^2 <= |x|^2 - |x*|^2, so this is what the reference's residual allows
        assert float((reference - ours).square().sum()) <= longer + 1e-14 * size


@BY_KIND
def test_cagrad_equals_torchjd(kind, count, monkeypatch):
    solve = cvxpy.Problem.solve
    tight = {
        f"tol_{name}": 1e-13 for name in ("gap_abs", "gap_rel", "feas")
    }  # torchjd leaves 1e-8 of the value
    monkeypatch.setattr(cvxpy.Problem, "solve", lambda self, solver: solve(self, solver=solver, **tight))
    for seed, u in enumerate(factors(kind, count)):
        c = (0.2, 0.5, 0.9)[seed % 3]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that it stopped short of 1e-13
            expected = jd.CAGrad(c, norm_eps=1e-12)(u)
        found, mean = joint(CAGrad(c), u), u.mean(0)
        mu = float(CAGrad(c).solve(u @ u.T).weights.sum()) - 1.0
        better = float((u @ found).min() - (u @ expected).min())
        assert better >= -1e-13 * float(u.norm(dim=1).max() * mean.norm())
        # over the ball min_t <g_t, d> falls by |g_w| |d - d*|^2 / (2 radius): what the reference's value allows
        allowed = (2.0 * c * float(mean.norm()) * max(better, 0.0) * mu / float((found - mean).norm())) ** 0.5
        assert float((found - expected).norm()) <= 1e-5 * float(expected.norm()) + 1.01 * allowed


@BY_KIND
def test_fairgrad_equals_torchjd_where_that_solves(kind, count):
    solved = 0
    for seed, u in enumerate(factors(kind, count)):
        alpha, m = (0.5, 1.0, 2.0)[seed % 3], u @ u.T
        expected = jd.FairGrad(alpha, max_iters=40).gramian_weighting(m)
        gains = m @ expected
        solution = FairGrad(alpha).solve(m)
        assert solution.status is not Status.NOT_CONVERGED
        miss = float((expected ** (1 / alpha) * gains - 1).abs().max())
        if miss <= 1e-7 and solution.status is Status.SOLVED:  # the reference stops on its cost, not on this
            solved += 1
            torch.testing.assert_close(solution.weights, expected, rtol=max(1e-5, 1e3 * miss), atol=0)
    assert solved >= count / 2 or kind in ("lengths", "low_rank"), solved


# ---- what the papers claim ----

GENERAL = [METHODS[name] for name in NAMES]
BY_METHOD = pytest.mark.parametrize("kind_of", GENERAL, ids=NAMES)


@BY_METHOD
def test_equal_rows_give_the_row_or_their_sum(kind_of):
    u = torch.tensor([[0.6, -0.8]], dtype=torch.float64).repeat(3, 1)
    factor = {CAGrad: 1.5, PCGrad: 3.0, GradVac: 3.0, ConFIG: 3.0, FairGrad: 3.0**0.5}.get(kind_of, 1.0)
    if kind_of is FairGrad:  # unscaled |u| is sqrt(T)
        torch.testing.assert_close(joint(FairGrad(), u).norm(), torch.tensor(factor).double())
    else:
        torch.testing.assert_close(joint(kind_of(), u), factor * u[0], rtol=1e-9, atol=0)


@BY_METHOD
@pytest.mark.parametrize("length", (1e-12, 1.0, 1e12))
def test_one_task_keeps_its_direction(kind_of, length):
    u = torch.tensor([[length]], dtype=torch.float64)
    found = float(joint(kind_of(), u)) / length
    expected = {CAGrad: 1.5, FairGrad: 1.0 / length}.get(kind_of, 1.0)
    assert found == pytest.approx(expected, rel=1e-12)


@BY_METHOD
@pytest.mark.parametrize("scale", (1e-12, 1e12))
def test_the_scale_of_all_rows_is_that_of_the_step(kind_of, scale):
    u = next(factors("conflict", 1))
    generators = [torch.Generator().manual_seed(1) for _ in range(2)]
    needs = [{"generator": g} if "generator" in kind_of.needs else {} for g in generators]
    found, again = joint(kind_of(), u, **needs[0]), joint(kind_of(), scale * u, **needs[1])
    torch.testing.assert_close(again, found if kind_of is FairGrad else scale * found, rtol=1e-8, atol=0)


@BY_METHOD
@pytest.mark.parametrize("kind", KINDS)
def test_opposes_no_task_where_the_paper_says_so(kind_of, kind):
    if kind_of not in (MGDA, UPGrad, DualProj, ConFIG, FairGrad, IMTLG):
        pytest.skip("makes no such promise")
    if kind_of in (ConFIG, FairGrad, IMTLG) and kind in ("low_rank", "duplicates"):
        pytest.skip("promised for independent rows")
    for u in factors(kind, 20):
        d = joint(kind_of(), u)
        gains = u @ d
        if kind_of is IMTLG:  # one sign for all tasks
            gains = gains * gains[0].sign()
        room = float(u.norm(dim=1).max()) * (1e-9 * float(d.norm()) + 1e-13 * float(u.norm()))
        assert float(gains.min()) >= -room


@pytest.mark.parametrize("kind_of", (IMTLG, ConFIG), ids=("imtl_g", "con_fig"))
def test_equal_angles(kind_of):
    for u in factors("generic", 20):
        d = joint(kind_of(), u)
        cosines = u @ d / u.norm(dim=1)
        torch.testing.assert_close(cosines, cosines.mean().expand_as(cosines), rtol=1e-7, atol=0)


def test_con_fig_angles_follow_priorities():
    u = next(factors("generic", 1))
    a = torch.arange(1.0, len(u) + 1.0).double()
    d = joint(ConFIG(priorities=a.tolist()), u)
    ratio = u @ d / u.norm(dim=1) / a
    torch.testing.assert_close(ratio, ratio.mean().expand_as(ratio), rtol=1e-7, atol=0)


def test_priorities_go_by_name_and_leave_absent_tasks_out():
    u = next(factors("conflict", 1))[:2]
    m, present = u @ u.T, torch.tensor([True, False, True])
    for kind_of in (UPGrad, DualProj, AlignedMTL, ConFIG):
        by_place = kind_of(priorities=(3.0, 9.0, 1.0))(m, {}, present=present, tasks=("a", "c"))[0]
        by_name = kind_of(priorities={"a": 3.0})(m, {}, present=present, tasks=("a", "c"))[0]
        assert torch.equal(by_place, by_name)
        assert not torch.equal(by_name, kind_of()(m, {})[0])


def test_without_conflict_the_surgeries_and_projections_do_nothing():
    m = torch.tensor([[2.0, 0.5, 0.1], [0.5, 1.0, 0.0], [0.1, 0.0, 3.0]]).double()
    for kind_of in (UPGrad, DualProj):
        torch.testing.assert_close(kind_of()(m, {})[0], torch.full((3,), 1 / 3, dtype=torch.float64))
    assert PCGrad()(m, {})[0].tolist() == [1.0, 1.0, 1.0]
    first, state = GradVac()(m, GradVac().init(3))
    assert first.tolist() == [1.0, 1.0, 1.0]
    assert float(state["targets"][0, 1]) == pytest.approx(0.01 * 0.5 / 2**0.5)


def test_gradvac_keeps_the_targets_of_absent_tasks_and_writes_to_nothing():
    state = {"targets": torch.full((3, 3), 0.2, dtype=torch.float64)}
    m, before = (
        torch.tensor([[1.0, -0.5], [-0.5, 1.0]]).double(),
        torch.full((3, 3), 0.2, dtype=torch.float64),
    )
    weights, moved = GradVac(0.5)(m, state, present=torch.tensor([True, False, True]))
    assert torch.equal(state["targets"], before)
    assert bool((weights > 1.0).all())
    changed = moved["targets"] != before
    assert changed.nonzero().tolist() == [[0, 2], [2, 0]]
    assert float(moved["targets"][0, 2]) == pytest.approx(0.5 * 0.2 - 0.5 * 0.5, rel=1e-15)


def test_gradvac_of_equal_and_opposite_rows_stays_finite():
    method = GradVac(1.0)
    same_rows, opposite = torch.ones(2, 2).double(), torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).double()
    _, state = method(same_rows, method.init(2))
    for m in (same_rows, opposite, opposite, same_rows):
        weights, state = method(m, state)
        assert bool(torch.isfinite(weights).all())


def test_opposite_rows():
    m = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).double()
    assert MGDA().solve(m).status is Status.STATIONARY
    assert FairGrad(2.0).solve(m).status is Status.STATIONARY
    for kind_of in (IMTLG, ConFIG):
        assert kind_of()(m, {})[0].tolist() == [0.0, 0.0]
    for kind_of in (MGDA, UPGrad, DualProj, CAGrad, PCGrad):
        weights = kind_of()(m, {})[0]
        assert float(weights @ m @ weights) == pytest.approx(0.0, abs=1e-15)


def test_fairgrad_with_alpha_one_is_nash():
    m = next(factors("generic", 1))
    m = m @ m.T
    assert torch.equal(FairGrad()(m, {})[0], Nash()(m, {})[0])
    assert not torch.allclose(FairGrad(2.0)(m, {})[0], Nash()(m, {})[0], rtol=0.01)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: CAGrad(-0.1), "c must be"),
        (lambda: CAGrad(float("nan")), "c must be"),
        (lambda: FairGrad(0.0), "alpha must be"),
        (lambda: FairGrad(float("inf")), "alpha must be"),
        (lambda: GradVac(1.5), "beta must be"),
        (lambda: AlignedMTL(scale_mode="max"), "scale_mode must be"),
        (lambda: UPGrad(priorities=[-1.0]), "priorities must be"),
        (lambda: DualProj(priorities=[0.0, 0.0]), "priorities must hold"),
        (lambda: ConFIG(priorities=[1.0]).check_tasks(("a", "b")), "each of the 2 tasks"),
    ],
)
def test_raises(build, words):
    with pytest.raises(ValueError, match=words):
        build()
