"""One row a method: its weights on one frozen statistic, and what its raw weights keep to."""

from typing import Any, NamedTuple

import torch

from equipoise.methods import (
    DBMTL,
    DWA,
    FAMO,
    GLS,
    IMTLG,
    IMTLL,
    MGDA,
    PCD,
    PELTR,
    PUB,
    RLW,
    STCH,
    UW,
    AlignedMTL,
    BanditMTL,
    CAGrad,
    ConFIG,
    ConicGrad,
    DualProj,
    Equal,
    ExcessMTL,
    FairGrad,
    Fixed,
    GradCraft,
    GradDrop,
    GradNorm,
    GradVac,
    MetaBalance,
    MoCo,
    MultiBalance,
    Nash,
    PCGrad,
    SDMGrad,
    UPGrad,
)

GRAM = torch.tensor([[4.0, 1.0, -0.5], [1.0, 1.0, 0.2], [-0.5, 0.2, 9.0]], dtype=torch.float64)
LOSSES = torch.tensor([0.5, 2.0, 0.1], dtype=torch.float64)
BALANCED = [0.42912354958487947, 0.7821264032232798, 0.33657878565925814]  # test_balance_equation checks them


class Row(NamedTuple):
    """A method of METHODS: the arguments to try it with, and its weights on GRAM (or LOSSES)."""

    name: str
    kind: type
    arguments: dict[str, Any]
    weights: list[float]  # [] of a row method, which has none
    balances: bool = False  # w_t (M w)_t = 1


METHODS = [
    Row("equal", Equal, {}, [1.0, 1.0, 1.0]),
    Row("fixed", Fixed, {"weights": [1.0, 0.0, 2.5]}, [1.0, 0.0, 2.5]),
    Row("uw", UW, {}, [0.5, 0.5, 0.5]),
    Row("dwa", DWA, {}, [1.0, 1.0, 1.0]),
    Row("rlw", RLW, {}, [0.8446342078603745, 0.1348925626700338, 0.0204732294695918]),
    Row("gls", GLS, {}, [0.3094392555741853, 0.07735981389354632, 1.5471962778709258]),
    Row("imtl_l", IMTLL, {}, [1.0, 1.0, 1.0]),
    Row("famo", FAMO, {}, [0.16, 0.04, 0.8]),
    Row("stch", STCH, {}, [2.0, 0.5, 10.0]),
    Row("gradnorm", GradNorm, {}, [1.0, 1.0, 1.0]),
    Row("excess_mtl", ExcessMTL, {}, [1.0, 1.0, 1.0]),
    Row("bandit_mtl", BanditMTL, {}, [0.25408242039853723, 0.5378924882046919, 0.20802509139677078]),
    Row("mgda", MGDA, {}, [0.01978099611444719, 0.8954433062522076, 0.08477569763334507]),
    Row("pcgrad", PCGrad, {}, [1.125, 1.0, 1.0555555555555556]),
    Row("gradvac", GradVac, {}, [1.125, 1.0, 1.0555555555555556]),
    Row("imtl_g", IMTLG, {}, [0.3243243243243244, 0.4054054054054054, 0.2702702702702703]),
    Row("cagrad", CAGrad, {}, [0.3333333333333333, 0.9873805623449528, 0.3333333333333333]),
    Row("nash", Nash, {}, BALANCED, balances=True),
    Row("fairgrad", FairGrad, {"alpha": 2.0}, [0.2934424184771914, 0.7874213952945341, 0.23032384869643543]),
    Row("moco", MoCo, {}, [0.35444444444444445, 0.4311111111111111, 0.21444444444444444]),
    Row("sdmgrad", SDMGrad, {}, [0.07692307692307691, 0.8461538461538461, 0.07692307692307691]),
    Row("aligned_mtl", AlignedMTL, {}, [0.10063933327196485, 0.2513377037422652, 0.09042167592270864]),
    Row("db_mtl", DBMTL, {}, [1.5, 3.0, 1.0]),
    Row("upgrad", UPGrad, {}, [0.375, 0.3333333333333333, 0.35185185185185186]),
    Row("dualproj", DualProj, {}, [0.3333333333333333, 0.3333333333333333, 0.3333333333333333]),
    Row("pe_ltr", PELTR, {}, [0.16666666666666666, 0.6666666666666666, 0.16666666666666666]),
    Row("pcd", PCD, {}, [1.0032883714767054, 0.0, 0.06911542115546274]),
    Row("multibalance", MultiBalance, {}, [0.3478260869565218, 0.4347826086956521, 0.2898550724637681]),
    Row("gradcraft", GradCraft, {}, [0.4921666666666666, 0.7999999999999998, 0.3586333333333333]),
    Row("conic_grad", ConicGrad, {"c": 0.9}, [0.2016337155020868, 0.8901977069875018, 0.2016337155020868]),
    Row("con_fig", ConFIG, {}, [1.043478260869566, 1.3043478260869552, 0.8695652173913039]),
    Row("metabalance", MetaBalance, {}, [1.0, 1.7, 0.7666666666666666]),
    Row("pub", PUB, {}, BALANCED, balances=True),
    Row("graddrop", GradDrop, {}, []),
]
