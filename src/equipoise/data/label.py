"""The labels of a schema: one a task, and how each is learned."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from equipoise.data.features import Strict
from equipoise.data.window import span


class Label(Strict):
    """A task: its label column and how to learn it.

    Attributes:
        kind: "binary" (0/1, bool, or `positive` against the rest), "regression", or "watch", a time >= 0 of which the
            expected value is learned, or "ordinal", a few ordered classes (stars) whose expected value is predicted.
        duration: of watch: the column of the item's length, which must be > 0 wherever the label is known.
        way: of watch: "wlr", weighted logistic regression (see `losses.row_losses`), or "d2q", the quantile within times of items about
            as long, whose length must also be a numerical feature (see `equipoise.levels`).
        missing: a value that means "not known", beside null and NaN; such rows are masked for this task only.
        given: the task without which this one cannot be positive (a funnel). It does not mask: a purchase label on a
            row without click is a valid 0. Rows that contradict it are counted.
        transform, loss: of regression: learn on log1p(label), or on its rank (quantile among training labels), with squared error or
            Huber loss. Under "rank" long tails weigh no more than their rows, and a prediction is the label at the expected quantile.
        event_time, window: of a binary label that comes late: the column of the event's time, empty (or `missing`) without an event, and
            how long after the row it counts, such as 7d, 12h, 30m, 45s. The label is made of them; see `equipoise.data.late`.
        pending: what a row is whose event is not known while its window is open: "mask"ed, "negative", or "exclude"d for all tasks.
        correction: of pending "negative": "fnw" weighs training rows so that what is learned is right although some negatives are only
            pending; see `equipoise.delayed`.
    """

    name: str
    column: str | None = None
    kind: Literal["binary", "regression", "watch", "ordinal"] = "binary"
    duration: str | None = None
    way: Literal["wlr", "d2q"] = "wlr"
    positive: str | int | float | None = None
    missing: str | int | float | None = None
    given: str | None = None
    transform: Literal["none", "log1p", "rank"] = "none"
    loss: Literal["mse", "huber"] = "mse"
    event_time: str | None = None
    window: str | None = None
    pending: Literal["mask", "negative", "exclude"] = "mask"
    correction: Literal["fnw"] | None = None

    @property
    def by_quantile(self) -> bool:
        """Whether it is learned as a quantile among training labels, which `Schema.label_levels` holds."""
        return self.way == "d2q" or self.transform == "rank"

    @model_validator(mode="after")
    def _kinds(self) -> Label:
        if not self.name:
            raise ValueError("a label must have a name, got ''")
        if self.kind != "binary" and self.positive is not None:
            raise ValueError(
                f"label {self.name!r} is of kind {self.kind}, so positive={self.positive!r} has no meaning"
            )
        if self.kind != "regression" and (self.transform, self.loss) != ("none", "mse"):
            what = self.kind if self.kind in ("binary", "ordinal") else f"a {self.kind}"
            raise ValueError(f"label {self.name!r} is {what}; transform and loss need kind='regression'")
        if self.kind != "watch" and self.duration is not None:
            raise ValueError(
                f"label {self.name!r} has duration={self.duration!r}, which needs kind='watch', got {self.kind!r}"
            )
        if self.way == "d2q" and self.duration is None:
            raise ValueError(
                f"label {self.name!r} has way='d2q', which needs kind='watch' and duration, the column of the item's length"
            )
        if self.duration is not None and self.duration in ("", self.column or self.name):
            raise ValueError(
                f"label {self.name!r} must have another column as duration, got {self.duration!r}"
            )
        return self

    @model_validator(mode="after")
    def _late(self) -> Label:
        if (self.event_time is None) != (self.window is None):
            raise ValueError(
                f"label {self.name!r} must have both event_time and window, got event_time={self.event_time!r}, window={self.window!r}"
            )
        if self.event_time is None and self.pending != "mask":
            raise ValueError(
                f"label {self.name!r} has pending={self.pending!r}, which needs event_time and window"
            )
        if self.correction is not None and self.pending != "negative":
            raise ValueError(
                f"label {self.name!r} has correction={self.correction!r}, which needs pending='negative', got {self.pending!r}"
            )
        if self.window is not None:
            if self.kind != "binary" or self.positive is not None:
                raise ValueError(
                    f"label {self.name!r} has event_time={self.event_time!r}, which needs kind='binary' and no positive=VALUE"
                )
            span(self.window)
        return self
