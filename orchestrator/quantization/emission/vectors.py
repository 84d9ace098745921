"""The vector of a text as ONNX nodes: pooling and layers as the package states them.

The same computation as ``modeling.sentence.embedder``, which is the oracle of its test. Layers stay
in float, like heads.

Legend: B batch, S length, D width of token vectors, E width of the vector.
"""

from collections.abc import Callable
from typing import Final

import numpy as np

from orchestrator.modeling.sentence.statement import (
    DenseLayer,
    PoolingMode,
    SentenceEmbedding,
)
from orchestrator.quantization.backends.onnxruntime_cpu.session import EMBEDDING_MASK
from orchestrator.quantization.emission.graph import GraphBuilder
from orchestrator.quantization.emission.weights import Weights

SENTENCE: Final = "sentence."
"""Beginning of the names of the layers' parameters, among those of the model."""
LOWEST: Final = float(np.finfo(np.float32).min)
FLOAT, BOOL = 1, 9
"""Element types of ONNX."""
NORM_FLOOR: Final = 1e-12
ACTIVATIONS: Final[dict[str, Callable[[GraphBuilder, str], str]]] = {
    "identity": lambda graph, x: x,
    "tanh": lambda graph, x: graph.op("Tanh", [x]),
    "relu": lambda graph, x: graph.op("Relu", [x]),
    "gelu": lambda graph, x: graph.op("Gelu", [x]),
    "sigmoid": lambda graph, x: graph.op("Sigmoid", [x]),
    "silu": lambda graph, x: graph.op("Mul", [x, graph.op("Sigmoid", [x])]),
}


class VectorEmitter:
    """Writes the vector of a text.

    Args:
        graph: Where the nodes go.
        statement: What is computed.
        weights: Parameters, those of the layers under `SENTENCE`.
    """

    def __init__(self, graph: GraphBuilder, statement: SentenceEmbedding, weights: Weights) -> None:
        self.graph, self.statement, self.weights = graph, statement, weights

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
        weight = self.graph.constant(f"{name}.weight", self.weights.matrix(name))
        x = self.graph.op("MatMul", [x, weight])
        if layer.bias:
            bias = self.graph.constant(f"{name}.bias", self.weights.array(f"{name}.bias"))
            x = self.graph.op("Add", [x, bias])
        return ACTIVATIONS[layer.activation](self.graph, x)

    def _pooled(self, hidden: str, mask: str, chosen: str, mode: PoolingMode) -> str:
        """Reduce the chosen tokens of hidden [B, S, D] to [B, D]."""
        graph, op = self.graph, self.graph.op
        if mode in ("cls", "lasttoken"):
            last = int(mode == "lasttoken")
            index = op("ArgMax", [chosen], axis=1, keepdims=1, select_last_index=last)
            return op("GatherND", [hidden, index], batch_dims=1)
        if mode == "max":
            present = op("Unsqueeze", [op("Cast", [chosen], to=BOOL), graph.shape(-1)])
            masked = op("Where", [present, hidden, graph.scalar(LOWEST)])
            return op("ReduceMax", [masked, graph.shape(1)], keepdims=0)
        weights = op("Cast", [chosen], to=FLOAT)
        if mode == "weightedmean":
            axis = graph.constant("sentence.axis", np.asarray(1, np.int64))
            places = op("CumSum", [op("Cast", [mask], to=FLOAT), axis])
            weights = op("Mul", [places, weights])
        rows = op("Unsqueeze", [weights, graph.shape(1)])
        total = op("Squeeze", [op("MatMul", [rows, hidden]), graph.shape(1)])
        count = op("ReduceSum", [weights, graph.shape(1)], keepdims=1)
        count = op("Max", [count, graph.scalar(1.0)])
        return op("Div", [total, op("Sqrt", [count]) if "sqrt" in mode else count])
