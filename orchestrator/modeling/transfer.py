"""Transfer of a batch from the host to the device of the model.

Some questions about a batch decide which kernels run: is a position padding, how many labels are
there. Asking an accelerator waits for everything that was queued before, so they are answered here,
while the values are still on the host.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from orchestrator.modeling.interfaces import IGNORED_LABEL, LABELS, PLACES, Batch, all_real

MASKS = ("attention_mask", "decoder_attention_mask", "second.attention_mask")
"""Inputs that are 1 at real positions and 0 at padding, [B, S]."""


def to_device(batch: Mapping[str, Tensor], device: torch.device | str) -> Batch:
    """Return the batch on a device, without waiting for it.

    Args:
        batch: Inputs and labels, on the host.
        device: Where they go. A batch for the CPU is returned as it is: there, reading a mask
            waits for nothing.

    Returns:
        The same values. A mask without padding is ``all_real``, so that attention takes its
        fastest kernels. ``places.<name>`` [N] says where ``labels.<name>`` has labels, by index in
        the flattened labels.
    """
    device = torch.device(device)
    if device.type == "cpu":
        return {key: value.to(device) for key, value in batch.items()}
    moved: Batch = {}
    for key, value in batch.items():
        on_host = value.device.type == "cpu"
        if on_host and key in MASKS and value.dim() == 2 and bool(value.all()):
            moved[key] = all_real(len(value), value.shape[1], device)
            continue
        if on_host and key.startswith(LABELS) and _is_tokens(value):
            places = (value.flatten() != IGNORED_LABEL).nonzero()[:, 0]
            moved[PLACES + key.removeprefix(LABELS)] = _moved(places, device)
        moved[key] = _moved(value, device)
    return moved


def _is_tokens(labels: Tensor) -> bool:
    return labels.dim() > 1 and labels.dtype is torch.int64


def _moved(value: Tensor, device: torch.device) -> Tensor:
    # CUDA copies from pinned memory only without waiting; torch keeps such memory for reuse until
    # the copy is done.
    if device.type == "cuda" and value.device.type == "cpu":
        value = value.pin_memory()
    return value.to(device, non_blocking=True)
