"""The Balancer's arguments, checked once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

from equipoise.compiled import check_compiler
from equipoise.methods import METHODS
from equipoise.methods.scale import RULES
from equipoise.updates.clippy import Clippy

LEVELS = ("losses", "gradients", "updates", "representation")


def choose(name: str, value: object, allowed: Sequence[object]) -> None:
    """Raise a ValueError that lists what is allowed, unless `value` is."""
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}, got {value!r}")


def refuse_weighted(reasons: dict[str, bool]) -> None:
    """Raise a ValueError for the first reason that holds: `between="weighted"` cannot have it."""
    for what, holds in reasons.items():
        if holds:
            raise ValueError(
                f"between='weighted' runs one backward of the summed loss and cannot have {what}; use between='exact'"
            )


@dataclass(frozen=True)
class Options:
    """What `Balancer.__init__` documents, with `method` an instance and `level` and `scale` resolved."""

    method: Any
    level: str
    every: int
    between: str
    scale: str
    moments: str
    clip: Clippy | None
    max_norm: float | None
    max_task_norm: float | None
    gram: str
    per: str
    on_stationary: str
    on_nonfinite: str
    compile: bool = False

    def __post_init__(self) -> None:
        choose("level", self.level, LEVELS)
        choose("between", self.between, ("exact", "weighted"))
        choose("scale", self.scale, tuple(RULES))
        choose("moments", self.moments, ("shared", "per_task", "per_task_dense"))
        choose("gram", self.gram, ("exact", "sketch"))
        choose("per", self.per, ("model", "tensor"))
        choose("on_stationary", self.on_stationary, ("damp", "skip", "raise"))
        choose("on_nonfinite", self.on_nonfinite, ("leave_out", "raise"))
        self._check_level()
        self._check_compile()
        if isinstance(self.every, bool) or not isinstance(self.every, int) or self.every < 1:
            raise ValueError(f"every must be an integer >= 1, got {self.every!r}")
        if self.clip is not None and not isinstance(self.clip, Clippy):
            raise ValueError(
                f"clip must be an equipoise.Clippy or None, got {self.clip!r}; try clip=Clippy()"
            )
        for name, norm in (("max_norm", self.max_norm), ("max_task_norm", self.max_task_norm)):
            if norm is not None and (not isinstance(norm, Real) or not norm > 0):
                raise ValueError(f"{name} must be > 0 or None, got {norm!r}")
        if self.between == "weighted":
            refuse_weighted(
                {
                    f"moments={self.moments!r}": self.moments != "shared",
                    "clip": self.clip is not None,
                    "max_task_norm": self.max_task_norm is not None,
                    "per='tensor'": self.per == "tensor",
                    **{what: holds for what, holds in self._per_task_rows().items() if self.every > 1},
                    "scale='norm' or 'frobenius' at level='losses'": self.level == "losses"
                    and self.scale in ("norm", "frobenius"),
                }
            )

    def _check_compile(self) -> None:
        """Raise a ValueError where `compile` cannot be had."""
        choose("compile", self.compile, (False, True))
        if self.compile:
            check_compiler()
            reasons = {
                f"moments={self.moments!r}": self.moments != "shared",
                "clip": self.clip is not None,
                "max_norm": self.max_norm is not None,
                f"{type(self.method).__name__}, which combines rows": hasattr(self.method, "combine"),
            }
            for what, holds in reasons.items():
                if holds:
                    raise ValueError(f"compile=True has no form for {what}; leave compile=False")

    def _per_task_rows(self) -> dict[str, bool]:
        """Return what the method needs of each task's own shared gradient at every step, with whether it does."""
        name = type(self.method).__name__
        return {
            f"{name}, which combines rows": hasattr(self.method, "combine"),
            f"{name}, which tracks rows": hasattr(self.method, "track"),
            f"{name}, which keeps squared gradients": self.of_excess,
        }

    def _check_level(self) -> None:
        """Raise a ValueError where the method's statistic does not exist at the level, or goes with no such option."""
        name, of_losses = type(self.method).__name__, self.method.level == "losses"
        if (self.level == "losses") != of_losses and not self.any_level:
            allowed = "'losses'" if of_losses else "'gradients', 'updates' or 'representation'"
            raise ValueError(
                f"level must be {allowed} for {name}, whose weights come from "
                f"{'the losses' if of_losses else 'a Gram matrix'}, got {self.level!r}"
            )
        if self.per == "tensor" and self.level == "losses":
            raise ValueError(
                f"per='tensor' needs a Gram matrix, {name} runs at level 'losses'; use per='model'"
            )
        if self.gram == "sketch" and self.level in ("losses", "representation"):
            raise ValueError(
                f"gram='sketch' needs a Gram matrix of gradients or updates, {name} runs at level {self.level!r}; use "
                "gram='exact'"
            )
        if self.level == "representation" or self.gram == "sketch":
            what_level = "level='representation'" if self.gram == "exact" else "gram='sketch'"
            reasons = {
                **self._per_task_rows(),
                f"{name}, which needs two backward calls": "cross" in self.needs,
                f"moments={self.moments!r}": self.moments != "shared",
                "clip": self.clip is not None,
                "max_task_norm": self.max_task_norm is not None,
                "per='tensor'": self.per == "tensor",
            }
            for what, holds in reasons.items():
                if holds:
                    raise ValueError(
                        f"{what_level} mixes one backward of the weighted loss and cannot have {what}; use "
                        "level='gradients' and gram='exact'"
                    )

    @property
    def mixes_updates(self) -> bool:
        """Whether the joint step is made of updates (else of gradients, and torch's own step runs)."""
        if self.gram == "sketch":
            return False
        return self.level == "updates" or self.moments != "shared" or self.clip is not None

    @property
    def needs_rows(self) -> bool:
        """Whether the method asks for something of each task's own shared gradient, whatever its level."""
        return any(self._per_task_rows().values()) or "cross" in self.needs

    @property
    def needs(self) -> tuple[str, ...]:
        """The keyword extras that the method takes."""
        return tuple(getattr(self.method, "needs", ()))

    @property
    def of_excess(self) -> bool:
        """Whether the method's statistic is the excess risks, for which each task's squared gradients are kept."""
        return getattr(self.method, "statistic", None) == "excess"

    @property
    def any_level(self) -> bool:
        """Whether the method looks at no entry of its statistic."""
        return bool(getattr(self.method, "any_level", False))


def resolve_method(method: Any) -> Any:
    """Return the method instance of a name of METHODS, or the instance itself."""
    if isinstance(method, str):
        choose("method", method, list(METHODS))
        return METHODS[method]()
    if isinstance(method, type) or not hasattr(method, "level") or not hasattr(method, "init"):
        raise ValueError(
            f"method must be an instance such as eq.PUB() or a name of METHODS, got {method!r}; one of your own needs level, "
            "init(num_tasks) and __call__(statistic, state), see equipoise.methods.Method"
        )
    return method
