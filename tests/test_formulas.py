"""Backbones beyond the first ones against their papers' formulas, and their numbers of parameters."""

from __future__ import annotations

from dataclasses import replace

import mpmath
import numpy as np
import pytest
import torch
from logs import small_log
from plain import linear, numpy_embedding, numpy_experts, numpy_mixture, numpy_mlp, numpy_tower, softmax

from equipoise.data import Label
from equipoise.models import AITM, DBMTL, ESMM, PLE, STEM, AdaTT, DSMoE, HoME


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    return small_log(tmp_path_factory.mktemp("formulas") / "log", n=64)


@pytest.fixture(scope="module")
def batch(log):
    return next(log.split("train").batches(64))


def close(found, wanted):
    return np.allclose(found.detach().numpy(), wanted, rtol=0, atol=1e-12)  # float64 sums reordered


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_ple_is_its_formula(log, batch, levels):
    model = PLE(log.schema, levels=levels, num_shared=3, num_own=2, expert=(6, 5), seed=0).double().eval()
    tasks = sorted(log.schema.tasks)
    x = numpy_embedding(model, batch)
    common, own = x, dict.fromkeys(tasks, x)
    for k in range(levels):
        part = {t: {**dict(model.lower[t].items()), **dict(model.own[t].items())} for t in tasks}
        shared = numpy_experts(model.shared_experts[k], common)
        each = {t: numpy_experts(part[t][f"experts{k}"], own[t]) for t in tasks}
        if k < levels - 1:
            everyone = [f for t in tasks for f in each[t]] + shared
            common = numpy_mixture(model.shared_gates[k], common, everyone)
        own = {t: numpy_mixture(part[t][f"gate{k}"], own[t], each[t] + shared) for t in tasks}
    assert len(model.shared_gates) == levels - 1
    for task, out in model(batch).items():
        assert close(out, numpy_tower(model.own[task]["tower"], own[task]))


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_ple_owns_the_last_experts_and_the_last_two_gates(log, levels):
    own = PLE(log.schema, levels=levels).own["buy"]
    gates = {f"gate{k}" for k in range(max(0, levels - 2), levels)}
    assert set(own) == {f"experts{levels - 1}", "tower"} | gates


def test_ple_number_of_parameters(log):
    dim, ids, n = 4, sum(log.schema.num_ids.values()), 3
    model = PLE(
        log.schema, levels=2, num_shared=3, num_own=2, embedding_dim=dim, expert=(8, 5), tower_sizes=(6,)
    )
    wanted, width = dim * ids + n * ((5 * 6 + 6) + (6 + 1)), dim * 3 + 1
    for k, inputs in enumerate((width, 5)):
        wanted += (3 + n * 2) * (inputs * 8 + 8 + 8 * 5 + 5)  # experts
        wanted += n * inputs * (3 + 2)  # gates
        wanted += inputs * (3 + n * 2) if k == 0 else 0  # the shared gate
    assert sum(p.numel() for p in model.parameters()) == wanted


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"levels": 0}, "levels must be >= 1, got 0"),
        ({"num_own": 0}, "num_shared and num_own must be >= 1, got 4 and 0"),
    ],
)
def test_ple_refuses(log, wrong, says):
    with pytest.raises(ValueError, match=says):
        PLE(log.schema, **wrong)


def longer(schema):
    """The schema with a third step, declared before the steps that it follows."""
    again = Label(name="again", given="buy")
    return schema.model_copy(update={"labels": (again, *schema.labels)})


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def steps_of(model, x):
    towers = {task: parts["tower"] for task, parts in model.own.items() if "tower" in parts}
    return {task: numpy_tower(tower, x) for task, tower in {**towers, **model.upper}.items()}


