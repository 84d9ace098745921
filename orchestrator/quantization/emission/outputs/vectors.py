"""The vector of a text as ONNX nodes: pooling and layers as the package states them.

The same computation as ``modeling.sentence.embedder``, which is the oracle of its test. Layers stay
in float, like heads.

Legend: B batch, S length, D width of token vectors, E width of the vector.
"""

from typing import Final

import numpy as np

from orchestrator.modeling.sentence.statement import (
    DenseLayer,
    PoolingMode,
    SentenceEmbedding,
)
from orchestrator.modeling.targets.configs import Pooling
from orchestrator.quantization.backends.onnxruntime_cpu.session import EMBEDDING_MASK
from orchestrator.quantization.emission.graph import GraphBuilder
from orchestrator.quantization.emission.norms import FLOAT
from orchestrator.quantization.emission.outputs.layers import Layers
from orchestrator.quantization.emission.outputs.pooling import Pooler
from orchestrator.quantization.emission.weights import Weights

SENTENCE: Final = "sentence."
"""Beginning of the names of the layers' parameters, among those of the model."""
NORM_FLOOR: Final = 1e-12
POOLINGS: Final[dict[PoolingMode, Pooling]] = {
    "cls": "first",
    "lasttoken": "last",
    "max": "max",
    "mean": "mean",
}
"""Modes that heads have too, by their names there."""


class VectorEmitter:
    """Writes the vector of a text.

    Args:
        graph: Where the nodes go.
        statement: What is computed.
        weights: Parameters, those of the layers under `SENTENCE`.
        pooler: Writes reductions that heads have too.
    """

    def __init__(
        self,
        graph: GraphBuilder,
        statement: SentenceEmbedding,
        weights: Weights,
        pooler: Pooler,
    ) -> None:
        self.graph, self.statement, self.pooler = graph, statement, pooler
        self.layers = Layers(graph, weights)

    def emit(self, hidden: str, mask: str) -> str:
        """Return the vector [B, E], given hidden [B, S, D] and the int32 mask [B, S]."""
        op, chosen = self.graph.op, mask
        if not self.statement.include_prompt:
            pooled = self.graph.input(EMBEDDING_MASK, ["batch", "length"])
            chosen = op("Mul", [mask, pooled])
        parts = [self._pooled(hidden, mask, chosen, mode) for mode in self.statement.pooling]
        vector = parts[0] if len(parts) == 1 else op("Concat", parts, axis=-1)
        for place, layer in enumerate(self.statement.layers):
            if isinstance(layer, DenseLayer):
                vector = self._dense(f"{SENTENCE}layers.{place}", layer, vector)
            else:
                length = op("ReduceL2", [vector, self.graph.shape(1)], keepdims=1)
                vector = op("Div", [vector, op("Max", [length, self.graph.scalar(NORM_FLOOR)])])
        return vector

    def _dense(self, name: str, layer: DenseLayer, x: str) -> str:
        return self.layers.activate(layer.activation, self.layers.linear(name, x, bias=layer.bias))

    def _pooled(self, hidden: str, mask: str, chosen: str, mode: PoolingMode) -> str:
        """Reduce the chosen tokens of hidden [B, S, D] to [B, D]."""
        if mode in POOLINGS:
            return self.pooler.pool(hidden, chosen, POOLINGS[mode])
        op, pooler = self.graph.op, self.pooler
        weights = op("Cast", [chosen], to=FLOAT)
        if mode == "weightedmean":
            axis = self.graph.scalar(1, np.int64)
            places = op("CumSum", [op("Cast", [mask], to=FLOAT), axis])
            weights = op("Mul", [places, weights])
            return op("Div", [pooler.total(hidden, weights), pooler.count(weights)])
        # The mean times the square root of the count (mean_sqrt_len_tokens)
        return op("Div", [pooler.total(hidden, weights), op("Sqrt", [pooler.count(weights)])])
