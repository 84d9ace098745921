"""Layers of heads as ONNX nodes: linear, norm, activation, transform, attention pooling.

They stay in float: a head has one GEMM row per text, or one narrow GEMM per token, against hundreds
of wide ones in the encoder, and is the most exposed to error.

Legend: B batch, S length, D width, K inputs and N outputs of a layer.
"""

from orchestrator.modeling.targets.configs import AttentionPoolingConfig, TransformConfig
from orchestrator.quantization.emission.graph import MICROSOFT, GraphBuilder
from orchestrator.quantization.emission.norms import activate
from orchestrator.quantization.emission.outputs.pooling import row
from orchestrator.quantization.emission.weights import Weights


class Layers:
    """Writes layers of a model by the names of their parameters."""

    def __init__(self, graph: GraphBuilder, weights: Weights) -> None:
        self.graph, self.weights = graph, weights

    def linear(self, layer: str, x: str, *, bias: bool = True) -> str:
        """Return x [..., K] times the layer's weight, plus its bias if it has one, [..., N]."""
        weight = self.graph.constant(f"{layer}.weight", self.weights.matrix(layer))
        product = self.graph.op("MatMul", [x, weight])
        return self.graph.op("Add", [product, self._constant(f"{layer}.bias")]) if bias else product

    def norm(self, layer: str, x: str, eps: float, *, bias: bool = True) -> str:
        """Return the LayerNorm of x [..., K], with its bias if it has one."""
        names = [f"{layer}.weight", *([f"{layer}.bias"] if bias else [])]
        inputs = [x, *map(self._constant, names)]
        return self.graph.op("LayerNormalization", inputs, axis=-1, epsilon=eps)

    def activate(self, name: str, x: str) -> str:
        """Return an activation of heads or of statements, by modeling's name."""
        if name in ("none", "identity"):
            return x
        return self.graph.op("Sigmoid", [x]) if name == "sigmoid" else activate(self.graph, name, x)

    def transform(self, layer: str, config: TransformConfig | None, x: str) -> str:
        """Return ``norm(activation(dense(x)))``, or x where a head has no transform."""
        if config is None:
            return x
        x = self.activate(config.activation, self.linear(f"{layer}.dense", x, bias=config.bias))
        if config.norm_eps is None:
            return x
        return self.norm(f"{layer}.norm", x, config.norm_eps, bias=config.norm_bias)

    def attention_pool(
        self, layer: str, config: AttentionPoolingConfig, hidden: str, mask: str
    ) -> str:
        """Return [B, D]: what a learned query reads of hidden [B, S, D], and its feed-forward.

        The query is asked twice, for the reason that sums have two rows (`outputs.pooling`).
        """
        op, graph = self.graph.op, self.graph
        inner = f"{layer}.attention"
        query = self.weights.array(f"{layer}.query") @ self.weights.matrix(f"{inner}.query")
        query += self.weights.array(f"{inner}.query.bias")
        rows = op("Slice", [op("Shape", [hidden]), graph.shape(0), graph.shape(1)])
        shape = op("Concat", [rows, graph.shape(2, len(query))], axis=0)
        asked = op("Expand", [graph.constant(f"{inner}.query", query), shape])
        keys, values = (self.linear(f"{inner}.{name}", hidden) for name in ("key", "value"))
        inputs = [asked, keys, values, "", mask]
        read = op("MultiHeadAttention", inputs, domain=MICROSOFT, num_heads=config.num_heads)
        read = self.linear(f"{inner}.output", row(graph, read, 0))
        normed = self.norm(f"{layer}.norm", read, config.norm_eps)
        up = self.activate(config.activation, self.linear(f"{layer}.feed_forward.up", normed))
        return op("Add", [read, self.linear(f"{layer}.feed_forward.down", up)])

    def _constant(self, name: str) -> str:
        return self.graph.constant(name, self.weights.array(name))
