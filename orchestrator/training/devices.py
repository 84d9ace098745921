"""The device that a worker or a trial computes on: what is reserved for it."""

import torch

from orchestrator.errors import InputError


def reserved_device(gpus: float) -> torch.device:
    """Return the GPU where one is reserved for this process, else the CPU.

    Args:
        gpus: ``cluster.gpus_per_worker``; Ray shows a process only the GPUs reserved for it.

    Raises:
        InputError: A GPU is asked for and torch finds none.
    """
    if not gpus:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise InputError(
            f"cluster.gpus_per_worker is {gpus:g}, but torch finds no GPU on this machine. Set it "
            "to 0 to train on the CPU, or install the driver and a build of torch with CUDA."
        )
    return torch.device("cuda", torch.cuda.current_device())
