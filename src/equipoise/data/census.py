"""Census-Income (KDD), UCI 117: income above 50K and never married, the two tasks of the MMoE paper."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from equipoise.data.features import Categorical, Feature, Numerical
from equipoise.data.label import Label
from equipoise.data.published import Report
from equipoise.data.schema import Schema
from equipoise.data.store import Log
from equipoise.data.tell import Tell, silent
from equipoise.data.write import write_log

COLUMNS = [
    "age",
    "class_worker",
    "det_ind_code",
    "det_occ_code",
    "education",
    "wage_per_hour",
    "hs_college",
    "marital_stat",
    "major_ind_code",
    "major_occ_code",
    "race",
    "hisp_origin",
    "sex",
    "union_member",
    "unemp_reason",
    "full_or_part_emp",
    "capital_gains",
    "capital_losses",
    "stock_dividends",
    "tax_filer_stat",
    "region_prev_res",
    "state_prev_res",
    "det_hh_fam_stat",
    "det_hh_summ",
    "instance_weight",
    "mig_chg_msa",
    "mig_chg_reg",
    "mig_move_reg",
    "mig_same",
    "mig_prev_sunbelt",
    "num_emp",
    "fam_under_18",
    "country_father",
    "country_mother",
    "country_self",
    "citizenship",
    "own_or_self",
    "vet_question",
    "vet_benefits",
    "weeks_worked",
    "year",
    "income_50k",
]
"""Names of the 42 columns in the order of the raw files, as the public MMoE code for this data set has them."""

NUMERICAL = (
    "age",
    "wage_per_hour",
    "capital_gains",
    "capital_losses",
    "stock_dividends",
    "num_emp",
    "weeks_worked",
)
LOG_SCALED = ("wage_per_hour", "capital_gains", "capital_losses", "stock_dividends")
KINDS = ("data", "test")
ROWS = {"data": 199_523, "test": 99_762}
INCOMES = ("- 50000.", "50000+.")
NOT_FEATURES = ("income_50k", "marital_stat", "instance_weight")


def schema() -> Schema:
    """Return 7 numerical and 32 categorical features, and the two labels."""
    features: list[Feature] = []
    for name in COLUMNS:
        if name in NUMERICAL:
            features.append(Numerical(name=name, transform="log1p" if name in LOG_SCALED else "none"))
        elif name not in NOT_FEATURES:
            features.append(Categorical(name=name))
    labels = (
        Label(name="income", column="income_50k", positive="50000+."),
        Label(name="never_married", column="marital_stat", positive="Never married"),
    )
    return Schema(features=tuple(features), labels=labels)


def read(path: Path) -> pl.DataFrame:
    """Return one raw file with the published columns: headerless text with leading spaces, or Parquet.

    Raises:
        ValueError: another number of columns in any line, a file that cannot be read, an income that is neither
            "- 50000." nor "50000+." or a word where a number belongs (as in a last line that was cut off).
    """
    try:
        return _tidy(path)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise ValueError(
            f"raw {str(path)!r} cannot be read as Census-Income, it may be cut off or damaged: "
            f"{str(error).splitlines()[0]}"
        ) from error


def _tidy(path: Path) -> pl.DataFrame:
    if path.suffix == ".parquet":
        frame = pl.read_parquet(path)
        if missing := [name for name in COLUMNS if name not in frame.columns]:
            raise ValueError(
                f"raw {str(path)!r} must have the column {missing[0]!r} of Census-Income, it has not"
            )
        frame = frame.select(COLUMNS)
    else:
        frame = pl.read_csv(path, has_header=False, infer_schema=False)
        if frame.width != len(COLUMNS):
            raise ValueError(f"raw {str(path)!r} must have {len(COLUMNS)} columns, got {frame.width}")
        frame.columns = list(COLUMNS)
    text = [name for name, dtype in frame.schema.items() if dtype == pl.String]
    frame = frame.with_columns(pl.col(text).str.strip_chars())
    strange = frame["income_50k"].is_in(INCOMES).not_().fill_null(True)
    if strange.any():
        raise ValueError(
            f"raw {str(path)!r} must end every row in one of {list(INCOMES)}, got "
            f"{frame['income_50k'].filter(strange)[0]!r} in row {strange.arg_max()}; the file may be cut off"
        )
    return frame.with_columns(pl.col(NUMERICAL).cast(pl.Float64))


def prepare(
    raw: str | Path, out: str | Path, *, seed: int = 0, overwrite: bool = False, tell: Tell = silent
) -> Log:
    """Prepare `census-income.data` and `.test`: 10 % of the first (seeded) for validation, the second for test.

    With one file only (either, `.parquet` too) its rows are split 60/10/30 by `seed`. `raw` is a folder or a file;
    the text files may be gzipped.

    Raises:
        ValueError: no such file, more than one of a kind (`.test` beside `.test.gz`), contents as `read` says.
    """
    raw = Path(raw)
    files = [raw] if raw.is_file() else sorted(p for k in KINDS for p in raw.glob(f"census-income.{k}*"))
    if not files:
        raise ValueError(
            f"raw {str(raw)!r} must hold census-income.data and census-income.test (or .parquet), found none"
        )
    generator = np.random.default_rng(seed)
    for kind in KINDS:
        if len(same := [f.name for f in files if f".{kind}" in f.name]) > 1:
            raise ValueError(f"raw {str(raw)!r} must hold one census-income.{kind}, got {', '.join(same)}")
    tell(f"reading {', '.join(file.name for file in files)}", 0, None)
    if len(files) == 2:
        frame = read(files[0])
        draw = pl.Series(generator.random(frame.height))
        parts = {
            "train": frame.filter(draw >= 0.1),
            "valid": frame.filter(draw < 0.1),
            "test": read(files[1]),
        }
    else:
        frame = read(files[0])
        draw = pl.Series(generator.permutation(frame.height) / frame.height)
        parts = {
            "train": frame.filter(draw < 0.6),
            "valid": frame.filter((draw >= 0.6) & (draw < 0.7)),
            "test": frame.filter(draw >= 0.7),
        }
    report = Report("UCI")
    for file in files:
        kind = next((k for k in KINDS if f".{k}" in file.name), "")
        whole = parts["test"].height if len(files) == 2 and kind == "test" else frame.height
        report.count(f"{file.name} rows", whole, ROWS.get(kind))
    notes = {"files": [f.name for f in files], "seed": seed}
    return write_log(out, parts, schema(), overwrite=overwrite, notes=notes | report.notes(), tell=tell)
