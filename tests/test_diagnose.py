"""`equipoise diagnose`: what it measures is what autograd and torch.optim say, and it looks without touching."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch
from typer.testing import CliRunner

from equipoise import models
from equipoise.cli import app
from equipoise.config import TrainConfig
from equipoise.data import simulate
from equipoise.study import advice as words
from equipoise.study import diagnose_page
from equipoise.study.diagnose import (
    RULES,
    Diagnosis,
    Probe,
    Shadow,
    _module,
    deviations,
    diagnose,
    modules,
    pairs,
    probe,
    strays,
)

SMALL = {"hidden": [16, 8], "tower_sizes": [], "embedding_dim": 4, "dropout": 0.1}


def config(**changed):
    return TrainConfig.read(
        {"model": "shared_bottom", "epochs": 2, "batch_size": 500, "set": SMALL, **changed}
    )


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    return simulate(tmp_path_factory.mktemp("diagnose") / "log", 6000, 2, "independent")


@pytest.fixture(scope="module")
def found(log):
    return diagnose(log, config(), num_probes=4)


@pytest.mark.parametrize("name", RULES)
def test_a_shadow_peeks_what_torch_would_step(name):
    torch.manual_seed(0)
    p = torch.nn.Parameter(torch.zeros(5))
    optimizer = RULES[name][1]([p], lr=0.1)
    shadow = Shadow(name, [p.detach()], 0.1)
    for _ in range(4):
        g = torch.randn(5)
        before, update = p.detach().clone(), shadow.peek([g])[0]
        p.grad = g
        optimizer.step()
        torch.testing.assert_close(before - 0.1 * update, p.detach())
        shadow.advance([g])


def test_a_probe_is_autograd_s_gradients_and_leaves_everything_as_it_was(log):
    model = models.build(
        "shared_bottom",
        log.schema,
        seed=0,
        **{**SMALL, "dropout": 0.0, "id_dropout": 0.0, "batch_norm": True},
    )
    shared = model.shared_parameters()
    shadows = {name: Shadow(name, shared, 1e-3) for name in RULES}
    batches = [next(log.split("train").batches(300, shuffle=True, seed=s)) for s in (0, 1)]
    before = {k: v.clone() for k, v in model.state_dict().items()}
    where = [_module(n) for n, p in model.named_parameters() if any(p is s for s in shared)]
    seen = probe(model, shared, where, shadows, batches, log.schema.tasks, 7)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    rows = []
    for task in log.schema.tasks:
        halves = [torch.autograd.grad(model.losses(b)[task], shared) for b in batches]
        rows.append(torch.cat([(x + y).flatten() / 2 for x, y in zip(*halves, strict=True)]).double())
    u = torch.stack(rows)
    torch.testing.assert_close(torch.tensor(seen.gradients).double(), _cosines(u), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        torch.tensor(seen.norms["gradients"]).double(), u.norm(dim=1), rtol=1e-5, atol=0
    )
    # Adam's first update is the sign of the gradient, but for eps
    torch.testing.assert_close(
        torch.tensor(seen.updates).double(), _cosines(u / (u.abs() + 1e-8)), rtol=1e-3, atol=1e-3
    )
    assert seen.step == 7 and set(seen.modules) == set(where)


def _cosines(u):
    unit = torch.nn.functional.normalize(u, dim=1)
    return unit @ unit.T


def test_sgd_keeps_the_balance_and_adam_does_not(found):
    by = strays(found)
    assert by["sgd"]["angle"] < 0.1 and by["sgd"]["kept"] == pytest.approx(1.0, abs=1e-3)
    assert by["adam"]["angle"] > 20 and by["adam"]["kept"] < 0.97
    assert by["adam"]["alone"] > 20  # one task's own step strays as well: it is the scaling of entries
    assert by["sgd"]["alone"] < 0.1
    # updates of SGD are gradients, so PUB's step is the balanced gradient
    assert by["sgd"]["kept_pub"] == pytest.approx(1.0, abs=1e-3)
    assert by["sgd"]["kept_sum"] < 0.9


def test_looking_does_not_change_the_run(log):
    few, many = (diagnose(log, config(), num_probes=n) for n in (2, 7))
    assert few.steps == many.steps
    assert few.probes[-1].norms != many.probes[0].norms
    # the first probe looks at the same batches; dropout's draws are given back
    assert few.probes[0] == many.probes[0]


def test_independent_tasks_conflict_more_than_aligned_ones(tmp_path):
    narrow = config(
        set={"hidden": [4], "tower_sizes": [], "embedding_dim": 4}, lr=1e-2, epochs=6, batch_size=1000
    )
    mean = {}
    for relation in ("independent", "aligned"):
        told = diagnose(simulate(tmp_path / relation, 12_000, 1, relation), narrow, num_probes=20)
        late = replace(told, probes=told.probes[10:])  # at first every task still learns the same: its rate
        mean[relation] = sum(p.gradients for p in pairs(late)) / 3
    assert mean["independent"] < mean["aligned"] - 0.05


def made(gradients, *, conflict=None, weights=(0.5, 0.5), lengths=(1.0, 1.0), kept=0.9, alone=50.0):
    """Return a diagnosis of two tasks with these cosines by probe."""
    probes = []
    for at, c in enumerate(gradients):
        matrix = [[1.0, c], [c, 1.0]]
        stray = {
            name: {
                "angle": 0.0 if name == "sgd" else 60.0,
                "alone": alone,
                "length": 1.0,
                "kept": kept,
                "kept_sum": kept / 2,
                "kept_pub": 0.8,
            }
            for name in RULES
        }
        jitter = 1e-3 * (-1) ** at
        w = [[weights[0] + jitter, weights[1] - jitter]] * 2
        norms = {"gradients": list(lengths), "updates": [1.0, 1.0]}
        probes.append(Probe(at, matrix, matrix, norms, {"trunk": matrix}, stray, {"nash": w, "pub": w}))
    return Diagnosis(("click", "like"), tuple(probes), {"trunk": 10}, "mmoe", len(gradients), 8, False)


def test_the_finding_follows_the_figures():
    calm = words.advice(made([0.5, 0.4, 0.6]))
    assert "hardly conflict" in calm[0] and "tuned learning rate" in calm[-1]
    clash = words.advice(made([-0.5, -0.4, 0.1], kept=0.1))
    assert "click and like conflict" in clash[0] and "Try: PUB" in clash[-1]
    assert "the angle is the optimizer's scaling of entries." in " ".join(clash)
    assert "more than the optimizer's scaling" in " ".join(words.advice(made([-0.5, -0.4, 0.1], alone=20.0)))
    assert "Try: a gradient method" in words.advice(made([-0.5, -0.4, 0.1], kept=0.9))[-1]
    assert "now and then" in words.advice(made([0.2, -0.1, 0.3]))[0]
    assert any(
        "factor of 20" in line and "click decides" in line
        for line in words.advice(made([0.5] * 3, lengths=(20.0, 1.0)))
    )
    moved = words.advice(made([0.2, -0.1, 0.3], weights=(0.8, 0.2)))
    assert any("PUB would weigh click 0.80" in line for line in moved) and "fixed weights first" in moved[-1]


def three(cosines):
    """Return a diagnosis of click, like and buy with these cosines of click/like, click/buy and like/buy by probe."""
    probes = []
    for at, (ab, ac, bc) in enumerate(cosines):
        matrix = [[1.0, ab, ac], [ab, 1.0, bc], [ac, bc, 1.0]]
        stray = made([0.0]).probes[0].stray
        norms = {"gradients": [1.0] * 3, "updates": [1.0] * 3}
        w = [[1 / 3] * 3] * 2
        probes.append(Probe(at, matrix, matrix, norms, {"trunk": matrix}, stray, {"nash": w, "pub": w}))
    return Diagnosis(("click", "like", "buy"), tuple(probes), {"trunk": 10}, "mmoe", len(probes), 8, False)


def test_any_pair_that_meets_the_rule_conflicts():
    """click/like has the lowest mean cosine, -.10, and opposes in 40 %; click/buy has -.09 and always opposes: that is the conflict."""
    rare = three([(-0.5, -0.09, 0.5), (-0.2, -0.09, 0.5), *[(0.07, -0.09, 0.5)] * 3])
    low, often, _ = pairs(rare)
    assert low.gradients < often.gradients < 0 and (low.gradients_conflict, often.gradients_conflict) == (
        0.4,
        1,
    )
    finding = words.advice(rare)
    assert "click and buy conflict" in finding[0] and "in 100% of" in finding[0]
    assert "Try: a gradient method" in finding[-1]


def test_the_pair_that_opposes_most_often_is_named():
    """Its mean cosine is above 0, so it meets no rule; the other pair's is lower and it opposes less often."""
    finding = words.advice(three([(-0.6, -0.1, 0.5), (0.1, -0.1, 0.5), (0.1, -0.1, 0.5), (0.1, 0.9, 0.5)]))
    assert "click and buy most, in 75% of the steps" in finding[0]
    calm = words.advice(
        three([(-0.1, 0.1, 0.5), *[(0.5, 0.2, 0.5)] * 19])
    )  # click/buy has the lower mean cosine
    assert "even click and like pull apart in only 5%" in calm[0]


