"""Peaks that makers of accelerators publish, and what the metric ``mfu`` is a share of."""

import logging
from dataclasses import dataclass

import torch

from orchestrator.modeling.cost import ceiling_flops

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Peaks:
    """Dense operations a second of one kind of device, without sparsity, by its data sheet.

    Attributes:
        bf16: Matrix products in bf16, accumulated in fp32; 0: the device emulates the format.
        fp16: The same in fp16.
        tf32: The same in TF32; 0: the device does not have it.
        fp32: Everything in fp32.
    """

    bf16: float
    fp16: float
    tf32: float
    fp32: float

    def of(self, dtype: torch.dtype, *, tf32: bool) -> float:
        """Return the peak of products in a number format."""
        if dtype is torch.bfloat16:
            return self.bf16 or self.fp32
        if dtype is torch.float16:
            return self.fp16
        return self.tf32 if tf32 and self.tf32 else self.fp32


PEAKS: dict[str, Peaks] = {
    "B200": Peaks(2250e12, 2250e12, 1125e12, 75e12),
    "H200 NVL": Peaks(835.5e12, 835.5e12, 417.5e12, 60e12),
    "H200": Peaks(989e12, 989e12, 494.5e12, 67e12),
    "H100 NVL": Peaks(835.5e12, 835.5e12, 417.5e12, 60e12),
    "H100 PCIe": Peaks(756e12, 756e12, 378e12, 51e12),
    "H100": Peaks(989e12, 989e12, 494.5e12, 67e12),
    "A100": Peaks(312e12, 312e12, 156e12, 19.5e12),
    "L40S": Peaks(362e12, 362e12, 183e12, 91.6e12),
    "L4": Peaks(121e12, 121e12, 60e12, 30.3e12),
    "A10G": Peaks(70e12, 70e12, 35e12, 35e12),
    "A10": Peaks(125e12, 125e12, 62.5e12, 31.2e12),
    "RTX 4090": Peaks(165.2e12, 165.2e12, 82.6e12, 82.6e12),
    "T4": Peaks(0.0, 65e12, 0.0, 8.1e12),
    "V100": Peaks(0.0, 125e12, 0.0, 15.7e12),
}
"""Peaks by words of the name that the driver reports; more specific names come first.

Sources: NVIDIA's data sheets of each product (B200: HGX; H100 and H200: SXM unless named; V100:
SXM2), halved where they count sparsity; RTX 4090: the Ada architecture whitepaper, appendix A, with
fp32 accumulation.
"""


def published_peak(name: str, dtype: torch.dtype, *, tf32: bool = False) -> float | None:
    """Return the published operations a second of a device, or None if it is not in the table.

    Args:
        name: As the driver reports it, for example ``NVIDIA A100-SXM4-80GB``.
        dtype: Number format of matrix products.
        tf32: Whether products of fp32 run in TF32.
    """
    words = name.replace("-", " ").split()
    for key, peaks in PEAKS.items():
        if set(key.split()) <= set(words):
            return peaks.of(dtype, tf32=tf32)
    return None


def device_peak(device: str, dtype: torch.dtype) -> float:
    """Return the operations a second that ``mfu`` is a share of.

    For an accelerator its maker's figure; for a CPU, or a device that is not in the table, what a
    matrix product reaches.

    Args:
        device: ``cpu``, ``cuda:0``, ...
        dtype: Number format of the forward pass.
    """
    if not device.startswith("cuda"):
        return ceiling_flops(device, dtype)
    name, tf32 = torch.cuda.get_device_name(device), torch.get_float32_matmul_precision()
    peak = published_peak(name, dtype, tf32=tf32 != "highest")
    if peak is None:
        logger.warning("%s has no published peak here: set engine.peak_tflops for mfu", name)
        return ceiling_flops(device, dtype)
    return peak
