"""How a side is tuned: the same effort for every side, each run once, and what may be tried."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest

from equipoise.methods import METHODS
from equipoise.presets import NAMES
from equipoise.study import cells, spaces, tuning

TASKS = ("click", "like", "purchase")
RATES = {"click": 0.2, "like": 0.05, "purchase": 0.02}


def test_settings_of_a_side_are_its_own_and_the_same_each_time():
    for method in NAMES:
        found = spaces.constants(method, TASKS, RATES, 3)
        known = "fixed" in method or method.partition("+")[0] in spaces.SPACES
        assert len(found) == min(
            3, 3 if "fixed" in method else len(spaces.constants(method, TASKS, RATES, 99))
        ), method
        assert bool(found) == known, method
        assert found == spaces.constants(method, TASKS, RATES, 3)
        texts = [json.dumps(entry, sort_keys=True) for entry in found]
        assert len(set(texts)) == len(texts) and {} not in found, method
    assert spaces.constants("cagrad", TASKS, RATES, 0) == spaces.constants("fixed", TASKS, RATES, 0) == []


def test_a_space_names_constants_of_its_method_and_values_beside_the_default():
    for method, space in spaces.SPACES.items():
        defaults = {f.name: f.default for f in dataclasses.fields(METHODS[method])}
        for key, values in space.items():
            for value in values:
                METHODS[method](**{key: value})
                assert value != defaults[key], (method, key)


def test_fixed_weights_start_from_equal_losses_and_sum_to_the_number_of_tasks():
    found = spaces.constants("fixed", TASKS, RATES, 4)
    first, second = (entry["method.weights"] for entry in found[:2])
    entropy = {t: -p * math.log(p) - (1 - p) * math.log(1 - p) for t, p in RATES.items()}
    products = [first[t] * entropy[t] for t in TASKS]
    assert max(products) - min(products) < 1e-3  # weights are rounded to four decimals
    roots = [second[t] ** 2 * entropy[t] for t in TASKS]
    assert max(roots) / min(roots) < 1.01
    for entry in found:
        assert sum(entry["method.weights"].values()) == pytest.approx(3, abs=2e-4)


@pytest.mark.parametrize(
    "tried, following",
    [
        ({0.0: 0.7, 1e-5: 0.6, 1e-4: 0.5}, 1e-6),
        ({0.0: 0.7, 1e-5: 0.6, 1e-4: 0.5, 1e-6: 0.6}, 1e-7),
        ({0.0: 0.5, 1e-5: 0.6, 1e-4: 0.7}, 3e-4),
        ({0.0: 0.5, 1e-5: 0.6, 1e-4: 0.7, 3e-4: 0.8}, 1e-3),
        ({0.0: 0.5, 1e-5: 0.7, 1e-4: 0.6}, 3e-5),
        ({0.0: 0.5, 1e-5: 0.7, 1e-4: 0.6, 3e-5: 0.6}, 3e-6),
        (
            dict.fromkeys(
                (1e-07, 3e-07, 1e-06, 3e-06, 1e-05, 3e-05, 0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1), 0.0
            ),
            None,
        ),
    ],
)
def test_weight_decay_is_looked_for_next_to_the_best(tried, following):
    assert spaces.next_decay(tried) == following


@pytest.mark.parametrize(
    "values, beyond",
    [
        ({1e-3: 0.7, 3e-3: 0.8, 1e-2: 0.7}, None),
        ({1e-3: 0.7, 3e-3: 0.8}, 1e-2),
        ({3e-4: 0.9, 1e-3: 0.8}, 1e-4),
        ({1.0: 0.9, 0.3: 0.8}, None),
    ],
)
def test_the_grid_grows_by_half_a_decade_at_an_end(values, beyond):
    assert spaces.next_rate(values) == (None if beyond is None else pytest.approx(beyond, rel=0.1))


def outcome(value, failed=None):
    return cells.Outcome(value, {}, 1.0, 1, None, failed, None)


def answer(values):
    """A `perform` of `tune_all` whose outcomes are values(config), and the jobs that it was asked for, round by round."""
    asked = []

    def perform(jobs):
        asked.append(jobs)
        return {job.name: values(job.config) for job in jobs}

    return perform, asked


def test_tuning_takes_the_best_mean_then_decay_and_rate_together():
    setup = tuning.Setup("log", TASKS, RATES, {}, {"mmoe": {}})
    unit = tuning.Unit("mmoe", "equal")

    def values(config):
        if config["weight_decay"]:
            near = 0.7 - abs(math.log10(config["weight_decay"] / 3e-4)) / 10
            return outcome(near - abs(math.log10(config["lr"] / 0.01)) / 10)  # with decay .01 is better
        return outcome(
            {0.03: 0.6, 0.1: 0.5}.get(config["lr"], config["lr"])
        )  # grows to .03, then .1 is worse

    perform, asked = answer(values)
    found = tuning.tune_all([unit], setup, perform)[unit]
    assert [sorted({j.config["lr"] for j in jobs}) for jobs in asked] == [
        [3e-4, 1e-3, 3e-3, 1e-2],
        [0.03],
        [0.1],
        [0.03],
        [0.03],
        [0.01, 0.1],
        *[[0.01]] * 3,
        [0.01, 0.03],
    ]
    decays = [[j.config["weight_decay"] for j in jobs] for jobs in asked[3:]]
    assert decays == [[1e-5, 1e-4], [3e-4], [3e-4, 3e-4], [1e-3], [3e-3], [3e-5], [3e-4, 3e-4, 1e-3]]
    assert [len(jobs) for jobs in asked[:3]] == [8, 2, 2] and not any(j.final for jobs in asked for j in jobs)
    assert {j.config["seed"] for jobs in asked[3:-1] for j in jobs} == {1000}
    assert {j.config["seed"] for j in asked[-1]} == {1001}  # the run-off
    assert sum(len(jobs) for jobs in asked) == setup.num_runs + 4  # two rates more
    assert (found.lr, found.chosen["weight_decay"], found.value) == (0.01, 3e-4, 0.7)
    assert found.others[0] == tuning.Tried({"lr": 0.03, "set": {}, "weight_decay": 0.0}, 0.6, 2)
    assert len(found.others) == 1 + setup.num_candidates


def test_a_side_with_constants_tries_them_at_its_best_decay_with_as_many_runs():
    setup = tuning.Setup("log", TASKS, RATES, {}, {"mmoe": {}})
    units = [tuning.Unit("mmoe", name) for name in ("equal", "cagrad", "fixed", "single", "aligned_mtl")]
    units[3] = tuning.Unit("mmoe", "single", "click")

    def values(config):
        decay = {0.0: 0.5, 1e-5: 0.55, 1e-4: 0.6}.get(config["weight_decay"], 0.58)
        return outcome(decay + (0.1 if config["set"].get("method.c") else 0.0))

    perform, _ = answer(values)
    found = tuning.tune_all(units, setup, perform)
    for unit in units:
        assert len(found[unit].others) == 1 + setup.num_candidates, unit
    of = {unit.method: found[unit] for unit in units}
    assert of["equal"].chosen == of["single"].chosen == {"set": {}, "weight_decay": 1e-4}
    assert of["cagrad"].chosen["weight_decay"] == 1e-4 and of["cagrad"].chosen["set"]
    assert of["fixed"].chosen == {"set": {}, "weight_decay": 1e-4}  # no weights were better than equal ones
    own = [option for option, *_ in of["fixed"].others if option["set"]]
    assert len(own) == 3 and {option["weight_decay"] for option in own} == {1e-4}
    assert (
        sum(bool(option["set"]) for option, *_ in of["aligned_mtl"].others) == 2
    )  # all it has; the rest is decay


@pytest.mark.parametrize("best", [0.0, 1e-5, 1e-4])
@pytest.mark.parametrize("seeds", [(1000,), (1000, 1001), (1000, 1001, 1002)])
def test_every_side_is_tuned_with_the_same_number_of_runs_no_two_alike(best, seeds):
    """Where no decay is best, the rates beside the best are the grid's: they are not run, or counted, again, but decay goes on."""
    setup = tuning.Setup("log", TASKS, RATES, {}, {"mmoe": {}}, tuning_seeds=seeds)
    names = ("equal", "fixed", "uw", "cagrad", "aligned_mtl", "pub")
    units = [*(tuning.Unit("mmoe", name) for name in names), tuning.Unit("mmoe", "single", "click")]

    def values(config):
        away = abs(math.log10(config["lr"] / 1e-3)) + 0.05 * (config["weight_decay"] != best)
        return outcome(-away - 0.01 * bool(config["set"]))

    perform, asked = answer(values)
    found = tuning.tune_all(units, setup, perform)
    runs = [job.name for jobs in asked for job in jobs]
    assert (
        len(runs)
        == len(set(runs))
        == setup.num_runs * len(units)
        == (4 * len(seeds) + 8 + 3 * (len(seeds) - 1)) * 7
    )
    for unit in units:
        settings = [(lr, setup.job(unit, lr, 0).name) for lr in found[unit].tried]
        settings += [(o["lr"], setup.job(unit, o["lr"], 0, o).name) for o, *_ in found[unit].others[1:]]
        assert len(set(settings)) == len(settings) == 4 + setup.num_candidates
        assert found[unit].lr == 1e-3 and found[unit].chosen == {"set": {}, "weight_decay": best}
        rates = {o["lr"] for o, *_ in found[unit].others[1:]}
        assert rates == ({1e-3, 3e-4, 3e-3} if best else {1e-3})


