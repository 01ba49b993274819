"""compile=True against the eager path: the same parameters, slots and weights to rounding."""

import shutil

import pytest
import torch
from torch import nn

import equipoise as eq
from equipoise import compiled

pytestmark = [
    pytest.mark.skipif(
        not any(shutil.which(name) for name in ("c++", "g++", "clang++")), reason="no C++ compiler"
    ),
    pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning"),  # torch's own, while it compiles
]
ROWS, DIM = 3000, 50  # 150,000 entries: one compiled piece and a rest


def run(make, monkeypatch, compile, steps=4, method="pub", shape=(ROWS, DIM), **options):
    torch.manual_seed(0)
    num, width = shape
    table, bias = nn.Parameter(torch.randn(num, width)), nn.Parameter(torch.randn(width))
    optimizer = make([table, bias])
    balancer = eq.Balancer(optimizer, method, shared=[table, bias], compile=compile, **options)
    pieces = []
    real = compiled.Fast.write
    monkeypatch.setattr(
        compiled.Fast, "write", lambda self, piece, w: (pieces.append(piece), real(self, piece, w))
    )
    for _ in range(steps):
        h = torch.tanh(table[torch.randint(num, (64,))] + bias)
        targets = torch.randn(3, 64, width)
        balancer.backward({str(t): (h - y).square().mean() for t, y in enumerate(targets)})
        balancer.step()
    slots = [value for p in (table, bias) for value in optimizer.state.get(p, {}).values()]
    return [table.detach(), bias.detach(), *slots], balancer, pieces


CASES = [
    pytest.param(lambda p: torch.optim.Adam(p, lr=0.01), id="adam"),
    pytest.param(
        lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=0.1, maximize=True),
        id="adam_l2",
        marks=pytest.mark.slow,
    ),
    pytest.param(
        lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1), id="adamw", marks=pytest.mark.slow
    ),
    pytest.param(
        lambda p: torch.optim.Adagrad(p, lr=0.01, lr_decay=0.1), id="adagrad", marks=pytest.mark.slow
    ),
    pytest.param(lambda p: torch.optim.SGD(p, lr=0.1), id="sgd", marks=pytest.mark.slow),
    pytest.param(
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, dampening=0.2, weight_decay=0.1),
        id="momentum",
        marks=pytest.mark.slow,
    ),
    pytest.param(
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
        id="nesterov",
        marks=pytest.mark.slow,
    ),
]


@pytest.mark.parametrize("make", CASES)
def test_compiled_is_the_eager_step_to_rounding(make, monkeypatch):
    found, mine, pieces = run(make, monkeypatch, True)
    expected, theirs, none = run(make, monkeypatch, False)
    assert len(pieces) >= 2 and not none  # the first step begins the slots, the eager way
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(torch.as_tensor(a), torch.as_tensor(b), rtol=2e-5, atol=2e-6)
    torch.testing.assert_close(mine.last.gram, theirs.last.gram, rtol=1e-5, atol=0)
    for kind, cosines in theirs.last.cosines.items():
        torch.testing.assert_close(mine.last.cosines[kind], cosines, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "make",
    [CASES[0], *(pytest.param(*case.values, id=case.id, marks=pytest.mark.slow) for case in CASES[1:])],
)
def test_a_parameter_without_a_rest_counts_its_steps_too(make, monkeypatch):
    """2^17 entries are one compiled piece: nothing goes the eager way, which would advance torch's counter."""
    found, *_ = run(make, monkeypatch, True, shape=(1024, 128))
    expected, *_ = run(make, monkeypatch, False, shape=(1024, 128))
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(torch.as_tensor(a), torch.as_tensor(b), rtol=2e-5, atol=2e-6)


def test_kept_weights_and_an_absent_task(monkeypatch):
    make = CASES[0].values[0]
    found, *_ = run(make, monkeypatch, True, every=3, method="upgrad", level="updates")
    expected, *_ = run(make, monkeypatch, False, every=3, method="upgrad", level="updates")
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(torch.as_tensor(a), torch.as_tensor(b), rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize(
    "options", ({"moments": "per_task"}, {"clip": eq.Clippy()}, {"max_norm": 1.0}), ids=str
)
def test_what_compile_cannot_have(options):
    p = nn.Parameter(torch.ones(3))
    with pytest.raises(ValueError, match="compile=True has no form for"):
        eq.Balancer(torch.optim.Adam([p]), "pub", shared=[p], compile=True, **options)


def test_says_what_goes_the_eager_way():
    p = nn.Parameter(torch.ones(3))
    with pytest.warns(UserWarning, match="no form for RMSprop"):
        eq.Balancer(torch.optim.RMSprop([p]), "pub", shared=[p], compile=True)


def test_needs_a_compiler(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    p = nn.Parameter(torch.ones(3))
    with pytest.raises(ValueError, match=r"needs a C\+\+ compiler"):
        eq.Balancer(torch.optim.Adam([p]), "pub", shared=[p], compile=True)


@pytest.mark.slow
def test_takes_a_compiled_model():
    """A model under torch.compile makes the steps that it makes without: its backward runs once a task."""
    found = []
    for compile_model in (False, True):
        torch.manual_seed(0)
        trunk, towers = (
            nn.Sequential(nn.Linear(5, 8), nn.Tanh()),
            nn.ModuleList(nn.Linear(8, 1) for _ in range(2)),
        )

        def forward(x, trunk=trunk, towers=towers):
            h = trunk(x)
            return [tower(h).squeeze(-1) for tower in towers]

        run_model = torch.compile(forward) if compile_model else forward
        parameters = [*trunk.parameters(), *towers.parameters()]
        balancer = eq.Balancer(torch.optim.Adam(parameters, lr=0.01), "pub", shared=trunk.parameters())
        for _ in range(3):
            first, second = run_model(torch.randn(16, 5))
            balancer.backward({"a": first.square().mean(), "b": (second - 1).square().mean()})
            balancer.step()
        found.append([p.detach() for p in parameters])
    for p, q in zip(*found, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)
