"""An accelerator that computes nothing: torch's ``meta`` device, which refuses to be mixed.

Every operation runs on shapes alone. What is read back or copied to the CPU is ones; an operation
that gets tensors of both devices fails, as it would on a GPU.
"""

from contextlib import nullcontext

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

DEVICE = torch.device("meta")
COPIES = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)


class FakeDevice(TorchDispatchMode):
    """Counts what ran there in ``operations``, and what a host would wait for in ``waits``.

    A wait is a number, a copy to the host, or a result whose size depends on values.
    """

    def __init__(self):
        super().__init__()
        self.operations = 0
        self.waits = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        del types
        kwargs = kwargs or {}
        tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
        there = [t for t in tensors if t.device.type == "meta"]
        if func is torch.ops.aten._local_scalar_dense.default and there:
            self.waits.append(func)
            return 1.0 if there[0].is_floating_point() else 1
        leaves = tree_leaves((args, kwargs))
        if there and any(isinstance(each, torch.device) and each.type == "cpu" for each in leaves):
            self.waits.append(func)
            dtypes = [each for each in leaves if isinstance(each, torch.dtype)]
            return torch.ones(args[0].shape, dtype=dtypes[0] if dtypes else args[0].dtype)
        if func in COPIES:
            back = there and func is COPIES[1] and args[0].device.type == "cpu"
            self.waits += [func] if back else []
            return args[0].fill_(1) if back else func(*args, **kwargs)
        if func is torch.ops.aten.index.Tensor and there:
            self.waits += [func for index in args[1] if index is not None and _is_mask(index)]
            args = (args[0], [i for index in args[1] for i in _everything(index)])
        if func is torch.ops.aten.nonzero.default and there:
            self.waits.append(func)
            return args[0].new_empty((args[0].numel(), args[0].dim()), dtype=torch.int64)
        mixed = there and any(t.dim() and t.device.type != "meta" for t in tensors)
        assert not mixed, f"{func} gets tensors of two devices"
        self.operations += bool(there)
        return func(*args, **kwargs)


def _is_mask(index):
    return index.dtype is torch.bool


def _everything(index):
    """Turn a mask into the indices of all places: how much it selects depends on values."""
    if index is None or not _is_mask(index):
        return [index]
    return [index.new_empty(index.numel(), dtype=torch.int64) for _ in range(index.dim())]


def without_autocast(monkeypatch):
    """Leave autocast out: it does not know the device."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda *_: False)


def sgd(module, config, precision="fp32"):
    """Build an optimizer that runs anywhere: AdamW's fused kernel has no ``meta`` form."""
    from orchestrator.training.engines.optimizers import parameter_groups

    del precision
    return torch.optim.SGD(parameter_groups(module, config), lr=config.learning_rate)


def flagged_sgd(module, config, precision="fp32"):
    """Build one whose engine lets the device decide; the ones that are read say: left out."""
    optimizer = sgd(module, config, precision)
    optimizer._step_supports_amp_scaling = True  # as AdamW's fused kernel; this one takes no flag
    optimizer.register_step_pre_hook(lambda self, *_: setattr(self, "found_inf", None))
    return optimizer