def test_esmm_is_its_formula(log, batch):
    model = ESMM(longer(log.schema), hidden=(7, 5), seed=0).double().eval()
    assert set(model.upper) == {"click", "buy"} and model.task_parameters("click") == []
    step = steps_of(model, numpy_embedding(model, batch))
    p = {"click": sigmoid(step["click"])}
    p["buy"] = p["click"] * sigmoid(step["buy"])
    p["again"] = p["buy"] * sigmoid(step["again"])
    found = model(batch)
    for task, rate in p.items():
        assert close(found[task], np.log(rate) - np.log1p(-rate))
    assert close(found["dwell"], step["dwell"])
    named = model.named(batch)
    assert list(named) == ["ctr", "cvr:buy", "ctcvr:buy", "cvr:again", "ctcvr:again"]
    assert close(named["ctr"], p["click"]) and close(named["cvr:again"], sigmoid(step["again"]))
    assert close(named["ctcvr:again"], p["again"]) and close(model.predict(batch)["buy"], p["buy"])
    two = ESMM(log.schema, seed=0)
    assert list(two.named(batch)) == ["ctr", "cvr", "ctcvr"]
    assert ESMM(log.only(["buy"]).schema).named(batch) == {}


def test_esmm_loss_and_gradient_are_right_in_float32_down_to_1e_12(log, batch):
    model, row = ESMM(log.schema, seed=0), batch.part(0, 1)
    sides = (-27.7, -24.3, -20.1, -13.9, -3.0, -1.1, 0.0, 0.7, 4.0, 16.0)  # sigmoid(-27.7) = 1e-12
    for a, b, y in [(a, b, y) for a in sides for b in sides if a + b > -28 for y in (0.0, 1.0)]:
        z = {"click": torch.tensor([a], requires_grad=True), "buy": torch.tensor([b], requires_grad=True)}
        steps = {**z, "dwell": torch.zeros(1, requires_grad=True)}
        model._steps = lambda batch, x, steps=steps: steps
        one = replace(
            row,
            labels={**row.labels, "click": torch.ones(1), "buy": torch.tensor([y])},
            masks={**row.masks, "buy": torch.tensor([True])},
        )
        loss = model.losses(one)["buy"]
        loss.backward()
        with mpmath.workdps(50):
            sa, sb = (1 / (1 + mpmath.exp(-mpmath.mpf(v.item()))) for v in z.values())
            p = sa * sb
            wanted = -mpmath.log(p) if y else -mpmath.log(1 - p)
            scale = -1 if y else p / (1 - p)
            slopes = (scale * (1 - sa), scale * (1 - sb))
            for found, exact in zip((loss, z["click"].grad, z["buy"].grad), (wanted, *slopes), strict=True):
                assert found.dtype == torch.float32
                assert abs(found.item() / exact - 1) < 4e-7, (a, b, y)  # four roundings; 1e-6 is promised


def test_esmm_stays_finite_far_out(log, batch):
    model = ESMM(log.schema, seed=0)
    far = torch.tensor([-3e4, -800.0, -90.0, 90.0, 800.0, 3e4])
    a, b = (v.flatten().clone().requires_grad_() for v in torch.meshgrid(far, far, indexing="ij"))
    model._steps = lambda batch, x: {"click": a, "buy": b, "dwell": a * 0}
    part = batch.part(0, 36)
    for y in (0.0, 1.0):
        one = replace(part, labels={**part.labels, "buy": torch.full((36,), y)})
        loss = model.losses(one)["buy"]
        slopes = torch.autograd.grad(loss, [a, b])
        assert loss.isfinite() and all(s.isfinite().all() for s in slopes)
        assert all(v.isfinite().all() for v in model(part).values())


def test_the_conversion_learns_from_all_impressions_through_the_product(log, batch):
    model = ESMM(log.schema, seed=0)
    unclicked = batch.labels["click"] == 0
    assert unclicked.any()
    masks = {**batch.masks, "buy": batch.masks["buy"] & unclicked}
    loss = model.losses(replace(batch, masks=masks))["buy"]
    reached = torch.autograd.grad(loss, [*model.task_parameters("buy"), *model.upper.parameters()])
    assert all(g.abs().max() > 0 for g in reached)


def entropy(y, z):
    return np.logaddexp(0, z) - y * z


