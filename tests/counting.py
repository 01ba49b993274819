"""Counts what waits for a device: by torch on CUDA, and on the CPU as if the parameters were on one. No test in here."""

import traceback
import warnings
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

READS = {"_local_scalar_dense", "is_nonzero", "nonzero", "masked_select", "_unique2", "unique_dim", "equal"}
INDEX = {"index", "index_put", "index_put_", "_index_put_impl_"}


def key(tensor):
    return tensor.untyped_storage()._cdata if tensor.layout == torch.strided else id(tensor)


class Waits(TorchDispatchMode):
    """A pretended device: the tensors given, and all that is made of them. `found` has a line of code a read of it.

    Storages are known by address, and `kept` holds on to every one that was seen, so that no address comes again.
    """

    def __init__(self, tensors):
        super().__init__()
        self.kept, self.on_device, self.found = [], set(), []
        for tensor in tensors:
            self.put(tensor)

    def put(self, tensor):
        self.kept.append(tensor)
        self.on_device.add(key(tensor))

    def holds(self, value):
        return isinstance(value, Tensor) and key(value) in self.on_device

    def note(self, what):
        lines = [
            f for f in traceback.extract_stack() if "equipoise" in f.filename or "torch/amp" in f.filename
        ]
        at = next((f for f in reversed(lines) if "counting.py" not in f.filename), None)
        self.found.append(f"{what} at {at.filename.rsplit('/', 1)[-1]}:{at.lineno}" if at else what)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given = tree_leaves((args, kwargs or {}))
        name, held = func.overloadpacket.__name__, any(self.holds(v) for v in given)
        masks = name in INDEX and any(v.dtype == torch.bool for v in given if self.holds(v))
        if held and (name in READS or masks):
            self.note(name)
        result = func(*args, **(kwargs or {}))
        if held:
            written = [a for a, s in zip(args, func._schema.arguments, strict=False) if s.is_write]
            for value in tree_leaves((result, written)):
                if isinstance(value, Tensor):
                    self.put(value)
        else:
            self.kept.extend(v for v in tree_leaves(result) if isinstance(v, Tensor))
        return result


@contextmanager
def waiting(tensors):
    """Yield a list that has a line for each read while the block runs, of these tensors and what is made of them."""
    if any(tensor.is_cuda for tensor in tensors):
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            found = []
            torch.cuda.set_sync_debug_mode("warn")
            try:
                yield found
            finally:
                torch.cuda.set_sync_debug_mode("default")
                found += [
                    f"{w.filename}:{w.lineno}" for w in seen if "called a synchronizing" in str(w.message)
                ]
    else:
        with pretended(tensors) as mode:
            yield mode.found


@contextmanager
def pretended(tensors):
    """Yield a `Waits` that counts while the block runs; `Tensor.cpu` and such return copies that lie on the host."""
    mode = Waits(tensors)
    real = {name: getattr(Tensor, name) for name in ("tolist", "cpu", "numpy", "to")}

    def patched(name):
        def read(self, *args, **kwargs):
            moves = name != "to" or any(isinstance(a, str) and a == "cpu" for a in (*args, *kwargs.values()))
            if not (moves and mode.holds(self)):
                return real[name](self, *args, **kwargs)
            mode.note(name)
            value = torch.empty(self.shape, dtype=self.dtype)
            value.numpy()  # memory of its own
            with torch._C._DisableTorchDispatch():
                value.copy_(self.detach())
            return real[name](value, *args, **kwargs)

        return read

    for name in real:
        setattr(Tensor, name, patched(name))
    try:
        with mode:
            yield mode
    finally:
        for name, function in real.items():
            setattr(Tensor, name, function)
