"""Heads of every kind as ONNX nodes, and the embedding.

One output for each head that answers in one pass of the encoder: ``logits.<target>``. Its shape is
[B, K] if the head answers each sequence, and [B, S, K] if it answers each token (S is the length of
the padded batch). The same computation as ``predict`` of ``modeling.targets``, which is the oracle
of its test. Heads stay in float (`emission.outputs.layers`).

Legend: B batch, S length, D width, K answers, E width of the embedding.
"""

from typing import Final

import numpy as np

from orchestrator.inference.models import require_embedding, vector_head
from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.sentence.statement import SentenceEmbedding
from orchestrator.modeling.targets.answer_configs import (
    ChoiceConfig,
    SimilarityConfig,
    SpanConfig,
)
from orchestrator.modeling.targets.configs import (
    HeadLayout,
    ItmConfig,
    PairConfig,
    SequenceHeadConfig,
    TargetConfig,
    TransformConfig,
    VectorConfig,
)
from orchestrator.modeling.targets.token_configs import CtcConfig, PromptConfig, TagsConfig
from orchestrator.quantization.backends.onnxruntime_cpu.session import EMBEDDING, LOGITS_PREFIX
from orchestrator.quantization.emission.graph import GraphBuilder
from orchestrator.quantization.emission.norms import INT32
from orchestrator.quantization.emission.outputs.layers import Layers
from orchestrator.quantization.emission.outputs.pooling import Pooler
from orchestrator.quantization.emission.outputs.vectors import VectorEmitter
from orchestrator.quantization.emission.weights import Weights

PAIR_LAYOUT: Final = HeadLayout(pooling="first", hidden=True)
"""Heads of sentence pairs, and of texts with images: BERT's pooler and an output layer."""
ANSWERING: Final = (
    SequenceHeadConfig,
    PairConfig,
    ItmConfig,
    TagsConfig,
    SpanConfig,
    CtcConfig,
    ChoiceConfig,
    SimilarityConfig,
    PromptConfig,
)
"""Heads that are written. Others predict tokens in pre-training, continue a text, or are the
embedding."""

Answers = tuple[str, list[str | int]]
"""Name of a value, and its shape with symbolic dimensions."""


def answering(config: ModelConfig) -> list[TargetConfig]:
    """Return the heads of a model that a graph answers with."""
    return [head for head in config.target if isinstance(head, ANSWERING)]


