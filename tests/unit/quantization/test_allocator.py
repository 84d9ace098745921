"""The allocator against brute force, and its decisions on measured points."""

import itertools

import numpy as np
import pytest

from orchestrator.quantization.allocator import (
    Option,
    by_size,
    candidates,
    latency_plans,
    predicted,
    saved_bytes,
    shrunk_times,
    surrogate_front,
)
from orchestrator.quantization.config import GoalConfig
from orchestrator.quantization.measured_results import Divergence, Paired, PlanFigures
from orchestrator.quantization.plans import Plan, Unit, named_plans
from orchestrator.quantization.ranking import Point, near_misses, pareto, ranked
from orchestrator.quantization.results import Latency


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
    for each in found:
        assert any(np.isclose(each.time, t) and np.isclose(each.error, e) for t, e in totals)
        spent = [o for u in members for o in options[u.name] if each.plan.kind(u.name) == o.kind]
        assert np.isclose(sum(o.time for o in spent), each.time)


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


def goal(**fields):
    return GoalConfig(**{"statistic": "mean", **fields})


def point(name, ratio, drop, kl, integer=True, cpu_ms=None, spread=0.0, bound=None):
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
        bound=bound,
    )
    around = (ratio - spread, ratio + spread)
    latency = Latency(cpu_ms=cpu_ms or ratio, wall_ms=ratio, ratio=ratio, spread=around)
    plan = Plan({"a": "row_s7" if integer else "fp32", "b": "fp32"})
    found = PlanFigures(paired=figures, divergence=Divergence(kl=kl, cosine=kl), size=1000)
    return Point(name, plan, found, latency)


FLOAT = point("float", 1.0, 0.0, 0.0, integer=False)
POINTS = [
    FLOAT,
    point("fast", 0.6, 0.05, 0.9),
    point("middle", 0.7, 0.01, 0.1),
    point("slow", 0.9, -0.01, 0.05),
    point("worse", 0.95, 0.01, 0.5),
]


def test_an_accuracy_bound_takes_the_fastest_plan_within_it():
    assert [p.name for p in ranked(POINTS, goal(max_accuracy_drop=0.02))][:2] == [
        "middle",
        "slow",
    ]
    assert ranked(POINTS, goal(max_accuracy_drop=0.1))[0].name == "fast"
    assert [p.name for p in ranked(POINTS, goal(max_accuracy_drop=0.0))] == ["slow"]


@pytest.mark.parametrize(
    ("near", "far", "spread", "taken"),
    [
        (0.7101, 0.7099, 0.0, "near"),  # the edge of a class of speed decides nothing
        (0.7099, 0.6901, 0.0, "far"),  # 3 % faster, and well measured
        (0.7099, 0.6901, 0.015, "near"),  # not told apart by their intervals
        (0.8, 0.7, 0.2, "far"),  # so large a difference is never noise
    ],
)
def test_of_plans_that_are_as_fast_the_smaller_error_wins(near, far, spread, taken):
    twins = [
        point("near", near, 0.0, 0.001, spread=spread),
        point("far", far, 0.0, 0.1, spread=spread),
    ]
    assert ranked(twins, goal(max_accuracy_drop=0.1))[0].name == taken


def test_a_bound_holds_the_one_sided_interval_of_the_drop():
    points = [point("unsure", 0.6, 0.0, 0.1, bound=0.06), point("sure", 0.7, 0.01, 0.1, bound=0.04)]
    limit = GoalConfig(max_accuracy_drop=0.05)
    assert [p.name for p in ranked(points, limit)] == ["sure"]
    (miss,) = near_misses(points, limit)
    (missed,) = miss.missed
    assert (miss.plan, missed.limit, missed.value, missed.allowed, missed.rows) == (
        "unsure", "max_accuracy_drop", 0.06, 0.05, "validation",
    )  # fmt: skip


def test_sizes_and_other_shapes_are_bounds():
    slow = Latency(cpu_ms=9.0, wall_ms=9.0, ratio=0.9, spread=(0.9, 0.9))
    found = Point("a", POINTS[1].plan, POINTS[1].figures, POINTS[1].latency, {"8x64": slow})
    bucket = {"batch_size": 8, "length": 64}
    assert ranked([found], goal(buckets=[{**bucket, "max_ms": 9.0}], max_bytes=1000))
    for tight in ({"buckets": [{**bucket, "max_ms": 8.0}]}, {"max_bytes": 999}):
        assert not ranked([found], goal(**tight))


def test_a_latency_bound_takes_the_plan_nearest_to_float_within_it():
    assert ranked(POINTS, goal(max_latency_ms=0.92))[0].name == "slow"
    lucky = point("lucky", 0.5, -0.05, 0.9)  # on a few hundred rows, accuracy is noise
    assert ranked([*POINTS, lucky], goal(max_latency_ms=0.75))[0].name == "middle"
    assert ranked(POINTS, goal(max_latency_ms=0.1)) == []