@pytest.mark.parametrize("loss", ["ips", "dr"])
def test_escm2_is_its_formula(log, batch, loss):
    model = ESMM(log.schema, loss=loss, cvr_weight=0.3, ctcvr_weight=0.8, min_propensity=0.4875, seed=0)
    model = model.double().eval()
    masks = {**batch.masks, "click": torch.arange(64) % 3 > 0}
    x = numpy_embedding(model, batch)
    step = steps_of(model, x)
    y, o = (batch.labels[t].double().numpy() for t in ("buy", "click"))
    o = o * masks["click"].numpy()
    p = sigmoid(step["click"]) * sigmoid(step["buy"])
    inverse = 1 / np.maximum(sigmoid(step["click"]), 0.4875)
    assert inverse.min() < 1 / 0.4875 == inverse.max()  # the floor acts on some rows, not on all
    error = entropy(y, step["buy"])
    risk = o * error * inverse
    if loss == "dr":
        imputed = np.logaddexp(0, numpy_tower(model.own["buy"]["imputation"], x))
        risk = imputed + o * (error - imputed) * inverse + o * (error - imputed) ** 2 * inverse
    rows = 0.8 * -(y * np.log(p) + (1 - y) * np.log(1 - p)) + 0.3 * risk
    w = (batch.weight * batch.masks["buy"]).double().numpy()
    found = model.losses(replace(batch, masks=masks))
    assert found["buy"].item() == pytest.approx((w * rows).sum() / w.sum(), rel=1e-12)
    click = batch.weight.double().numpy() * masks["click"].numpy()
    each = entropy(batch.labels["click"].double().numpy(), step["click"])
    assert found["click"].item() == pytest.approx((click * each).sum() / click.sum(), rel=1e-12)


@pytest.mark.parametrize("loss", ["ips", "dr"])
def test_escm2_keeps_the_propensity_constant_and_without_its_term_is_esmm(log, batch, loss):
    risk = ESMM(log.schema, loss=loss, cvr_weight=1.0, ctcvr_weight=0.0, seed=0)
    slopes = torch.autograd.grad(risk.losses(batch)["buy"], list(risk.upper.parameters()))
    assert all((g == 0).all() for g in slopes)
    none = ESMM(log.schema, loss=loss, cvr_weight=0.0, ctcvr_weight=1.0).eval()
    plain = ESMM(log.schema, seed=0).eval()
    none.load_state_dict(plain.state_dict(), strict=False)
    wanted = plain.losses(batch)
    assert all(torch.equal(value, wanted[task]) for task, value in none.losses(batch).items())


def test_esmm_number_of_parameters(log):
    dim, ids = 4, sum(log.schema.num_ids.values())
    width = dim * 3 + 1
    tower = width * 8 + 8 + 8 * 5 + 5 + 5 + 1
    for loss, towers in (("ctcvr", 3), ("ips", 3), ("dr", 4)):
        model = ESMM(log.schema, loss=loss, embedding_dim=dim, hidden=(8, 5))
        assert sum(p.numel() for p in model.parameters()) == dim * ids + towers * tower


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"loss": "snips"}, "loss must be 'ctcvr', 'ips' or 'dr', got 'snips'"),
        ({"cvr_weight": -1.0}, "cvr_weight and ctcvr_weight must be >= 0, got -1.0 and 0.5"),
        ({"min_propensity": 0.0}, r"min_propensity must lie in \(0, 1\], got 0.0"),
    ],
)
def test_esmm_refuses(log, wrong, says):
    with pytest.raises(ValueError, match=says):
        ESMM(log.schema, **wrong)


def test_a_funnel_is_needed_and_esmm_needs_one_of_binary_tasks(log):
    apart = log.only(["buy", "dwell"]).schema
    late = Label(name="dwell", kind="regression", given="click")
    mixed = log.schema.model_copy(update={"labels": (log.schema.label("click"), late)})
    for build in (ESMM, AITM, DBMTL):
        with pytest.raises(ValueError, match=r"needs a declared funnel.* no label of buy, dwell says given"):
            build(apart)
    with pytest.raises(ValueError, match="funnel of binary tasks"):
        ESMM(mixed)
    assert list(AITM(mixed).given) == ["dwell"]


