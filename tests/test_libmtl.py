"""Joint vectors against LibMTL's, where it is installed: a second reference beside torchjd.

LibMTL 1.1.5, the registry's newest, imports a module that today's torchvision no longer has, so its weightings are loaded past the
package's own `__init__`. Two tasks where the reference shuffles tasks (PCGrad, GradVac): their order then changes nothing.
"""

import importlib
import importlib.util
import sys
import types

import pytest
import torch
from test_methods_gram import KINDS, factors, joint, same

from equipoise.methods import GLS, IMTLG, MGDA, CAGrad, GradVac, PCGrad

SPEC = importlib.util.find_spec("LibMTL")
pytestmark = pytest.mark.skipif(SPEC is None, reason="LibMTL is not installed (pip install --no-deps LibMTL)")
BY_KIND = pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("low_rank", "duplicates")])


@pytest.fixture(scope="module")
def weighting():
    """Return a function: name -> LibMTL's class."""
    package = types.ModuleType("LibMTL")
    package.__path__ = list(SPEC.submodule_search_locations)
    sys.modules["LibMTL"] = package
    yield lambda name: getattr(importlib.import_module("LibMTL.weighting"), name)
    for name in [name for name in sys.modules if name.split(".")[0] == "LibMTL"]:
        del sys.modules[name]


@pytest.fixture(autouse=True)
def wide():
    """float64 throughout: LibMTL makes its buffers in the default dtype."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def theirs(kind, u, losses=None, **arguments):
    """The shared gradient that a LibMTL weighting leaves for tasks with gradients U [T, n]."""
    theta = torch.nn.Parameter(torch.zeros(u.shape[1]))

    class Model(kind):
        def get_share_params(self):
            return [theta]

        def zero_grad_share_params(self):
            theta.grad = torch.zeros_like(theta)  # as old torch cleared it

    model = Model()
    model.task_num, model.device, model.rep_grad = len(u), "cpu", False
    model.task_name = list(map(str, range(len(u))))
    model.init_param()
    values = u @ theta
    model.backward(values if losses is None else values + losses, **arguments)
    return theta.grad


def three(kind):
    """Rows of three tasks: LibMTL's CAGrad knows no other number."""
    return [u for u in factors(kind, 200) if len(u) == 3]


@BY_KIND
def test_imtl_g(weighting, kind):
    for u in factors(kind, 200):
        # its learned loss scales are exp(0) = 1 at the first step, where IMTL is IMTL-G
        same(joint(IMTLG(), u), theirs(weighting("IMTL"), u), u, rtol=1e-5)


@BY_KIND
def test_mgda_is_no_longer(weighting, kind):
    for u in factors(kind, 200):
        ours, reference = joint(MGDA(), u), theirs(weighting("MGDA"), u, mgda_gn="none")
        longer = float(reference @ reference - ours @ ours)
        size = float(u.norm(dim=1).max()) ** 2
        assert longer >= -1e-14 * size
        assert float((reference - ours).square().sum()) <= longer + 1e-14 * size


@BY_KIND
def test_cagrad_has_no_smaller_worst_gain(weighting, kind):
    for u in three(kind):
        ours, reference = joint(CAGrad(0.5), u), theirs(weighting("CAGrad"), u, calpha=0.5, rescale=0)
        radius = 0.5 * float(u.mean(0).norm())
        assert float((ours - u.mean(0)).norm()) <= radius * (1 + 1e-9)
        better = float((u @ ours).min() - (u @ reference).min())
        assert better >= -1e-6 * radius * float(u.norm(dim=1).max())  # its ball is 1e-8 larger


@BY_KIND
@pytest.mark.parametrize("kind_of", (PCGrad, GradVac))
def test_of_two_tasks(weighting, kind, kind_of):
    arguments = {"beta": 0.5} if kind_of is GradVac else {}
    for u in (u[:2] for u in factors(kind, 200)):
        ours = joint(kind_of(**arguments), u, generator=torch.Generator())
        same(ours, theirs(weighting(kind_of.__name__), u, **arguments), u)


def test_gls_but_for_its_number_of_tasks(weighting):
    for u in factors("generic", 50):
        losses = torch.linspace(0.2, 3.0, len(u))
        weights, _ = GLS()(losses, GLS().init(len(u)))
        same(weights @ u, theirs(weighting("GLS"), u, losses), u)
