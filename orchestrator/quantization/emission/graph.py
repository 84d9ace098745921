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
from onnx import TensorProto, helper

from orchestrator.arrays import Float32Array
from orchestrator.errors import InputError
from orchestrator.quantization.backends.hosts import exact_kinds, this_host
from orchestrator.quantization.backends.onnxruntime_cpu.arithmetic import (
    FULL_RANGE,
    METADATA_RULES,
    ROW_SCALES,
)
from orchestrator.quantization.calibrators.calibrator import INPUT
from orchestrator.quantization.emission.constants import Constants
from orchestrator.quantization.emission.gemms import Product
from orchestrator.quantization.kinds import (
    BIASED_KINDS,
    FLOAT,
    LSTM_KINDS,
    STATIC_KINDS,
    WIDE_KINDS,
    WIDE_LIMIT,
    KindName,
    QuantizedWeight,
    Range,
    quantize_signed,
    quantize_weight,
    row_steps,
    stored_name,
    unsigned_range,
)
from orchestrator.quantization.plans import Plan, Unit

OPSET: Final = 21
IR_VERSION: Final = 10
MICROSOFT: Final = "com.microsoft"
WIDEST: Final = 1e30
"""Step in which every activation rounds to zero."""


class GraphBuilder:
    """Collects nodes and initializers; every GEMM goes through ``gemm`` and follows the plan.

    Args:
        plan: The kind of every unit.
        ranges: Calibrated range of the input of every unit, for ``static_*`` kinds.
        observe: Add the output ``input.<unit>`` [P, K] of every unit: its input at P positions.
        stored: Quantized weights by ``kinds.stored_name``, so that they need not be made again.
    """

    def __init__(
        self,
        plan: Plan,
        ranges: Mapping[str, Range] | None = None,
        *,
        observe: bool = False,
        stored: Mapping[str, QuantizedWeight] | None = None,
    ) -> None:
        self.plan, self.ranges, self._stored = plan, ranges or {}, stored or {}
        self.observe = observe
        self.units: list[Unit] = []
        self.products: dict[str, Product] = {}
        self.gemm_kinds = exact_kinds(this_host())
        self._rules: set[str] = set()
        self._nodes: list[onnx.NodeProto] = []
        self._constants = Constants()
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self._rows: dict[str, tuple[str, str, str]] = {}
        self._residual_scales: dict[str, str] = {}

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

    def named(self, name: str, value: str) -> str:
        """Give a value a name that other tools find it by; runtimes remove the node."""
        self._nodes.append(helper.make_node("Identity", [value], [name], name=f"named.{name}"))
        return name

    def constant(self, name: str, array: npt.NDArray[Any]) -> str:
        """Store an initializer once and return its name; equal arrays share the first one's."""
        return self._constants.add(name, array)

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

    def lookup(self, name: str, table: Float32Array, ids: str) -> str:
        """Take the rows of a table [V, D] by ids [...], stored as the plan says.

        Returns:
            The rows [..., D].
        """
        if self.plan.tables == "float":
            return self.op("Gather", [self.constant(name, table), ids])
        rows = quantize_signed(np.ascontiguousarray(table.T), WIDE_LIMIT)
        values = self.constant(f"{name}.quantized", rows.values.T)
        scale = self.constant(f"{name}.scale", rows.scale[:, None])
        found = self.op("Cast", [self.op("Gather", [values, ids])], to=TensorProto.FLOAT)
        return self.op("Mul", [found, self.op("Gather", [scale, ids])])

    def scale_residual(self, x: str, layer: str, scale: Float32Array) -> None:
        """State that x [..., D] is a norm's output divided by ``scale`` [D] (equalization)."""
        self._residual_scales[x] = self.constant(f"{layer}.residual_scale", scale)

    def residual(self, x: str) -> str:
        """Return x as a residual: multiplied by its scale, if it has one."""
        scale = self._residual_scales.get(x)
        return x if scale is None else self.op("Mul", [x, scale])

    def linear(
        self,
        unit: str,
        x: str,
        weight: Float32Array,
        bias: Float32Array | None,
        *,
        low: float | None = None,
    ) -> tuple[str, Float32Array | None]:
        """Multiply as ``gemm`` does, with the bias [N] where the product takes it for free.

        Returns:
            The product, and the bias that the following node has to add.
        """
        if self.plan.kind(unit) in BIASED_KINDS:
            return self.gemm(unit, x, weight, low=low, bias=bias), None
        return self.gemm(unit, x, weight, low=low), bias

    def gemm(
        self,
        unit: str,
        x: str,
        weight: Float32Array,
        *,
        low: float | None = None,
        bias: Float32Array | None = None,
    ) -> str:
        """Multiply x [..., K] by a constant weight [K, N] in the kind of the unit.

        Args:
            unit: Name of the product.
            x: Its input.
            weight: Its weight.
            low: Known lower bound of x, 0 or less, if x is the output of an activation function.
            bias: Values [N] to add; only for kinds whose product takes them (``linear``).

        Returns:
            The product [..., N].
        """
        self.units.append(Unit(unit, (weight.shape[0], weight.shape[1]), self.gemm_kinds))
        if self.observe:
            self._observe(unit, x, weight.shape[0])
            self.products[unit] = Product(unit, weight, low, self.ranges.get(unit))
        label = f"{unit}.{(kind := self.plan.kind(unit))}"
        added = [] if bias is None else [self.constant(f"{unit}.bias", bias)]
        if kind == FLOAT:
            return self.op("MatMul", [x, self.constant(f"{unit}.weight", weight)], name=label)
        values, scale, zero_point = self._weight(unit, kind, weight)
        if kind in WIDE_KINDS:
            self._rules.add(FULL_RANGE)
        if kind == "s7":
            inputs = [x, values, scale, zero_point, *added]
            return self.op("DynamicQuantizeMatMul", inputs, domain=MICROSOFT, name=label)
        if kind in STATIC_KINDS:
            rows, step, middle = self._quantized_range(unit, x)
        else:
            rows, step, middle = self._quantized_rows(x, weight.shape[0], low)
            self._rules.add(ROW_SCALES)
        inputs = [rows, values, step, scale, middle, zero_point, *added]
        return self.op("MatMulIntegerToFloat", inputs, domain=MICROSOFT, name=label)

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

    @property
    def metadata(self) -> dict[str, str]:
        """Metadata of the model file: the rules of arithmetic that its units rely on."""
        return {METADATA_RULES: ",".join(sorted(self._rules))} if self._rules else {}

    def model(self) -> onnx.ModelProto:
        """Return the finished model.

        Raises:
            InputError: If it is too large for one protobuf file, or the plan names units that the
                model does not have.
        """
        self._check_plan()
        self._constants.require_size()
        graph = helper.make_graph(
            self._nodes, "model", self._inputs, self._outputs, self._constants.tensors
        )
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(MICROSOFT, 1)]
        return helper.make_model(
            graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="orchestrator"
        )

    def _quantized_rows(self, x: str, width: int, low: float | None) -> tuple[str, str, str]:
        """Quantize each row of x [..., K], once for all GEMMs that read it.

        Returns:
            Values [..., K], the step of each row [..., 1], and the zero point.
        """
        if x not in self._rows:
            steps = row_steps(low)
            magnitude = self.op("Abs", [x]) if low is None else x
            largest = self.op("ReduceMax", [magnitude, self.shape(-1)], keepdims=1)
            largest = self.op("Max", [largest, self.scalar(steps.floor)])
            step = self.op("Mul", [largest, self.scalar(1 / steps.above)])
            middle = self.scalar(steps.zero_point, np.uint8)
            # scales per block need a zero point per block: the largest magnitude in steps so wide
            # that it rounds to zero
            middles = self.op("QuantizeLinear", [step, self.scalar(WIDEST), middle])
            rows = self.op("QuantizeLinear", [x, step, middles], axis=-1, block_size=width)
            self._rows[x] = (rows, step, middle)
        return self._rows[x]

    def _quantized_range(self, unit: str, x: str) -> tuple[str, str, str]:
        """Quantize x with the unit's calibrated range; return values, scale and zero point."""
        if unit not in self.ranges:
            kind = self.plan.kind(unit)
            raise InputError(f"{unit} is planned {kind} but has no calibrated range: calibrate")
        scale, zero_point = unsigned_range(*self.ranges[unit])
        step = self.constant(f"{unit}.input.scale", np.asarray(scale, np.float32))
        middle = self.constant(f"{unit}.input.zero_point", np.asarray(zero_point, np.uint8))
        return self.op("QuantizeLinear", [x, step, middle]), step, middle

    def _observe(self, unit: str, x: str, width: int) -> None:
        """Declare x [..., K] as an output [P, K]."""
        flat = self.op("Reshape", [x, self.shape(-1, width)])
        self.output(f"{INPUT}{unit}", flat, ["positions", width])

    def _directions(self, name: str, weight: Float32Array, kind: KindName) -> tuple[str, str, str]:
        """Quantize weights [R, N, K] of R directions to [R, K, N], DynamicQuantizeLSTM's order."""
        parts = [quantize_weight(np.ascontiguousarray(part.T), kind) for part in weight]
        return (
            self.constant(f"{name}.quantized", np.stack([part.values for part in parts])),
            self.constant(f"{name}.scale", np.stack([part.scale for part in parts])),
            self.constant(f"{name}.zero_point", np.stack([part.zero_point for part in parts])),
        )

    def _weight(self, unit: str, kind: KindName, weight: Float32Array) -> tuple[str, str, str]:
        found = self._stored.get(stored_name(unit, kind)) or quantize_weight(weight, kind)
        names = ("quantized", "scale", "zero_point")
        arrays = found.values, found.scale, found.zero_point
        values, scale, zero_point = map(
            self.constant, (f"{unit}.weight.{n}" for n in names), arrays
        )
        return values, scale, zero_point

    def _check_plan(self) -> None:
        offered = {unit.name: unit.kinds for unit in self.units}
        for name, kind in self.plan.integer.items():
            if kind not in offered.get(name, ()):
                raise InputError(
                    f"the plan wants {name!r} in {kind}; this model offers "
                    f"{offered.get(name, 'no such unit')}. Units: {', '.join(offered)}"
                )
