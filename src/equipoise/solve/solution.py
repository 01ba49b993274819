"""What every solver takes and returns: a checked Gram matrix in, weights with residual and status out."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

Array = np.ndarray[Any, np.dtype[np.float64]]

DAMPING = 1e-3
"""delta of the damped equation (M + delta * diag(M)) w = 1/w, whose weights a stationary Gram matrix gets."""


class Status(StrEnum):
    """How a solve ended; `str()` is the lower-case value."""

    SOLVED = "solved"
    STATIONARY = "stationary"
    NOT_CONVERGED = "not_converged"


class Solution(NamedTuple):
    """Weights [T], residual (0 is exact; each solver says of what, relative), Newton or active-set steps, status."""

    weights: Tensor
    residual: float
    steps: int
    status: Status


def checked(gram: Tensor) -> Array:
    """Return the Gram matrix as float64 numpy on the CPU (one transfer), symmetric; ValueError as `balance` says.

    It may share the memory of `gram`: read it only.
    """
    if gram.is_complex():
        raise ValueError(f"gram must hold real numbers, got {gram.dtype}")
    matrix = gram.to("cpu", torch.float64).numpy()
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or matrix.size == 0:
        raise ValueError(f"gram must have shape [T, T] with T >= 1, got {tuple(matrix.shape)}")
    if _plainly_a_gram(matrix):
        return matrix
    if not np.isfinite(matrix).all():
        raise ValueError("gram must be finite, got NaN or Inf; leave such tasks out before solving")
    diagonal = np.diag(matrix)
    if (diagonal < 0.0).any():
        raise ValueError(f"gram must have squared norms on its diagonal, got {float(diagonal.min()):g} < 0")
    # Squares below the smallest normal number lose their digits before products do: such norms get that much room.
    number = torch.finfo(gram.dtype if gram.is_floating_point() else torch.float64)
    room = np.sqrt(np.maximum(diagonal, number.tiny))
    slack = max(1e-5, 4 * number.eps) * room[:, None] * room[None, :]
    if (np.abs(matrix - matrix.T) > slack).any():
        raise ValueError("gram must be symmetric, M_ij and M_ji differ by more than rounding; pass U @ U.T")
    if (np.abs(matrix) > room[:, None] * room[None, :] + slack).any():
        raise ValueError("gram must be positive semi-definite, |M_ij| exceeds sqrt(M_ii M_jj); pass U @ U.T")
    return np.asarray((matrix + matrix.T) / 2.0)


def _plainly_a_gram(matrix: Array) -> bool:
    """Return whether it is exactly symmetric and within the bounds of its diagonal, as nearly every one is: a fifth of the checks."""
    diagonal = matrix.diagonal()
    if not (diagonal.min() >= _TINY and diagonal.max() <= _HUGE and (matrix == matrix.T).all()):
        return False
    return bool((matrix * matrix <= diagonal * diagonal[:, None] * (1 + 1e-12)).all())  # NaN is not below


_TINY, _HUGE = 1e-140, 1e140
"""Squared norms whose products neither vanish nor overflow in float64."""


def _numbers(gram: Any) -> np.ndarray[Any, Any]:
    """Return an array of real numbers; ValueError for ragged lists, text and other things."""
    try:
        array: np.ndarray[Any, Any] = np.asarray(gram)
    except ValueError as error:
        raise ValueError("gram must have shape [T, T] with T >= 1, got ragged lists") from error
    if array.dtype.kind not in "fiub":
        raise ValueError(f"gram must hold real numbers [T, T], got {type(gram).__name__} of {array.dtype}")
    return np.asarray(array, dtype=np.float64)


def read(gram: Any) -> tuple[Array, torch.dtype, torch.device]:
    """Return `checked` numpy, and the dtype (float64 unless a floating tensor) and device that weights go back to."""
    tensor = gram.detach() if isinstance(gram, Tensor) else torch.as_tensor(_numbers(gram))
    return checked(tensor), tensor.dtype if tensor.is_floating_point() else torch.float64, tensor.device
