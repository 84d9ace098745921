"""Image patches as ONNX nodes.

A convolution whose stride is its kernel is the GEMM of the patches, [B, P, C p p] times [C p p, D]:
an ordinary unit, ``embedding.patch.projection``.

Legend: B batch, S positions, C color channels, P patches, p patch size, D width.
"""

from typing import Final

import numpy as np

from orchestrator.arrays import Float32Array
from orchestrator.modeling.component import Grid
from orchestrator.modeling.embeddings.configs import ImageConfig, MaskedPatchConfig
from orchestrator.quantization.emission.graph import GraphBuilder
from orchestrator.quantization.emission.norms import FLOAT, with_bias
from orchestrator.quantization.emission.weights import Weights

CUBIC: Final = -0.75
CUBIC_ANTIALIASED: Final = -0.5
"""Coefficients of torch's bicubic interpolation, without and with antialiasing; with it, weights of
pixels outside are left out, not those of the nearest pixel repeated."""


def emit_patches(
    graph: GraphBuilder, weights: Weights, name: str, config: ImageConfig
) -> tuple[str, str]:
    """Declare ``pixel_values`` [B, C, height, width], and project its patches.

    Returns:
        Tokens and patches [B, S, D], and the images.
    """
    size = config.patch_size
    sides = ["height", "width"] if config.interpolate else [config.image_size] * 2
    pixels = graph.input("pixel_values", ["batch", config.channels, *sides], FLOAT)
    kernel = weights.array(f"{name}.projection.weight")
    weight = np.ascontiguousarray(kernel.reshape(len(kernel), -1).T)
    rows, columns = _grid(graph, pixels, size)
    apart = graph.op(
        "Concat",
        [graph.shape(0, config.channels), rows, graph.shape(size), columns, graph.shape(size)],
        axis=0,
    )
    cut = graph.op("Reshape", [pixels, apart])
    cut = graph.op("Transpose", [cut], perm=[0, 2, 4, 1, 3, 5])
    count = graph.op("Mul", [rows, columns])
    shape = graph.op("Concat", [graph.shape(0), count, graph.shape(weight.shape[0])], axis=0)
    product = graph.gemm(f"{name}.projection", graph.op("Reshape", [cut, shape]), weight)
    bias = weights.bias(f"{name}.projection")
    patches = with_bias(graph, product, (f"{name}.projection.bias", bias))
    if isinstance(config, MaskedPatchConfig):
        weights.leave(f"{name}.mask_token")
    present = {"class_token": config.class_token, "distillation_token": config.distillation_token}
    tokens = [weights.array(f"{name}.{token}") for token, has in present.items() if has]
    if not tokens:
        return patches, pixels
    first = tokens_of_batch(graph, patches, np.stack(tokens), f"{name}.tokens")
    return graph.op("Concat", [first, patches], axis=1), pixels


def emit_grid_positions(
    graph: GraphBuilder, name: str, table: Float32Array, pixels: str, grid: Grid
) -> str:
    """Return positions [S, D] of images of any size: rows of patches are interpolated.

    Args:
        graph: Where the nodes go.
        name: Name of the part.
        table: Its rows [tokens + side * side, D].
        pixels: The images.
        grid: The patches that the table was made for.
    """
    width, tokens = table.shape[1], len(table) - grid.side**2
    plane = table[tokens:].T.reshape(1, width, grid.side, grid.side)
    rows, columns = _grid(graph, pixels, grid.patch_size)
    sizes = graph.op("Concat", [graph.shape(1, width), rows, columns], axis=0)
    resized = graph.op(
        "Resize",
        [graph.constant(f"{name}.patches", plane), "", "", sizes],
        mode="cubic",
        cubic_coeff_a=CUBIC_ANTIALIASED if grid.antialias else CUBIC,
        antialias=int(grid.antialias),
        exclude_outside=int(grid.antialias),
    )
    flat = graph.op("Reshape", [resized, graph.shape(width, -1)])
    patches = graph.op("Transpose", [flat], perm=[1, 0])
    first = graph.constant(f"{name}.tokens", table[:tokens])
    return graph.op("Concat", [first, patches], axis=0) if tokens else patches


def tokens_of_batch(graph: GraphBuilder, x: str, tokens: Float32Array, name: str) -> str:
    """Repeat vectors [n, D] for each row of x: [B, n, D]."""
    batch = graph.op("Shape", [x], start=0, end=1)
    shape = graph.op("Concat", [batch, graph.shape(*tokens.shape)], axis=0)
    return graph.op("Expand", [graph.constant(name, tokens), shape])


def all_real(graph: GraphBuilder, x: str) -> str:
    """Return a mask of ones for x [B, S, D], int32 [B, S]."""
    return graph.op("Expand", [graph.scalar(1, np.int32), graph.op("Shape", [x], start=0, end=2)])


def _grid(graph: GraphBuilder, pixels: str, size: int) -> tuple[str, str]:
    """Return how many patches a column and a row have, int64 [1] each."""
    sides = (graph.op("Shape", [pixels], start=axis, end=axis + 1) for axis in (2, 3))
    rows, columns = (graph.op("Div", [side, graph.shape(size)]) for side in sides)
    return rows, columns
