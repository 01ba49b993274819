"""Names of the command line -> a Balancer: "pub", "equal", "clippy", "adatask", "pub+clippy", "pub@gradients"."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch

from equipoise.balancer import Balancer
from equipoise.methods import METHODS
from equipoise.names import nearest
from equipoise.updates.clippy import Clippy

MANIPULATIONS: dict[str, dict[str, Any]] = {"clippy": {"clip": Clippy()}, "adatask": {"moments": "per_task"}}
NAMES = (*METHODS, *MANIPULATIONS, "single")

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "sgd": torch.optim.SGD,
    "adagrad": torch.optim.Adagrad,
    "rmsprop": torch.optim.RMSprop,
}


def parse_method(name: str) -> tuple[str, dict[str, Any]]:
    """Return (name of METHODS, keyword arguments of Balancer) of `method[@level][+clippy][+adatask]`.

    "clippy" and "adatask" alone stand on equal weights. A loss-level method alone takes one backward of its weighted
    loss and the optimizer's own step; for "equal", whose weights never change, that is plain training.

    Raises:
        ValueError: an unknown method, level or part.
    """
    first, *parts = name.split("+")
    if first in MANIPULATIONS:
        first, parts = "equal", [first, *parts]
    method, _, level = first.partition("@")
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(NAMES)}, got {name!r}{nearest(method, NAMES)}")
    arguments: dict[str, Any] = {"level": level} if level else {}
    for part in parts:
        if part not in MANIPULATIONS:
            raise ValueError(f"method {name!r}: {part!r} cannot be added{nearest(part, MANIPULATIONS)}")
        arguments |= MANIPULATIONS[part]
    chosen = METHODS[method]
    if not arguments and chosen.level == "losses" and not hasattr(chosen, "statistic"):  # type: ignore[attr-defined]
        arguments = {"between": "weighted"}
    return method, arguments


def takes_priorities(method: type) -> bool:
    """Return whether a method of METHODS has the argument `priorities`."""
    return any(field.name == "priorities" for field in dataclasses.fields(method))


def balancer_options() -> list[str]:
    """Return the names of Balancer's keyword arguments."""
    parameters = inspect.signature(Balancer).parameters.values()
    return [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.name != "shared"]


def sort_options(
    chosen: dict[str, Any], method: str, model_options: dict[str, Any]
) -> dict[str, dict[str, Any]]:
    """Return {"model": {...}, "method": {...}, "balancer": {...}} of options by dotted or bare name.

    Raises:
        ValueError: a name that none of the three knows, or several do.
    """
    of_method = (
        [] if method == "single" else [f.name for f in dataclasses.fields(METHODS[parse_method(method)[0]])]
    )
    known = {"model": list(model_options), "method": of_method, "balancer": balancer_options()}
    result: dict[str, dict[str, Any]] = {kind: {} for kind in known}
    for key, value in chosen.items():
        head, *rest = key.split(".")
        if head in known and rest:
            kinds, (name, *rest) = [head], rest
        else:
            kinds, name = [kind for kind, names in known.items() if head in names], head
        if len(kinds) != 1 or name not in known[kinds[0]]:
            every = [n for names in known.values() for n in names]
            if name == "priorities" and method != "single":
                raise ValueError(
                    f"option 'priorities' is not taken by {method!r}, for which no way has been published; those that have "
                    f"one: {', '.join(n for n, kind in METHODS.items() if takes_priorities(kind))}"
                )
            what = (
                "is known to several; write model., method. or balancer. before it"
                if len(kinds) > 1
                else "is unknown"
            )
            raise ValueError(f"option {key!r} {what}{nearest(name, every)}")
        into = result[kinds[0]]
        for part in (name, *rest)[:-1]:
            into = into.setdefault(part, {})
        into[(name, *rest)[-1]] = value
    return result


def build_optimizers(
    name: str,
    parameters: Iterable[torch.nn.Parameter],
    tables: Sequence[torch.nn.Parameter],
    lr: float,
    weight_decay: float,
) -> list[torch.optim.Optimizer]:
    """Return one optimizer, or two where the row-sparse tables need one of their own: SparseAdam beside Adam and AdamW.

    Tables have no weight decay: it would move every row.

    Raises:
        ValueError: an optimizer that has no row-sparse form.
    """
    make, of_tables = OPTIMIZERS[name], {id(p) for p in tables}
    rest = [p for p in parameters if id(p) not in of_tables]
    if not tables:
        return [make(rest, lr=lr, weight_decay=weight_decay)]
    if name in ("adam", "adamw"):
        return [torch.optim.SparseAdam(list(tables), lr=lr), make(rest, lr=lr, weight_decay=weight_decay)]
    if name in ("adagrad", "sgd"):
        return [
            make(
                [{"params": list(tables), "weight_decay": 0.0}, {"params": rest}],
                lr=lr,
                weight_decay=weight_decay,
            )
        ]
    raise ValueError(f"optimizer must be adam, adamw, adagrad or sgd for row-sparse tables, got {name!r}")


def build_balancer(
    name: str,
    optimizer: Sequence[torch.optim.Optimizer],
    shared: list[torch.nn.Parameter],
    options: dict[str, dict[str, Any]],
) -> Balancer:
    """Return the Balancer of a method's name with sorted options (`sort_options`)."""
    method, arguments = parse_method(name)
    chosen = options.get("balancer", {})
    if chosen and "between" in arguments:
        arguments = {}
    return Balancer(
        optimizer, METHODS[method](**options.get("method", {})), shared=shared, **(arguments | chosen)
    )


def recommended() -> str:
    """Return the default method's name: PUB as in the paper.

    With the optimizer of `recommended_settings` it is what no task of KuaiRand paid under. What does it there is the optimizer: equal
    weights on it do as well. On Adam no gain over well tuned plain training ("equal") is shown; see docs/results.md.
    The name "pub" stays the paper's, whatever this comes to return.
    """
    return "pub"


def recommended_settings() -> dict[str, Any]:
    """Return the arguments of `eq.train` under which no task of KuaiRand paid: PUB on Adagrad.

    Chosen on validation days, then held on three later test days against single-task models, plain training and tuned fixed
    weights, with SharedBottom (among ten settings) and with MMoE (among three); batches of 512, `benchmarks/no_task_pays.py`, docs/results.md. It
    is one log: keep the optimizer, and tune rate and decay on yours; some thirty times a good rate of Adam is where to begin. With
    `method="equal"` it held as well. They are not the command line's defaults.

    Example:
        >>> sorted(recommended_settings())
        ['lr', 'method', 'optimizer', 'weight_decay']
    """
    return {"method": recommended(), "optimizer": "adagrad", "lr": 0.09, "weight_decay": 3e-5}
