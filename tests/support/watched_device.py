"""A device that computes, on the CPU, and counts what a host would wait for on an accelerator.

``fake_device`` runs on torch's ``meta`` device, which DDP, FSDP2 and DeepSpeed do not. Here their
own code runs: what is computed from a tensor of the device lies on the device as well, and reading
a number of it is a wait.
"""

import traceback
from contextlib import ExitStack

import torch
from torch.distributed.tensor import DTensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

READ = (torch.Tensor.tolist, torch.Tensor.numpy, torch.Tensor.cpu)
SCALAR = torch.ops.aten._local_scalar_dense.default
SIZED_BY_VALUES = (torch.ops.aten.nonzero.default, torch.ops.aten.masked_select.default)


class WatchedDevice:
    """Remembers which storages are on the device; ``waits`` says where a host waited."""

    def __init__(self):
        self.waits, self.operations = [], 0
        self._there = {}
        self._stack = ExitStack()

    def put(self, *tensors):
        """Let tensors be on the device."""
        for each in tensors:
            storage = _own(each).untyped_storage()
            self._there[storage._cdata] = StorageWeakRef(storage)

    def has(self, tensor):
        """Return whether a tensor is on the device."""
        found = self._there.get(_own(tensor).untyped_storage()._cdata)
        return found is not None and not found.expired()

    def wait(self):
        """Count a wait, and where it happened."""
        frames = [f for f in traceback.extract_stack() if "/torch/" not in f.filename]
        self.waits.append(f"{frames[-3].filename}:{frames[-3].lineno} {frames[-3].line}")

    def __enter__(self):
        self._stack.enter_context(_Reads(self))
        self._stack.enter_context(_Operations(self))
        return self

    def __exit__(self, *error):
        self._stack.close()


class _Reads(TorchFunctionMode):
    """Methods that read a whole tensor at once."""

    def __init__(self, device):
        super().__init__()
        self.device = device

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in READ and self.device.has(args[0]):
            self.device.wait()
            return func(args[0].clone().detach() if func is READ[2] else args[0])
        return func(*args, **(kwargs or {}))


class _Operations(TorchDispatchMode):
    """Operations: what comes of a tensor of the device is there as well."""

    def __init__(self, device):
        super().__init__()
        self.device = device

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        given = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
        there = any(self.device.has(each) for each in given)
        if there and (func is SCALAR or func in SIZED_BY_VALUES):
            self.device.wait()
        result = func(*args, **kwargs)
        if there and func is not SCALAR:
            self.device.operations += 1
            made = [t for t in tree_leaves(result) if isinstance(t, torch.Tensor)]
            self.device.put(*made, *(given if func._schema.is_mutable else ()))
        return result


def _own(tensor):
    return tensor._local_tensor if isinstance(tensor, DTensor) else tensor
