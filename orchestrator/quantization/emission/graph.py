"""A small writer of ONNX graphs: names, one initializer cache, one node per call.

``onnx.helper`` makes single nodes; exporters start from traced torch code and leave the choice of
operators, names and precision to pattern matching. Here every node is written on purpose.

Legend: B batch, S length, D width, K inputs and N outputs of a GEMM.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from orchestrator.arrays import Float32Array
from orchestrator.errors import InputError
from orchestrator.quantization.calibrators.calibrator import HIGH, LOW
from orchestrator.quantization.kinds import (
    FLOAT,
    ROW_FLOOR,
    ROW_LIMIT,
    ROW_ZERO_POINT,
    STATIC,
    KindName,
    QuantizedWeight,
    Range,
    quantize_weight,
    unsigned_range,
)
from orchestrator.quantization.plans import Plan, Unit

OPSET: Final = 21
IR_VERSION: Final = 10
MICROSOFT: Final = "com.microsoft"
GEMM_KINDS: Final[tuple[KindName, ...]] = ("static_s7", "row_s7", "row_u8", "s7")
LSTM_KINDS: Final[tuple[KindName, ...]] = ("s7",)
COMPARED_BYTES: Final = 64
"""Bytes at both ends of two arrays that are compared first."""
PROTOBUF_LIMIT_BYTES: Final = 2**31 - 2**20
"""Protobuf allows 2 GiB per message; 1 MiB is left for nodes and names."""


class GraphBuilder:
    """Collects nodes and initializers; every GEMM goes through ``gemm`` and follows the plan.

    Args:
        plan: The kind of every unit.
        ranges: Calibrated range of the input of every unit, for ``static_s7``.
        observe: Add the outputs ``low.<unit>`` and ``high.<unit>``: the extremes of its input.
    """

    def __init__(
        self, plan: Plan, ranges: Mapping[str, Range] | None = None, *, observe: bool = False
    ) -> None:
        self.plan = plan
        self.ranges = ranges or {}
        self.observe = observe
        self.units: list[Unit] = []
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: dict[str, onnx.TensorProto] = {}
        self._names: dict[str, str] = {}
        self._alike: dict[tuple[Any, ...], list[str]] = {}
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self._rows: dict[str, tuple[str, str]] = {}

    def input(
        self, name: str, shape: Sequence[str | int], element_type: int = TensorProto.INT32
    ) -> str:
        """Declare an input, int32 if nothing else is said; named dimensions are symbolic."""
        self._inputs.append(helper.make_tensor_value_info(name, element_type, list(shape)))
        return name

    def output(self, name: str, value: str, shape: Sequence[str | int]) -> None:
        """Declare the float output ``name`` with the content of ``value``."""
        self._nodes.append(helper.make_node("Identity", [value], [name], name=f"output.{name}"))
        self._outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape)))

    def constant(self, name: str, array: npt.NDArray[Any]) -> str:
        """Store an initializer once and return its name.

        Equal arrays of different names are stored under the first one: layers that share their
        weights cost no more than one of them.
        """
        if name not in self._names:
            tensor = numpy_helper.from_array(np.ascontiguousarray(array), name)
            content = tensor.raw_data
            key = (array.shape, array.dtype, content[:COMPARED_BYTES], content[-COMPARED_BYTES:])
            stored = self._alike.setdefault(key, [])
            for other in stored:
                if self._initializers[other].raw_data == content:
                    self._names[name] = other
                    return other
            stored.append(name)
            self._initializers[name], self._names[name] = tensor, name
        return self._names[name]

    def scalar(self, value: float, dtype: type[np.generic] = np.float32) -> str:
        """Store a 0-dimensional constant."""
        return self.constant(f"scalar.{np.dtype(dtype).name}.{value!r}", np.asarray(value, dtype))

    def shape(self, *dimensions: int) -> str:
        """Store an int64 vector: a shape for Reshape, or axes."""
        return self.constant(f"shape.{dimensions}", np.asarray(dimensions, np.int64))

    def op(
        self,
        op_type: str,
        inputs: Sequence[str],
        *,
        domain: str = "",
        name: str = "",
        **attributes: Any,
    ) -> str:
        """Append a node with one output and return the name of that output."""
        return self.ops(op_type, inputs, 1, domain=domain, name=name, **attributes)[0]

    def ops(
        self,
        op_type: str,
        inputs: Sequence[str],
        outputs: int,
        *,
        domain: str = "",
        name: str = "",
        **attributes: Any,
    ) -> list[str]:
        """Append a node with several outputs and return their names."""
        index = len(self._nodes)
        names = [f"value.{index}.{position}" for position in range(outputs)]
        label = name or f"{op_type}.{index}"
        node = helper.make_node(
            op_type, list(inputs), names, name=label, domain=domain, **attributes
        )
        self._nodes.append(node)
        return names

    def gemm(self, unit: str, x: str, weight: Float32Array) -> str:
        """Multiply x [..., K] by a constant weight [K, N] in the kind of the unit.

        Returns:
            The product [..., N], without bias.
        """
        self.units.append(Unit(unit, (weight.shape[0], weight.shape[1]), GEMM_KINDS))
        if self.observe:
            self._observe(unit, x)
        kind = self.plan.kind(unit)
        label = f"{unit}.{kind}"
        if kind == FLOAT:
            return self.op("MatMul", [x, self.constant(f"{unit}.weight", weight)], name=label)
        values, scale, zero_point = self._weight(unit, quantize_weight(weight, kind))
        if kind == "s7":
            inputs = [x, values, scale, zero_point]
            return self.op("DynamicQuantizeMatMul", inputs, domain=MICROSOFT, name=label)
        if kind == STATIC:
            rows, step, middle = self._quantized_range(unit, x)
            inputs = [rows, values, step, scale, middle, zero_point]
            return self.op("MatMulIntegerToFloat", inputs, domain=MICROSOFT, name=label)
        rows, rescale = self._quantized_rows(x)
        middle = self.scalar(ROW_ZERO_POINT, np.uint8)
        inputs = [rows, values, self.scalar(1 / ROW_LIMIT), scale, middle, zero_point]
        product = self.op("MatMulIntegerToFloat", inputs, domain=MICROSOFT, name=label)
        return self.op("Mul", [product, rescale])

    def lstm(
        self,
        unit: str,
        x: str,
        lengths: str,
        parameters: tuple[Float32Array, Float32Array, str],
        **attributes: Any,
    ) -> str:
        """Run one LSTM layer on x [S, B, K] in the kind that the plan gives to the unit.

        Args:
            unit: Name of the layer.
            x: Its input.
            lengths: Number of real positions [B], int32.
            parameters: Input weights [R, N, K] and recurrent weights [R, N, H] of R directions, in
                ONNX gate order (N = 4 H), and the name of the bias constant [R, 2 N].
            attributes: ``direction`` and ``hidden_size``.

        Returns:
            The outputs [S, R, B, H].
        """
        inputs, recurrent, bias = parameters
        directions, outputs, width = inputs.shape
        shape = (width + recurrent.shape[2], directions * outputs)
        self.units.append(Unit(unit, shape, LSTM_KINDS))
        kind = self.plan.kind(unit)
        label = f"{unit}.{kind}"
        if kind == FLOAT:
            weights = [
                self.constant(f"{unit}.inputs", inputs),
                self.constant(f"{unit}.recurrent", recurrent),
            ]
            return self.op("LSTM", [x, *weights, bias, lengths], name=label, **attributes)
        first = self._directions(f"{unit}.inputs", inputs, kind)
        second = self._directions(f"{unit}.recurrent", recurrent, kind)
        values = [x, first[0], second[0], bias, lengths, "", "", "", *first[1:], *second[1:]]
        return self.op("DynamicQuantizeLSTM", values, domain=MICROSOFT, name=label, **attributes)

    def model(self) -> onnx.ModelProto:
        """Return the finished model.

        Raises:
            InputError: If it is too large for one protobuf file, or the plan names units that the
                model does not have.
        """
        self._check_plan()
        size = sum(len(tensor.raw_data) for tensor in self._initializers.values())
        if size > PROTOBUF_LIMIT_BYTES:
            raise InputError(
                f"the model has {size:,} bytes of parameters; one ONNX file holds at most "
                f"{PROTOBUF_LIMIT_BYTES:,}: quantize more of its units or use a smaller model"
            )
        graph = helper.make_graph(
            self._nodes, "model", self._inputs, self._outputs, list(self._initializers.values())
        )
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(MICROSOFT, 1)]
        return helper.make_model(
            graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="orchestrator"
        )

    def _quantized_rows(self, x: str) -> tuple[str, str]:
        """Quantize each row of x, once for all GEMMs that read it; return rows and rescaling."""
        if x not in self._rows:
            magnitude = self.op("Abs", [x])
            largest = self.op("ReduceMax", [magnitude, self.shape(-1)], keepdims=1)
            largest = self.op("Add", [largest, self.scalar(ROW_FLOOR)])
            scaled = self.op("Div", [x, largest])
            middle = self.scalar(ROW_ZERO_POINT, np.uint8)
            rows = self.op("QuantizeLinear", [scaled, self.scalar(1 / ROW_LIMIT), middle])
            self._rows[x] = (rows, largest)
        return self._rows[x]

    def _quantized_range(self, unit: str, x: str) -> tuple[str, str, str]:
        """Quantize x with the unit's calibrated range; return values, scale and zero point."""
        if unit not in self.ranges:
            raise InputError(f"{unit} is planned {STATIC} but has no calibrated range: calibrate")
        scale, zero_point = unsigned_range(*self.ranges[unit])
        step = self.constant(f"{unit}.input.scale", np.asarray(scale, np.float32))
        middle = self.constant(f"{unit}.input.zero_point", np.asarray(zero_point, np.uint8))
        return self.op("QuantizeLinear", [x, step, middle]), step, middle

    def _observe(self, unit: str, x: str) -> None:
        """Declare the extremes of x [B, S, K] as outputs [1, 1, 1]."""
        for label, op in ((LOW, "ReduceMin"), (HIGH, "ReduceMax")):
            self.output(f"{label}{unit}", self.op(op, [x], keepdims=1), [1, 1, 1])

    def _directions(self, name: str, weight: Float32Array, kind: KindName) -> tuple[str, str, str]:
        """Quantize weights [R, N, K] of R directions to [R, K, N], DynamicQuantizeLSTM's order."""
        parts = [quantize_weight(np.ascontiguousarray(part.T), kind) for part in weight]
        return (
            self.constant(f"{name}.quantized", np.stack([part.values for part in parts])),
            self.constant(f"{name}.scale", np.stack([part.scale for part in parts])),
            self.constant(f"{name}.zero_point", np.stack([part.zero_point for part in parts])),
        )

    def _weight(self, unit: str, weight: QuantizedWeight) -> tuple[str, str, str]:
        return (
            self.constant(f"{unit}.weight.quantized", weight.values),
            self.constant(f"{unit}.weight.scale", weight.scale),
            self.constant(f"{unit}.weight.zero_point", weight.zero_point),
        )

    def _check_plan(self) -> None:
        offered = {unit.name: unit.kinds for unit in self.units}
        for name, kind in self.plan.integer.items():
            if kind not in offered.get(name, ()):
                raise InputError(
                    f"the plan wants {name!r} in {kind}; this model offers "
                    f"{offered.get(name, 'no such unit')}. Units: {', '.join(offered)}"
                )
