"""Objective after compression: checks of trials, limits, order of finalists, refusals. No Ray."""

import pytest

from orchestrator.config import validate_config
from orchestrator.errors import ConfigError, StageError
from orchestrator.modeling.config import ModelConfig
from orchestrator.quantization.compressor import Int8Compressor, quick_plans
from orchestrator.quantization.plans import Unit
from orchestrator.selection.config import SelectConfig
from orchestrator.selection.halving import Bracket
from orchestrator.selection.objective.checking import check_places, checked_row
from orchestrator.selection.objective.config import ObjectiveConfig
from orchestrator.selection.objective.finalists import (
    explained,
    misses,
    settle,
    with_merged,
)
from orchestrator.selection.objective.measuring import FileFigures
from orchestrator.selection.objective.results import (
    CompressedFinalist,
    CompressionCheck,
    Miss,
)
from orchestrator.selection.policies.sh import Halving
from orchestrator.selection.results import EpochResult
from orchestrator.selection.salvage.results import Salvage, SalvageTrial
from orchestrator.selection.trials.fine_tuning import FineTuneTrial, TrialPayload
from orchestrator.training.compression import compressor_of
from tests.support.outliers import (
    FINE_TUNE,
    RECURRENT,
    TASK,
    TRANSFORMER,
    make_outlier_world,
    outlier_job,
    spec,
)

INT8 = ObjectiveConfig(after="int8")
FAST = ObjectiveConfig(after="int8", p95_ms=2.0)


def trained(world, model, state, objective):
    payload = TrialPayload.model_validate(
        {
            "trial": model,
            "package": f"{model}/v0001",
            "zoo": str(world / "zoo"),
            "task": spec(world, TASK),
            "fine_tune": FINE_TUNE | {"epochs": 1},
            "seed": 7,
            "state": str(state),
            "objective": objective,
            "row_scores": str(state.parent / "correct"),
        }
    )
    return FineTuneTrial(payload).step()


@pytest.mark.slow
def test_a_rung_ranks_by_the_score_that_outliers_leave(tmp_path):
    world = make_outlier_world(tmp_path, RECURRENT)
    outliers, plain = (trained(world, m, tmp_path / m, INT8) for m in ("outliers", "plain"))
    assert outliers.check.before > plain.check.before
    assert outliers.validation == outliers.check.after < plain.validation - 0.1
    assert plain.check.drop == pytest.approx(0.0, abs=0.02)
    assert (tmp_path / "correct" / "outliers-1.npy").is_file()
    assert outliers.check.seconds > 0


@pytest.mark.slow
def test_units_that_may_stay_in_float_save_a_candidate(tmp_path):
    world = make_outlier_world(tmp_path, TRANSFORMER)
    found = trained(world, "outliers", tmp_path / "trial", INT8)
    assert found.check.forms > 1
    assert found.validation > found.check.before - 0.05
    left = trained(world, "outliers", tmp_path / "slow", FAST.model_copy(update={"p95_ms": 1e-6}))
    assert left.validation is None
    assert left.error.startswith("objective.p95_ms is ")


def row(**changes):
    return EpochResult(trial="a", rung=1, validation=0.9, **changes)


def test_the_score_is_the_validation_score_less_the_drop_on_the_checked_rows():
    found = checked_row(row(), CompressionCheck(rows=20, before=0.8, after=0.7, p95_ms=9.0), INT8)
    assert found.validation == pytest.approx(0.8)
    assert checked_row(row(), found.check, FAST).validation is None


def test_a_bounded_number_of_rows_is_drawn_once_for_every_candidate():
    assert check_places(5, 16).tolist() == [0, 1, 2, 3, 4]
    some = check_places(1000, 16)
    assert len(set(some.tolist())) == 16
    assert some.tolist() == sorted(check_places(1000, 16).tolist())


def test_plans_of_a_check_become_gentler_and_occur_once():
    names = ("attention.query_key_value", "attention.output", "feed_forward.up")
    units = [
        Unit(f"encoder.layers.{layer}.{name}", (8, 8), ("static_s7", "row_s7"))
        for layer in range(2)
        for name in names
    ]
    plans = quick_plans(units)
    assert [len(plan.integer) for plan in plans] == [6, 4, 4, 4, 2]
    assert len({plan.digest for plan in plans}) == len(plans)
    assert set(plans[0].kinds.values()) == {"row_s7"}


