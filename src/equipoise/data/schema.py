"""What a log holds: features, labels, group, time, weight. Pydantic models, YAML or JSON; unknown keys are errors."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from equipoise.data.features import Categorical, Feature, Multi, Numerical, Strict
from equipoise.data.label import Label
from equipoise.data.sharing import check_tables
from equipoise.names import nearest


class Negatives(Strict):
    """Rows whose label `of` is not positive, thinned out.

    Attributes:
        keep: the share of them, in (0, 1], that stays in train: those whose key draws less (see `equipoise.data.draw`).
        sampling_rate: instead of `keep`, the column of the rate, in (0, 1], at which whoever wrote the log kept each row.
        correct: "weights" (a row weighs 1 / rate) or "logit" (task `of` is learned on the sample as it is, its probability taken back by
            log(rate); rows weigh 1 / rate for the other tasks).
    """

    of: str
    keep: float | None = Field(default=None, gt=0, le=1)
    sampling_rate: str | None = None
    seed: int = 0
    correct: Literal["weights", "logit"] = "weights"

    @model_validator(mode="after")
    def _one(self) -> Negatives:
        if (self.keep is None) == (self.sampling_rate is None):
            raise ValueError(
                f"negatives must have either keep or sampling_rate, got keep={self.keep!r}, sampling_rate={self.sampling_rate!r}"
            )
        return self


class SplitRule(Strict):
    """How rows become train, valid and test.

    "column": a column that holds those three words; "time": the last `test` share of rows by time, `valid` before it;
    "group": a seeded draw of groups, never one on two sides; "random": the same where there is a group, else a draw of rows. With
    `allow_group_leak` rows are drawn although there is a group, and `prepare` says so.
    """

    by: Literal["column", "time", "group", "random"] = "random"
    allow_group_leak: bool = False
    column: str | None = None
    valid: float = Field(default=0.1, gt=0, lt=1)
    test: float = Field(default=0.1, gt=0, lt=1)
    seed: int = 0

    @model_validator(mode="after")
    def _shares(self) -> SplitRule:
        if self.valid + self.test >= 1:
            raise ValueError(f"valid + test must leave rows to train on, got {self.valid} + {self.test}")
        if self.by == "column" and self.column is None:
            raise ValueError("column must name the split column when by is 'column', got none")
        if self.allow_group_leak and self.by != "random":
            raise ValueError(f"allow_group_leak draws rows, which needs by='random', got {self.by!r}")
        return self


class Schema(Strict):
    """Features and labels of a log, with the columns for grouping (GAUC), time and sample weight.

    Two fields are filled when a log is prepared. `num_ids`: rows of each categorical and multi feature's table, the
    unseen row 0 included. `label_scale`: mean and standard deviation of each regression label (after its transform) in
    training, 0 and the mean of each watch label; models learn the standardised label, so that its unit does not decide how much the task weighs.

    `label_levels`: of each ordinal label [[class, share of training rows at or below it], ...]; of each d2q label the edges of its
    duration buckets in the standardised feature's unit, then a list of quantiles of the time a bucket; of each label with transform rank
    no edges and one list.

    `weight`: the column of the row's sample weight, or {task: column}, where tasks left out weigh 1. `key`: the column by which rows are drawn,
    default their number in the split. `as_of`: when the log was written, for late labels; default the last time in it. `sampling`: filled when a log
    is prepared, {task: rate} of the negatives that it lacks, which its loss makes up for.

    `sparse`: whether models built for it have row-sparse tables (a gradient of the rows that a batch touches); never chosen by size.
    """

    features: tuple[Feature, ...]
    labels: tuple[Label, ...] = Field(min_length=1)
    group: str | None = None
    time: str | None = None
    weight: str | dict[str, str] | None = None
    key: str | None = None
    as_of: str | int | None = None
    negatives: Negatives | None = None
    split: SplitRule | None = None
    num_ids: dict[str, int] = Field(default_factory=dict)
    label_scale: dict[str, tuple[float, float]] = Field(default_factory=dict)
    label_levels: dict[str, list[list[float]]] = Field(default_factory=dict)
    sampling: dict[str, float] = Field(default_factory=dict)
    simulated: bool = False
    sparse: bool = False

    @field_validator("as_of", mode="before")
    @classmethod
    def _text(cls, value: Any) -> Any:
        return value.isoformat() if isinstance(value, date) else value  # as YAML reads a date

    @model_validator(mode="after")
    def _late_and_sampled(self) -> Schema:
        late = {label.event_time: label.name for label in self.labels if label.event_time is not None}
        for column, task in late.items():
            if self.time is None:
                raise ValueError(
                    f"label {task!r} has event_time={column!r}, which needs a time column, the schema has none"
                )
            if column == self.time:
                raise ValueError(
                    f"label {task!r} must have another column than time as event_time, got {column!r}"
                )
        for feature in self.features:
            if known := late.get(feature.column or feature.name):
                raise ValueError(
                    f"feature {feature.name!r} must not read the event_time column of task {known!r}"
                )
        for what, tasks in (
            ("weight", list(self.weight) if isinstance(self.weight, dict) else []),
            ("negatives.of", [self.negatives.of] if self.negatives else []),
        ):
            for task in tasks:
                if task not in self.tasks:
                    raise ValueError(f"{what} names {task!r}, which is no label{nearest(task, self.tasks)}")
        if self.negatives is not None and self.label(self.negatives.of).kind != "binary":
            raise ValueError(f"negatives.of must be a binary label, got {self.negatives.of!r}")
        return self

    @model_validator(mode="after")
    def _names(self) -> Schema:
        for what, names in (("features", [f.name for f in self.features]), ("labels", self.tasks)):
            if twice := {n for n in names if list(names).count(n) > 1}:
                raise ValueError(f"{what} must have different names, got {sorted(twice)[0]!r} twice")
        check_tables(self.with_table)
        if self.split is not None and self.split.by == "group" and self.group is None:
            raise ValueError(
                "split.by='group' needs a group column, the schema has none; name one, or take by='random'"
            )
        answers = {label.column or label.name: label.name for label in self.labels}
        for feature in self.features:
            if task := answers.get(feature.column or feature.name):
                raise ValueError(f"feature {feature.name!r} must not read the label column of task {task!r}")
            if isinstance(feature, Multi) and (task := answers.get(feature.weights or "")):
                raise ValueError(f"weights of {feature.name!r} must not be the label column of task {task!r}")
        for label in self.labels:
            if label.given is not None and label.given not in self.tasks:
                raise ValueError(
                    f"label {label.name!r} has given={label.given!r}, which is no label{nearest(label.given, self.tasks)}"
                )
            if label.way == "d2q" and label.duration not in [f.column or f.name for f in self.numerical]:
                raise ValueError(
                    f"label {label.name!r} has way='d2q', which reads its duration {label.duration!r} from the features; declare "
                    "it as a numerical feature, or take way='wlr'"
                )
            before, seen = label, {label.name}
            while before.given is not None:
                before = self.label(before.given)
                if before.name in seen:
                    raise ValueError(f"given of label {label.name!r} must not lead back to {before.name!r}")
                seen.add(before.name)
        return self

    @property
    def tasks(self) -> list[str]:
        """Task names, in order."""
        return [label.name for label in self.labels]

    @property
    def categorical(self) -> list[Categorical]:
        """Categorical features, in the order of `Batch.ids` columns."""
        return [f for f in self.features if isinstance(f, Categorical)]

    @property
    def numerical(self) -> list[Numerical]:
        """Numerical features, in the order of `Batch.numerical` columns."""
        return [f for f in self.features if isinstance(f, Numerical)]

    @property
    def multi(self) -> list[Multi]:
        """Multi-valued features."""
        return [f for f in self.features if isinstance(f, Multi)]

    @property
    def with_table(self) -> list[Categorical | Multi]:
        """Categorical, then multi-valued features: those that have ids."""
        return [*self.categorical, *self.multi]

    @property
    def weight_columns(self) -> list[str]:
        """The columns of sample weights: none, one for the row, or those of the tasks."""
        if isinstance(self.weight, dict):
            return list(dict.fromkeys(self.weight.values()))
        return [] if self.weight is None else [self.weight]

    @property
    def kept_together(self) -> str | None:
        """The column whose values a random split keeps on one side: the group, none with `allow_group_leak`."""
        return None if self.split is not None and self.split.allow_group_leak else self.group

    def label(self, task: str) -> Label:
        """Return the label of a task; ValueError with the nearest name for an unknown one."""
        for label in self.labels:
            if label.name == task:
                return label
        raise ValueError(f"task {task!r} is not in the schema{nearest(task, self.tasks)}")

    def only(self, tasks: list[str]) -> Schema:
        """Return the schema with these tasks only, in this order; a `given` that is left out is dropped."""
        labels = tuple(
            label if label.given in tasks else label.model_copy(update={"given": None})
            for label in map(self.label, tasks)
        )
        own: dict[str, Any] = {"labels": labels}
        if isinstance(self.weight, dict):
            own["weight"] = {task: column for task, column in self.weight.items() if task in tasks} or None
        if self.negatives is not None and self.negatives.of not in tasks:
            own["negatives"] = None
        return self.model_copy(update=own)

    @classmethod
    def read(cls, content: Any) -> Schema:
        """Return the schema of a mapping; ValueError that names the key, the rule and the nearest known key."""
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            raise ValueError(explain(error, cls, "schema")) from None

    @classmethod
    def load(cls, path: str | Path) -> Schema:
        """Return the schema in a YAML or JSON file."""
        if not Path(path).is_file():
            raise ValueError(f"schema {str(path)!r} must be a YAML or JSON file, found none")
        try:
            content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
            json.dumps(
                content, ensure_ascii=False, default=str
            ).encode()  # no half of a surrogate pair, no anchor in itself
        except (
            yaml.YAMLError,
            ValueError,
            TypeError,
            OverflowError,
            RecursionError,
        ) as error:  # no UTF-8, 2026-99-99
            raise ValueError(f"schema {path} must be YAML or JSON: {error}") from None
        return cls.read(content)

    def save(self, path: str | Path) -> None:
        """Write the schema as YAML (or JSON for a name that ends in .json)."""
        content = json.loads(self.model_dump_json(exclude_defaults=False))
        as_json = str(path).endswith(".json")
        text = json.dumps(content, indent=1) if as_json else yaml.safe_dump(content, sort_keys=False)
        Path(path).write_text(text, encoding="utf-8")


def explain(error: ValidationError, model: type[BaseModel], what: str) -> str:
    """Return one line for pydantic's first finding: where, which rule, what came, the nearest known key."""
    found = error.errors()
    first = next(
        (e for e in found if e["type"] == "extra_forbidden"), found[0]
    )  # a misspelt key explains a missing one
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        known = {
            name
            for m in (model, Categorical, Numerical, Multi, Label, SplitRule, Negatives)
            for name in m.model_fields
        }
        if len(first["loc"]) == 1:
            known = set(model.model_fields)
        return f"{what} has the unknown key {where!r}{nearest(str(first['loc'][-1]), known)}"
    came = first.get("input")
    shown = "" if isinstance(came, dict) else f", got {came!r}"
    if first["type"] == "value_error":  # a rule of ours, which names what came
        return f"{what}: {where + ': ' if where else ''}{first['msg'].removeprefix('Value error, ')}"
    return f"{what}: {where or 'value'}: {first['msg']}{shown}"
