"""Any other torch optimizer: its own `step`, run on a copy of one parameter.

    theta' = the optimizer's step from (theta, s, g), decay left out, in float64
    u      = (theta - theta') / lr

in float64 since the difference loses theta's leading digits. The step runs at the optimizer's own lr (at 1 if
that is 0: then the rows still have a direction, and `apply` moves nothing). One could run it always at lr 1
and spare the division; but Rprop keeps its step sizes in the state, where lr was put long ago, and a subclass of
Adafactor takes min(lr, 1/sqrt(k)), which is not linear in lr. At its own lr `theta - lr u` is the optimizer's
step whatever lr means to it.

What an optimizer does to theta besides gradient and decay counts as part of each task's update. One that
looks at several parameters in one step sees only one here. Slower than a known rule by about a `step` a task
and parameter.
"""

from __future__ import annotations

import copy
import warnings
from collections import OrderedDict, defaultdict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

State = Mapping[str, Any]
Hyper = Mapping[str, Any]

COUPLED: dict[tuple[type[Optimizer], str], bool] = {}  # what `probe` found, by class and options


class Generic:
    """The rule of an optimizer that has no file here. Says once, at its first peek, that it is used."""

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        self.told = False

    def init(self, parameter: Tensor, hyper: Hyper) -> dict[str, Any]:
        """Return {}: the optimizer's own step begins its slots."""
        return {}

    def peek(self, gradient: Tensor, state: State, hyper: Hyper, parameter: Tensor | None = None) -> Tensor:
        """Return the update of this gradient alone, at theta = `parameter`, in the gradient's dtype.

        Raises:
            ValueError: no parameter, or an optimizer that wraps another.

        Warns:
            UserWarning: once.
        """
        if not self.told:
            self.told = True
            warnings.warn(
                f"{type(self.optimizer).__name__} has no update rule of its own here; its step runs on a "
                "copy of each parameter, once a task, which is slower",
                UserWarning,
                stacklevel=2,
            )
        theta, lr = _given(parameter), _rate(hyper)
        changes: dict[str, Any] = {"lr": lr, "weight_decay": 0}
        if isinstance(self.optimizer, torch.optim.Adafactor) and hyper["eps"][0] is None:
            changes["eps"] = (
                torch.finfo(theta.dtype).eps,
                hyper["eps"][1],
            )  # torch takes it from theta's dtype
        wide = theta.double()
        after, _ = step(
            self.optimizer, wide, gradient.double(), _copied(state, torch.float64), {**hyper, **changes}
        )
        return ((wide - after) / lr).to(gradient.dtype)

    def advance(
        self, gradient: Tensor, state: State, hyper: Hyper, parameter: Tensor | None = None
    ) -> dict[str, Any]:
        """Return the slots after the optimizer's own step from theta = `parameter`, bit for bit.

        A slot that follows theta (an average) follows the optimizer's own step, not the joint update.

        Raises:
            ValueError: as `peek`.
        """
        changes = {"weight_decay": 0} if self.coupled(hyper) else {}
        slots = _copied(state, None)
        return step(self.optimizer, _given(parameter), gradient, slots, {**hyper, **changes})[1]

    def apply(self, parameter: Tensor, update: Tensor, state: State, hyper: Hyper) -> Tensor:
        """Return `theta (1 - lr wd) - lr u` for decoupled decay, else `theta - lr u`."""
        theta, lr = parameter.detach(), float(hyper.get("lr", 1.0))
        decay = hyper.get("weight_decay", 0)
        if decay != 0 and not self.coupled(hyper):
            theta = theta.mul(1 - lr * decay)
        return theta.add(update, alpha=-lr)

    def coupled(self, hyper: Hyper) -> bool:
        """Return what the group says (`decoupled_weight_decay`), else what `probe` finds, kept by class and options."""
        if "decoupled_weight_decay" in hyper:
            return not hyper["decoupled_weight_decay"]
        moving = ("params", "lr", "initial_lr", "weight_decay")  # a schedule's, which decide nothing here
        options = sorted((name, value) for name, value in hyper.items() if name not in moving)
        kind = (type(self.optimizer), repr(options))
        if kind not in COUPLED:
            COUPLED[kind] = probe(self.optimizer, hyper)
        return COUPLED[kind]