def test_limits_are_compared_with_what_was_measured():
    limits = ObjectiveConfig(after="int8", p95_ms=2.0, max_accuracy_drop=0.02)
    assert misses(0.9, FileFigures(score=0.88, p95_ms=2.0), limits) == []
    found = misses(0.9, FileFigures(score=0.85, p95_ms=3.0), limits)
    assert [miss.limit for miss in found] == ["max_accuracy_drop", "p95_ms"]
    assert misses(0.9, FileFigures(score=0.1, p95_ms=99.0), INT8) == []


def finalist(model, validation, *missed):
    return CompressedFinalist(model=model, validation=validation, misses=missed)


SLOW = Miss(limit="p95_ms", value=3.0, allowed=2.0)
SLOWER = Miss(limit="p95_ms", value=8.0, allowed=2.0)


def bracket_of(*models):
    bracket = Bracket(models, 1, Halving(), finalists=len(models))
    for place, model in enumerate(models):
        bracket.record(model, 1, 0.9 - place / 100)
    return bracket


def test_finalists_are_ordered_by_their_compressed_scores_without_those_that_miss_a_limit():
    bracket = bracket_of("a", "b", "c")
    settle(bracket, [finalist("a", 0.0, SLOW), finalist("b", 0.6), finalist("c", 0.7)], "int8")
    assert bracket.winners == ("c", "b")
    assert bracket.dropped["a"] == (1, "objective.p95_ms is 3, 2 is allowed (1 more)")


def test_the_nearest_miss_is_named_where_no_finalist_keeps_the_limits():
    found = [finalist("a", 0.0, SLOWER), finalist("b", 0.0, SLOW)]
    with pytest.raises(StageError, match=r"none of 2 .* The nearest is b: p95_ms is 3, 2 is"):
        settle(bracket_of("a", "b"), found, "int8")


def test_the_nearest_miss_is_named_where_every_candidate_left_a_rung():
    def left(trial, p95):
        found = CompressionCheck(rows=9, before=0.9, after=0.9, p95_ms=p95)
        return checked_row(row().model_copy(update={"trial": trial}), found, FAST)

    error = StageError("every candidate failed")
    found = explained(error, FAST, [left("a", 8.0), left("b", 3.0)])
    assert "The nearest is b: p95_ms is 3" in str(found)
    assert found.exit_code == 1
    assert explained(error, FAST, [row(error="broken")]) is error


class Merging:
    merged = None

    def __init__(self, found):
        self._found = found

    def compress(self, model, source, *, merged):
        assert (model, merged) == ("a", True)
        return self._found.model_copy(update={"merged": True})


@pytest.mark.parametrize(
    ("merged", "taken"),
    [(finalist("a", 0.8), True), (finalist("a", 0.6), False), (finalist("a", 0.9, SLOW), False)],
)
def test_a_merge_stays_where_its_compressed_form_is_better(merged, taken):
    trial = SalvageTrial(model="b", share=0.5, validation=0.95, taken=True)
    salvaged = Salvage(before=0.9, after=0.95, test=0.9, trials=(trial,))
    found = [finalist("a", 0.7)]
    salvaged, found = with_merged(Merging(merged), found, salvaged)
    assert bool(salvaged.merged) == found[0].merged == taken
    assert salvaged.after == (0.95 if taken else 0.9)


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        ({"p95_ms": 3}, r"objective.p95_ms: has no effect without objective.after"),
        ({"after": "int9"}, r"'int9' is not a registered compressor. Did you mean 'int8'\?(?! \()"),
    ],
)
def test_an_objective_that_nothing_acts_on_is_refused(tmp_path, objective, message):
    with pytest.raises(ConfigError, match=message):
        validate_config(
            SelectConfig, outlier_job(tmp_path, "x").model_dump() | {"objective": objective}, "test"
        )


def test_encoders_without_int8_kernels_are_refused_by_name_before_the_start(tmp_path):
    config = ModelConfig(
        hidden_size=16, vocab_size=32, encoder={"type": "gru", "num_layers": 1}, target=["mlm"]
    )
    assert "GRU and RNN have none" in compressor_of("int8").refusal(config)
    assert Int8Compressor().refusal(config.model_copy(update={"encoder": commit_like()})) is None


def commit_like():
    return ModelConfig(hidden_size=16, vocab_size=32, encoder=RECURRENT, target=["mlm"]).encoder