def aitm_steps(model, x):
    """z of click, buy and again, the step that follows buy."""
    home = {
        task: {
            **dict(model.own[task].items()),
            **dict(model.upper[task].items() if task in model.upper else ()),
        }
        for task in model.own
    }
    z = {task: numpy_mlp(part["mlp"], x) for task, part in home.items()}
    for task in ("buy", "again"):
        part, before = home[task], z[model.given[task]]
        u = np.stack([numpy_mlp(part["g"], before), z[task]])
        h1, h2, h3 = (linear(part[name], u) for name in ("h1", "h2", "h3"))
        weight = softmax((h2 * h3).sum(2) / np.sqrt(u.shape[2]), axis=0)
        z[task] = (weight[:, :, None] * h1).sum(0)
    return {task: numpy_tower(part["tower"], z[task]) for task, part in home.items()}


def test_aitm_is_its_formula(log, batch):
    model = AITM(longer(log.schema), hidden=(7, 5), tower_sizes=(3,), seed=0).double().eval()
    wanted = aitm_steps(model, numpy_embedding(model, batch))
    found = model(batch)
    assert list(found) == ["again", "click", "buy", "dwell"] == list(wanted)
    assert all(close(found[task], wanted[task]) for task in wanted)


def test_aitm_losses_sum_to_the_papers_in_value_and_gradient(log, batch):
    model = AITM(log.schema, calibration=0.7, seed=1).double().eval()
    full = replace(batch, masks=dict.fromkeys(batch.masks, torch.ones(64, dtype=torch.bool)), weight=None)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= 2  # probabilities spread, so that the calibrator acts on some rows only
    plain = AITM(log.schema, calibration=0.0).double().eval()
    plain.load_state_dict(model.state_dict())
    p = model.predict(full)
    above = torch.relu(p["buy"] - p["click"])
    assert 0 < (above > 0).sum() < 64
    parameters = list(model.parameters())
    wanted = sum(model(full)[t].sum() * 0 for t in p) + 0.7 * above.mean()
    slopes = torch.autograd.grad(wanted, parameters)
    ours, without = model.losses(full), plain.losses(full)
    assert sum(ours.values()).item() == pytest.approx(sum(without.values()).item() + wanted.item(), rel=1e-12)
    each = zip(
        torch.autograd.grad(sum(ours.values()), parameters),
        torch.autograd.grad(sum(without.values()), list(plain.parameters())),
        slopes,
        strict=True,
    )
    assert all(torch.allclose(a - b, c, rtol=0, atol=1e-12) for a, b, c in each)  # float64, sums reordered
    assert ours["click"].item() == pytest.approx(without["click"].item(), rel=1e-12)


def test_aitm_number_of_parameters_and_refusal(log):
    dim, ids = 4, sum(log.schema.num_ids.values())
    model = AITM(log.schema, embedding_dim=dim, hidden=(8, 5), tower_sizes=(6,))
    width = dim * 3 + 1
    one = width * 8 + 8 + 8 * 5 + 5 + (5 * 6 + 6) + (6 + 1)
    assert sum(p.numel() for p in model.parameters()) == dim * ids + 3 * one + 4 * (5 * 5 + 5)
    with pytest.raises(ValueError, match="calibration must be >= 0, got -1"):
        AITM(log.schema, calibration=-1)


