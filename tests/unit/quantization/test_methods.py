"""Plans that each method measures, on made-up models whose true optimum is known."""

import numpy as np
import pytest

from orchestrator.errors import InputError
from orchestrator.quantization.allocator import Option, predicted, surrogate_front
from orchestrator.quantization.config import GoalConfig
from orchestrator.quantization.measured_results import Divergence, Paired, PlanFigures
from orchestrator.quantization.methods import exhaustive, front, samp
from orchestrator.quantization.methods.space import Space
from orchestrator.quantization.plans import Plan, Unit, named_plans
from orchestrator.quantization.ranking import Point
from orchestrator.quantization.results import Latency

PARTS = ("attention.qkv", "attention.output", "feed_forward.up", "feed_forward.down")
KINDS = ("static_s7", "row_s7", "row_u8")


def members(layers, kinds=KINDS):
    return [
        Unit(f"encoder.layers.{layer}.{part}", (8, 8), kinds)
        for layer in range(layers)
        for part in PARTS
    ]


def space_of(units, prices, goal, budget=9, kinds=KINDS):
    return Space(
        units=units,
        kinds=kinds,
        goal=goal,
        options=prices,
        front=surrogate_front(units, prices) if prices else [],
        baselines=named_plans(units, kinds),
        budget=budget,
    )


class Truth:
    """Measures plans by a true error and time per unit and kind; counts its evaluations."""

    def __init__(self, prices, keeps):
        self.prices, self._keeps, self.plans = prices, keeps, {}

    def __call__(self, plans):
        self.plans |= plans
        return {name: self._keeps(predicted(plan, self.prices)) for name, plan in plans.items()}

    def kept(self):
        found = [predicted(plan, self.prices) for plan in self.plans.values()]
        return [each for each in found if each.plan.integer and self._keeps(each)]


def planted(units, rng, outliers):
    """Price 24 units as the audit found them, three output projections with huge outliers."""
    prices = {}
    for unit in units:
        error = 10 ** rng.uniform(-4.5, -3.5)
        bad = 5000.0 if unit.name in outliers else 1.0
        time = rng.uniform(0.01, 0.025)
        prices[unit.name] = [
            Option("static_s7", -time, 2 * bad * error),
            Option("row_s7", -0.8 * time, bad * error),
            Option("row_u8", -0.6 * time, bad * error / 2),
        ]
    return prices


@pytest.mark.parametrize("seed", range(2))
def test_bisection_finds_the_planted_outliers_in_15_evaluations_for_12_layers(seed):
    rng, units = np.random.default_rng(seed), members(12)
    outliers = {f"encoder.layers.{layer}.attention.output" for layer in (0, 2, 5)}
    prices = planted(units, rng, outliers)
    truth = Truth(prices, lambda found: found.error < 0.05)
    front.search(space_of(units, prices, GoalConfig(max_accuracy_drop=0.005)), truth)
    evaluations = [plan for plan in truth.plans.values() if plan.integer]
    assert len(evaluations) <= 15
    best = min(truth.kept(), key=lambda found: found.time)
    floats = {unit for unit, kind in best.plan.kinds.items() if kind == "fp32"}
    assert floats == outliers
    pure = [predicted(plan, prices) for plan in named_plans(units, KINDS).values()]
    within = min(found.time for found in pure if found.error < 0.05)
    assert 1 + best.time < 0.85 * (1 + within)


@pytest.mark.parametrize("seed", range(2))
def test_bisection_is_within_1_percent_of_the_optimum(seed):
    """The optimum: the fastest of all plans of the surrogate that keep the bound."""
    rng, units = np.random.default_rng(seed), members(4)
    prices = planted(units, rng, {units[1].name})
    limit = float(np.quantile([each.error for each in surrogate_front(units, prices)], 0.6))
    truth = Truth(prices, lambda found: found.error <= limit)
    front.search(space_of(units, prices, GoalConfig(max_kl=1.0)), truth)
    optimum = min(f.time for f in surrogate_front(units, prices) if f.error <= limit)
    assert 1 + min(found.time for found in truth.kept()) <= 1.01 * (1 + optimum)


