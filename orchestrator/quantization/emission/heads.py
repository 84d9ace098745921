"""Pooling and classification heads as ONNX nodes.

Heads stay in float: they have one GEMM row per text against hundreds in the encoder, and are the
most exposed to error.

Legend: B batch, S length, D width, K classes.
"""

from collections.abc import Sequence
from typing import Final, cast

import numpy as np

from orchestrator.errors import InputError
from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.sentence.statement import SentenceEmbedding
from orchestrator.modeling.targets.configs import (
    ClsConfig,
    PairConfig,
    Pooling,
    TargetConfig,
    VectorConfig,
)
from orchestrator.quantization.backends.onnxruntime_cpu.session import EMBEDDING, LOGITS_PREFIX
from orchestrator.quantization.emission.graph import GraphBuilder
from orchestrator.quantization.emission.vectors import VectorEmitter
from orchestrator.quantization.emission.weights import Weights

EMBEDDING_POOLING: Final[Pooling] = "mean"
"""Pooling of ``Model.pool``, which makes the embedding of a text."""
ACTIVATIONS: Final = {"tanh": "Tanh", "relu": "Relu"}
"""Operator that follows the hidden layer of a head."""
POOLINGS: Final = ("mean", "first", "last", "max")
"""Poolings that have an ONNX form here."""
LOWEST: Final = float(np.finfo(np.float32).min)


class HeadEmitter:
    """Writes the embedding output and one logits output for each classification target.

    Args:
        graph: Where the nodes go.
        config: The model's config.
        weights: Its parameters.
        statement: What the embedding is; None: the mean over the tokens.
    """

    def __init__(
        self,
        graph: GraphBuilder,
        config: ModelConfig,
        weights: Weights,
        statement: SentenceEmbedding | None = None,
    ) -> None:
        self.graph = graph
        self.statement = statement
        self.config = config
        self.weights = weights

    def emit(self, hidden: str, mask: str) -> None:
        """Declare all outputs, given hidden [B, S, D] and the int32 mask [B, S].

        Raises:
            InputError: If the model has no classification target, and states no embedding.
        """
        heads = [
            target for target in self.config.target if isinstance(target, ClsConfig | PairConfig)
        ]
        if not heads and self.statement is None:
            raise InputError(
                f"the package has targets {[target.name for target in self.config.target]}, none "
                "of type cls, sp, nsp or sop: fine-tune it on a classification task first"
            )
        for head in self.config.target:
            _require_supported(head)
        pooled = {how: self._pool(hidden, mask, how) for how in self._poolings(heads)}
        width = self.config.hidden_size
        if self.statement is None:
            vector = pooled[EMBEDDING_POOLING]
        else:
            vector = VectorEmitter(self.graph, self.statement, self.weights).emit(hidden, mask)
            width = self.statement.width(width)
        self.graph.output(EMBEDDING, vector, ["batch", width])
        for head in heads:
            self._classify(head, pooled[_pooling(head)])

    def _classify(self, head: TargetConfig, pooled: str) -> None:
        layer = f"targets.{head.name}"
        if isinstance(head, PairConfig) or (isinstance(head, ClsConfig) and head.hidden):
            name = head.hidden_activation if isinstance(head, ClsConfig) else "tanh"
            pooled = self.graph.op(ACTIVATIONS[name], [self._linear(f"{layer}.dense", pooled)])
        classes = self.weights.array(f"{layer}.output.bias").shape[0]
        logits = self._linear(f"{layer}.output", pooled)
        self.graph.output(f"{LOGITS_PREFIX}{head.name}", logits, ["batch", classes])

    def _linear(self, layer: str, x: str) -> str:
        weight = self.graph.constant(f"{layer}.weight", self.weights.matrix(layer))
        bias = self.graph.constant(f"{layer}.bias", self.weights.array(f"{layer}.bias"))
        return self.graph.op("Add", [self.graph.op("MatMul", [x, weight]), bias])

    def _poolings(self, heads: Sequence[TargetConfig]) -> dict[Pooling, None]:
        own = [EMBEDDING_POOLING] if self.statement is None else []
        return dict.fromkeys([*own, *(_pooling(head) for head in heads)])

    def _pool(self, hidden: str, mask: str, how: Pooling) -> str:
        """Reduce the real positions of hidden [B, S, D] to [B, D]."""
        if how in ("first", "last"):
            index = self.graph.op(
                "ArgMax", [mask], axis=1, keepdims=1, select_last_index=int(how == "last")
            )
            return self.graph.op("GatherND", [hidden, index], batch_dims=1)
        real = self.graph.op("Cast", [mask], to=1)
        if how == "max":
            present = self.graph.op("Cast", [mask], to=9)
            present = self.graph.op("Unsqueeze", [present, self.graph.shape(-1)])
            masked = self.graph.op("Where", [present, hidden, self.graph.scalar(LOWEST)])
            return self.graph.op("ReduceMax", [masked, self.graph.shape(1)], keepdims=0)
        weights = self.graph.op("Unsqueeze", [real, self.graph.shape(1)])
        total = self.graph.op(
            "Squeeze", [self.graph.op("MatMul", [weights, hidden]), self.graph.shape(1)]
        )
        count = self.graph.op("ReduceSum", [real, self.graph.shape(1)], keepdims=1)
        return self.graph.op("Div", [total, count])


def _require_supported(head: TargetConfig) -> None:
    """Refuse layouts of imported heads that have no ONNX form here.

    Raises:
        InputError: If the head has such a pooling, norm, hidden layer or output layer.
    """
    if isinstance(head, VectorConfig) and head.is_embedding:
        raise InputError(
            f"target {head.name!r} makes the embedding by layers of its own, which are not "
            "quantized. Serve the package as it is"
        )
    if not isinstance(head, ClsConfig):
        return
    unsupported = {
        "pooling": head.pooling if head.pooling not in POOLINGS else None,
        "norm_eps": head.norm_eps,
        "hidden_activation": None if head.hidden_activation in ACTIVATIONS else "gelu or none",
        "output_bias": None if head.output_bias else "false",
        "transform": None if head.transform is None else "before the classifier",
    }
    found = [f"{name} {value}" for name, value in unsupported.items() if value is not None]
    if found:
        raise InputError(
            f"target {head.name!r} has {', '.join(found)}; only {', '.join(POOLINGS)} without a "
            f"norm, {' and '.join(ACTIVATIONS)}, and a bias are quantized. Serve the package as "
            "it is, or fine-tune another head"
        )


def _pooling(head: TargetConfig) -> Pooling:
    return cast(Pooling, head.pooling) if isinstance(head, ClsConfig) else "first"