def test_a_lucky_run_is_run_again_before_it_is_chosen():
    setup = tuning.Setup("log", TASKS, RATES, {}, {"mmoe": {}})

    def values(config):
        if config["lr"] != 3e-3:
            return outcome(0.4)
        if config["weight_decay"] == 1e-4 and config["seed"] == 1000:
            return outcome(0.9)  # luck
        return outcome({0.0: 0.5, 1e-4: 0.55, 1e-5: 0.8}.get(config["weight_decay"], 0.6))

    perform, _ = answer(values)
    unit = tuning.Unit("mmoe", "equal")
    found = tuning.tune_all([unit], setup, perform)[unit]
    assert (found.chosen["weight_decay"], found.value) == (1e-5, pytest.approx(0.8))
    # three of the further runs, and the default, which the grid ran with both seeds
    assert sorted(each.num_seeds for each in found.others) == [1] * 5 + [2] * 4
    assert found.others[0] == tuning.Tried({"lr": 3e-3, "set": {}, "weight_decay": 0.0}, 0.5, 2)
    lucky = next(each for each in found.others if each.option["weight_decay"] == 1e-4 and each.num_seeds == 2)
    assert lucky.value == pytest.approx((0.9 + 0.55) / 2)


def test_a_rate_that_one_side_may_have_every_side_of_the_model_may_have():
    setup = tuning.Setup("log", TASKS, RATES, {}, {"mmoe": {}, "ple": {}}, num_candidates=0)
    names = [("mmoe", "equal"), ("mmoe", "pub"), ("ple", "equal")]
    units = [tuning.Unit(*name) for name in names]

    def values(config):
        best = {"equal": 0.03, "pub": 3e-3}[config["method"]] if config["model"] == "mmoe" else 1e-3
        return outcome(-abs(math.log(config["lr"] / best)))

    perform, asked = answer(values)
    found = tuning.tune_all(units, setup, perform)
    assert (
        sorted(found[units[0]].tried) == sorted(found[units[1]].tried) == [3e-4, 1e-3, 3e-3, 0.01, 0.03, 0.1]
    )
    assert len(found[units[2]].tried) == 4
    assert [found[unit].lr for unit in units] == [0.03, 3e-3, 1e-3]
    assert len(asked) == 3


def test_a_side_that_never_trains_says_why():
    setup = tuning.Setup("log", TASKS, RATES, {}, {"mmoe": {}}, grid=(1e-3, 3e-3, 1e-2))
    unit = tuning.Unit("mmoe", "pub")
    perform, _ = answer(lambda config: outcome(-math.inf, "diverged"))
    found = tuning.tune_all([unit], setup, perform)[unit]
    assert found.failed == "diverged" and found.others == []
    assert len(found.tried) <= tuning.MAX_RATES


def test_a_copy_of_a_side_draws_other_seeds():
    setup = tuning.Setup("log", TASKS, RATES, {}, {"mmoe": {}})
    first, second = (setup.job(tuning.Unit("mmoe", name), 1e-3, 5) for name in ("equal", "equal#2"))
    assert first.config["method"] == second.config["method"] == "equal"
    assert first.config["seed"] != second.config["seed"] and first.name != second.name
    with pytest.raises(ValueError, match="equal#2"):
        tuning.split_copy("equal#two")
