"""The features of a schema: ids, numbers and lists of ids, and how each is encoded."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from equipoise.data.sharing import check_categorical, check_multi


class Strict(BaseModel):
    """A model that refuses unknown keys and does not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Categorical(Strict):
    """A column of ids. Values seen at least `min_count` times in training get rows 1, 2, ...; all others row 0.

    `buckets` hashes values into that many rows instead of keeping a vocabulary: by CRC-32, with a `seed` other than 0 by `draw.uniform`.
    `quantiles` cuts a column of numbers at that many quantiles of training rows: ids 1 .. quantiles, missing 0.
    Features of one `table` (a feature's own name without it) share a vocabulary, or buckets, and the embeddings of it.
    """

    kind: Literal["categorical"] = "categorical"
    name: str
    column: str | None = None
    min_count: int = Field(default=2, ge=1, lt=2**63)
    max_size: int | None = Field(default=None, ge=1, lt=2**63)
    buckets: int | None = Field(default=None, ge=1, le=2**31 - 2)
    seed: int = Field(default=0, ge=0, lt=2**63)
    quantiles: int | None = Field(default=None, ge=2, le=100_000)
    table: str | None = Field(default=None, min_length=1)

    @model_validator(mode="after")
    def _ways(self) -> Categorical:
        check_categorical(self)
        return self


class Numerical(Strict):
    """A number, transformed, standardised on training rows, cut at +-10; missing (null, NaN) becomes 0, the mean.

    With `scale` "none" it is kept as it is, neither standardised nor cut; missing is 0 too. `signed_log1p`: sign(x) log(1 + |x|).
    """

    kind: Literal["numerical"] = "numerical"
    name: str
    column: str | None = None
    transform: Literal["none", "log1p", "signed_log1p"] = "none"
    scale: Literal["standard", "none"] = "standard"


class Multi(Strict):
    """Several ids a row: a list column, or text cut at `separator`. Pooled by mean or sum in the model.

    Weights, finite and >= 0, come from the column `weights` (as many a row as ids, lists or text cut at `separator`), or from the same
    text by `weight_separator`: "rock:.8,pop:.2" with ":" (the last one of a piece). `max_length` keeps the last ids of a row, the newest
    of a history; how many rows were cut is counted. `table`: as of `Categorical`, so a history shares the table of its item.
    """

    kind: Literal["multi"] = "multi"
    name: str
    column: str | None = None
    separator: str = Field(default=",", min_length=1)
    pooling: Literal["mean", "sum"] = "mean"
    min_count: int = Field(default=2, ge=1, lt=2**63)
    max_size: int | None = Field(default=None, ge=1, lt=2**63)
    weights: str | None = None
    weight_separator: str | None = Field(default=None, min_length=1)
    max_length: int | None = Field(default=None, ge=1, lt=2**63)
    table: str | None = Field(default=None, min_length=1)

    @model_validator(mode="after")
    def _ways(self) -> Multi:
        check_multi(self)
        return self


Feature = Annotated[Categorical | Numerical | Multi, Field(discriminator="kind")]
