"""Audit of the executed operators: GEMMs that really ran, and their arithmetic.

A file that claims INT8 may run in float: runtimes rewrite graphs when they load them. So the audit
does not trust the emitted graph. It opens the graph *after* the runtime's own optimizations,
executes it once with the profiler on, and compares the executed GEMM nodes (name, operator, weight
type) with the plan.
"""

import json
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, cast, get_args

import numpy as np
import onnx
import onnxruntime as ort

from orchestrator.arrays import AnyArray
from orchestrator.errors import StageError
from orchestrator.quantization.backends.onnxruntime_cpu.session import OnnxModel, open_session
from orchestrator.quantization.kinds import FLOAT, KindName
from orchestrator.quantization.plans import Plan
from orchestrator.quantization.results import Audit, ExecutedUnit

INTEGER_OPS: Final = frozenset(
    {
        "ConvInteger",
        "DynamicQuantizeLSTM",
        "DynamicQuantizeMatMul",
        "MatMulInteger",
        "MatMulIntegerToFloat",
        "QAttention",
        "QGemm",
        "QLinearConv",
        "QLinearMatMul",
    }
)
OPS_OF_KIND: Final[dict[KindName, frozenset[str]]] = {
    "fp32": frozenset({"MatMul", "FusedMatMul", "Gemm", "FusedGemm", "LSTM", "GRU", "RNN"}),
    "s7": frozenset({"DynamicQuantizeMatMul", "DynamicQuantizeLSTM"}),
    "static_s7": frozenset({"MatMulIntegerToFloat"}),
    "row_s7": frozenset({"MatMulIntegerToFloat"}),
    "row_u8": frozenset({"MatMulIntegerToFloat"}),
    "static_s8": frozenset({"MatMulIntegerToFloat"}),
    "row_s8": frozenset({"MatMulIntegerToFloat"}),
}
EVENT_SUFFIX: Final = "_kernel_time"
SHOWN_PROBLEMS: Final = 8


def _sample(session: ort.InferenceSession) -> dict[str, AnyArray]:
    """Return a batch that a graph reads: tokens, or an image of its size; free sizes are 2."""
    if any(each.name == "input_ids" for each in session.get_inputs()):
        return {"input_ids": np.ones((2, 2), np.int32)}
    shapes = {
        each.name: [size if isinstance(size, int) else 2 for size in each.shape]
        for each in session.get_inputs()
    }
    return {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}


def audit(model: bytes) -> Audit:
    """Execute a model once under the profiler and return the executed operators."""
    with tempfile.TemporaryDirectory(prefix="audit-") as scratch:
        optimized = Path(scratch) / "optimized.onnx"
        session = open_session(model, optimized=optimized, profile=Path(scratch) / "profile")
        runner = OnnxModel(session, batch_invariant=True)
        runner.predict(_sample(session))
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        graph = onnx.load(optimized).graph
    executed = list(_executed(events))
    units: list[ExecutedUnit] = []
    unnamed: list[str] = []
    for name, operator in executed:
        unit, kind = _parse(name)
        if kind is not None:
            weight = _weight_type(graph, name)
            units.append(ExecutedUnit(unit=unit, kind=kind, operator=operator, weight_type=weight))
        elif operator in INTEGER_OPS:
            unnamed.append(name)
    census = Counter(operator for _, operator in executed)
    integer = sum(unit.operator in INTEGER_OPS for unit in units)
    return Audit(
        integer_units=integer,
        float_units=len(units) - integer,
        units=tuple(units),
        operators=dict(sorted(census.items())),
        unnamed_integer=tuple(unnamed),
    )


def verify(audited: Audit, plan: Plan) -> None:
    """Require that exactly the plan was executed.

    Raises:
        StageError: If a unit ran in another kind or operator, twice, or not at all.
    """
    problems = [f"integer GEMM {name} belongs to no unit" for name in audited.unnamed_integer]
    executions = Counter(unit.unit for unit in audited.units)
    problems += [f"{name} is not executed" for name in plan.kinds if not executions[name]]
    problems += [
        f"{name} is executed {count} times" for name, count in executions.items() if count > 1
    ]
    for unit in audited.units:
        planned = plan.kind(unit.unit)
        if unit.kind != planned or unit.operator not in OPS_OF_KIND[planned]:
            problems.append(f"{unit.unit}: planned {planned}, ran {unit.kind} as {unit.operator}")
        elif planned != FLOAT and unit.weight_type != _expected_weight(planned):
            problems.append(f"{unit.unit}: {planned} with a weight of type {unit.weight_type}")
    if problems:
        shown = "; ".join(problems[:SHOWN_PROBLEMS])
        raise StageError(
            f"the executed graph differs from the plan in {len(problems)} places: {shown}. "
            "Nothing is committed; report this with the versions of onnx and onnxruntime"
        )


def _executed(events: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    for event in events:
        name = str(event.get("name", ""))
        if event.get("cat") == "Node" and name.endswith(EVENT_SUFFIX):
            yield name.removesuffix(EVENT_SUFFIX), str(event["args"]["op_name"])


def _parse(name: str) -> tuple[str, KindName | None]:
    """Split ``<unit>.<kind>``; fusions append ``/<name of the fusion>``."""
    unit, _, kind = name.partition("/")[0].rpartition(".")
    return unit, cast(KindName, kind) if kind in get_args(KindName) else None


def _weight_type(graph: onnx.GraphProto, name: str) -> str:
    """Return the element type of the weight: the second input of every GEMM operator."""
    node = next(node for node in graph.node if node.name == name)
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    return str(onnx.TensorProto.DataType.Name(types.get(node.input[1], onnx.TensorProto.UNDEFINED)))


def _expected_weight(kind: KindName) -> str:
    return "UINT8" if kind == "row_u8" else "INT8"
