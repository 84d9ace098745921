"""Embedding stacks as ONNX nodes: word, pos, seg, sinusoidalpos; sum; LayerNorm.

Legend: B batch, S length, D width.
"""

import numpy as np

from orchestrator.arrays import Float32Array
from orchestrator.errors import InputError
from orchestrator.modeling.component import EmbeddingConfig
from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.embeddings.configs import (
    PosConfig,
    SegConfig,
    SinusoidalPosConfig,
    WordConfig,
)
from orchestrator.quantization.emission.graph import GraphBuilder
from orchestrator.quantization.emission.weights import Weights

SUPPORTED_PARTS = ("word", "pos", "seg", "sinusoidalpos")
WAVE_BASE = 10000.0


def emit_embedding(graph: GraphBuilder, config: ModelConfig, weights: Weights, mask: str) -> str:
    """Embed ``input_ids`` [B, S] (and ``token_type_ids`` if a part reads them) into [B, S, D].

    Raises:
        InputError: If a part has no ONNX form here.
    """
    ids = graph.input("input_ids", ["batch", "length"])
    length = graph.op("Slice", [graph.op("Shape", [ids]), graph.shape(1), graph.shape(2)])
    total = ""
    for part in config.embedding.parts:
        value = _emit_part(graph, config, weights, part, (ids, mask, length))
        total = graph.op("Add", [total, value]) if total else value
    if not config.embedding.layernorm:
        return total
    scale = graph.constant("embedding.norm.weight", weights.array("embedding.norm.weight"))
    shift = graph.constant("embedding.norm.bias", weights.array("embedding.norm.bias"))
    inputs = [total, scale, shift]
    return graph.op("LayerNormalization", inputs, axis=-1, epsilon=config.embedding.norm_eps)


def _emit_part(
    graph: GraphBuilder,
    config: ModelConfig,
    weights: Weights,
    part: EmbeddingConfig,
    values: tuple[str, str, str],
) -> str:
    ids, mask, length = values
    match part:
        case WordConfig():
            table = weights.array("embedding.word.weight")
            factor = np.float32(config.hidden_size**0.5 if part.scale else 1.0)
            return graph.op("Gather", [graph.constant("embedding.word", table * factor), ids])
        case PosConfig():
            table = weights.array("embedding.pos.weight")
            rows = graph.constant("embedding.pos", table)
            if part.pad_aware:
                return graph.op("Gather", [rows, _real_positions(graph, mask, part.offset)])
            return _first_rows(graph, rows, length, part.offset)
        case SegConfig():
            segments = graph.input("token_type_ids", ["batch", "length"])
            table = weights.array("embedding.seg.weight")
            return graph.op("Gather", [graph.constant("embedding.seg", table), segments])
        case SinusoidalPosConfig():
            table = _waves(config.max_position_embeddings, config.hidden_size, part.layout)
            rows = graph.constant("embedding.sinusoidalpos", table)
            return _first_rows(graph, rows, length, 0)
        case _:
            raise InputError(
                f"embedding part {part.type_name()!r} cannot be quantized yet; supported: "
                f"{', '.join(SUPPORTED_PARTS)}"
            )


def _first_rows(graph: GraphBuilder, table: str, length: str, offset: int) -> str:
    """Take rows [offset, offset + S) of a table; the result [S, D] broadcasts over the batch."""
    end = graph.op("Add", [length, graph.shape(offset)]) if offset else length
    return graph.op("Slice", [table, graph.shape(offset), end, graph.shape(0)])


def _real_positions(graph: GraphBuilder, mask: str, offset: int) -> str:
    """Number real tokens from ``offset``; padding gets the row before it (RoBERTa), or row 0."""
    counted = graph.op("Mul", [graph.op("CumSum", [mask, graph.scalar(1, np.int64)]), mask])
    shifted = graph.op("Add", [counted, graph.scalar(offset - 1, np.int32)])
    return graph.op("Max", [shifted, graph.scalar(0, np.int32)])


def _waves(positions: int, width: int, layout: str) -> Float32Array:
    """Compute the table [positions, D] in float32, as the torch module does in every pass."""
    exponents = np.arange(0, width, 2, dtype=np.float32) / np.float32(width)
    rates = np.power(np.float32(WAVE_BASE), -exponents, dtype=np.float32)
    angles = np.arange(positions, dtype=np.float32)[:, None] * rates
    waves = np.stack([np.sin(angles), np.cos(angles)], axis=-1 if layout == "interleaved" else 1)
    return np.asarray(waves.reshape(positions, width), dtype=np.float32)
