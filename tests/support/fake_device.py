"""An accelerator that computes nothing: torch's ``meta`` device, which refuses to be mixed.

Every operation runs on shapes alone. What is read back or copied to the CPU is ones; an operation
that gets tensors of both devices fails, as it would on a GPU.
"""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

DEVICE = torch.device("meta")
COPIES = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)


class FakeDevice(TorchDispatchMode):
    """Counts what ran there in ``operations``."""

    def __init__(self):
        super().__init__()
        self.operations = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        del types
        kwargs = kwargs or {}
        tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
        there = [t for t in tensors if t.device.type == "meta"]
        if func is torch.ops.aten._local_scalar_dense.default and there:
            return 1.0 if there[0].is_floating_point() else 1
        leaves = tree_leaves((args, kwargs))
        if there and any(isinstance(each, torch.device) and each.type == "cpu" for each in leaves):
            dtypes = [each for each in leaves if isinstance(each, torch.dtype)]
            return torch.ones(args[0].shape, dtype=dtypes[0] if dtypes else args[0].dtype)
        if func in COPIES:
            back = there and func is COPIES[1] and args[0].device.type == "cpu"
            return args[0].fill_(1) if back else func(*args, **kwargs)
        if func is torch.ops.aten.index.Tensor and there:
            args = (args[0], [i for index in args[1] for i in _everything(index)])
        if func is torch.ops.aten.nonzero.default and there:
            return args[0].new_empty((args[0].numel(), args[0].dim()), dtype=torch.int64)
        mixed = there and any(t.dim() and t.device.type != "meta" for t in tensors)
        assert not mixed, f"{func} gets tensors of two devices"
        self.operations += bool(there)
        return func(*args, **kwargs)


def _everything(index):
    """Turn a mask into the indices of all places: how much it selects depends on values."""
    if index is None or index.dtype is not torch.bool:
        return [index]
    return [index.new_empty(index.numel(), dtype=torch.int64) for _ in range(index.dim())]


def sgd(module, config):
    """Build an optimizer that runs anywhere: AdamW's fused kernel has no ``meta`` form."""
    from orchestrator.training.optimizers import parameter_groups

    return torch.optim.SGD(parameter_groups(module, 0.0), lr=config.learning_rate)