def test_weights_that_never_change_are_beyond_noise():
    still = made([0.5] * 4)
    sure = {"nash": [[0.95, 0.05]] * 2, "pub": [[0.5, 0.5]] * 2}
    still = replace(still, probes=tuple(replace(p, weights=sure) for p in still.probes))
    assert [d.z for d in deviations(still, "nash").values()] == [math.inf, -math.inf]
    assert [d.z for d in deviations(still, "pub").values()] == [0.0, 0.0]
    assert any("Nash-MTL would weigh click 0.95, like 0.05 instead of 0.50" in x for x in words.advice(still))
    told = json.dumps(diagnose_page.content(still), allow_nan=False)  # JSON has no infinity
    assert json.loads(told)["weights"]["nash"]["click"]["z"] is None
    assert "+inf" in diagnose_page.page(still, "still")


def test_the_figures_are_means_over_probes():
    d = made([-0.5, 0.3, 0.5, 0.1], weights=(0.7, 0.3))
    (pair,) = pairs(d)
    assert (pair.gradients, pair.gradients_conflict) == (pytest.approx(0.1), 0.25)
    assert modules(d)["trunk"] == (pytest.approx(0.1), 0.25)
    of = deviations(d, "pub")["click"]
    assert of.deviation == pytest.approx(0.2) and of.noise == 0.0 and of.z > 100


