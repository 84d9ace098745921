"""The recurrent encoders as ONNX nodes: rnn, lstm, gru, birnn, bilstm, bigru.

A layer is one unit, ``encoder.<stack>.<layer>``. LSTM layers exist in ``fp32`` (LSTM) and ``s7``
(DynamicQuantizeLSTM: both GEMMs in integers, gates in float). ONNX Runtime has no LSTM kernel with
one activation scale per row, and an explicit recurrence around an INT8 input projection is several
times slower than the float operator (the loop costs more than the GEMM). The operator takes one
range over the whole input and one over the states of all texts that share a thread: the answers of
a batch depend on its texts and on the number of threads. The answer to a text that runs alone does
not, so these plans are executed text by text (``Plan.batch_invariant``).
GRU and RNN have no integer kernel: they are emitted in float and offer no units.

Legend: B batch, S length, D width, H hidden size of one direction, G gates.
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from orchestrator.arrays import Float32Array
from orchestrator.modeling.encoders.recurrent_configs import (
    OneStackConfig,
    RecurrentConfig,
    TwoStackConfig,
)
from orchestrator.quantization.emission.graph import GraphBuilder
from orchestrator.quantization.emission.weights import Weights

GATES: Final[dict[str, tuple[int, ...]]] = {"LSTM": (0, 3, 1, 2), "GRU": (1, 0, 2), "RNN": (0,)}
"""Position of each ONNX gate in torch's order: LSTM iofc in ifgo, GRU zrh in rzn."""
CELLS: Final = {"rnn": "RNN", "lstm": "LSTM", "gru": "GRU"}


@dataclass(frozen=True, slots=True)
class _Direction:
    """Parameters of one direction of a layer: [G H, D], [G H, H] and the two biases [2 G H]."""

    inputs: Float32Array
    recurrent: Float32Array
    bias: Float32Array


class RecurrentEmitter:
    """Writes one recurrent encoder into a graph."""

    def __init__(self, graph: GraphBuilder, config: RecurrentConfig, weights: Weights) -> None:
        self.graph = graph
        self.config = config
        self.weights = weights
        self.cell = CELLS[config.type_name().removeprefix("bi")]

    def emit(self, hidden: str, mask: str) -> str:
        """Encode hidden [B, S, D] under the int32 mask [B, S]; outputs at padding are zero.

        Padding may be anywhere: real positions are moved to the front before the layers, and back
        after them.
        """
        order = self._order(self._reading_keys(mask))
        packed = self.graph.op("Transpose", [self._reorder(hidden, order)], perm=[1, 0, 2])
        lengths = self.graph.op("ReduceSum", [mask, self.graph.shape(1)], keepdims=0)
        if isinstance(self.config, TwoStackConfig):
            halves = [
                self._stack("forward_stack", packed, lengths, ("forward",)),
                self._stack("backward_stack", packed, lengths, ("reverse",)),
            ]
            encoded = self.graph.op("Concat", halves, axis=-1)
        else:
            both = isinstance(self.config, OneStackConfig) and self.config.bidirectional
            directions = ("forward", "reverse") if both else ("forward",)
            encoded = self._stack("stack", packed, lengths, directions)
        unpacked = self.graph.op("Transpose", [encoded], perm=[1, 0, 2])
        back = self._reorder(unpacked, self._order(order))
        real = self.graph.op("Cast", [mask], to=1)
        return self.graph.op(
            "Mul", [back, self.graph.op("Unsqueeze", [real, self.graph.shape(-1)])]
        )

    def _stack(self, stack: str, x: str, lengths: str, directions: tuple[str, ...]) -> str:
        """Run all layers of a stack on x [S, B, D]."""
        for index in range(self.config.num_layers):
            names = [
                f"l{index}_reverse" if position else f"l{index}"
                for position in range(len(directions))
            ]
            parameters = [self._parameters(f"encoder.{stack}", name) for name in names]
            direction = directions[0] if len(directions) == 1 else "bidirectional"
            x = self._layer(f"encoder.{stack}.{index}", x, lengths, parameters, direction)
        return x

    def _layer(
        self, unit: str, x: str, lengths: str, parameters: list[_Direction], direction: str
    ) -> str:
        size = parameters[0].recurrent.shape[1]
        bias = self.graph.constant(f"{unit}.bias", np.stack([part.bias for part in parameters]))
        inputs = np.stack([part.inputs for part in parameters])
        recurrent = np.stack([part.recurrent for part in parameters])
        if self.cell == "LSTM":
            output = self.graph.lstm(
                unit, x, lengths, (inputs, recurrent, bias), direction=direction, hidden_size=size
            )
        else:
            extra: dict[str, Any] = {"linear_before_reset": 1} if self.cell == "GRU" else {}
            values = [
                x,
                self.graph.constant(f"{unit}.inputs", inputs),
                self.graph.constant(f"{unit}.recurrent", recurrent),
                bias,
                lengths,
            ]
            output = self.graph.op(
                self.cell,
                values,
                direction=direction,
                hidden_size=size,
                name=f"{unit}.float",
                **extra,
            )
        side_by_side = self.graph.op("Transpose", [output], perm=[0, 2, 1, 3])
        return self.graph.op("Reshape", [side_by_side, self.graph.shape(0, 0, -1)])

    def _parameters(self, stack: str, suffix: str) -> _Direction:
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        inputs, recurrent, bias_in, bias_out = (
            self._gates(self.weights.array(f"{stack}.{name}_{suffix}")) for name in names
        )
        return _Direction(inputs, recurrent, np.concatenate([bias_in, bias_out]))

    def _gates(self, parameter: Float32Array) -> Float32Array:
        """Bring the blocks of a parameter [G H, ...] from torch's gate order into that of ONNX."""
        order = GATES[self.cell]
        blocks = np.split(parameter, len(order))
        return np.ascontiguousarray(np.concatenate([blocks[index] for index in order]))

    def _reading_keys(self, mask: str) -> str:
        """Return the position where it is real, and S where it is padding: [B, S]."""
        length = self.graph.op("Shape", [mask], start=1, end=2)
        end = self.graph.op("Cast", [length], to=6)
        one, zero = self.graph.scalar(1, np.int32), self.graph.scalar(0, np.int32)
        scalar_end = self.graph.op("Squeeze", [end])
        steps = self.graph.op("Range", [zero, scalar_end, one])
        real = self.graph.op("Cast", [mask], to=9)
        return self.graph.op("Where", [real, steps, scalar_end])

    def _order(self, keys: str) -> str:
        """Return the order [B, S] that sorts keys ascending; equal keys keep their order."""
        length = self.graph.op("Shape", [keys], start=1, end=2)
        return self.graph.ops("TopK", [keys, length], 2, axis=1, largest=0, sorted=1)[1]

    def _reorder(self, x: str, order: str) -> str:
        """Return ``x[b, order[b, s]]`` for x [B, S, D]."""
        index = self.graph.op("Unsqueeze", [order, self.graph.shape(-1)])
        return self.graph.op("GatherND", [x, index], batch_dims=1)
