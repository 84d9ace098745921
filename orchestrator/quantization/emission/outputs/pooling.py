"""Pooling of token vectors as ONNX nodes: the same bits whatever a text is batched with.

The same computation as ``modeling.targets.sequence.pool``, which is the oracle of its test, with
one difference: a row without a real position gives zeros in every mode.

Sums are taken by a product with two equal rows of weights. With one row, ONNX Runtime's kernel adds
four positions at a time and the rest in another order, so that the last bit depends on the padding;
its ``ReduceSum`` depends on the length too. Its kernel for several rows adds one position after the
other. ``CumSum`` does so as well, and takes longer.

Legend: B batch, S length, D width.
"""

from typing import Final

import numpy as np

from orchestrator.modeling.targets.configs import HeadPooling
from orchestrator.quantization.emission.graph import GraphBuilder
from orchestrator.quantization.emission.norms import BOOL, FLOAT, INT32

LOWEST: Final = float(np.finfo(np.float32).min)


class Pooler:
    """Reduces token vectors to one vector per row.

    Args:
        graph: Where the nodes go.
        registers: Registers after the first position of images, which ``rest`` leaves out.
        pad_token: Token whose positions ``last_token`` leaves out even where the mask has them.
    """

    def __init__(self, graph: GraphBuilder, *, registers: int = 0, pad_token: int = 0) -> None:
        self.graph, self.registers, self.pad_token = graph, registers, pad_token
        self._made: dict[tuple[str, ...], str] = {}

    def pool(self, hidden: str, mask: str, how: HeadPooling) -> str:
        """Return [B, D], or [B, 2 D] for ``first_rest``, of hidden [B, S, D], int32 mask [B, S]."""
        key = ("pool", hidden, mask, how)
        if key not in self._made:
            self._made[key] = self._pool(hidden, mask, how)
        return self._made[key]

    def _pool(self, hidden: str, mask: str, how: HeadPooling) -> str:
        op, graph = self.graph.op, self.graph
        if how == "second":
            return row(graph, hidden, 1)
        if how == "first_rest":
            parts = [self.pool(hidden, mask, part) for part in ("first", "rest")]
            return op("Concat", parts, axis=-1)
        if how == "rest":
            return self.mean(self._rest(hidden), self._rest(mask))
        if how == "mean":
            return self.mean(hidden, mask)
        if how == "max":
            present = op("Unsqueeze", [op("Cast", [mask], to=BOOL), graph.shape(-1)])
            masked = op("Where", [present, hidden, graph.scalar(LOWEST)])
            return self._or_zero(op("ReduceMax", [masked, graph.shape(1)], keepdims=0), mask)
        return self._or_zero(self._position(hidden, mask, how), mask)

    def _position(self, hidden: str, mask: str, how: HeadPooling) -> str:
        """Return the vectors [B, D] at the first or the last real position."""
        op, graph, chosen = self.graph.op, self.graph, mask
        if how == "last_token":
            padding = op("Equal", ["input_ids", graph.scalar(self.pad_token, np.int32)])
            chosen = op("Mul", [mask, op("Cast", [op("Not", [padding])], to=INT32)])
        if how != "first":  # the running count reaches its maximum at the last position first
            chosen = op("CumSum", [chosen, graph.scalar(1, np.int64)])
        index = op("ArgMax", [chosen], axis=1, keepdims=1)
        return op("GatherND", [hidden, index], batch_dims=1)

    def mean(self, hidden: str, mask: str) -> str:
        """Return the mean [B, D] of the real positions."""
        weights = self.graph.op("Cast", [mask], to=FLOAT)
        return self.graph.op("Div", [self.total(hidden, weights), self.count(weights)])

    def total(self, hidden: str, weights: str) -> str:
        """Return the sum [B, D] of hidden [B, S, D], weighted by float weights [B, S]."""
        op = self.graph.op
        once = op("Unsqueeze", [weights, self.graph.shape(1)])
        product = op("MatMul", [op("Concat", [once, once], axis=1), hidden])
        return row(self.graph, product, 0)

    def count(self, weights: str) -> str:
        """Return the sum [B, 1] of the weights, at least 1."""
        total = self.graph.op("ReduceSum", [weights, self.graph.shape(1)], keepdims=1)
        return self.graph.op("Max", [total, self.graph.scalar(1.0)])

    def _rest(self, values: str) -> str:
        """Return values [B, S, ...] without the first position and the registers."""
        key = ("rest", values)
        if key not in self._made:
            start = self.graph.shape(1 + self.registers)
            end = self.graph.shape(np.iinfo(np.int64).max)
            self._made[key] = self.graph.op("Slice", [values, start, end, self.graph.shape(1)])
        return self._made[key]

    def _or_zero(self, pooled: str, mask: str) -> str:
        """Return pooled [B, D], and zeros for rows without a real position."""
        key = ("any", mask)
        if key not in self._made:
            found = self.graph.op("ReduceMax", [mask, self.graph.shape(1)], keepdims=1)
            self._made[key] = self.graph.op("Cast", [found], to=BOOL)
        return self.graph.op("Where", [self._made[key], pooled, self.graph.scalar(0.0)])


def row(graph: GraphBuilder, x: str, place: int) -> str:
    """Return the vectors [B, D] at one place of x [B, S, D]."""
    return graph.op(
        "Squeeze", [graph.op("Gather", [x, graph.shape(place)], axis=1), graph.shape(1)]
    )