def numpy_block(block, x):
    """A feature gate, then the normalised experts [B, d] one after the other, in eval mode."""
    gate, experts = block
    choice, down, up = softmax(linear(gate.choice, x)), *(p.detach().numpy() for p in (gate.down, gate.up))
    u = x * sum(choice[:, [i]] * 2 * sigmoid(x @ down[i] @ up[i]) for i in range(len(down)))
    found = []
    for e in range(experts.num_experts):
        h = u
        for weight, bias, norm in zip(experts.weights, experts.biases, experts.norms, strict=True):
            h = h @ weight[e].detach().numpy() + bias[e].detach().numpy()
            part = slice(e * h.shape[1], (e + 1) * h.shape[1])
            mean, var, scale, shift = (
                v.detach().numpy()[part]
                for v in (norm.running_mean, norm.running_var, norm.weight, norm.bias)
            )
            h = (h - mean) / np.sqrt(var + norm.eps) * scale + shift
            h = h * sigmoid(h)
        found.append(h)
    return found


def numpy_self(gate, x, experts):
    if len(experts) == 1:
        return sigmoid(linear(gate, x)) * experts[0]
    return numpy_mixture(gate, x, experts)


@pytest.mark.parametrize("num_experts", [1, 2])
@pytest.mark.parametrize("groups", ["", "click/buy,dwell"])
def test_home_is_its_formula(log, batch, groups, num_experts):
    model = HoME(log.schema, groups=groups, num_experts=num_experts, loras=3, expert=(6, 5), seed=0).double()
    model(batch)  # so that the running statistics are not 0 and 1
    model.eval()
    members = [["buy", "dwell"], ["click"]] if groups else [["buy", "click"], ["dwell"]]
    assert list(model.members.values()) == members and list(model.grouped) == ["+".join(members[0])]
    x, found = numpy_embedding(model, batch), model(batch)
    first = numpy_block(model.meta_shared, x)
    meta = [numpy_block(model.meta["+".join(tasks)], x) for tasks in members]
    z = numpy_mixture(model.gate, x, [*first, *(f for each in meta for f in each)])
    z = z + numpy_self(model.self_gate, x, first)
    shared = numpy_block(model.experts, z)
    for tasks, mine in zip(members, meta, strict=True):
        part = model.grouped["+".join(tasks)] if len(tasks) > 1 else model.own[tasks[0]]
        z_c = numpy_mixture(part["meta_gate"], x, mine + first) + numpy_self(part["meta_self_gate"], x, mine)
        local = numpy_block(part["group_experts"], z_c)
        for task in tasks:
            own = model.own[task]
            experts = numpy_block(own["experts"], z_c)
            h = numpy_mixture(own["gate"], np.concatenate([z_c, z], axis=1), experts + local + shared)
            h = h + numpy_self(own["self_gate"], z_c, experts)
            assert close(found[task], numpy_tower(own["tower"], h))


def test_home_masks_the_other_groups(log, batch):
    model = HoME(log.schema, groups="dwell/click,buy", seed=0)
    losses = model.losses(batch)
    grouped = list(model.grouped["buy+click"].parameters())
    assert len(grouped) == 9 and all(any(p is q for q in model.shared_parameters()) for p in grouped)
    assert all(g is not None for g in torch.autograd.grad(losses["buy"], grouped, retain_graph=True))
    beside = torch.autograd.grad(losses["dwell"], grouped, allow_unused=True)
    assert all(g is None for g in beside)


def test_home_number_of_parameters(log):
    dim, ids, k = 4, sum(log.schema.num_ids.values()), 3
    model = HoME(log.schema, num_experts=k, loras=2, embedding_dim=dim, expert=(8, 5), tower_sizes=(6,))

    def block(n):  # feature gate, two linear layers with batch norm
        return n * 2 + 2 * (2 * n * (n // 2)) + k * (n * 8 + 8 + 2 * 8 + 8 * 5 + 5 + 2 * 5)

    x, d, groups, tasks = dim * 3 + 1, 5, 2, 3
    shared = (1 + groups) * block(x) + x * k * (1 + groups) + x * k + block(d)
    group = x * 2 * k + x * k + block(d)
    own = block(d) + 2 * d * 3 * k + d * k + (5 * 6 + 6) + (6 + 1)
    assert sum(p.numel() for p in model.parameters()) == dim * ids + shared + groups * group + tasks * own


def test_home_takes_one_row_in_training(log, batch):
    model = HoME(log.schema, id_dropout=0.0, seed=0)
    one, kept = batch.part(0, 1), {k: v.clone() for k, v in model.state_dict().items()}
    found = model(one)
    assert all(torch.equal(kept[k], v) for k, v in model.state_dict().items())
    assert all(torch.equal(found[task], value) for task, value in model.eval()(one).items())


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"loras": 0}, "loras must be >= 1, got 0"),
        ({"num_experts": 0}, "num_experts must be >= 1"),
        ({"expert": ()}, "expert sizes not empty"),
        ({"groups": "click,buy"}, "groups must hold each of click, buy, dwell once, got 'click,buy'"),
        ({"groups": "click,buy/dwell,buy"}, "groups must hold each"),
    ],
)
def test_home_refuses(log, wrong, says):
    with pytest.raises(ValueError, match=says):
        HoME(log.schema, **wrong)


