"""`equipoise toy`: the landscape's derivatives, the batch against the library one run at a time, the figure."""

from __future__ import annotations

import builtins
import json

import pytest
import torch
from typer.testing import CliRunner

import equipoise as eq
from equipoise.cli import app
from equipoise.methods import METHODS
from equipoise.solve import balance, conflict_averse
from equipoise.study import pair_weights, toy, toy_page
from equipoise.study.landscape import OPTIMUM, STARTS, front, losses, losses_and_gradients


def points():
    generator = torch.Generator().manual_seed(0)
    x = 6 * torch.randn(300, 2, dtype=torch.float64, generator=generator)
    x[:5] = torch.tensor(STARTS)
    x[5] = torch.tensor([-7.0, 0.0])  # on both clamps: a_1 = 0
    x[6] = torch.tensor([-7.0 + 2e-6, 1e-9])
    return x


def test_the_gradients_written_out_are_autograd_s_also_at_the_clamps():
    x = points().requires_grad_()
    value = losses(x)
    found, gradients = losses_and_gradients(x.detach())
    torch.testing.assert_close(found, value.detach(), rtol=1e-14, atol=1e-13)
    for t in range(2):
        (expected,) = torch.autograd.grad(value[:, t].sum(), x, retain_graph=True)
        torch.testing.assert_close(gradients[:, t], expected, rtol=1e-12, atol=1e-12)


def test_the_optimum_is_on_the_front_and_the_front_is_one():
    found = front()
    assert (found - torch.tensor(OPTIMUM, dtype=torch.float64)).abs().amax(1).min() < 0.05
    steps = found[1:] - found[:-1]
    assert (steps[:, 0] > 0).all() and (steps[:, 1] < 0).all()


EQUAL = 30


def grams():
    """Return rows [N, 2, 3]: any, near-opposite, dependent, alike, with very different lengths."""
    generator = torch.Generator().manual_seed(1)
    rows = torch.randn(60, 2, 3, dtype=torch.float64, generator=generator)
    rows[10:20, 1] = -rows[10:20, 0] * 0.7 + 1e-3 * rows[10:20, 1]
    rows[20:30, 0] *= 1e4
    rows[EQUAL] = rows[EQUAL, :1]
    return rows, rows @ rows.mT


def dots(m):
    return m[:, 0, 0], m[:, 0, 1], m[:, 1, 1]


def test_closed_forms_are_what_the_solvers_give():
    rows, m = grams()
    found = {
        "balance": pair_weights.balanced(*dots(m)),
        "cagrad": pair_weights.cagrad(*dots(m)),
        "imtl_g": pair_weights.imtl_g(*dots(m)),
    }
    solvers = {
        "balance": lambda gram: balance(gram).weights,
        "cagrad": lambda gram: conflict_averse(gram, 0.5).weights,
        "imtl_g": lambda gram: METHODS["imtl_g"]()(gram, {})[0],
    }
    for name, solve in solvers.items():
        for i, gram in enumerate(m):
            expected = solve(gram)
            # equal rows leave weights open, not what they make; balance stops at a residual of 1e-9
            torch.testing.assert_close(found[name][i] @ rows[i], expected @ rows[i], rtol=1e-6, atol=1e-7)
            if i != EQUAL:
                torch.testing.assert_close(found[name][i], expected, rtol=1e-6, atol=1e-7)


def test_rows_that_are_opposite_zero_or_dependent():
    m = torch.tensor([[[1.0, -2.0], [-2.0, 4.0]], [[0.0, 0.0], [0.0, 4.0]]], dtype=torch.float64)
    found = pair_weights.balanced(*dots(m))
    torch.testing.assert_close(
        found[0], torch.tensor([1e6, 0.5e6], dtype=torch.float64)
    )  # 1 + cosine is 1e-12
    assert found[1].tolist() == [0.0, 0.5]
    torch.testing.assert_close(pair_weights.imtl_g(*dots(m[:1]))[0], METHODS["imtl_g"]()(m[0], {})[0])
    opposite = torch.tensor([[[1.0, -1.0], [-1.0, 1.0]]], dtype=torch.float64)
    assert pair_weights.imtl_g(*dots(opposite)).tolist() == [[0.0, 0.0]]


