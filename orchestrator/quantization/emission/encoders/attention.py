"""Self-attention as ONNX nodes: one projection of queries, keys and values, and a fused kernel.

The kernel is ``MultiHeadAttention``, with masks and biases of every form. It cannot limit scores
(Gemma 2) nor hand them on (RealFormer): there the formula is written out.

Legend: B batch, S length, D width, H heads, G heads of keys and values, d head size.
"""

import numpy as np

from orchestrator.arrays import Float32Array
from orchestrator.modeling.component import Dimensions
from orchestrator.modeling.encoders.configs import TransformerConfig
from orchestrator.modeling.layers.bias_options import DisentangledConfig
from orchestrator.quantization.emission.embedded import Embedded
from orchestrator.quantization.emission.encoders.disentangled import DisentangledEmitter
from orchestrator.quantization.emission.encoders.rotary import RotaryEmitter
from orchestrator.quantization.emission.encoders.score_biases import UNREAD, ScoreBiases
from orchestrator.quantization.emission.graph import MICROSOFT, GraphBuilder
from orchestrator.quantization.emission.norms import Norm, with_bias
from orchestrator.quantization.emission.weights import Weights


class AttentionEmitter:
    """Writes the attention of every block.

    Args:
        graph: Where the nodes go.
        config: The encoder.
        dimensions: Sizes of the model.
        weights: Its parameters.
        embedded: Which positions are real.
    """

    def __init__(
        self,
        graph: GraphBuilder,
        config: TransformerConfig,
        dimensions: Dimensions,
        weights: Weights,
        embedded: Embedded,
    ) -> None:
        self.graph, self.config, self.weights, self.embedded = graph, config, weights, embedded
        self.head_size = config.size_of_head(dimensions)
        self.heads, self.groups = config.num_heads, config.num_kv_heads or config.num_heads
        self.scale = config.scale_of_attention(dimensions)
        self.norm = Norm(graph, weights, config.norm, config.norm_eps)
        mask = embedded.mask
        self.biases = ScoreBiases(graph, config, dimensions, weights, mask)
        positions = dimensions.max_position_embeddings
        self.rotary = RotaryEmitter(graph, self.head_size, positions, mask)
        self.distances = None
        if isinstance(config.position_bias, DisentangledConfig):
            bias = config.position_bias
            self.distances = DisentangledEmitter(graph, config, bias, dimensions, weights, mask)
        self._scores = ""

    def emit(self, block: int, x: str) -> str:
        """Return what each position of a block reads, [B, S, H d], before the output projection."""
        layer = f"encoder.layers.{block}.attention"
        weight, bias = self._joined_projection(layer)
        product, bias = self.graph.linear(f"{layer}.qkv", x, weight, bias)
        if self._is_plain(block):
            parts = self.graph.ops("Split", [product], 3, axis=-1, num_outputs=3)
            constant = "" if bias is None else self.graph.constant(f"{layer}.qkv.bias", bias)
            return self._fused(block, (parts[0], parts[1], parts[2]), constant)
        product = with_bias(self.graph, product, (f"{layer}.qkv.bias", bias))
        sizes = [count * self.head_size for count in (self.heads, self.groups, self.groups)]
        parts = self.graph.ops("Split", [product, self.graph.shape(*sizes)], 3, axis=-1)
        query = self._turned(block, f"{layer}.query_norm", parts[0], self.heads)
        key = self._turned(block, f"{layer}.key_norm", parts[1], self.groups)
        key, value = self._repeated(key), self._repeated(parts[2])
        if self.config.attention_softcap is not None or self.config.residual_attention:
            return self._by_formula(block, query, key, value)
        return self._fused(block, (query, key, value), "")

    def _is_plain(self, block: int) -> bool:
        """Return whether the kernel takes the projection as it is, its bias apart."""
        config = self.config
        return (
            config.rotary_of(block) is None
            and config.query_key_norm == "none"
            and self.groups == self.heads
            and self.distances is None
            and config.attention_softcap is None
            and not config.residual_attention
        )

    def _fused(self, block: int, parts: tuple[str, str, str], bias: str) -> str:
        """Attend with queries, keys and values [B, S, H d] and the bias of all three [3 H d]."""
        added = self.biases.of_block(block)
        if self.distances is not None:
            layer = f"encoder.layers.{block}.attention"
            query, key = (self._by_head(part) for part in parts[:2])
            terms = self.distances.emit(layer, query, key)
            added = self.graph.op("Add", [terms, added]) if added else terms
        mask = self.embedded.mask if self.embedded.padded else ""
        inputs = [*parts, bias, mask, added]
        while not inputs[-1]:
            inputs.pop()
        return self.graph.op(
            "MultiHeadAttention",
            inputs,
            domain=MICROSOFT,
            num_heads=self.heads,
            scale=self.scale,
            unidirectional=int(self.config.mask == "causal"),
        )

    def _by_formula(self, block: int, query: str, key: str, value: str) -> str:
        """Attend by softmax(scores) v; the scores may be limited, and added to those before."""
        graph, config = self.graph, self.config
        query, key, value = (self._by_head(part) for part in (query, key, value))
        scores = graph.op("FusedMatMul", [query, key], domain=MICROSOFT, transB=1, alpha=self.scale)
        if config.attention_softcap is not None:
            limit = graph.scalar(config.attention_softcap)
            scores = graph.op("Tanh", [graph.op("Div", [scores, limit])])
            scores = graph.op("Mul", [scores, limit])
        if bias := self.biases.of_block(block):
            scores = graph.op("Add", [scores, bias])
        allowed = self.biases.allowed(block, padded=self.embedded.padded)
        if config.residual_attention:
            scores = graph.op("Add", [scores, self._scores]) if self._scores else scores
            zero = graph.scalar(0.0)
            self._scores = graph.op("Where", [allowed, scores, zero]) if allowed else scores
        if allowed:
            scores = graph.op("Where", [allowed, scores, graph.scalar(UNREAD)])
        mixed = graph.op("MatMul", [graph.op("Softmax", [scores], axis=-1), value])
        mixed = graph.op("Transpose", [mixed], perm=[0, 2, 1, 3])
        return graph.op("Reshape", [mixed, graph.shape(0, 0, self.heads * self.head_size)])

    def _joined_projection(self, layer: str) -> tuple[Float32Array, Float32Array | None]:
        """Put query, key and value side by side: [D, (H + 2 G) d] and its bias, zeros included."""
        names = [f"{layer}.{name}" for name in ("query", "key", "value")]
        matrices = [self.weights.matrix(name) for name in names]
        biases = [self.weights.bias(name) for name in names]
        weight = np.ascontiguousarray(np.concatenate(matrices, axis=1))
        if all(bias is None for bias in biases):
            return weight, None
        whole = [
            np.zeros(matrix.shape[1], np.float32) if bias is None else bias
            for matrix, bias in zip(matrices, biases, strict=True)
        ]
        return weight, np.concatenate(whole)

    def _turned(self, block: int, norm: str, x: str, heads: int) -> str:
        """Normalize and rotate queries or keys [B, S, heads d]."""
        kind, rotary = self.config.query_key_norm, self.config.rotary_of(block)
        if kind == "projection":
            x = self.norm.plain(norm, x)
        elif kind == "head":
            apart = self.graph.op("Reshape", [x, self.graph.shape(0, 0, heads, self.head_size)])
            width = self.graph.shape(0, 0, heads * self.head_size)
            x = self.graph.op("Reshape", [self.norm.plain(norm, apart), width])
        return x if rotary is None else self.rotary.rotate(rotary, x, heads)

    def _repeated(self, x: str) -> str:
        """Give each query head its keys or values: [B, S, G d] to [B, S, H d]."""
        if self.groups == self.heads:
            return x
        graph, size = self.graph, self.head_size
        apart = graph.op("Reshape", [x, graph.shape(0, 0, self.groups, 1, size)])
        repeats = graph.shape(1, 1, 1, self.heads // self.groups, 1)
        repeated = graph.op("Expand", [apart, repeats])
        return graph.op("Reshape", [repeated, graph.shape(0, 0, self.heads * size)])

    def _by_head(self, x: str) -> str:
        """Return [B, H, S, d] for [B, S, H d]."""
        apart = self.graph.op("Reshape", [x, self.graph.shape(0, 0, self.heads, self.head_size)])
        return self.graph.op("Transpose", [apart], perm=[0, 2, 1, 3])
