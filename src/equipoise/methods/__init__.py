"""Balancing methods: one frozen dataclass a file, (statistic, state) -> unscaled weights. METHODS lists them."""

from __future__ import annotations

from typing import Any, ClassVar, Protocol

from torch import Tensor

from equipoise.methods.aligned_mtl import AlignedMTL
from equipoise.methods.bandit_mtl import BanditMTL
from equipoise.methods.cagrad import CAGrad
from equipoise.methods.con_fig import ConFIG
from equipoise.methods.conic_grad import ConicGrad
from equipoise.methods.db_mtl import DBMTL
from equipoise.methods.dualproj import DualProj
from equipoise.methods.dwa import DWA
from equipoise.methods.equal import Equal
from equipoise.methods.excess_mtl import ExcessMTL
from equipoise.methods.fairgrad import FairGrad
from equipoise.methods.famo import FAMO
from equipoise.methods.fixed import Fixed
from equipoise.methods.gls import GLS
from equipoise.methods.gradcraft import GradCraft
from equipoise.methods.graddrop import GradDrop
from equipoise.methods.gradnorm import GradNorm
from equipoise.methods.gradvac import GradVac
from equipoise.methods.imtl_g import IMTLG
from equipoise.methods.imtl_l import IMTLL
from equipoise.methods.metabalance import MetaBalance
from equipoise.methods.mgda import MGDA
from equipoise.methods.moco import MoCo
from equipoise.methods.multibalance import MultiBalance
from equipoise.methods.nash import Nash
from equipoise.methods.pcd import PCD
from equipoise.methods.pcgrad import PCGrad
from equipoise.methods.pe_ltr import PELTR
from equipoise.methods.pub import PUB
from equipoise.methods.rlw import RLW
from equipoise.methods.sdmgrad import SDMGrad
from equipoise.methods.stch import STCH
from equipoise.methods.upgrad import UPGrad
from equipoise.methods.uw import UW


class Method(Protocol):
    """What the Balancer asks of a method.

    Attributes:
        level: the level it runs at by default: "losses" (statistic [P]), "gradients", "updates" or "representation"
            (Gram [P, P]).
        any_level: whether it looks at no entry of the statistic, so that every level will do.
        scale: its own scale rule.
        total: what its raw weights sum to: "one", "tasks" (T), "given" (what `__call__` returns whatever the statistic and the state,
            from `present` and `tasks`), or None where nothing is promised. Coupled decay goes by it, see docs/pub.md.
        needs: names of the keyword extras it takes: losses [P], present (bool [T]), tasks (the P names), generator,
            step (from 1), cross [P, P] (rows of the step's first `backward` call against those of its second).
        solves: whether `solve(statistic, **needs) -> Solution` tells residual and status.
        paper: where it was published.
        use: when to use it, one sentence.

    A method of your own needs `level`, `init` and `__call__`; without the others it has scale "raw", no `needs`, no promise.

    The statistic covers the P present tasks; `present` (bool [T]) places them among all tasks. A method may also have:
    `statistic = "excess"`, <g_t, u_t> [P] of a per-task Adagrad peek in place of the losses; `check_tasks(names)`, called at
    the first backward; `per = "tensor"`, one Gram matrix and one state a shared tensor;
    `track(row, gradient, loss, step) -> row`, what stands for a task's gradient of one tensor from then on (row None
    at the first); `observe(state, before, after, present) -> state`, told the losses before and after each step;
    `combine(rows, state, generator) -> row` instead of `__call__`, tensor by tensor.
    """

    level: ClassVar[str]
    any_level: ClassVar[bool]
    scale: ClassVar[str]
    total: ClassVar[str | None]
    needs: ClassVar[tuple[str, ...]]
    solves: ClassVar[bool]
    paper: ClassVar[str]
    use: ClassVar[str]

    def init(self, num_tasks: int) -> Any:
        """Return the state before the first step, in tensors and plain types."""

    def __call__(self, statistic: Tensor, state: Any, **needs: Any) -> tuple[Tensor, Any]:
        """Return unscaled weights [P] (or a Solution that holds them) and the new state; writes to neither argument."""


METHODS: dict[str, type] = {
    "equal": Equal,
    "fixed": Fixed,
    "uw": UW,
    "dwa": DWA,
    "rlw": RLW,
    "gls": GLS,
    "imtl_l": IMTLL,
    "famo": FAMO,
    "stch": STCH,
    "gradnorm": GradNorm,
    "excess_mtl": ExcessMTL,
    "bandit_mtl": BanditMTL,
    "mgda": MGDA,
    "pcgrad": PCGrad,
    "gradvac": GradVac,
    "imtl_g": IMTLG,
    "cagrad": CAGrad,
    "nash": Nash,
    "fairgrad": FairGrad,
    "moco": MoCo,
    "sdmgrad": SDMGrad,
    "aligned_mtl": AlignedMTL,
    "db_mtl": DBMTL,
    "upgrad": UPGrad,
    "dualproj": DualProj,
    "pe_ltr": PELTR,
    "pcd": PCD,
    "multibalance": MultiBalance,
    "gradcraft": GradCraft,
    "conic_grad": ConicGrad,
    "con_fig": ConFIG,
    "metabalance": MetaBalance,
    "pub": PUB,
    "graddrop": GradDrop,
}
"""Every method by its command-line name; each builds without arguments."""

__all__ = [
    "DBMTL",
    "DWA",
    "FAMO",
    "GLS",
    "IMTLG",
    "IMTLL",
    "METHODS",
    "MGDA",
    "PCD",
    "PELTR",
    "PUB",
    "RLW",
    "STCH",
    "UW",
    "AlignedMTL",
    "BanditMTL",
    "CAGrad",
    "ConFIG",
    "ConicGrad",
    "DualProj",
    "Equal",
    "ExcessMTL",
    "FairGrad",
    "Fixed",
    "GradCraft",
    "GradDrop",
    "GradNorm",
    "GradVac",
    "MetaBalance",
    "Method",
    "MoCo",
    "MultiBalance",
    "Nash",
    "PCGrad",
    "SDMGrad",
    "UPGrad",
]
