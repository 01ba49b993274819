"""Methods by the rows of rows.py, and the scale rules."""

import dataclasses
from pathlib import Path

import pytest
import torch
from rows import GRAM, LOSSES
from rows import METHODS as ROWS

import equipoise as eq
from equipoise.methods import METHODS
from equipoise.methods.catalog import markdown
from equipoise.methods.scale import RULES, rescale
from equipoise.presets import sort_options, takes_priorities

BY_NAME = pytest.mark.parametrize("row", [row for row in ROWS if row.weights], ids=lambda row: row.name)
FIRST_IS_PRIMARY = ("pcd", "metabalance")  # without priorities; test_methods_more.py has them with
TASKS = ("a", "b", "c")


def weights(method, statistic, tasks=TASKS):
    extras = {
        "losses": LOSSES,
        "present": torch.ones(len(tasks), dtype=torch.bool),
        "tasks": tasks,
        "generator": torch.Generator().manual_seed(0),
        "cross": GRAM,
        "step": 1,
    }
    found, state = method(statistic, method.init(len(tasks)), **{name: extras[name] for name in method.needs})
    return getattr(found, "weights", found), state


def statistic(row):
    return LOSSES if row.kind.level == "losses" else GRAM


def test_every_method_has_a_row():
    assert [row.name for row in ROWS] == list(METHODS)
    assert all(METHODS[row.name] is row.kind for row in ROWS)


@BY_NAME
def test_frozen_weights(row):
    found, _ = weights(row.kind(**row.arguments), statistic(row))
    torch.testing.assert_close(found, torch.tensor(row.weights, dtype=torch.float64), rtol=1e-9, atol=0)


@BY_NAME
def test_balance_equation(row):
    found, _ = weights(row.kind(**row.arguments), statistic(row))
    if row.balances:
        torch.testing.assert_close(found * (GRAM @ found), torch.ones(3).double(), rtol=1e-9, atol=0)
    assert row.kind.solves or not row.balances
    if row.kind.solves:
        solution = row.kind(**row.arguments).solve(GRAM)
        assert torch.equal(solution.weights, found)
        assert solution.residual <= 1e-9


@BY_NAME
def test_builds_without_arguments_is_frozen_and_declares_itself(row):
    method = row.kind()
    assert method == row.kind()
    with pytest.raises(dataclasses.FrozenInstanceError):
        method.surprise = 1
    assert row.kind.level in ("losses", "gradients", "updates", "representation")
    assert row.kind.scale in RULES
    assert row.kind.total in ("one", "tasks", "given", None)
    assert set(row.kind.needs) <= {"losses", "present", "tasks", "generator", "step", "cross"}
    assert row.kind.paper


@BY_NAME
def test_reads_only_and_repeats(row):
    method, given = row.kind(**row.arguments), statistic(row).clone()
    first, state = weights(method, given)
    assert torch.equal(given, statistic(row))
    assert first.dtype == torch.float64
    assert torch.equal(first, weights(method, given)[0])
    if row.kind.total == "tasks":
        assert float(first.sum()) == 3.0
    assert state.keys() == method.init(3).keys()


@BY_NAME
def test_permuted_tasks_permute_weights(row):
    if row.name in ("rlw", "sdmgrad", *FIRST_IS_PRIMARY):
        pytest.skip("its weights are drawn, or come from another matrix, or go by the first task")
    order, method, given = [2, 0, 1], row.kind(), statistic(row)
    moved = given[order] if given.dim() == 1 else given[order][:, order]
    found = weights(method, given)[0]
    torch.testing.assert_close(weights(method, moved)[0], found[order], rtol=1e-9, atol=0)  # two solves


def test_fixed_goes_by_name_or_by_position_of_the_present_tasks():
    by_name = eq.Fixed({"b": 3.0})
    assert weights(by_name, LOSSES)[0].tolist() == [1.0, 3.0, 1.0]
    by_position = eq.Fixed((1.0, 2.0, 3.0))
    present = torch.tensor([True, False, True])
    assert by_position(LOSSES[:2], {}, present=present)[0].tolist() == [1.0, 3.0]
    assert eq.Fixed()(GRAM, {})[0].tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("bad", (-1.0, float("nan"), float("inf")))