def test_stem_is_its_formula(log, batch):
    model = STEM(log.schema, num_shared=3, num_own=2, expert=(6, 5), seed=0).double().eval()
    common = numpy_embedding(model, batch)
    shared, tasks = numpy_experts(model.experts, common), sorted(log.schema.tasks)
    read = {t: numpy_embedding(model, batch, model.own[t]["embedding"]) for t in tasks}
    everyone = [f for t in tasks for f in numpy_experts(model.own[t]["experts"], read[t])] + shared
    for task, out in model(batch).items():
        mixed = numpy_mixture(model.own[task]["gate"], read[task] + common, everyone)
        assert close(out, numpy_tower(model.own[task]["tower"], mixed))


@pytest.mark.parametrize("num_own", [1, 2])
@pytest.mark.parametrize("levels", [1, 2, 3])
def test_adatt_is_its_formula(log, batch, levels, num_own):
    model = AdaTT(log.schema, levels=levels, num_own=num_own, expert=(6, 5), seed=0).double().eval()
    tasks = sorted(log.schema.tasks)
    h = dict.fromkeys(tasks, numpy_embedding(model, batch))
    for k in range(levels):
        each = {t: numpy_experts(model.lower[t][f"experts{k}"], h[t]) for t in tasks}
        everyone, fused = [f for t in tasks for f in each[t]], {}
        for t in tasks:
            part = (model.lower if k < levels - 1 else model.own)[t]
            v = part[f"weights{k}"].weight.detach().numpy()[0] if num_own > 1 else [1.0]
            residual = sum(weight * f for weight, f in zip(v, each[t], strict=True))
            fused[t] = numpy_mixture(part[f"gate{k}"], h[t], everyone) + residual
        h = fused
    for task, out in model(batch).items():
        assert close(out, numpy_tower(model.own[task]["tower"], h[task]))


def test_stem_and_adatt_numbers_of_parameters(log):
    dim, ids, n = 4, sum(log.schema.num_ids.values()), 3
    sizes = {"embedding_dim": dim, "expert": (8, 5), "tower_sizes": (6,)}
    width, last = dim * 3 + 1, 8 * 5 + 5
    tower = (5 * 6 + 6) + (6 + 1)
    stem = STEM(log.schema, num_shared=3, num_own=2, **sizes)
    wanted = (n + 1) * dim * ids + (3 + n * 2) * (width * 8 + 8 + last) + n * (width * (2 * n + 3) + tower)
    assert sum(p.numel() for p in stem.parameters()) == wanted
    adatt = AdaTT(log.schema, levels=2, num_own=2, **sizes)
    wanted = dim * ids + n * tower
    for inputs in (width, 5):
        wanted += n * 2 * (inputs * 8 + 8 + last) + n * ((inputs + 1) * 2 * n + 2)
    assert sum(p.numel() for p in adatt.parameters()) == wanted