def probe(optimizer: Optimizer, hyper: Hyper) -> bool:
    """Return whether weight decay changes the tensor slots after one step on a 2 x 2 scratch parameter.

    An optimizer without slots counts as decoupled: for a linear rule that is the same step.
    """
    theta = torch.tensor([[1.0, -2.0], [3.0, 4.0]], dtype=torch.float64)
    gradient = torch.tensor([[0.5, 1.0], [-1.0, 2.0]], dtype=torch.float64)
    plain = {**hyper, "lr": _rate(hyper), "capturable": False}
    slots = [
        step(optimizer, theta, gradient, {}, {**plain, "weight_decay": decay})[1] for decay in (0.0, 0.5)
    ]
    tensors = [{name: s for name, s in each.items() if isinstance(s, Tensor)} for each in slots]
    return any(not torch.equal(s, tensors[1][name]) for name, s in tensors[0].items())


def step(
    optimizer: Optimizer, theta: Tensor, gradient: Tensor, slots: dict[str, Any], hyper: Hyper
) -> tuple[Tensor, dict[str, Any]]:
    """Return (theta, slots) after the optimizer's own step on a copy of theta. Moves `slots` in place.

    The step is the class's own (not what a scheduler patched into the instance), on a twin that shares the
    optimizer's attributes but neither state, groups nor hooks. `gradient` is prepared, so maximize is off;
    foreach and fused too.

    Raises:
        ValueError: an optimizer that wraps another, which the twin would move.
    """
    kind = type(optimizer)
    inner = [name for name, value in vars(optimizer).items() if isinstance(value, Optimizer)]
    if inner:
        raise ValueError(
            f"optimizer must do its own step where updates are mixed, got {kind.__name__}, "
            f"which wraps another as {inner[0]!r}; mix gradients instead (level='gradients')"
        )
    parameter = torch.nn.Parameter(theta.detach().clone())
    parameter.grad = gradient.detach().clone()
    off = {name: False for name in ("maximize", "foreach", "fused", "differentiable") if name in hyper}
    twin = object.__new__(kind)
    twin.__dict__.update(vars(optimizer))
    for name in [name for name in vars(twin) if name.endswith("_hooks")]:
        setattr(twin, name, OrderedDict())
    twin.param_groups = [{**hyper, **off, "params": [parameter]}]
    twin.state = defaultdict(dict)
    if slots:
        twin.state[parameter] = slots
    own = kind.step
    if getattr(own, "hooked", False):
        own = getattr(own, "__wrapped__", own)  # without torch's wrapper, which runs global hooks
    own(twin)
    return parameter.detach(), dict(twin.state.get(parameter, {}))


def _copied(value: Any, dtype: torch.dtype | None) -> Any:
    """Return a copy of slots, nested or not; floating tensors in `dtype` where one is given."""
    if isinstance(value, Tensor):
        kept = dtype is None or not value.is_floating_point()
        return value.detach().to(value.dtype if kept else dtype, copy=True)
    if isinstance(value, Mapping):
        return {name: _copied(each, dtype) for name, each in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_copied(each, dtype) for each in value)
    return copy.deepcopy(value)


def _given(parameter: Tensor | None) -> Tensor:
    """Return theta, ValueError when there is none."""
    if parameter is None:
        raise ValueError("parameter must be given to the generic rule, got None; pass theta before the step")
    return parameter.detach()


def _rate(hyper: Hyper) -> float:
    """Return the group's lr, 1 for 0. Reads a tensor lr (synchronises)."""
    return float(hyper.get("lr", 1.0)) or 1.0
