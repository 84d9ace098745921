"""Models in OpenVINO's intermediate representation, in one file.

The file is safetensors with OpenVINO's XML and its weights as bytes; the header has what OpenVINO
does not keep of the ONNX graph.

Legend: K inputs and N outputs of a GEMM.
"""

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import openvino
from openvino import opset13
from safetensors import SafetensorError
from safetensors.numpy import load, save

from orchestrator.errors import InputError, IntegrityError
from orchestrator.quantization.backends.hosts import exact_kinds, this_host
from orchestrator.quantization.kinds import (
    FLOAT,
    UNSIGNED_LEVELS,
    KindName,
    Range,
    quantize_weight,
    unsigned_range,
)
from orchestrator.quantization.plans import Plan, Unit
from orchestrator.quantization.source import Source

KINDS: Final[tuple[KindName, ...]] = ("static_s8", "static_s7")
"""The finest first."""
SUFFIX: Final = f".{FLOAT}"
"""End of the name of the node that executes a unit in the float graph."""


@dataclass(frozen=True, slots=True)
class OpenVinoFile:
    """A model in memory, with the units that a plan can choose a kind for."""

    content: bytes
    units: tuple[Unit, ...]
    heads: tuple[str, ...]

    def to_bytes(self) -> bytes:
        """Return the content of the model file."""
        return self.content


def write_file(source: Source, plan: Plan, *, observe: bool) -> OpenVinoFile:
    """Write the float graph, and the units of a plan in INT8.

    Raises:
        InputError: The model has no graph, or the plan names another unit or kind.
    """
    emission = source.emit(observe=observe)
    graph = emission.model.graph
    products = {node.name.removesuffix(SUFFIX) for node in graph.node if node.op_type == "MatMul"}
    kinds = tuple(kind for kind in KINDS if kind in exact_kinds(this_host()))
    units = tuple(
        Unit(unit.name, unit.shape, kinds) for unit in emission.units if unit.name in products
    )
    unknown = [name for name in plan.kinds if name not in {unit.name for unit in units}]
    wrong = sorted({kind for kind in plan.integer.values() if kind not in KINDS})
    if unknown or wrong:
        raise InputError(
            f"the plan does not fit openvino_cpu: {', '.join([*unknown, *wrong])}. Its kinds are "
            f"{', '.join(KINDS)}, its units the products of the graph"
        )
    model = openvino.Core().read_model(emission.to_bytes())
    _quantize(model, plan, source.ranges)
    header = {
        "outputs": [
            [value.name, [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]]
            for value in graph.output
        ],
        "metadata": {each.key: each.value for each in emission.model.metadata_props},
        "kinds": {unit.name: plan.kind(unit.name) for unit in units},
    }
    return OpenVinoFile(_packed(model, header), units, emission.heads)


def read_file(content: bytes) -> tuple[dict[str, Any], Any]:
    """Return the header and the model of a file.

    Raises:
        IntegrityError: It is damaged.
    """
    try:
        size = int.from_bytes(content[:8], "little")
        header = json.loads(json.loads(content[8 : 8 + size])["__metadata__"]["header"])
        parts = load(content)
        weights = openvino.Tensor(parts["weights"])
        return header, openvino.Core().read_model(parts["xml"].tobytes(), weights)
    except (ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise IntegrityError(f"the OpenVINO model is damaged: {error}") from error


def _quantize(model: Any, plan: Plan, ranges: Mapping[str, Range]) -> None:
    for node in model.get_ordered_ops():
        unit = node.get_friendly_name().removesuffix(SUFFIX)
        kind = plan.kind(unit)
        if node.get_type_name() != "MatMul" or kind == FLOAT:
            continue
        scale, zero = unsigned_range(*ranges[unit])
        low, high = -zero * scale, (UNSIGNED_LEVELS - zero) * scale
        bounds = [opset13.constant(np.float32(bound)) for bound in (low, high, low, high)]
        steps = opset13.fake_quantize(node.input_value(0), *bounds, UNSIGNED_LEVELS + 1)
        weight = node.input_value(1).get_node().data.astype(np.float32)  # [K, N]
        found = quantize_weight(np.ascontiguousarray(weight), kind)
        values = opset13.convert(opset13.constant(found.values), "f32")
        scaled = opset13.multiply(values, opset13.constant(found.scale[None]))
        node.input(0).replace_source_output(steps.output(0))
        node.input(1).replace_source_output(scaled.output(0))


def _packed(model: Any, header: dict[str, Any]) -> bytes:
    with tempfile.TemporaryDirectory(prefix="openvino-") as scratch:
        xml, weights = Path(scratch) / "model.xml", Path(scratch) / "model.bin"
        openvino.serialize(model, xml, weights)
        parts = {
            "xml": np.frombuffer(xml.read_bytes(), np.uint8),
            "weights": np.frombuffer(weights.read_bytes(), np.uint8),
        }
    return bytes(save(parts, {"header": json.dumps(header)}))
