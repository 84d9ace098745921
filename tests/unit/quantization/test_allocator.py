"""The allocator against brute force, and its decisions on measured points."""

import itertools

import numpy as np
import pytest

from orchestrator.quantization.allocator import (
    Option,
    Point,
    candidates,
    pareto,
    ranked,
    surrogate_front,
)
from orchestrator.quantization.config import GoalConfig
from orchestrator.quantization.plans import Plan, Unit, named_plans
from orchestrator.quantization.results import Divergence, Latency, Paired


def units(count: int) -> list[Unit]:
    parts = ("attention.qkv", "feed_forward.up")
    names = [f"encoder.layers.{index // 2}.{parts[index % 2]}" for index in range(count)]
    return [Unit(name, (8, 8), ("row_s7", "row_u8")) for name in names]


def random_options(names, rng):
    return {
        name: [
            Option("row_s7", -rng.uniform(0.005, 0.05), rng.exponential(1.0)),
            Option("row_u8", rng.uniform(-0.03, 0.01), rng.exponential(0.3)),
        ]
        for name in names
    }


@pytest.mark.parametrize("seed", range(8))
def test_the_front_is_that_of_all_plans(seed):
    members = units(6)
    options = random_options([u.name for u in members], np.random.default_rng(seed))
    totals = []
    choices = [[Option("fp32", 0.0, 0.0), *options[u.name]] for u in members]
    for plan in itertools.product(*choices):
        totals.append((sum(o.time for o in plan), sum(o.error for o in plan)))
    exact = {
        (time, error)
        for time, error in totals
        if not any(t <= time and e <= error and (t, e) != (time, error) for t, e in totals)
    }
    found = surrogate_front(members, options)
    cell = 6 * 0.05 / 4096 * 6
    for time, error in exact:
        assert any(p.time <= time + cell and p.error <= error + 1e-12 for p in found)
    for predicted in found:
        assert any(
            np.isclose(predicted.time, t) and np.isclose(predicted.error, e) for t, e in totals
        )
        spent = [
            o for u in members for o in options[u.name] if predicted.plan.kind(u.name) == o.kind
        ]
        assert np.isclose(sum(o.time for o in spent), predicted.time)


def test_a_kind_that_is_slower_than_float_is_never_proposed():
    members = units(3)
    options = {u.name: [Option("row_u8", 0.01, 1.0)] for u in members}
    (only,) = surrogate_front(members, options)
    assert only.plan.integer == {}


def test_many_units_take_bounded_work():
    members = units(60)
    options = random_options([u.name for u in members], np.random.default_rng(0))
    front = surrogate_front(members, options)
    assert 50 < len(front) <= 4200
    assert [p.time for p in front] == sorted(p.time for p in front)
    assert [p.error for p in front] == sorted((p.error for p in front), reverse=True)


def test_candidates_are_the_pure_modes_and_a_spread_of_the_front():
    members = units(6)
    front = surrogate_front(
        members, random_options([u.name for u in members], np.random.default_rng(1))
    )
    baselines = named_plans(members, ("row_s7",))
    chosen = candidates(front, baselines, 4)
    assert {"float", "fully_quant.row_s7", "ffn_only.row_s7"} < set(chosen)
    assert 1 <= len(chosen) - len(baselines) <= 4
    digests = [plan.digest for plan in chosen.values()]
    assert len(set(digests)) == len(digests)


def point(name, ratio, drop, kl, integer=True, cpu_ms=None):
    lost = round(drop * 100)
    figures = Paired(
        texts=100,
        reference=0.9,
        accuracy=0.9 - drop,
        drop=drop,
        gained=0,
        lost=max(lost, 0),
        p_value=1.0,
        interval=(-1.0, 1.0),
    )
    latency = Latency(cpu_ms=cpu_ms or ratio, wall_ms=ratio, ratio=ratio, spread=(ratio, ratio))
    plan = Plan({"a": "row_s7" if integer else "fp32", "b": "fp32"})
    return Point(name, plan, figures, Divergence(kl=kl, cosine=kl), latency)


FLOAT = point("float", 1.0, 0.0, 0.0, integer=False)
POINTS = [
    FLOAT,
    point("fast", 0.6, 0.05, 0.9),
    point("middle", 0.7, 0.01, 0.1),
    point("slow", 0.9, -0.01, 0.05),
    point("worse", 0.95, 0.01, 0.5),
]


def test_an_accuracy_bound_takes_the_fastest_plan_within_it():
    assert [p.name for p in ranked(POINTS, GoalConfig(max_accuracy_drop=0.02))][:2] == [
        "middle",
        "slow",
    ]
    assert ranked(POINTS, GoalConfig(max_accuracy_drop=0.1))[0].name == "fast"
    assert [p.name for p in ranked(POINTS, GoalConfig(max_accuracy_drop=0.0))] == ["slow"]


def test_among_equally_fast_plans_the_smaller_error_wins():
    twins = [point("near", 0.701, 0.0, 0.1), point("far", 0.699, 0.0, 0.2)]
    assert ranked(twins, GoalConfig(max_accuracy_drop=0.1))[0].name == "near"


def test_a_latency_bound_takes_the_most_accurate_plan_within_it():
    assert ranked(POINTS, GoalConfig(max_latency_ms=0.92))[0].name == "slow"
    assert ranked(POINTS, GoalConfig(max_latency_ms=0.75))[0].name == "middle"
    assert ranked(POINTS, GoalConfig(max_latency_ms=0.1)) == []


def test_both_bounds_hold_together():
    assert [
        p.name for p in ranked(POINTS, GoalConfig(max_accuracy_drop=0.0, max_latency_ms=0.92))
    ] == ["slow"]
    assert ranked(POINTS, GoalConfig(max_accuracy_drop=0.0, max_latency_ms=0.65)) == []


def test_without_a_bound_the_knee_is_taken():
    assert ranked(POINTS, GoalConfig())[0].name == "middle"


def test_float_is_chosen_only_if_allowed():
    slow_int8 = [FLOAT, point("slower", 1.2, 0.0, 0.1)]
    assert [p.name for p in ranked(slow_int8, GoalConfig(max_accuracy_drop=0.1))] == ["slower"]
    assert ranked(slow_int8, GoalConfig(max_accuracy_drop=0.1, allow_float=True))[0].name == "float"


def test_the_measured_front_holds_no_dominated_point():
    assert [p.name for p in pareto(POINTS)] == ["fast", "middle", "slow", "float"]
