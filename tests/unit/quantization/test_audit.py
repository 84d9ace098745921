"""The audit: the executed operators equal the plan, and every deviation is found."""

import onnx
import pytest

from orchestrator.errors import StageError
from orchestrator.quantization.backends.onnxruntime_cpu.audit import audit, verify
from orchestrator.quantization.emission.model import emit
from orchestrator.quantization.plans import Plan, ffn_only, fully_quant

from .models import model_config, random_model, state_of

BERT = model_config({"type": "transformer", "num_layers": 2, "num_heads": 4})
BILSTM = model_config({"type": "bilstm", "num_layers": 2})
GATEDCNN = model_config({"type": "gatedcnn"})


def emitted(config, choose):
    state = state_of(random_model(config))
    units = emit(config, state).units
    plan = choose(units)
    ranges = {unit.name: (-2.0, 2.0) for unit in units}
    return emit(config, state, plan, ranges).to_bytes(), plan


def mixed(units):
    kinds = ("fp32", "s7", "row_s7", "row_u8")
    return Plan({unit.name: kinds[index % 4] for index, unit in enumerate(units)})


@pytest.mark.parametrize(
    ("config", "choose", "integer", "total"),
    [
        (BERT, mixed, 6, 8),
        (BERT, lambda units: ffn_only(units, "row_u8"), 4, 8),
        (BERT, lambda units: fully_quant(units, "row_s7"), 8, 8),
        (BERT, lambda units: fully_quant(units, "static_s7"), 8, 8),
        (BERT, lambda units: Plan({unit.name: "fp32" for unit in units}), 0, 8),
        (BILSTM, lambda units: fully_quant(units, "s7"), 4, 4),
        (BILSTM, lambda units: Plan({units[0].name: "s7"}), 1, 4),
        (GATEDCNN, lambda units: fully_quant(units, "row_u8"), 4, 4),
    ],
)
def test_integer_gemms_executed_equal_the_plan(config, choose, integer, total):
    model, plan = emitted(config, choose)
    found = audit(model)
    verify(found, plan)
    assert found.integer_units == integer == len(plan.integer)
    assert len(found.units) == total
    assert {unit.unit: unit.kind for unit in found.units if unit.kind != "fp32"} == plan.integer


def test_another_plan_than_the_executed_one_is_found():
    model, plan = emitted(BERT, mixed)
    found = audit(model)
    with pytest.raises(StageError, match="planned row_u8, ran row_s7"):
        verify(found, Plan({**plan.kinds, "encoder.layers.0.feed_forward.up": "row_u8"}))
    with pytest.raises(StageError, match="planned fp32"):
        verify(found, Plan({}))


def test_a_float_gemm_under_an_int8_name_is_found():
    """A runtime that rewrites an integer GEMM: the name stays, the operator changes."""
    model, plan = emitted(BERT, lambda units: Plan({unit.name: "fp32" for unit in units}))
    proto = onnx.load_from_string(model)
    for node in proto.graph.node:
        if node.name == "encoder.layers.1.attention.qkv.fp32":
            node.name = "encoder.layers.1.attention.qkv.row_s7"
    found = audit(proto.SerializeToString())
    claimed = Plan({**plan.kinds, "encoder.layers.1.attention.qkv": "row_s7"})
    assert found.integer_units == 0
    with pytest.raises(StageError, match="ran row_s7 as MatMul"):
        verify(found, claimed)


def test_a_unit_that_is_missing_or_runs_twice_is_found():
    model, plan = emitted(BERT, mixed)
    found = audit(model)
    with pytest.raises(StageError, match="is not executed"):
        verify(found, Plan({**plan.kinds, "encoder.layers.9.attention.qkv": "row_s7"}))
    twice = found.model_copy(update={"units": (*found.units, found.units[0])})
    with pytest.raises(StageError, match="2 times"):
        verify(twice, plan)
    with pytest.raises(StageError, match="belongs to no unit"):
        verify(found.model_copy(update={"unnamed_integer": ("MatMulInteger.7",)}), plan)


def test_the_wrong_weight_type_is_found():
    model, plan = emitted(BERT, lambda units: fully_quant(units, "row_s7"))
    found = audit(model)
    wrong = found.units[0].model_copy(update={"weight_type": "UINT8"})
    with pytest.raises(StageError, match="weight of type UINT8"):
        verify(found.model_copy(update={"units": (wrong, *found.units[1:])}), plan)
