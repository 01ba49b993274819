"""Optimizers, options and gradients that the tests of update rules share. No test in here."""

import pytest
import torch

DTYPES = [torch.float32, torch.float64, torch.bfloat16]


def gradients(num, dtype, scale=1.0):
    """Gradients of changing size, one with zeros in it."""
    made = [(scale * (1 + k % 5) * torch.randn(4, 3, dtype=torch.float64)).to(dtype) for k in range(num)]
    made[1][0] = 0
    return made


def built(kind, options, dtype):
    """The optimizer of one parameter, in torch's single-tensor form; skips what this torch does not know."""
    parameter = torch.nn.Parameter(torch.randn(4, 3, dtype=dtype))
    try:
        optimizer = kind([parameter], **{"lr": 0.03, **options})
    except TypeError as error:
        pytest.skip(f"this torch: {error}")
    for group in optimizer.param_groups:
        group["foreach"] = False
    return optimizer, parameter


def same(ours, theirs):
    """Slots of the same names, bit for bit, of the same dtype."""
    assert ours.keys() == theirs.keys()
    for name, slot in theirs.items():
        if isinstance(slot, torch.Tensor):
            assert ours[name].dtype == slot.dtype
            assert torch.equal(ours[name], slot), name
        else:
            assert ours[name] == slot


def has_tensors(options):
    """Whether lr or betas are (float32) tensors."""
    return isinstance(options.get("lr"), torch.Tensor) or isinstance(
        options.get("betas", "0")[0], torch.Tensor
    )


def close(ours, theirs, options):
    """To rounding: theta - lr*u and torch's multiply-adds differ by a few units in the last place.

    torch works the step size out in float32 where lr or betas are float32 tensors: there its place counts.
    """
    eps = 8 * max(torch.finfo(theirs.dtype).eps, torch.finfo(torch.float32).eps * has_tensors(options))
    torch.testing.assert_close(ours, theirs.detach(), rtol=eps, atol=eps)