def test_both_bounds_hold_together():
    assert [p.name for p in ranked(POINTS, goal(max_accuracy_drop=0.0, max_latency_ms=0.92))] == [
        "slow"
    ]
    assert ranked(POINTS, goal(max_accuracy_drop=0.0, max_latency_ms=0.65)) == []


def test_without_a_bound_the_knee_is_taken():
    assert ranked(POINTS, goal())[0].name == "middle"


def test_float_is_chosen_only_if_allowed():
    slow_int8 = [FLOAT, point("slower", 1.2, 0.0, 0.1)]
    assert [p.name for p in ranked(slow_int8, goal(max_accuracy_drop=0.1))] == ["slower"]
    assert ranked(slow_int8, goal(max_accuracy_drop=0.1, allow_float=True))[0].name == "float"


def test_the_measured_front_holds_no_dominated_point():
    assert [p.name for p in pareto(POINTS)] == ["fast", "middle", "slow", "float"]


def latency(ratio, half):
    return Latency(cpu_ms=1.0, wall_ms=1.0, ratio=ratio, spread=(ratio - half, ratio + half))


def test_role_times_are_shrunk_by_their_noise():
    """Three roles of one size: their true saving is .1; the luckiest measurement says .2."""
    members = [Unit(f"layers.0.{part}", (8, 8), ("row_s7",)) for part in "abc"]
    measured = dict(zip("abc", (0.8, 0.9, 1.0), strict=True))
    for half, expected in ((0.0, -0.2), (0.5, -0.1)):  # no noise: as measured; all noise: the mean
        times = {f"layers.*.{k}@row_s7": latency(ratio, half) for k, ratio in measured.items()}
        found = shrunk_times(members, ("row_s7",), times)
        assert found["layers.*.a@row_s7"] == pytest.approx(expected)
        assert sum(found.values()) == pytest.approx(-0.3)


def test_roles_that_save_more_together_are_scaled_to_what_they_save():
    members = [Unit(f"layers.{n}.{part}", (8, 8), ("row_s7",)) for n in (0, 1) for part in "ab"]
    plans = latency_plans(members, ("row_s7",))
    assert {name: len(plan.integer) for name, plan in plans.items()} == {
        "layers.*.a@row_s7": 2,
        "layers.*.b@row_s7": 2,
        "*@row_s7": 4,
    }
    times = {"layers.*.a@row_s7": latency(0.9, 0.0), "layers.*.b@row_s7": latency(0.7, 0.0)}
    found = shrunk_times(members, ("row_s7",), {**times, "*@row_s7": latency(0.5, 0.0)})
    assert found["layers.*.a@row_s7"] == pytest.approx(-0.05 * 1.25)
    assert found["layers.*.b@row_s7"] == pytest.approx(-0.15 * 1.25)
    assert "*@row_s7" not in latency_plans(members[::2], ("row_s7",))


def test_the_best_of_many_noisy_roles_is_predicted_with_half_the_bias():
    """The search takes the fastest kind of each role: the winner's curse without shrinkage."""
    rng = np.random.default_rng(0)
    kinds = ("row_s7", "row_u8", "static_s7")
    members = [Unit(f"layers.0.part{i}", (8, 8), kinds) for i in range(8)]
    raw, shrunk = [], []
    for _ in range(50):
        times = {
            f"{u.role}@{kind}": latency(0.95 + rng.normal() * 0.03, 0.06)
            for u in members
            for kind in kinds
        }
        found = shrunk_times(members, kinds, times)
        best = [min(kinds, key=lambda kind, u=u: found[f"{u.role}@{kind}"]) for u in members]
        shrunk.append(sum(found[f"{u.role}@{k}"] for u, k in zip(members, best, strict=True)))
        raw.append(sum(min(times[f"{u.role}@{k}"].ratio - 1 for k in kinds) for u in members))
    true = -8 * 0.05
    assert np.mean(raw) < true - 0.15
    assert abs(np.mean(shrunk) - true) < abs(np.mean(raw) - true) / 2


def test_sizes_are_predicted_from_shapes():
    members = [Unit("a", (100, 10), ("row_s7",)), Unit("b", (10, 10), ("row_s7",))]
    plan = Plan({"a": "row_s7", "b": "fp32"})
    assert saved_bytes(members, plan) == 3 * 1000 - 50
    prices = {name: [Option("row_s7", -0.1, 1.0)] for name in "ab"}
    assert by_size(members, prices)["a"][0].time == pytest.approx(-2950 / 2**20)
    assert predicted(plan, prices).time == pytest.approx(-0.1)
    assert predicted(plan, {}) is None
