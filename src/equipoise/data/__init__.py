"""Flow 2: raw log -> schema -> prepared log -> batches."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from equipoise.data import ali_ccp, aliexpress, census, kuairand, movielens, tenrec
from equipoise.data.batches import Batch, Ragged
from equipoise.data.dataset import BatchDataset
from equipoise.data.extend import extend
from equipoise.data.features import Categorical, Multi, Numerical
from equipoise.data.infer import Inferred, infer_schema, parse_label
from equipoise.data.label import Label
from equipoise.data.like import prepare_like
from equipoise.data.schema import Schema, SplitRule
from equipoise.data.simulate import simulate
from equipoise.data.store import Log, Split
from equipoise.data.table import from_frame, prepare_table, read_table
from equipoise.data.write import write_log
from equipoise.names import nearest


def _table(raw: str | Path, out: str | Path, **options: Any) -> Log:
    return prepare_table(raw, out, **options)[0]


DATASETS: dict[str, Callable[..., Log]] = {
    "aliexpress": aliexpress.prepare,
    "ali_ccp": ali_ccp.prepare,
    "kuairand": kuairand.prepare,
    "census_income": census.prepare,
    "tenrec": tenrec.prepare,
    "movielens": movielens.prepare,
    "table": _table,
}
"""What `equipoise prepare` knows: (raw, out, *, overwrite, ...) -> Log."""


def prepare(dataset: str, raw: str | Path, out: str | Path, **options: Any) -> Log:
    """Return a prepared log of a public dataset or of a table; ValueError for an unknown dataset."""
    if dataset not in DATASETS:
        raise ValueError(
            f"dataset must be one of {', '.join(DATASETS)}, got {dataset!r}{nearest(dataset, DATASETS)}"
        )
    return DATASETS[dataset](raw, out, **options)


__all__ = [
    "DATASETS",
    "Batch",
    "BatchDataset",
    "Categorical",
    "Inferred",
    "Label",
    "Log",
    "Multi",
    "Numerical",
    "Ragged",
    "Schema",
    "Split",
    "SplitRule",
    "extend",
    "from_frame",
    "infer_schema",
    "parse_label",
    "prepare",
    "prepare_like",
    "prepare_table",
    "read_table",
    "simulate",
    "write_log",
]
