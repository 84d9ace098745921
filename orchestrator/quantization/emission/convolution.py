"""Convolutions over time as GEMMs of their windows.

k shifted slices side by side, [B, S, k C], times [k C, N]: an ordinary unit, which has every kind.
Convolutions in groups are many small GEMMs, one for each group. They stay one operator in float.

Legend: B batch, S length, C channels before, N channels after, k kernel size.
"""

from typing import Final

import numpy as np

from orchestrator.arrays import Float32Array
from orchestrator.quantization.emission.graph import GraphBuilder

TO_THE_END: Final = 2**62
"""End of an ONNX Slice beyond every length."""


def convolve(
    graph: GraphBuilder,
    unit: str,
    x: str,
    kernel: Float32Array,
    *,
    stride: int = 1,
    around: tuple[int, int] = (0, 0),
) -> str:
    """Convolve x [B, S, C] with a kernel [N, C, k] to [B, S', N], without bias.

    Args:
        graph: Where the nodes go.
        unit: Name of the GEMM.
        x: The input.
        kernel: Weight of a torch ``Conv1d`` without groups.
        stride: Positions that the kernel advances.
        around: Zeros before and after the input.
    """
    count, _, size = kernel.shape
    weight = np.ascontiguousarray(kernel.transpose(2, 1, 0).reshape(-1, count))
    return graph.gemm(unit, _windows(graph, x, size, stride, around), weight)


def convolve_groups(
    graph: GraphBuilder,
    layer: str,
    x: str,
    parameters: tuple[Float32Array, Float32Array],
    *,
    groups: int,
    around: tuple[int, int],
) -> str:
    """Convolve x [B, S, D] in groups of channels, bias included, in float.

    Args:
        graph: Where the nodes go.
        layer: Name of the layer.
        x: The input.
        parameters: Kernel [D, D / groups, k] and bias [D].
        groups: Number of groups.
        around: Zeros before and after the input.
    """
    kernel, bias = parameters
    values = [
        graph.op("Transpose", [x], perm=[0, 2, 1]),
        graph.constant(f"{layer}.weight", kernel),
        graph.constant(f"{layer}.bias", bias),
    ]
    local = graph.op("Conv", values, group=groups, pads=list(around))
    return graph.op("Transpose", [local], perm=[0, 2, 1])


def _windows(graph: GraphBuilder, x: str, size: int, stride: int, around: tuple[int, int]) -> str:
    """Put the k positions that each output reads side by side: [B, S, C] to [B, S', k C]."""
    if any(around):
        x = graph.op("Pad", [x, graph.shape(0, around[0], 0, 0, around[1], 0)])
    if size == stride == 1:
        return x
    axis, step = graph.shape(1), graph.shape(stride)
    slices = []
    for start in range(size):
        end = start - size + 1
        ends = graph.shape(end if end < 0 else TO_THE_END)
        slices.append(graph.op("Slice", [x, graph.shape(start), ends, axis, step]))
    return slices[0] if size == 1 else graph.op("Concat", slices, axis=-1)