def test_norm_scaled_weights_give_the_mean_length():
    rows, m = grams()
    w = pair_weights.norm_scaled(pair_weights.balanced(*dots(m)), *dots(m))
    length = (w[..., None] * rows).sum(1).norm(dim=1)
    torch.testing.assert_close(length, rows.norm(dim=2).mean(1), rtol=1e-6, atol=0)


def one_at_a_time(name, start, num_steps):
    """Return the losses after num_steps of Balancer on torch.optim.Adam."""
    x = torch.tensor(start, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([x], lr=3e-3)
    scale = {"pub": "raw", "pub_convex": "convex"}.get(name)
    method = METHODS[{"sum": "equal", "pub_convex": "pub"}.get(name, name)]()
    balancer = eq.Balancer(optimizer, method, shared=[x], scale=scale)
    shift = toy.SHIFT if name == "famo" else 0.0
    for _ in range(num_steps):
        balancer.backward(dict(zip("ab", losses(x) + shift, strict=True)))
        balancer.step((lambda: dict(zip("ab", losses(x) + shift, strict=True))) if name == "famo" else None)
    return losses(x).detach()


@pytest.mark.parametrize("name", toy.NAMES)
@pytest.mark.parametrize("num_steps", [25, pytest.param(200, marks=pytest.mark.slow)])
def test_the_batch_goes_where_balancer_goes(name, num_steps):
    paths = toy.run(num_steps)
    for at, start in enumerate(STARTS):
        expected = one_at_a_time(name, start, num_steps)
        # on the axis of symmetry both rows are the same along x2: there a solver's rounding chooses the side, and Adam
        # divides it by itself; 5e-4 is a thousandth of what 25 steps move
        alike = start == (0.0, 0.0) and name in ("cagrad", "imtl_g")
        found = paths.final[toy.NAMES.index(name), at]
        atol, rtol = (5e-4, 0.0) if alike else (1e-7, 1e-6)
        torch.testing.assert_close(found, expected, rtol=rtol, atol=atol, msg=lambda m, s=start: f"{s}: {m}")


def test_a_path_begins_at_its_start_and_is_the_same_again():
    paths = toy.run(30)
    start = losses(torch.tensor(STARTS, dtype=torch.float64))
    for method in range(len(toy.NAMES)):
        assert torch.equal(paths.losses[0, method], start)
    assert torch.equal(paths.final, toy.run(30).final) and paths.steps[-1] == 30


@pytest.mark.parametrize("arguments, message", [((0, 3e-3), "steps must be >= 1"), ((5, 0.0), "lr must lie")])
def test_what_cannot_be_run_is_said(arguments, message):
    with pytest.raises(ValueError, match=message):
        toy.run(*arguments)


def test_the_command_ends_with_the_final_losses(tmp_path):
    pytest.importorskip("matplotlib")
    done = CliRunner().invoke(app, ["toy", "--out", str(tmp_path / "toy"), "--steps", "20", "--json"])
    assert done.exit_code == 0, done.output
    final = json.loads(done.stdout.strip().splitlines()[-1])["final"]
    assert list(final) == ["sum", "cagrad", "imtl_g", "nash", "famo", "pub", "pub_convex"]
    assert all(len(ends) == 5 and all(len(end) == 2 for end in ends) for ends in final.values())
    assert (tmp_path / "toy" / "toy.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    svg = (tmp_path / "toy" / "toy.svg").read_text()
    assert svg.count("<path") > 50 and "<svg" in svg
    assert json.loads((tmp_path / "toy" / "toy.json").read_text())["steps"] == 20
    table = CliRunner().invoke(app, ["toy", "--out", str(tmp_path / "toy"), "--steps", "2"])
    assert table.exit_code == 0 and "figures:" in table.stdout


def test_without_matplotlib_the_extra_is_named(monkeypatch, tmp_path):
    whole = builtins.__import__

    def without(name, *rest, **named):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return whole(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"equipoise\[plot\]"):
        toy_page.needs_matplotlib()
    done = CliRunner().invoke(app, ["toy", "--out", str(tmp_path / "toy"), "--steps", "2"])
    assert done.exit_code == 2 and "equipoise[plot]" in done.output


@pytest.mark.slow
def test_pub_reaches_the_symmetric_optimum_from_everywhere():
    assert toy.run(100_000).reached()["pub"] == 5
