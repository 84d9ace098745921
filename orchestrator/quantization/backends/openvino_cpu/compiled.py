"""Compiled OpenVINO models with the interface of an ONNX Runtime session, and their audit."""

from collections import Counter
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Final

import openvino

from orchestrator.arrays import AnyArray, Float32Array
from orchestrator.errors import StageError
from orchestrator.quantization.backends.openvino_cpu.intermediate import SUFFIX, read_file
from orchestrator.quantization.kinds import FLOAT
from orchestrator.quantization.plans import Plan
from orchestrator.quantization.results import Audit, ExecutedUnit

INTEGERS: Final = ("u8", "i8")
LAYOUT: Final = "/transpose_b"
"""End of the name of the node that lays out the weight of a product."""


@dataclass(frozen=True, slots=True)
class Value:
    """Name and shape of an input or output."""

    name: str
    shape: tuple[str | int, ...] = ()


class CompiledSession:
    """A compiled model; what ``OnnxModel`` asks a session for.

    Args:
        content: Of a model file.
        threads: Threads within one call.
    """

    def __init__(self, content: bytes, threads: int = 1) -> None:
        self.header, model = read_file(content)
        options = {
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",
        }
        self.compiled = openvino.Core().compile_model(model, "CPU", options)
        self._request = self.compiled.create_infer_request()

    def get_inputs(self) -> list[Value]:
        """Return the inputs."""
        return [Value(each.get_any_name()) for each in self.compiled.inputs]

    def get_outputs(self) -> list[Value]:
        """Return the outputs in the order of the graph."""
        return [Value(name, tuple(shape)) for name, shape in self.header["outputs"]]

    def get_modelmeta(self) -> SimpleNamespace:
        """Return the metadata of the graph."""
        return SimpleNamespace(custom_metadata_map=self.header["metadata"])

    def run(self, names: None, feed: dict[str, AnyArray]) -> list[Float32Array]:
        """Return all outputs, copied out of OpenVINO's memory."""
        del names
        self._request.infer(feed)
        found = (self._request.get_tensor(each.name).data for each in self.get_outputs())
        return [values.copy() for values in found]


def audit(content: bytes, plan: Plan) -> Audit:
    """Return the precision of every unit in the compiled model.

    Raises:
        StageError: It is not the plan.
    """
    session = CompiledSession(content)
    kinds, found = session.header["kinds"], dict[str, ExecutedUnit]()
    census: Counter[str] = Counter()
    for node in session.compiled.get_runtime_model().get_ops():
        layer, precision = (_text(node, name) for name in ("layerType", "runtimePrecision"))
        if layer not in ("FullyConnected", "MatMul"):
            continue
        operator = f"{layer} {precision}"
        census[operator] += 1
        for unit in _units(node) & kinds.keys():
            found[unit] = ExecutedUnit(
                unit=unit, kind=kinds[unit], operator=operator, weight_type=precision
            )
    problems = [f"{name} is not executed" for name in plan.kinds if name not in found]
    for name, each in found.items():
        planned = plan.kind(name)
        if each.kind != planned or (each.weight_type in INTEGERS) != (planned != FLOAT):
            problems.append(f"{name}: planned {planned}, ran {each.kind} as {each.operator}")
    if problems:
        raise StageError(
            f"the compiled model differs from the plan: {'; '.join(problems[:8])}. Nothing is "
            "committed; report this with the version of openvino"
        )
    integer = sum(each.weight_type in INTEGERS for each in found.values())
    return Audit(
        integer_units=integer,
        float_units=len(found) - integer,
        units=tuple(found.values()),
        operators=dict(sorted(census.items())),
    )


def _units(node: Any) -> set[str]:
    """Return the names that a node may execute: its own, and those of its weight's layout."""
    names = _text(node, "originalLayersNames").split(",")
    for each in node.input_values():
        before = _text(each.get_node(), "originalLayersNames").split(",")
        names += [name.removesuffix(LAYOUT) for name in before if name.endswith(LAYOUT)]
    return {name.removesuffix(SUFFIX) for name in names}


def _text(node: Any, name: str) -> str:
    facts = node.get_rt_info()
    if name not in facts:
        return ""
    value = facts[name]
    return str(getattr(value, "value", value))
