"""gram="sketch": with all parameters it is the exact method, by default it looks at the last shared block alone."""

import copy

import pytest
import torch
from torch import nn

import equipoise as eq
from equipoise.sketch import nearest


class Model(nn.Module):
    def __init__(self, norm=True):
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(20, 6)
        self.first = nn.Sequential(nn.Linear(6, 16), *[nn.BatchNorm1d(16)] * norm, nn.ReLU())
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(16, 8), *[nn.BatchNorm1d(8)] * norm, nn.ReLU()) for _ in range(2)
        )
        self.gates = nn.ModuleList(nn.Linear(6, 2) for _ in range(3))  # read the embeddings: a short way down
        self.towers = nn.ModuleList(nn.Linear(8, 1) for _ in range(3))

    def shared_parameters(self):
        return [*self.table.parameters(), *self.first.parameters(), *self.experts.parameters()]

    def losses(self, seed):
        g = torch.Generator().manual_seed(seed)
        x = self.table(torch.randint(20, (32,), generator=g))
        h = self.first(x)
        outputs = torch.stack([expert(h) for expert in self.experts], 1)
        y = torch.randn(3, 32, generator=g)
        found = {}
        for t, (gate, tower) in enumerate(zip(self.gates, self.towers, strict=True)):
            mixed = (gate(x).softmax(-1).unsqueeze(-1) * outputs).sum(1)
            found[str(t)] = (tower(mixed).squeeze(-1) - y[t]).square().mean() * 10.0**t
        return found


def trained(make, steps=5, model=None, optimizer=None, **options):
    model = model or Model()
    balancer = eq.Balancer(
        optimizer or torch.optim.Adam(model.parameters(), lr=0.01),
        make,
        shared=model.shared_parameters(),
        **options,
    )
    for seed in range(steps):
        balancer.backward(model.losses(seed))
        balancer.step()
    return model, balancer


@pytest.mark.parametrize("method", ("nash", "upgrad", "mgda", "imtl_g"))
def test_a_sketch_of_everything_is_the_exact_method(method):
    models = [Model(norm=False) for _ in range(2)]  # a bias before a norm has a gradient of rounding alone
    expected, found = models
    _, theirs = trained(method, model=expected)
    _, mine = trained(method, model=found, gram=found.shared_parameters())
    for name, weight in theirs.last.weights.items():
        assert mine.last.weights[name] == pytest.approx(weight, rel=1e-3)  # five steps of rounding apart
    for p, q in zip(found.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-3, atol=1e-4)


def test_updates_of_a_sketch_of_everything_give_pubs_weights():
    _, theirs = trained("pub", steps=1, model=Model(norm=False))
    model = Model(norm=False)
    _, mine = trained("pub", steps=1, model=model, gram=model.shared_parameters())
    for name, weight in theirs.last.weights.items():
        assert mine.last.weights[name] == pytest.approx(weight, rel=1e-5)


@pytest.mark.parametrize("norm", (True, False))
def test_the_default_is_the_last_shared_block(norm):
    model = Model(norm)
    named = {
        name: p for name, p in model.named_parameters() if any(p is q for q in model.shared_parameters())
    }
    positions = nearest(model.losses(0).values(), dict(enumerate(named.values())))
    found = {list(named)[i] for i in positions}
    kinds = ("1.weight", "1.bias") if norm else ("0.bias",)
    assert found == {f"experts.{e}.{kind}" for e in range(2) for kind in kinds}


def test_without_small_parameters_one_tensor_is_taken():
    weights = [nn.Parameter(torch.randn(4, 4)) for _ in range(3)]
    h = torch.randn(5, 4)
    for w in weights[:2]:
        h = torch.tanh(h @ w)
    losses = [(h @ weights[2]).sum(), (h @ weights[2]).square().sum()]
    assert nearest(losses, dict(enumerate(weights))) == [2]


@pytest.mark.parametrize("every", (1, 3))
@pytest.mark.parametrize("between", ("exact", "weighted"))
def test_resumes_to_the_same_parameters(every, between):
    options = {"gram": "sketch", "every": every, "between": between}
    model, balancer = trained("pub", steps=4, **options)
    again = copy.deepcopy(model)
    optimizer = torch.optim.Adam(again.parameters(), lr=0.01)
    optimizer.load_state_dict(copy.deepcopy(balancer._layout.optimizers[0].state_dict()))
    other = eq.Balancer(optimizer, "pub", shared=again.shared_parameters(), **options)
    other.load_state_dict(balancer.state_dict())
    for seed in range(4, 8):
        for m, b in ((model, balancer), (again, other)):
            b.backward(m.losses(seed))
            b.step()
    for p, q in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(p, q)


def test_own_parameters_take_their_own_tasks_step():
    """Towers move as under the exact method: their gradient is the task's own, whatever the weights are."""
    expected, _ = trained("nash", steps=1)
    found, _ = trained("nash", steps=1, gram="sketch")
    for p, q in zip(found.towers.parameters(), expected.towers.parameters(), strict=True):
        torch.testing.assert_close(p, q)


@pytest.mark.parametrize(
    ("method", "options", "match"),
    [
        ("pub", {"gram": "rough"}, "gram must be one of"),
        ("pub", {"gram": []}, "gram must be one of"),
        ("equal", {"gram": "sketch"}, "needs a Gram matrix"),
        ("pub", {"gram": "sketch", "moments": "per_task"}, "cannot have moments='per_task'"),
        ("moco", {"gram": "sketch"}, "cannot have MoCo, which tracks rows"),
    ],
)
def test_refuses(method, options, match):
    with pytest.raises(ValueError, match=match):
        trained(method, steps=0, **options)


def test_a_parameter_that_is_not_shared():
    model = Model()
    with pytest.raises(ValueError, match="gram must hold shared parameters"):
        trained("pub", model=model, gram=[model.towers[0].weight])
