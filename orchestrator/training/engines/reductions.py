"""Sums over ranks, each where its value lies."""

import torch
from torch import Tensor, distributed


def sum_over_processes(
    value: Tensor, device: torch.device, group: distributed.ProcessGroup | None = None
) -> Tensor:
    """Add a tensor over processes; collective.

    What the host knows, such as the number of labels in its batch, is added by the hosts: through
    the device it would come back only after everything that was queued there.

    Args:
        value: On the host or on the device.
        device: Device of this process; a value of the host goes there where the group has no
            backend for hosts.
        group: The processes; None: all.

    Returns:
        A new tensor, where ``value`` lies.
    """
    total = value.detach()
    away = total.device.type == "cpu" and not hosts_meet()
    total = total.to(device, copy=True) if away else total.clone()
    distributed.all_reduce(total, group=group)
    return total.to(value.device)


def hosts_meet() -> bool:
    """Return whether the process group has a backend for tensors of the host."""
    return "cpu:" in distributed.get_backend_config()