def test_a_page_holds_the_finding_tables_and_plots(found, tmp_path):
    path = diagnose_page.write(found, "a < b", tmp_path / "out")
    page = path.read_text()
    assert page.count("<svg") == 8 and "a &lt; b" in page and "simulated" in page and "<script" not in page
    content = json.loads((tmp_path / "out" / "diagnosis.json").read_text())
    assert len(content["probes"]) == 4 and content["finding"] == words.advice(found)


def test_a_parameter_belongs_to_its_module():
    assert [_module(n) for n in ("embedding.table.a", "experts.3.0.weight", "trunk.0.weight", "bias")] == [
        "embedding",
        "experts.3",
        "trunk.0",
        "bias",
    ]


def test_what_cannot_be_diagnosed_is_said(log):
    with pytest.raises(ValueError, match="at least two tasks"):
        diagnose(log.only(["click"]), config())
    with pytest.raises(ValueError, match="probes must be >= 2"):
        diagnose(log, config(), num_probes=1)
    with pytest.raises(ValueError, match="one task"):
        diagnose(log, config(model="single_task"))


def test_a_task_without_labels_in_a_batch_is_a_zero_row(log):
    batch = next(log.split("train").batches(64))
    masks = dict(batch.masks)
    masks["like"] = torch.zeros_like(masks["like"])
    batch = replace(batch, masks=masks)
    model = models.build("shared_bottom", log.schema, seed=0, **SMALL)
    shared = model.shared_parameters()
    shadows = {name: Shadow(name, shared, 1e-3) for name in RULES}
    seen = probe(model, shared, ["all"] * len(shared), shadows, [batch, batch], log.schema.tasks, 0)
    assert seen.norms["gradients"][1] == 0.0 and seen.weights["nash"][0][1] == 0.0


def test_the_command_says_what_it_found(log, tmp_path):
    arguments = [
        "diagnose",
        str(log.path),
        "--model",
        "shared_bottom",
        "--max-rows",
        "600",
        "--batch-size",
        "100",
    ]
    arguments += ["--epochs", "1", "--probes", "3", "--set", "hidden=[8]", "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert "Try:" in done.stdout and (tmp_path / "out" / "report.html").is_file()
    wrong = CliRunner().invoke(app, [*arguments, "--set", "hiden=[8]"])
    assert wrong.exit_code == 2 and "hidden" in wrong.output
