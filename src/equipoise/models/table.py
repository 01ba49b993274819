"""The rows of an embedding table that a batch touches, as a small dense matrix whose gradient is row-sparse."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class TouchedRows(torch.autograd.Function):
    """(table [R, d], rows [U] distinct, ascending) -> [U, d]; the table's gradient is a coalesced sparse tensor of those rows.

    So whatever reads the rows, often and in any order, is summed in [U, d] and nothing of the table's size is made; ids are
    sorted once a batch, not once a task.
    """

    @staticmethod
    def forward(ctx: Any, table: Tensor, rows: Tensor) -> Tensor:
        """Return a copy of the rows."""
        ctx.save_for_backward(rows)
        ctx.size = table.shape
        return table[rows]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        """Return the rows' gradient as a sparse tensor."""
        (rows,) = ctx.saved_tensors
        found = torch.sparse_coo_tensor(
            rows.unsqueeze(0), grads[0], ctx.size, is_coalesced=True, check_invariants=False
        )
        return found, None


def touched_rows(table: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Return (the distinct rows [U, d] of the table that `ids` name, ids of the same shape into them)."""
    rows, inverse = torch.unique(ids, return_inverse=True)
    found: Tensor = TouchedRows.apply(table, rows)  # type: ignore[no-untyped-call]
    return found, inverse
