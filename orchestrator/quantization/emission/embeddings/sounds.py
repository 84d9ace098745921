"""Convolutions over sound as ONNX nodes: spectrograms, raw waveforms, convolved positions.

Each convolution is the GEMM of its windows. The wide grouped convolution of positions stays one
float operator. Positions at the end that come from padding are masked, as in the torch modules.

Legend: B batch, F frames of the spectrogram, M mel bins, N samples, S positions, C channels, D
width.
"""

from collections.abc import Sequence

import numpy as np

from orchestrator.modeling.component import Dimensions
from orchestrator.modeling.embeddings.configs import ConvPosConfig, SpeechConfig, WaveformConfig
from orchestrator.quantization.emission.convolution import convolve, convolve_groups
from orchestrator.quantization.emission.embedded import Embedded
from orchestrator.quantization.emission.graph import GraphBuilder
from orchestrator.quantization.emission.norms import FLOAT, INT32, Norm, activate, with_bias
from orchestrator.quantization.emission.weights import Weights

NORM_EPS = 1e-5
"""Added to the variance in the norms between convolutions: torch's default."""


def emit_spectrogram(
    graph: GraphBuilder, weights: Weights, name: str, config: SpeechConfig, sizes: Dimensions
) -> Embedded:
    """Declare ``input_features`` [B, F, M] and ``attention_mask`` [B, F], and shorten them."""
    mask = graph.input("attention_mask", ["batch", "frames"])
    x = graph.input("input_features", ["batch", "frames", config.mel_bins], FLOAT)
    x = graph.op("Mul", [x, _real(graph, mask)])
    for index, (kernel, stride) in enumerate(zip(config.kernels, config.strides, strict=True)):
        unit, half = f"{name}.convolutions.{index}", kernel // 2
        weight = weights.array(f"{unit}.weight")
        product = convolve(graph, unit, x, weight, stride=stride, around=(half, half))
        bias = f"{unit}.bias", weights.array(f"{unit}.bias")
        if config.activation == "gelu":
            x = activate(graph, "gelu", product, bias)
        else:
            both = with_bias(graph, product, bias)
            values, gates = graph.ops("Split", [both], 2, axis=-1, num_outputs=2)
            x = graph.op("Mul", [values, graph.op("Sigmoid", [gates])])
    if config.scale:
        x = graph.op("Mul", [x, graph.scalar(sizes.hidden_size**0.5)])
    around = [2 * (kernel // 2) for kernel in config.kernels]
    return Embedded(x, _shortened(graph, mask, x, (config.kernels, config.strides, around)))


def emit_waveform(
    graph: GraphBuilder, weights: Weights, name: str, config: WaveformConfig
) -> Embedded:
    """Declare ``input_values`` and ``attention_mask`` [B, N], and turn them into frames."""
    mask = graph.input("attention_mask", ["batch", "samples"])
    sound = graph.input("input_values", ["batch", "samples"], FLOAT)
    sound = graph.op("Mul", [sound, graph.op("Cast", [mask], to=FLOAT)])
    x = graph.op("Unsqueeze", [sound, graph.shape(2)])
    for index, stride in enumerate(config.strides):
        layer = f"{name}.layers.{index}"
        weight = weights.array(f"{layer}.conv.weight")
        product = convolve(graph, f"{layer}.conv", x, weight, stride=stride)
        bias = weights.bias(f"{layer}.conv")
        if config.norm == "group" and index > 0:
            named = None if bias is None else (f"{layer}.conv.bias", bias)
            x = activate(graph, "gelu", product, named)
            continue
        x = with_bias(graph, product, (f"{layer}.conv.bias", bias))
        if config.norm == "layer":
            x = Norm(graph, weights, "layernorm", NORM_EPS).plain(f"{layer}.norm", x)
        else:
            x = _normed_channels(graph, weights, f"{layer}.norm", x)
        x = activate(graph, "gelu", x)
    x = Norm(graph, weights, "layernorm", config.norm_eps).plain(f"{name}.norm", x)
    unit = f"{name}.projection"
    product = graph.gemm(unit, x, weights.matrix(unit))
    if config.mask_vector:
        weights.leave(f"{name}.mask_vector")
    hidden = with_bias(graph, product, (f"{unit}.bias", weights.array(f"{unit}.bias")))
    around = [0] * len(config.kernels)
    return Embedded(
        hidden, _shortened(graph, mask, hidden, (config.kernels, config.strides, around))
    )


def emit_convolved_positions(
    graph: GraphBuilder, weights: Weights, name: str, config: ConvPosConfig, before: Embedded
) -> str:
    """Return GELU of a grouped convolution over the real positions, [B, S, D]."""
    direction, gain = weights.array(f"{name}.direction"), weights.array(f"{name}.gain")
    lengths = np.sqrt((direction.astype(np.float64) ** 2).sum(axis=(0, 1)))
    kernel = np.asarray(direction * (gain / lengths), np.float32)
    x = graph.op("Mul", [before.hidden, _real(graph, before.mask)])
    # as many outputs as inputs: an even kernel has one position less behind
    half = config.kernel_size // 2
    around = (half, half - (config.kernel_size % 2 == 0))
    values = kernel, weights.array(f"{name}.bias")
    local = convolve_groups(graph, name, x, values, groups=config.groups, around=around)
    return activate(graph, "gelu", local)


def _normed_channels(graph: GraphBuilder, weights: Weights, layer: str, x: str) -> str:
    """Normalize each channel of [B, S, C] over time, padding included (wav2vec 2.0 base)."""
    by_channel = graph.op("Transpose", [x], perm=[0, 2, 1])
    factors = [
        graph.constant(f"{layer}.{each}", weights.array(f"{layer}.{each}"))
        for each in ("weight", "bias")
    ]
    normed = graph.op("InstanceNormalization", [by_channel, *factors], epsilon=NORM_EPS)
    return graph.op("Transpose", [normed], perm=[0, 2, 1])


def _real(graph: GraphBuilder, mask: str) -> str:
    """Return 1 at real positions and 0 elsewhere, float [B, S, 1]."""
    return graph.op("Unsqueeze", [graph.op("Cast", [mask], to=FLOAT), graph.shape(2)])


def _shortened(
    graph: GraphBuilder,
    mask: str,
    x: str,
    sizes: tuple[Sequence[int], Sequence[int], Sequence[int]],
) -> str:
    """Return which positions of x [B, S, D] are real, int32 [B, S].

    Args:
        graph: Where the nodes go.
        mask: The mask of what was convolved, padded on the right.
        x: The result.
        sizes: Kernels, strides and zeros around the input of each convolution.
    """
    lengths = graph.op("ReduceSum", [mask, graph.shape(1)], keepdims=1)
    for kernel, stride, around in zip(*sizes, strict=True):
        moved = graph.op("Add", [lengths, graph.scalar(around - kernel + stride, np.int32)])
        # padding alone has a negative length, and integer division is toward zero
        moved = graph.op("Max", [moved, graph.scalar(0, np.int32)])
        lengths = graph.op("Div", [moved, graph.scalar(stride, np.int32)])
    count = graph.op("Cast", [graph.op("Shape", [x], start=1, end=2)], to=INT32)
    zero, one = graph.scalar(0, np.int32), graph.scalar(1, np.int32)
    steps = graph.op("Range", [zero, graph.op("Squeeze", [count]), one])
    return graph.op("Cast", [graph.op("Less", [steps, lengths])], to=INT32)