def test_stem_and_adatt_refuse(log):
    with pytest.raises(ValueError, match="num_shared and num_own must be >= 1, got 0 and 4"):
        STEM(log.schema, num_shared=0)
    with pytest.raises(ValueError, match="levels must be >= 1, got 0"):
        AdaTT(log.schema, levels=0)
    with pytest.raises(ValueError, match="num_experts must be >= 1"):
        AdaTT(log.schema, num_own=0)


def test_ds_moe_is_its_formula_and_its_loss_has_the_balance(log, batch):
    model = DSMoE(log.schema, num_experts=5, top_k=2, num_shared=2, balance=0.3, expert=(6, 5), seed=0)
    plain = DSMoE(log.schema, num_experts=5, top_k=2, num_shared=2, balance=0.0, expert=(6, 5), seed=0)
    model, plain = model.double().eval(), plain.double().eval()
    x = numpy_embedding(model, batch)
    common, routed = sum(numpy_experts(model.shared, x)), numpy_experts(model.experts, x)
    found, losses, without = model(batch), model.losses(batch), plain.losses(batch)
    for task in log.schema.tasks:
        scores = softmax(linear(model.own[task]["router"], x))
        taken = np.argsort(np.argsort(-scores, axis=1), axis=1) < 2
        mixed = common + sum((scores * taken)[:, [e]] * f for e, f in enumerate(routed))
        assert close(found[task], numpy_tower(model.own[task]["tower"], mixed))
        assert (taken.mean(0) > 0).sum() > 2  # rows take different experts
        weight = (batch.weight * batch.masks[task]).double().numpy()
        mean = (weight[:, None] * scores).sum(0) / weight.sum()
        wanted = without[task].item() + 0.3 * (taken.mean(0) * 5 / 2 * mean).sum()
        assert losses[task].item() == pytest.approx(wanted, rel=1e-12)


def test_dbmtl_is_its_formula(log, batch):
    sizes = {"hidden": (7,), "tower_sizes": (6,), "relation": (5, 4)}
    model = DBMTL(longer(log.schema), **sizes, seed=0).double().eval()
    x, r = numpy_mlp(model.trunk, numpy_embedding(model, batch)), {}
    for task, steps in {"click": [], "buy": ["click"], "again": ["click", "buy"], "dwell": []}.items():
        home = (model.upper if task in ("click", "buy") else model.own)[task]
        r[task] = numpy_mlp(home["mlp"], x)
        if steps:
            r[task] = numpy_mlp(home["relation"], np.concatenate([r[task], *(r[s] for s in steps)], axis=1))
    found = model(batch)
    assert list(found) == ["again", "click", "buy", "dwell"]
    assert all(
        close(found[task], linear(model.own[task]["tower"][0], value)[:, 0]) for task, value in r.items()
    )


def test_ds_moe_and_dbmtl_numbers_of_parameters_and_refusals(log):
    dim, ids, n = 4, sum(log.schema.num_ids.values()), 3
    width = dim * 3 + 1
    moe = DSMoE(log.schema, num_experts=5, num_shared=2, embedding_dim=dim, expert=(8, 5), tower_sizes=(6,))
    wanted = dim * ids + 7 * (width * 8 + 8 + 8 * 5 + 5) + n * (width * 5 + (5 * 6 + 6) + (6 + 1))
    assert sum(p.numel() for p in moe.parameters()) == wanted
    dbmtl = DBMTL(log.schema, embedding_dim=dim, hidden=(8,), tower_sizes=(6,), relation=(5,))
    wanted = dim * ids + (width * 8 + 8) + n * (8 * 6 + 6) + 2 * (6 + 1) + ((6 + 6) * 5 + 5) + (5 + 1)
    assert sum(p.numel() for p in dbmtl.parameters()) == wanted
    for wrong, says in (
        ({"top_k": 9}, "got 9 of 8"),
        ({"top_k": 0}, "got 0 of 8"),
        ({"balance": -1}, "balance must be"),
    ):
        with pytest.raises(ValueError, match=says):
            DSMoE(log.schema, **wrong)
    with pytest.raises(ValueError, match="relation must hold at least one size"):
        DBMTL(log.schema, relation=())