def test_a_bound_of_time_is_searched_from_the_fast_end():
    units = members(4)
    prices = planted(units, np.random.default_rng(0), set())
    truth = Truth(prices, lambda found: 1 + found.time <= 0.85)
    front.search(space_of(units, prices, GoalConfig(max_latency_ms=0.85)), truth)
    best = min(truth.kept(), key=lambda found: found.error)
    exact = min(f.error for f in surrogate_front(units, prices) if 1 + f.time <= 0.85)
    assert best.error <= 1.2 * exact
    assert len(truth.plans) <= 1 + 15


def test_a_repair_finds_what_a_wrong_surrogate_hides():
    """One unit is far worse in the model than alone: its neighbors on the front all have it."""
    units = members(2, ("row_s7",))
    prices = {unit.name: [Option("row_s7", -0.02, 1e-3 + 1e-4 * i)] for i, unit in enumerate(units)}
    hidden = units[-1].name
    truth = Truth(prices, lambda found: hidden not in found.plan.integer)
    kinds = ("row_s7",)
    front.search(space_of(units, prices, GoalConfig(max_kl=1.0), kinds=kinds), truth)
    best = min(truth.kept(), key=lambda found: found.time)
    assert set(best.plan.integer) == {unit.name for unit in units} - {hidden}


def test_a_goal_that_the_fastest_plan_keeps_needs_no_bisection():
    units = members(4)
    prices = planted(units, np.random.default_rng(0), set())
    truth = Truth(prices, lambda found: True)
    space = space_of(units, prices, GoalConfig(max_kl=9.0))
    front.search(space, truth)
    assert len(truth.plans) <= len(space.baselines) + 1


def test_samp_sweeps_the_first_layers_of_both_modes():
    plans = samp.sweep(members(3), "row_s7")
    assert list(plans) == [f"samp.row_s7.{m}.{k}" for m in ("fully", "ffn") for k in (1, 2, 3)]
    assert len(plans["samp.row_s7.fully.2"].integer) == 8
    assert set(plans["samp.row_s7.ffn.1"].integer) == {
        f"encoder.layers.0.feed_forward.{part}" for part in ("up", "down")
    }


def test_samp_sweeps_every_kind_and_equal_sweeps_once():
    truth, units = [], members(2, ("row_s7", "row_u8"))
    space = space_of(units, {}, GoalConfig(), kinds=("row_s7", "row_u8"))
    samp.search(space, lambda plans: truth.extend(plans) or {})
    assert truth == ["float"] + [
        f"samp.{kind}.{mode}.{k}"
        for kind in ("row_s7", "row_u8")
        for mode in ("fully", "ffn")
        for k in (1, 2)
    ]
    alike = [Unit("encoder.layers.0", (8, 8), ("s7",))]
    assert list(samp.sweeps(alike, ("row_s7", "row_u8"))) == ["samp.row_s7.fully.1"]


def point(name, ratio, accuracy):
    drop = 0.9 - accuracy
    paired = Paired(
        texts=100, reference=0.9, accuracy=accuracy, drop=drop, gained=0, lost=0, p_value=1.0,
        interval=(drop, drop),
    )  # fmt: skip
    plan = Plan({"a": "fp32" if name == "float" else "row_s7"})
    latency = Latency(cpu_ms=1, wall_ms=1, ratio=ratio, spread=(ratio, ratio))
    figures = PlanFigures(paired=paired, divergence=Divergence(kl=drop, cosine=drop))
    return Point(name, plan, figures, latency)


def test_samp_stops_before_the_loss_per_saved_time_rises_above_the_average():
    """Rates .1, .1, .6 and .4 per time; the average of the sweep is .3."""
    losses, times = [0, 0.01, 0.02, 0.08, 0.12], [1.0, 0.9, 0.8, 0.7, 0.6]
    points = [
        point("float" if k == 0 else f"samp.row_s7.fully.{k}", time, 0.9 - loss)
        for k, (loss, time) in enumerate(zip(losses, times, strict=True))
    ]
    assert [p.name for p in samp.recommended(points, GoalConfig())] == ["samp.row_s7.fully.2"]


def test_exhaustive_measures_every_layer_in_every_mode_and_refuses_many():
    units = members(4, ("row_s7",))
    space = space_of(units, {}, GoalConfig(), kinds=("row_s7",))
    assert len(exhaustive.all_plans(space)) == 3**4
    with pytest.raises(InputError, match=r"7 \*\* 4 plans"):
        exhaustive.all_plans(space_of(members(4), {}, GoalConfig()))