class HeadEmitter:
    """Writes the embedding and the answers of the heads.

    Args:
        graph: Where the nodes go.
        config: The model's config.
        weights: Its parameters.
        statement: What the embedding is; None: the vector of the head that makes it, else the mean
            over the tokens.
    """

    def __init__(
        self,
        graph: GraphBuilder,
        config: ModelConfig,
        weights: Weights,
        statement: SentenceEmbedding | None = None,
    ) -> None:
        self.graph, self.config, self.weights = graph, config, weights
        self.statement = statement
        self.layers = Layers(graph, weights)
        sizes = config.dimensions
        self.pooler = Pooler(graph, registers=sizes.registers, pad_token=sizes.pad_token_id)

    def emit(self, hidden: str, mask: str) -> None:
        """Declare all outputs, given hidden [B, S, D] and the int32 mask [B, S].

        Raises:
            InputError: The embedding cannot be made by a graph.
        """
        vector, width = self._embedding(hidden, mask)
        self.graph.output(EMBEDDING, vector, ["batch", width])
        for head in answering(self.config):
            answers, shape = self._answers(head, f"targets.{head.name}", hidden, mask)
            self.graph.output(f"{LOGITS_PREFIX}{head.name}", answers, shape)

    def _answers(self, head: TargetConfig, layer: str, hidden: str, mask: str) -> Answers:
        """Return the answers of a head, and their shape."""
        match head:
            case SequenceHeadConfig():
                return self._sequence(head.layout, layer, hidden, mask)
            case TagsConfig() | SpanConfig() | CtcConfig():
                return self._tokens(getattr(head, "transform", None), layer, hidden)
            case ChoiceConfig():
                return self._choice(head, layer, hidden, mask)
            case SimilarityConfig():
                return self._similarity(head, layer, hidden, mask)
            case PromptConfig():
                return self._prompt(head, layer, hidden)
            case _:
                return self._sequence(PAIR_LAYOUT, layer, hidden, mask)

    def _embedding(self, hidden: str, mask: str) -> tuple[str, int]:
        """Return the embedding [B, E] and E."""
        if self.statement is not None:
            emitter = VectorEmitter(self.graph, self.statement, self.weights, self.pooler)
            width = self.statement.width(self.config.hidden_size)
            return emitter.emit(hidden, mask), width
        head = vector_head(self.config)
        if head is None:
            return self.pooler.pool(hidden, mask, "mean"), self.config.hidden_size
        require_embedding(self.config, head)
        return self._vector(head, f"targets.{head.name}", hidden, mask)

    def _vector(self, head: VectorConfig, layer: str, hidden: str, mask: str) -> tuple[str, int]:
        """Return the vector [B, E] of a head, and E."""
        layers, width = self.layers, self.config.hidden_size
        if head.attention is not None:
            return layers.attention_pool(f"{layer}.pool", head.attention, hidden, mask), width
        pooled = self.pooler.pool(hidden, mask, head.pooling)
        if head.norm_eps is not None:
            pooled = layers.norm(f"{layer}.norm", pooled, head.norm_eps)
        if head.hidden:
            pooled = layers.activate("tanh", layers.linear(f"{layer}.dense", pooled))
        if head.projection_size is None:
            return pooled, width
        bias = head.projection_bias
        return layers.linear(f"{layer}.projection", pooled, bias=bias), head.projection_size

    def _sequence(self, layout: HeadLayout, layer: str, hidden: str, mask: str) -> Answers:
        """Return the answers [B, K] of a head over one vector per sequence, and their shape."""
        layers = self.layers
        if layout.pools_last:
            hidden = layers.transform(f"{layer}.transform", layout.transform, hidden)
        pooled = self.pooler.pool(hidden, mask, layout.pooling)
        if layout.norm_eps is not None:
            pooled = layers.norm(f"{layer}.norm", pooled, layout.norm_eps)
        if not layout.pools_last:
            pooled = layers.transform(f"{layer}.transform", layout.transform, pooled)
        if layout.hidden:
            pooled = layers.linear(f"{layer}.dense", pooled)
            pooled = layers.activate(layout.activation, pooled)
        answers = layers.linear(f"{layer}.output", pooled, bias=layout.bias)
        return answers, ["batch", self._outputs(layer)]

    def _tokens(self, transform: TransformConfig | None, layer: str, hidden: str) -> Answers:
        """Return the answers [B, S, K] of a head over every token, and their shape."""
        read = self.layers.transform(f"{layer}.transform", transform, hidden)
        answers = self.layers.linear(f"{layer}.output", read)
        return answers, ["batch", "length", self._outputs(layer)]

    def _choice(self, head: ChoiceConfig, layer: str, hidden: str, mask: str) -> Answers:
        """Return the logit of each sequence, [B, 1]; the caller knows which are one choice."""
        layers = self.layers
        pooled = self.pooler.pool(hidden, mask, head.pooling)
        if head.hidden:
            pooled = layers.linear(f"{layer}.dense", pooled)
            pooled = layers.activate(head.hidden_activation, pooled)
        pooled = layers.transform(f"{layer}.transform", head.transform, pooled)
        return layers.linear(f"{layer}.output", pooled), ["batch", 1]

    def _similarity(self, head: SimilarityConfig, layer: str, hidden: str, mask: str) -> Answers:
        """Return one vector per sequence, not normalized, [B, E]."""
        pooled = self.pooler.pool(hidden, mask, head.pooling)
        if head.projection_size is None:
            return pooled, ["batch", self.config.hidden_size]
        return self.layers.linear(f"{layer}.projection", pooled), ["batch", head.projection_size]

    def _prompt(self, head: PromptConfig, layer: str, hidden: str) -> Answers:
        """Return the mean logit of the words of each class at the first masked position, [B, K]."""
        op, graph = self.graph.op, self.graph
        found = op("Equal", ["input_ids", graph.scalar(head.mask_token, np.int32)])
        place = op("ArgMax", [op("Cast", [found], to=INT32)], axis=1, keepdims=1)
        vector = op("GatherND", [hidden, place], batch_dims=1)
        if head.transform:
            config = TransformConfig(
                activation=head.activation,
                bias=head.transform_bias,
                norm_eps=head.norm_eps,
                norm_bias=head.norm_bias,
            )
            vector = self.layers.transform(f"{layer}.transform_layer", config, vector)
        # The mean over words is linear, so it is taken of the weights: one output per class.
        ends = np.cumsum([len(words) for words in head.words])[:-1]
        parts = np.split(self.weights.array(f"{layer}.output.weight"), ends)
        weight = np.stack([part.mean(axis=0) for part in parts], axis=1)
        answers = op("MatMul", [vector, graph.constant(f"{layer}.classes.weight", weight)])
        if head.bias:
            biases = np.split(self.weights.array(f"{layer}.output.bias"), ends)
            bias = np.asarray([part.mean() for part in biases], np.float32)
            answers = op("Add", [answers, graph.constant(f"{layer}.classes.bias", bias)])
        return answers, ["batch", head.num_labels]

    def _outputs(self, layer: str) -> int:
        return len(self.weights.array(f"{layer}.output.weight"))
