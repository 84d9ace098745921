"""Which GEMMs does the runtime really execute, and in what arithmetic?

A file may say INT8 and run in float: runtimes rewrite graphs when they load them. So the audit
never trusts the emitted graph. It opens the graph *after* the runtime's own optimisations, executes
it once with the profiler on, and compares the executed GEMM nodes, by name, operator and weight
type, with the plan.
"""

import json
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, cast, get_args

import numpy as np
import onnx

from orchestrator.errors import StageError
from orchestrator.quantization.backends.onnx_session import OnnxModel, open_session
from orchestrator.quantization.kinds import FLOAT, KindName
from orchestrator.quantization.plans import Plan

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
}
EVENT_SUFFIX: Final = "_kernel_time"
SHOWN_PROBLEMS: Final = 8


@dataclass(frozen=True, slots=True)
class ExecutedUnit:
    """One GEMM unit as the runtime executed it."""

    unit: str
    kind: KindName
    operator: str
    weight_type: str


@dataclass(frozen=True, slots=True)
class Audit:
    """What one call of a session executed."""

    units: tuple[ExecutedUnit, ...]
    unnamed_integer: tuple[str, ...]
    """Integer GEMM nodes that belong to no unit; there should be none."""
    operators: dict[str, int] = field(default_factory=dict)
    """How often each operator was executed."""

    @property
    def integer_units(self) -> int:
        """Number of units whose executed operator is an integer GEMM."""
        return sum(unit.operator in INTEGER_OPS for unit in self.units)

    def to_json(self) -> dict[str, Any]:
        """Return the content of the audit for the package."""
        return {
            "integer_units": self.integer_units,
            "float_units": len(self.units) - self.integer_units,
            "units": [asdict(unit) for unit in self.units],
            "operators": self.operators,
        }


def audit(model: bytes) -> Audit:
    """Open a model, execute it once under the profiler and read off what ran."""
    with tempfile.TemporaryDirectory(prefix="audit-") as scratch:
        optimised = Path(scratch) / "optimised.onnx"
        session = open_session(model, optimised=optimised, profile=Path(scratch) / "profile")
        runner = OnnxModel(session, batch_invariant=True)
        runner.predict({"input_ids": np.ones((2, 2), np.int32)})
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        graph = onnx.load(optimised).graph
    executed = list(_executed(events))
    units: list[ExecutedUnit] = []
    unnamed: list[str] = []
    for name, operator in executed:
        unit, kind = _parse(name)
        if kind is not None:
            units.append(ExecutedUnit(unit, kind, operator, _weight_type(graph, name)))
        elif operator in INTEGER_OPS:
            unnamed.append(name)
    census = Counter(operator for _, operator in executed)
    return Audit(tuple(units), tuple(unnamed), dict(sorted(census.items())))


def verify(audited: Audit, plan: Plan) -> None:
    """Assert that exactly the plan was executed.

    Raises:
        StageError: if a unit ran in another kind or operator, twice, or not at all.
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
            "The artefact is not committed; report this with the versions of onnx and onnxruntime"
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
    """Name the element type of the weight, the second input of every GEMM operator."""
    node = next(node for node in graph.node if node.name == name)
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    return str(onnx.TensorProto.DataType.Name(types.get(node.input[1], onnx.TensorProto.UNDEFINED)))


def _expected_weight(kind: KindName) -> str:
    return "UINT8" if kind == "row_u8" else "INT8"
