"""Per-task vectors -> Gram matrix, in cache-sized blocks: a [T, n] matrix never exists."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from equipoise.solve.simplex import hull
from equipoise.transfer import Waiting, to_host

BLOCK = 2**16
"""Entries of a vector that are multiplied at a time: T blocks of this size stay in a core's cache."""

SMALL = 1e-30  # squared norm below which float32 squares lose digits, then vanish
NEAR = 1e-5
"""Squared distance of 0 from the hull of the rows at length 1, below which float32 products cannot tell it from 0."""


def gram(rows: Sequence[Sequence[Tensor]]) -> Tensor:
    """Return M [T, T] float64 on the CPU, `M_ij = sum over tensors of <rows[i][k], rows[j][k]>`.

    Products are summed in float32 (float64 for float64 rows) within a block and in float64 across blocks. A row whose
    squares would vanish in float32 (squared norm below 1e-30), or rows that all but cancel, have all products redone in
    float64: whether 0 lies in their convex hull hangs on digits that float32 does not have. One transfer, two then.

    Args:
        rows: T sequences of tensors; the k-th tensors of all tasks have one shape. Dense, or all coalesced sparse.

    Raises:
        ValueError: no rows, or tasks with different numbers or shapes of tensors.
    """
    return grams([rows])[0]


def grams(many: Sequence[Sequence[Sequence[Tensor]]], along: Sequence[Waiting] = ()) -> list[Tensor]:
    """Return `gram` of each of several sets of rows, by one transfer for all; one more where float32 is too coarse.

    Args:
        along: numbers that are read by the same transfer.
    """
    each = [_columns(rows) for rows in many]
    found = to_host([_products(columns, torch.float32) for columns in each], along)
    small = [k for k, m in enumerate(found) if coarse([m])]
    if small:
        for k, m in zip(small, to_host([_products(each[k], torch.float64) for k in small]), strict=True):
            found[k] = m
    return found


def coarse(each: Sequence[Tensor]) -> bool:
    """Whether products [T, T] made in float32, one or one a tensor, must be made again in float64.

    Rows vanish in all tensors together, or those of a tensor all but cancel.
    """
    total = torch.stack(list(each)).sum(0)
    return bool((total.diagonal() < SMALL).any()) or any(_cancels(m) for m in each)


def _cancels(m: Tensor) -> bool:
    """Whether 0 lies within sqrt(NEAR) of the hull of the rows at length 1; rows of length 0 are left out."""
    there = m.diagonal() > 0
    scaled = cosines(m)[there][:, there]
    if len(scaled) < 2 or float(scaled.min()) >= 0.0 or not bool(scaled.isfinite().all()):
        return False  # no row against another
    if float(torch.linalg.eigvalsh(scaled)[0]) > NEAR:
        return False
    weights = torch.from_numpy(hull(scaled.numpy())[0])
    return float(weights @ scaled @ weights) <= NEAR


def _columns(rows: Sequence[Sequence[Tensor]]) -> list[tuple[Tensor, ...]]:
    """Return the rows' tensors, [tensors][T]; ValueError as `gram` says."""
    if not rows or any(len(row) != len(rows[0]) for row in rows) or not rows[0]:
        raise ValueError(
            f"rows must hold one equally long, non-empty list of tensors a task, got lengths {[len(row) for row in rows]}"
        )
    columns = list(zip(*rows, strict=True))
    for column in columns:
        if any(v.shape != column[0].shape for v in column):
            raise ValueError(f"rows must have one shape a tensor, got {[tuple(v.shape) for v in column]}")
    return columns


def cross(first: Sequence[Sequence[Tensor]], second: Sequence[Sequence[Tensor]]) -> Tensor:
    """Return [T, T] float64 on the CPU, `sum over tensors of <first[i][k], second[j][k]>`, rows as in `gram`."""
    num = len(first)
    return gram([*first, *second])[:num, num:]


def products(rows: Tensor, least: torch.dtype) -> Tensor:
    """Return [T, T] of rows [T, ...] that fit a core's cache, in the wider of their dtype and `least`."""
    block = rows.reshape(len(rows), -1).to(torch.promote_types(rows.dtype, least))
    return block @ block.T


def _products(columns: Sequence[Sequence[Tensor]], least: torch.dtype) -> Tensor:
    """Return [T, T] float64 on the rows' device; blocks are multiplied in the wider of their own dtype and `least`."""
    first = columns[0][0]
    total = torch.zeros(len(columns[0]), len(columns[0]), dtype=torch.float64, device=first.device)
    for column in columns:
        if any(v.is_sparse for v in column):
            total += _sparse(column, least).to(total.device)
            continue
        flat = [v.reshape(-1) for v in column]
        for start in range(0, flat[0].numel(), BLOCK):
            total += products(torch.stack([v[start : start + BLOCK] for v in flat]), least).double()
    return total


def _sparse(column: Sequence[Tensor], least: torch.dtype) -> Tensor:
    """Return [T, T] of inner products, sparse against sparse over common rows, sparse against dense zeros as 0."""
    m = torch.zeros(len(column), len(column), dtype=torch.float64, device=column[0].device)
    column = [v.to(torch.promote_types(v.dtype, least)) for v in column]
    for i, a in enumerate(column):
        for j, b in enumerate(column[: i + 1]):
            product = a * b if a.is_sparse == b.is_sparse else (a.to_dense() * b.to_dense())
            m[i, j] = m[j, i] = (product.coalesce().values() if product.is_sparse else product).double().sum()
    return m


def cosines(gram: Tensor) -> Tensor:
    """Return [T, T] cosines M_ij / sqrt(M_ii M_jj), 0 where a row is 0, within [-1, 1]."""
    norms = gram.diagonal().clamp_min(0.0).sqrt()
    scaled = gram / norms[:, None] / norms[None, :]
    return torch.nan_to_num(scaled, nan=0.0, posinf=0.0, neginf=0.0).clamp(-1.0, 1.0)
