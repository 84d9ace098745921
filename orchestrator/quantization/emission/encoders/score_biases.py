"""Biases and masks of attention scores as ONNX nodes: windows, distances, offsets of patches.

Biases that depend on positions alone are [1, H or 1, S, S], and are computed once per pass for all
blocks that share them. Tables of values by distance are made when the graph is written; a pass
looks them up.

Legend: B batch, S length, H heads, P positions of the model, R rows of a table.
"""

from functools import cached_property
from typing import Final

import numpy as np
import torch

from orchestrator.arrays import Float32Array
from orchestrator.modeling.component import Dimensions
from orchestrator.modeling.encoders.configs import TransformerConfig
from orchestrator.modeling.layers.bias_options import AlibiConfig, PatchBiasConfig, T5BiasConfig
from orchestrator.modeling.layers.relative_positions import PatchBias, build_position_bias
from orchestrator.quantization.emission.graph import GraphBuilder
from orchestrator.quantization.emission.norms import BOOL
from orchestrator.quantization.emission.weights import Weights

UNREAD: Final = -1e9
"""Score of a key that may not be read. Finite: a query that may read nothing gets no NaN."""


class ScoreBiases:
    """Writes biases and masks of attention scores, each once.

    Args:
        graph: Where the nodes go.
        config: The encoder.
        dimensions: Sizes of the model.
        weights: Its parameters.
        mask: The int32 mask [B, S], 1 at real positions.
    """

    def __init__(
        self,
        graph: GraphBuilder,
        config: TransformerConfig,
        dimensions: Dimensions,
        weights: Weights,
        mask: str,
    ) -> None:
        self.graph, self.config, self.weights, self.mask = graph, config, weights, mask
        self.positions = dimensions.max_position_embeddings
        self._windows: dict[int, str] = {}
        self._sums: dict[tuple[str, ...], str] = {}
        self._allowed: dict[int | None, str] = {}

    def of_block(self, block: int) -> str:
        """Return the bias of a block's scores, [1, H or 1, S, S]; an empty name: there is none."""
        window = self.config.window_of(block)
        parts = ["" if window is None else self._window(window), self._position_bias(block)]
        present = tuple(part for part in parts if part)
        if len(present) < 2:
            return present[0] if present else ""
        if present not in self._sums:
            self._sums[present] = self.graph.op("Add", list(present))
        return self._sums[present]

    def allowed(self, block: int, *, padded: bool) -> str:
        """Return where a query may read a key, bool, broadcastable to [B, H, S, S].

        An empty name: everywhere.
        """
        window = self.config.window_of(block)
        if window not in self._allowed:
            graph, conditions = self.graph, []
            if window is not None:
                conditions.append(self._near(window))
            if self.config.mask == "causal":
                zero = graph.scalar(0, np.int64)
                conditions.append(graph.op("LessOrEqual", [self._distance, zero]))
            if padded:
                real = graph.op("Cast", [self.mask], to=BOOL)
                conditions.append(graph.op("Unsqueeze", [real, graph.shape(1, 2)]))
            result = conditions[0] if conditions else ""
            for condition in conditions[1:]:
                result = graph.op("And", [result, condition])
            self._allowed[window] = result
        return self._allowed[window]

    @cached_property
    def _length(self) -> str:
        """S, int64 [1]."""
        return self.graph.op("Shape", [self.mask], start=1, end=2)

    @cached_property
    def _distance(self) -> str:
        """Key minus query, int64 [S, S]."""
        graph = self.graph
        zero, one = graph.scalar(0, np.int64), graph.scalar(1, np.int64)
        steps = graph.op("Range", [zero, graph.op("Squeeze", [self._length]), one])
        return graph.op("Sub", [steps, graph.op("Unsqueeze", [steps, graph.shape(1)])])

    def _window(self, window: int) -> str:
        if window not in self._windows:
            graph = self.graph
            values = [graph.scalar(0.0), graph.scalar(UNREAD)]
            bias = graph.op("Where", [self._near(window), *values])
            self._windows[window] = graph.op("Unsqueeze", [bias, graph.shape(0, 1)])
        return self._windows[window]

    def _near(self, window: int) -> str:
        """Return where a key is inside the window of a query, bool [S, S]."""
        reach = self.graph.op("Abs", [self._distance])
        return self.graph.op("Less", [reach, self.graph.scalar(window, np.int64)])

    def _position_bias(self, block: int) -> str:
        config = self.config.position_bias
        if isinstance(config, PatchBiasConfig):
            own = "" if config.shared else f"layers.{block}."
            return self._of_patches(config, f"encoder.{own}position_bias")
        if isinstance(config, T5BiasConfig | AlibiConfig):
            return self._of_distances
        return ""

    @cached_property
    def _of_distances(self) -> str:
        """T5's and ALiBi's bias: a value for each distance and head, [1, H, S, S]."""
        graph = self.graph
        table = graph.constant("encoder.position_bias", self._by_distance())
        last = graph.scalar(self.positions - 1, np.int64)
        bias = graph.op("Gather", [table, graph.op("Add", [self._distance, last])], axis=1)
        return graph.op("Unsqueeze", [bias, graph.shape(0)])

    def _by_distance(self) -> Float32Array:
        """Return the bias of each distance from 1 - P to P - 1, [H, 2 P - 1]."""
        config, both = self.config.position_bias, self.config.mask == "bidirectional"
        module = build_position_bias(config, self.config.num_heads, both_sides=both)
        assert module is not None
        with torch.no_grad():
            if isinstance(config, T5BiasConfig):
                weight = self.weights.array("encoder.position_bias.weight")
                module.get_parameter("weight").copy_(torch.from_numpy(weight.copy()))
            keys = torch.arange(2 * self.positions - 1)
            found = module(torch.tensor([self.positions - 1]), keys)
        return np.asarray(found[0, :, 0].numpy(), np.float32)

    def _of_patches(self, config: PatchBiasConfig, layer: str) -> str:
        """BEiT's bias [1, H, S, S]; all inputs are constants, so runtimes compute it at load."""
        graph = self.graph
        rows = PatchBias(config, 1).index(torch.device("cpu")).numpy()
        table = graph.constant(layer, self.weights.array(f"{layer}.weight").T)
        index = graph.constant("encoder.patch_offsets", rows.astype(np.int32))
        bias = graph.op("Gather", [table, index], axis=1)
        return graph.op("Unsqueeze", [bias, graph.shape(0)])
