"""DeBERTa's scores of content against distances, as ONNX nodes.

The projected vectors of distances do not depend on the text, so they are computed when the graph
is written: no unit has them. One more product per term has a column for each distance of a text,
2 S in all, from which each query takes its own S: a shift by one per row, done by two views of the
same memory in place of a look-up of S x S indices.

Legend: B batch, S length, H heads, d head size, D width, P positions of the model, R vectors.
"""

from functools import cached_property

import numpy as np
import torch

from orchestrator.arrays import AnyArray, Float32Array
from orchestrator.modeling.component import Dimensions
from orchestrator.modeling.encoders.configs import TransformerConfig
from orchestrator.modeling.layers.bias_options import DisentangledConfig
from orchestrator.modeling.layers.disentangled import bucket
from orchestrator.quantization.emission.graph import MICROSOFT, GraphBuilder
from orchestrator.quantization.emission.weights import Weights


class DisentangledEmitter:
    """Writes the terms that distances add to the scores.

    Args:
        graph: Where the nodes go.
        config: The encoder.
        bias: Its options of distances.
        dimensions: Sizes of the model.
        weights: Its parameters.
        mask: The int32 mask [B, S], which knows S.
    """

    def __init__(
        self,
        graph: GraphBuilder,
        config: TransformerConfig,
        bias: DisentangledConfig,
        dimensions: Dimensions,
        weights: Weights,
        mask: str,
    ) -> None:
        self.graph, self.config, self.bias, self.weights = graph, config, bias, weights
        self.positions, self.mask = dimensions.max_position_embeddings, mask
        self.scale = config.scale_of_attention(dimensions)

    def emit(self, layer: str, query: str, key: str) -> str:
        """Return the terms of an attention layer, [B, H, S, S].

        Args:
            layer: Name of the attention.
            query: Queries [B, H, S, d].
            key: Keys [B, H, S, d].
        """
        terms = []
        if self.bias.content_to_position:
            columns = self._columns(layer, "key", self._descending)
            terms.append(self._shifted(query, columns))
        if self.bias.position_to_content:
            columns = self._columns(layer, "query", self._ascending)
            by_key = self._shifted(key, columns)
            terms.append(self.graph.op("Transpose", [by_key], perm=[0, 1, 3, 2]))
        return terms[0] if len(terms) == 1 else self.graph.op("Add", terms)

    def _columns(self, layer: str, name: str, rows: str) -> str:
        """Return the projected vector of each of 2 S distances, [H, 2 S, d]."""
        own = "" if self.bias.shared_projections else "position_"
        matrix, shift = (
            self.weights.matrix(f"{layer}.{own}{name}"),
            self.weights.bias(f"{layer}.{own}{name}"),
        )
        projected = self._vectors.astype(np.float64) @ matrix.astype(np.float64)
        projected = (projected if shift is None else projected + shift) * self.scale
        heads = projected.reshape(len(projected), self.config.num_heads, -1).transpose(1, 0, 2)
        table = self.graph.constant(f"{layer}.distances.{name}", heads.astype(np.float32))
        return self.graph.op("Gather", [table, rows], axis=1)

    def _shifted(self, content: str, columns: str) -> str:
        """Multiply [B, H, S, d] by [H, 2 S, d], and take columns S - 1 - i to 2 S - 1 - i of row i.

        In memory with rows of 2 S, row i begins at 2 S i; its part begins at S - 1 + (2 S - 1) i.
        """
        graph, starts = self.graph, self._start
        every = graph.op("FusedMatMul", [content, columns], domain=MICROSOFT, transB=1)
        flat = graph.op("Reshape", [every, graph.shape(0, 0, -1)])
        flat = graph.op("Slice", [flat, starts, self._end, graph.shape(2)])
        rows = graph.op("Reshape", [flat, self._rows])
        return graph.op("Slice", [rows, graph.shape(0), self._length, graph.shape(3)])

    @cached_property
    def _vectors(self) -> Float32Array:
        """The vectors of distances [R, D], normalized if the model does that."""
        layer = "encoder.position_vectors"
        vectors = self.weights.array(f"{layer}.weight")
        if not self.bias.norm:
            return vectors
        factor, shift = (
            self.weights.array(f"{layer}.norm.weight"),
            self.weights.bias(f"{layer}.norm"),
        )
        wide = torch.from_numpy(vectors.astype(np.float64))
        normed = torch.nn.functional.layer_norm(wide, wide.shape[-1:], eps=self.config.norm_eps)
        scaled = normed.numpy() * factor + (0.0 if shift is None else shift)
        return np.asarray(scaled, np.float32)

    @cached_property
    def _descending(self) -> str:
        """Rows of the distances S - 1, ..., -S, int64 [2 S]."""
        return self._rows_of("descending", np.arange(self.positions - 1, -self.positions - 1, -1))

    @cached_property
    def _ascending(self) -> str:
        """Rows of the distances 1 - S, ..., S, int64 [2 S]."""
        return self._rows_of("ascending", np.arange(1 - self.positions, self.positions + 1))

    def _rows_of(self, name: str, distances: AnyArray) -> str:
        """Return the row of each distance of a text, given those of the longest one [2 P]."""
        graph, span = self.graph, self.bias.span
        distance = torch.from_numpy(np.asarray(distances))
        if self.bias.buckets is not None:
            distance = bucket(distance, self.bias.buckets, self.bias.max_distance)
        rows = (distance + span).clamp(0, 2 * span - 1).numpy()
        table, middle = (
            graph.constant(f"encoder.distances.{name}", rows),
            graph.shape(self.positions),
        )
        ends = (graph.op(op, [middle, self._length]) for op in ("Sub", "Add"))
        return graph.op("Slice", [table, *ends])

    @cached_property
    def _length(self) -> str:
        """S, int64 [1]."""
        return self.graph.op("Shape", [self.mask], start=1, end=2)

    @cached_property
    def _start(self) -> str:
        """S - 1, int64 [1]."""
        return self.graph.op("Sub", [self._length, self.graph.shape(1)])

    @cached_property
    def _end(self) -> str:
        """S - 1 + S (2 S - 1) = 2 S S - 1, int64 [1]."""
        double = self.graph.op("Add", [self._length, self._length])
        return self.graph.op(
            "Sub", [self.graph.op("Mul", [double, self._length]), self.graph.shape(1)]
        )

    @cached_property
    def _rows(self) -> str:
        """The shape of S rows of 2 S - 1, int64 [4]."""
        sizes = [self.graph.shape(0, 0), self._length, self.graph.shape(-1)]
        return self.graph.op("Concat", sizes, axis=0)