def test_fixed_refuses_bad_numbers(bad):
    for given in ([1.0, bad], {"a": bad}):
        with pytest.raises(ValueError, match="weights must be finite"):
            eq.Fixed(given)


def test_fixed_refuses_the_wrong_tasks():
    with pytest.raises(ValueError, match="each of the 3 tasks"):
        eq.Fixed([1.0, 2.0]).init(3)
    with pytest.raises(ValueError, match="unknown task 'z'"):
        eq.Fixed({"z": 1.0}).check_tasks(TASKS)
    with pytest.raises(ValueError, match="tasks must name"):
        eq.Fixed({"a": 1.0})(LOSSES, {})


# ---- scale rules ----


def test_rules_keep_ratios_and_reach_their_length():
    w = torch.tensor([0.4, 0.8, 0.3], dtype=torch.float64)
    found = {rule: rescale(w, GRAM, rule, 3) for rule in RULES}
    for scaled in found.values():
        torch.testing.assert_close(scaled / scaled[0], w / w[0], rtol=1e-12, atol=0)
    assert torch.equal(found["raw"], w)
    assert float(found["convex"].sum()) == pytest.approx(1.0, rel=1e-14)
    assert float(found["sum"].sum()) == pytest.approx(3.0, rel=1e-14)
    joint = float(found["norm"] @ GRAM @ found["norm"]) ** 0.5
    assert joint == pytest.approx((2.0 + 1.0 + 3.0) / 3, rel=1e-12)


def test_frobenius_solves_the_normalised_equation():
    found = rescale(eq.PUB()(GRAM, {})[0], GRAM, "frobenius", 3)
    normalised = GRAM / torch.linalg.matrix_norm(GRAM)
    torch.testing.assert_close(found * (normalised @ found), torch.ones(3).double(), rtol=1e-9, atol=0)


def test_norm_of_opposite_updates_keeps_the_step_small():
    m = torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=torch.float64)
    found = rescale(torch.ones(2), m, "norm", 2)
    assert float(found.max()) == pytest.approx((2e-3) ** -0.5)  # 1 / sqrt(delta (1 + 1)), delta = 1e-3
    assert torch.equal(rescale(torch.ones(2), torch.zeros(2, 2), "norm", 2), torch.ones(2).double())


def test_returns_float64_and_reads_only():
    w = torch.ones(2)
    assert rescale(w, None, "sum", 2).dtype == torch.float64
    assert torch.equal(w, torch.ones(2))


@pytest.mark.parametrize("rule", ("convex", "sum"))
@pytest.mark.parametrize("total", ([0.0, 0.0], [1.0, -2.0]))
def test_refuses_a_sum_that_is_not_positive(rule, total):
    with pytest.raises(ValueError, match="positive sum"):
        rescale(torch.tensor(total), None, rule, 2)


def test_refuses_an_unknown_rule():
    with pytest.raises(ValueError, match="scale must be one of"):
        rescale(torch.ones(2), None, "long", 2)


# ---- the catalog ----


def test_docs_hold_the_table_of_methods():
    page = Path(__file__).parents[1] / "docs" / "methods.md"
    assert markdown() in page.read_text(encoding="utf-8"), "put equipoise.methods.catalog.markdown() there"


@BY_NAME
def test_priorities_are_taken_or_refused(row):
    options = {"priorities.a": 2}
    if takes_priorities(row.kind):
        assert sort_options(options, row.name, {})["method"] == {"priorities": {"a": 2}}
        assert row.kind(priorities={"a": 2.0}).priorities == {"a": 2.0}
        with pytest.raises(ValueError, match="priorities must be finite"):
            row.kind(priorities={"a": -1.0})
        with pytest.raises(ValueError, match="unknown task 'z'"):
            row.kind(priorities={"z": 1.0}).check_tasks(TASKS)
    else:
        with pytest.raises(ValueError, match="option 'priorities' is not taken"):
            sort_options(options, row.name, {})
        with pytest.raises(TypeError):
            row.kind(priorities={"a": 2.0})
