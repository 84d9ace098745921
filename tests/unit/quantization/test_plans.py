"""Plans: modes, files, digests, and independence of the batch."""

import pytest

from orchestrator.errors import InputError
from orchestrator.quantization.plans import (
    Plan,
    PlanFile,
    Unit,
    ffn_only,
    fully_quant,
    named_plans,
    role_plan,
    single_plan,
)

GEMM = ("static_s7", "row_s7", "row_u8", "s7")
UNITS = [
    Unit("encoder.layers.0.attention.qkv", (8, 24), GEMM),
    Unit("encoder.layers.0.feed_forward.up", (8, 32), GEMM),
    Unit("encoder.layers.11.attention.qkv", (8, 24), GEMM),
    Unit("encoder.layers.11.feed_forward.up", (8, 32), GEMM),
]
LSTM = Unit("encoder.forward_stack.0", (16, 32), ("s7",))


def test_the_modes_of_samp():
    assert set(fully_quant(UNITS, "row_s7").kinds.values()) == {"row_s7"}
    assert list(ffn_only(UNITS, "row_u8").integer) == [u.name for u in UNITS if "feed" in u.name]


def test_single_units_and_roles():
    assert single_plan(UNITS, UNITS[2].name, "s7").integer == {UNITS[2].name: "s7"}
    assert list(role_plan(UNITS, UNITS[0].role, "s7").integer) == [UNITS[0].name, UNITS[2].name]
    assert UNITS[0].role == UNITS[2].role == "encoder.layers.*.attention.qkv"
    assert LSTM.role == "encoder.forward_stack.*"


def test_a_unit_without_the_wanted_kind_takes_the_one_it_has():
    assert LSTM.options(("row_s7", "row_u8")) == ("s7",)
    assert fully_quant([LSTM], "row_s7").kinds == {LSTM.name: "s7"}
    assert UNITS[0].options(("s7", "row_u8")) == ("row_u8", "s7")


def test_named_plans_are_unique():
    assert set(named_plans([LSTM], ("row_s7", "row_u8"))) == {"float", "fully_quant.s7"}
    assert len(named_plans(UNITS, ("row_s7", "row_u8"))) == 5


def test_only_plans_without_s7_are_batch_invariant():
    assert fully_quant(UNITS, "row_s7").batch_invariant
    assert not single_plan(UNITS, UNITS[0].name, "s7").batch_invariant


def test_the_ranges_of_calibrated_units_are_recorded():
    plan = single_plan(UNITS, UNITS[1].name, "static_s7")
    stored = plan.to_file({unit.name: (-1.0, 2.0) for unit in UNITS})
    assert stored.ranges == {UNITS[1].name: (-1.0, 2.0)}
    assert plan.batch_invariant


def test_file_round_trip_and_digest(tmp_path):
    plan = ffn_only(UNITS, "row_s7")
    (tmp_path / "plan.json").write_text(plan.to_file().model_dump_json())
    again = Plan(PlanFile.read(tmp_path).units)
    assert again == plan
    assert again.digest == Plan(dict(plan.integer)).digest != fully_quant(UNITS, "row_s7").digest


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"version": 2, "units": {}}, "version 2 is not supported"),
        ({"version": 1, "units": {"a": "s8"}}, "row_u8"),
        (["units"], "version None"),
    ],
)
def test_other_plans_are_refused(content, message):
    with pytest.raises(InputError, match=message):
        PlanFile.of(content)


def test_a_folder_without_a_plan_has_none(tmp_path):
    assert PlanFile.read(tmp_path) is None
