"""Which features share a table, and the rules that their options keep."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from equipoise.data.features import Categorical, Multi
    from equipoise.data.schema import Schema

AGREE = ("min_count", "max_size", "buckets", "seed")
"""Options that make a table, in which all of its features must agree."""


def table_of(feature: Categorical | Multi) -> str:
    """Return the name of a feature's vocabulary and embedding table: `table`, or the feature's own name."""
    return feature.table or feature.name


def tables(schema: Schema, names: Sequence[str]) -> dict[str, int]:
    """Return {table: its rows} of these categorical and multi features, in the order of their first feature."""
    by_name = {f.name: f for f in schema.with_table}
    return {table_of(by_name[name]): schema.num_ids[name] for name in names}


def check_categorical(feature: Categorical) -> None:
    """Raise ValueError for options of a categorical feature that have no meaning together."""
    name = feature.name
    if feature.seed and feature.buckets is None:
        raise ValueError(
            f"feature {name!r} has seed={feature.seed}, which needs buckets, the rows to hash into"
        )
    if feature.quantiles is None:
        return
    for option in ("buckets", "max_size", "table"):
        if (value := getattr(feature, option)) is not None:
            raise ValueError(
                f"feature {name!r} has quantiles={feature.quantiles} and {option}={value!r}; a number cut at quantiles has no "
                f"vocabulary, so leave one of them out"
            )


def check_multi(feature: Multi) -> None:
    """Raise ValueError for options of a multi-valued feature that have no meaning together."""
    if feature.weights is not None and feature.weight_separator is not None:
        raise ValueError(
            f"feature {feature.name!r} has weights={feature.weights!r} and weight_separator={feature.weight_separator!r}; its "
            "weights come from one place, so leave one of them out"
        )
    if feature.weights is not None and feature.weights in ("", feature.column or feature.name):
        raise ValueError(
            f"feature {feature.name!r} must have another column as weights, got {feature.weights!r}"
        )
    if feature.weight_separator == feature.separator:
        raise ValueError(
            f"feature {feature.name!r} must have another weight_separator than its separator, got {feature.separator!r} for both"
        )


def check_tables(features: Sequence[Categorical | Multi]) -> None:
    """Raise ValueError unless the features of each table agree in the options that make it."""
    first: dict[str, Categorical | Multi] = {}
    for feature in features:
        other = first.setdefault(table_of(feature), feature)
        if getattr(feature, "quantiles", None) is not None or getattr(other, "quantiles", None) is not None:
            if other is not feature:
                raise ValueError(
                    f"features {other.name!r} and {feature.name!r} share the table {table_of(feature)!r}; a number cut at "
                    "quantiles has no vocabulary to share, so name another table"
                )
            continue
        for option in AGREE:
            wanted, got = getattr(other, option, None) or None, getattr(feature, option, None) or None
            if wanted != got:
                raise ValueError(
                    f"features {other.name!r} and {feature.name!r} share the table {table_of(feature)!r} and must have the same "
                    f"{option}, got {wanted} and {got}"
                )
