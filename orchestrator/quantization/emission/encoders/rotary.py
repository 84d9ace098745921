"""Rotary positions as ONNX nodes: tables of cosines and sines, one for each set of waves.

The angles are those of ``modeling.layers.relative_positions``, all scalings included. LongRoPE has
other waves for texts beyond the original length: here the length of each text decides, not that of
the longest one of its batch, so that an answer does not depend on the rest of the batch.

Legend: B batch, S length, H heads, d head size, P positions of the model, r rotated channels.
"""

from functools import cached_property

import numpy as np
import torch

from orchestrator.arrays import Float32Array
from orchestrator.modeling.layers.block_options import LongRopeScaling, RotaryConfig
from orchestrator.modeling.layers.relative_positions import frequencies, magnitude
from orchestrator.quantization.emission.graph import MICROSOFT, GraphBuilder
from orchestrator.quantization.emission.norms import INT64


class RotaryEmitter:
    """Rotates queries and keys.

    Args:
        graph: Where the nodes go.
        head_size: d.
        positions: P.
        mask: The int32 mask [B, S], 1 at real positions.
    """

    def __init__(self, graph: GraphBuilder, head_size: int, positions: int, mask: str) -> None:
        self.graph, self.head_size, self.positions, self.mask = graph, head_size, positions, mask
        self._tables: list[RotaryConfig] = []

    def rotate(self, config: RotaryConfig, x: str, heads: int) -> str:
        """Rotate queries or keys x [B, S, H d] by their positions."""
        if config not in self._tables:
            self._tables.append(config)
        name = f"encoder.rotary.{self._tables.index(config)}"
        cosines, sines = self._waves(config)
        channels = config.channels(self.head_size)
        inputs = [
            x,
            self._places(config),
            self.graph.constant(f"{name}.cos", cosines),
            self.graph.constant(f"{name}.sin", sines),
        ]
        return self.graph.op(
            "RotaryEmbedding",
            inputs,
            domain=MICROSOFT,
            num_heads=heads,
            interleaved=int(config.layout == "pairs"),
            rotary_embedding_dim=0 if channels == self.head_size else channels,
        )

    def _waves(self, config: RotaryConfig) -> tuple[Float32Array, Float32Array]:
        """Return cosines and sines [P, r / 2]; of LongRoPE [2 P, r / 2], the long waves last."""
        device, steps = torch.device("cpu"), torch.arange(self.positions).float()
        variants = (False, True) if isinstance(config.scaling, LongRopeScaling) else (False,)
        rates = [frequencies(config, self.head_size, device, long=long) for long in variants]
        angles, size = torch.cat([torch.outer(steps, each) for each in rates]), magnitude(config)
        return (angles.cos() * size).numpy(), (angles.sin() * size).numpy()

    def _places(self, config: RotaryConfig) -> str:
        """Return the first row of a text [1], or the row of each position [B, S]."""
        if not isinstance(config.scaling, LongRopeScaling):
            return self.graph.shape(0)
        graph, first = self.graph, config.scaling.original_max_position_embeddings
        beyond = graph.op("Greater", [self._ends, graph.scalar(first, np.int64)])
        others = graph.scalar(self.positions, np.int64)
        shift = graph.op("Where", [beyond, others, graph.scalar(0, np.int64)])
        return graph.op("Add", [self._steps, shift])

    @cached_property
    def _steps(self) -> str:
        """Positions, int64 [S]."""
        graph = self.graph
        length = graph.op("Squeeze", [graph.op("Shape", [self.mask], start=1, end=2)])
        return graph.op("Range", [graph.scalar(0, np.int64), length, graph.scalar(1, np.int64)])

    @cached_property
    def _ends(self) -> str:
        """Number of positions up to the last real one, int64 [B, 1]."""
        graph = self.graph
        numbers = graph.op("Add", [self._steps, graph.scalar(1, np.int64)])
        real = graph.op("Mul", [graph.op("Cast", [self.mask], to=INT64), numbers])
        return graph.op("ReduceMax", [real, graph.shape(1)], keepdims=1)
