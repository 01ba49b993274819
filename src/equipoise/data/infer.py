"""A table -> a first schema: what each column seems to be, and which columns look suspicious."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from pydantic import ValidationError

from equipoise.data.encode import column_of, label_values
from equipoise.data.features import Categorical, Feature, Multi, Numerical
from equipoise.data.label import Label
from equipoise.data.late import event_times
from equipoise.data.sampling import parse_weight
from equipoise.data.schema import Schema, SplitRule, explain
from equipoise.data.telltale import Answer, leaks
from equipoise.names import nearest

MANY = 200
"""An integer column with at most this many values is taken for categorical."""

_DATE = r"^\d{4}-\d\d-\d\d([ T]|$)"
_ID = re.compile(r"(^|_)(id|code|uuid|key)$", re.IGNORECASE)
_AFTER = re.compile(
    r"(play_time|watch_time|stay|dwell|duration_watched|completion|convers|converted|revenue|outcome|refund|click_time|after_)",
    re.IGNORECASE,
)

_LABEL = re.compile(
    r"(^|_)(label|target|y|click|clicked|like|liked|follow|share|purchase|purchased|buy|bought|conv|conversion|converted|install|"
    r"comment|forward|hate|long_view|profile_enter)$",
    re.IGNORECASE,
)


class Inferred(NamedTuple):
    """A schema, and lines about columns to look at: left out, constant, or likely to know the answer."""

    schema: Schema
    suspects: list[str]


KINDS = ("binary", "regression", "watch", "ordinal")


def parse_label(text: str) -> Label:
    """Return the label of `name[:binary|regression|watch|ordinal][:key=value ...]`, e.g. `purchase:given=click`, `dwell:regression`.

    `dwell:watch=duration_ms` is short for `dwell:watch:duration=duration_ms`.

    Raises:
        ValueError: an unknown kind or key.
    """
    name, *parts = text.split(":")
    content: dict[str, Any] = {"name": name}
    for part in parts:
        key, equals, value = part.partition("=")
        if equals and key == "watch":
            content |= {"kind": key, "duration": value}
        elif equals:
            content[key] = value
        elif part == "log1p":
            content |= {"kind": "regression", "transform": part}
        else:
            content["kind"] = part
    known = set(Label.model_fields)
    if unknown := [key for key in content if key not in known]:
        raise ValueError(f"label {text!r} has the unknown key {unknown[0]!r}{nearest(unknown[0], known)}")
    if content.get("kind", "binary") not in KINDS:
        raise ValueError(
            f"label {text!r} must be of kind 'binary', 'regression', 'watch' or 'ordinal', got {content['kind']!r}"
        )
    try:
        return Label.model_validate(content)
    except ValidationError as error:
        raise ValueError(explain(error, Label, f"label {text!r}")) from None


def infer_schema(
    frame: pl.DataFrame,
    labels: Sequence[str | Label],
    *,
    time: str | None = None,
    group: str | None = None,
    weight: str | None = None,
    split: str | None = None,
) -> Inferred:
    """Return a schema for a table, and what to look at.

    Text, booleans, integers of few values and columns named like an id are categorical; other numbers numerical; list
    columns, and text that is mostly lists such as "drama,comedy", multi-valued. Left out, with a line: constants, text
    and ids that differ in every row, dates, times later than `time`, and columns whose values, or being missing, alone rank a binary
    label with an AUC above .99. Kept, with a line: an AUC of .95 to .99, columns that are there only where a label is positive, a
    rank correlation above .99 with a regression label, names that sound like outcomes or labels.

    Raises:
        ValueError: a label, time, group, weight or split column that is missing; no label; no feature left.
    """
    parsed = [parse_label(label) if isinstance(label, str) else label for label in labels]
    if not parsed:
        raise ValueError("labels must name at least one column, got none; pass --label click")
    late = {label.event_time: label for label in parsed if label.event_time is not None}
    for column, label in late.items():
        column_of(frame, column, f"event_time of label {label.name!r}")
    for label in parsed:
        if label.event_time is None:
            column_of(frame, label.column or label.name, f"label {label.name!r}")
        if label.duration is not None:
            column_of(frame, label.duration, f"label {label.name!r}")
    weights = parse_weight(weight)
    each = list(weights.values()) if isinstance(weights, dict) else [weights]
    columns = (("time", time), ("group", group), *(("weight", name) for name in each), ("split", split))
    for what, name in columns:
        if name is not None:
            column_of(frame, name, what)
    taken = {label.column or label.name for label in parsed} | {time, split, *each, *late}
    sample = frame.head(100_000)
    answers = [
        Answer(label, *label_values(sample[label.column or label.name], label))
        if label.event_time is None
        else Answer(label, event_times(sample, label)[1].astype(np.float32), np.ones(sample.height, bool))
        for label in parsed
    ]
    features: list[Feature] = []
    suspects: list[str] = []
    durations = {label.duration for label in parsed if label.way == "d2q"}
    for name in frame.columns:
        if name in taken:
            continue
        feature, line = _feature(sample, name, name == group)
        if (
            name in durations and sample[name].dtype.is_numeric()
        ):  # a label reads its length from it, few values or not
            feature = Numerical(name=name, transform="log1p")
        if isinstance(feature, Numerical) and feature.transform == "log1p" and (frame[name] <= -1).any():
            feature = Numerical(name=name)
        if feature is not None and (leak := leaks(sample, name, answers, time)):
            line = f"{name}: {'kept, but' if leak.kept else 'left out,'} {leak.why}"
            feature = feature if leak.kept else None
        if feature is not None:
            features.append(feature)
            if line is None and _AFTER.search(name):
                line = f"{name}: kept, but its name sounds like something known only after the impression"
            elif line is None and looks_like_label(sample[name], name):
                line = f"{name}: kept, but it looks like another label, known only after the impression"
        if line is not None:
            suspects.append(line)
    if not features:
        raise ValueError("the table has no column left to learn from; write a schema file")
    rule = SplitRule(by="column", column=split) if split else SplitRule(by="time" if time else "random")
    try:
        schema = Schema(
            features=tuple(features), labels=tuple(parsed), group=group, time=time, weight=weights, split=rule
        )
    except ValidationError as error:
        raise ValueError(explain(error, Schema, "labels")) from None
    return Inferred(schema, suspects)


def looks_like_label(series: pl.Series, name: str, either: bool = False) -> bool:
    """Return whether a column is 0 / 1 or boolean and called like a label; with `either`, one of the two is enough for numbers."""
    named = _LABEL.search(name) is not None
    if not (series.dtype.is_numeric() or series.dtype == pl.Boolean) or not (named or either):
        return False
    values = series.drop_nulls().unique()
    two = len(values) == 2 and set(values.cast(pl.Float64).to_list()) == {0.0, 1.0}
    called = len(values) > 1 and named
    return two or called if either else two and called


def _feature(sample: pl.DataFrame, name: str, is_group: bool) -> tuple[Feature | None, str | None]:
    """Return what a column seems to be, and a line about it."""
    series = sample[name]
    number = series.dtype.is_float() and not is_group and not _ID.search(name)
    varies = series.dtype == pl.List or (
        number and series.head(1000).n_unique() > 1
    )  # no more is asked of these
    distinct = 2 if varies else series.n_unique()
    if distinct <= 1:
        return None, f"{name}: left out, it is constant"
    if series.dtype == pl.List:
        return Multi(name=name), None
    if series.dtype == pl.Date or isinstance(series.dtype, pl.Datetime):
        return None, f"{name}: left out, it is a date; declare it as time, or derive an hour or weekday"
    if series.dtype == pl.String and (mark := _separator(series)):
        return Multi(name=name, separator=mark), f"{name}: read as several values a row, cut at {mark!r}"
    if series.dtype == pl.String and (head := series.drop_nulls().head(100)).str.contains(_DATE).all():
        return (
            None,
            f"{name}: left out, {head[0]!r} is a date; declare it as time, or derive an hour or weekday",
        )
    if series.dtype in (pl.String, pl.Boolean, pl.Categorical):
        if distinct == len(series) and len(series) > MANY and not is_group:
            return None, f"{name}: left out, it differs in every row"
        return Categorical(name=name), None
    if not series.dtype.is_numeric():
        return None, f"{name}: left out, its type {series.dtype} is not supported"
    whole = series.dtype.is_integer()
    if is_group or _ID.search(name) or (whole and distinct <= MANY):
        if distinct == len(series) and len(series) > MANY and not is_group:
            return None, f"{name}: left out, it differs in every row"
        return Categorical(name=name), None
    values = series.drop_nulls().cast(pl.Float64).drop_nans().to_numpy()
    heavy = len(values) > 0 and values.min() >= 0 and values.max() > 100 * max(float(np.median(values)), 1.0)
    return Numerical(name=name, transform="log1p" if heavy else "none"), None


def _separator(series: pl.Series) -> str | None:
    """Return "," "|" or ";" if text holds lists: pieces without blanks in a third of the rows, that repeat between rows."""
    texts = series.drop_nulls()
    for mark in (",", "|", ";"):
        cut = texts.filter(texts.str.contains(mark, literal=True) & ~texts.str.contains(r"\s"))
        if texts.len() and cut.len() * 3 >= texts.len():
            pieces = cut.str.split(mark).explode()
            if pieces.n_unique() * 2 <= pieces.len() and pieces.n_unique() <= max(MANY, cut.n_unique()):
                return mark
    return None
