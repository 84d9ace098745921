"""Budgets in seconds and money at the borders of rungs, on a clock that the test turns."""

import pytest

from orchestrator.errors import ConfigError
from orchestrator.selection.costs.accounting import Spent, ledger_rows
from orchestrator.selection.costs.clock import RunClock, money_of, slot_price, slots_of
from orchestrator.selection.costs.config import BudgetConfig, PricesConfig
from orchestrator.selection.costs.epoch_times import EpochTimes, makespan
from orchestrator.selection.costs.limits import BudgetLimit
from orchestrator.selection.halving import Bracket, replay_rows
from orchestrator.selection.policies.sh import Halving
from orchestrator.selection.results import JournalRow, ProxyScore
from orchestrator.selection.rungs import Rungs
from orchestrator.selection.salvage.results import Salvage
from orchestrator.storage import RunFolder
from tests.support.candidates import select_job

MODELS = tuple(f"m{i:02d}" for i in range(12))


class Run:
    """A selection on two slots whose epochs take the same time; time passes by arithmetic."""

    def __init__(self, folder, budget, *, price=None, guesses=(), start=1000.0, epoch_s=4.0):
        self.folder, self.time, self.epoch_s = folder, start, epoch_s
        self.rows, self.clock = [], RunClock(folder, 2, price, "EUR", now=lambda: self.time)
        self.times = EpochTimes(dict(guesses))
        self.limit = BudgetLimit(
            BudgetConfig(**budget), self.clock, self.times, folder, self.rows, Rungs(5, None, 9)
        )

    def bracket(self, stages=5, finalists=1):
        return Bracket(MODELS, stages, Halving(), None, finalists, self.limit.open_rung)

    def halve(self, bracket, until=float("inf")):
        self.limit.open_rung(bracket)
        replay_rows(bracket, list(self.rows))
        while not bracket.finished and self.time < until:
            rung, running = bracket.rung, bracket.waiting()[:2]
            self.time += self.epoch_s
            for model in running:
                score = int(model[1:]) / 100 + rung / 1000
                self.rows.append(
                    JournalRow(
                        trial=model, rung=rung, validation=score, steps=9, seconds=self.epoch_s
                    )
                )
                bracket.record(model, rung, score)
                if not bracket.finished and bracket.rung == rung:
                    self.limit.check(bracket, set(running) & set(bracket.waiting()))
        return bracket

    @property
    def spent(self):
        return self.time - 1000.0


@pytest.fixture
def folder(tmp_path):
    with RunFolder.open(select_job(tmp_path, matrix=None), "select") as run:
        yield run


def test_a_rung_takes_as_many_as_leave_enough_to_finish_the_leader(folder):
    run = Run(folder, {"seconds": 45})
    bracket = run.halve(run.bracket())
    assert bracket.rung == 6, "trained to the end"
    assert run.spent <= 45
    trained = [sum(row.rung == rung for row in run.rows) for rung in range(1, 6)]
    assert trained == [12, 4, 2, 1, 1]  # 24 s, 8 s, 4 s, 4 s, 4 s; the policy alone: 12, 6, 3, 1, 1
    assert "2 models fit" not in bracket.dropped["m07"][1]
    assert bracket.dropped["m07"] == (2, "budget.seconds of 45: 4 models fit")


def test_a_selection_ends_with_the_best_so_far(folder):
    run = Run(folder, {"seconds": 30})
    bracket = run.halve(run.bracket())
    assert run.spent <= 30
    assert (bracket.winner, bracket.rung) == ("m11", 3)
    assert bracket.ended == "budget.seconds of 30 before rung 3"
    assert sum(row.rung == 2 for row in run.rows) == 1


def test_trials_that_wait_are_dropped_when_time_runs_out_in_the_first_rung(folder):
    run = Run(folder, {"seconds": 14})
    bracket = run.halve(run.bracket())
    assert run.spent <= 14
    assert {row.trial for row in run.rows} == set(MODELS[:6])
    assert bracket.winner == "m05"
    assert bracket.dropped["m11"] == (1, "budget.seconds of 14 in rung 1")


def test_known_times_shrink_the_first_rung(folder):
    run = Run(folder, {"seconds": 30}, guesses=dict.fromkeys(MODELS, 4.0))
    bracket = run.halve(run.bracket())
    assert bracket.rung == 6
    assert run.spent <= 30
    assert sum(row.rung == 1 for row in run.rows) == 5  # 12 s, and 4 s for each later rung


def test_one_model_is_trained_however_small_the_budget(folder):
    run = Run(folder, {"seconds": 1}, guesses=dict.fromkeys(MODELS, 4.0))
    bracket = run.halve(run.bracket())
    assert {row.trial for row in run.rows} == {"m00"}
    assert bracket.winner == "m00"


def test_money_is_the_price_of_all_slots(folder):
    run = Run(folder, {"currency": 0.9}, price=0.01)
    bracket = run.halve(run.bracket())
    assert bracket.rung == 6
    assert run.spent <= 45
    money = money_of(run.clock.stop())
    assert money == pytest.approx(run.spent * 0.02)
    assert money <= 0.9


@pytest.mark.parametrize("unit", ["epochs", "steps"])
def test_epochs_and_steps_are_hard_as_well(folder, unit):
    run = Run(folder, {unit: 18 * (9 if unit == "steps" else 1)})
    bracket = run.halve(run.bracket())
    assert bracket.rung == 6
    assert len(run.rows) <= 18


def test_a_killed_run_repeats_its_decisions_and_counts_what_it_spent(folder):
    clean = Run(folder, {"seconds": 45})
    whole = clean.halve(clean.bracket())
    with RunFolder.open(select_job(folder.path.parent, "again", matrix=None), "select") as second:
        first = Run(second, {"seconds": 45})
        first.halve(first.bracket(), until=1030.0)
        later = Run(second, {"seconds": 45}, start=9000.0)
        assert later.limit.left() == pytest.approx(45 - 32, abs=2.0)
        later.rows += first.rows
        resumed = later.halve(later.bracket())
    assert [v.kept for v in resumed.verdicts[:2]] == [v.kept for v in whole.verdicts[:2]]
    assert resumed.winner == whole.winner
    assert later.clock.seconds() <= 45


def test_measured_epochs_replace_guesses_and_scale_the_others():
    times = EpochTimes({"a": 1.0, "b": 2.0})
    assert times.rung(["a", "b"], 1) == 3.0
    times.add_rows([JournalRow(trial="a", rung=1, validation=0.5, seconds=3.0)])
    assert (times.of("a"), times.of("b"), times.of("c")) == (3.0, 6.0, 3.0)
    ratios = EpochTimes({"a": 1.0, "b": 2.0}, ratios_only=True)
    assert ratios.of("a") is None
    ratios.add_proxies({"a": ProxyScore(values={}, floors={}, rows=10, seconds=1.0)}, 100)
    assert ratios.of("a") == pytest.approx(30.0)
    assert EpochTimes({}).rung(["a"], 1) is None
    assert makespan([3, 2, 2], 2) == 4


def test_the_ledger_sums_to_wall_time_times_slots(folder):
    run = Run(folder, {}, price=0.01)
    bracket = run.halve(run.bracket())
    attempts = run.clock.stop()
    proxies = {"m00": ProxyScore(values={}, floors={}, seconds=1.0, startup_s=2.0)}
    spent = Spent(attempts, salvage=Salvage(before=0.5, after=0.5, seconds=1.5))
    rows = ledger_rows(proxies, run.rows, bracket, spent)
    assert sum(row.slot_seconds for row in rows) == pytest.approx(2 * run.spent)
    assert sum(row.money for row in rows) == pytest.approx(0.02 * run.spent)
    assert {row.phase for row in rows} == {"proxies", "rung", "completion", "salvage", "idle"}
    assert rows[-1].phase == "idle"
    assert sum(row.epochs for row in rows) == len(run.rows)


def test_slots_and_prices_come_from_what_a_trial_reserves(tmp_path):
    cluster = select_job(tmp_path, cluster={"cpus_per_worker": 2, "gpus_per_worker": 0.5}).cluster
    assert slots_of(cluster, cpus=16, gpus=2) == 4
    packed = cluster.model_copy(update={"cpus_per_worker": 0.1, "gpus_per_worker": 0.0})
    assert slots_of(packed, cpus=1, gpus=0) == 10
    price = slot_price(cluster, PricesConfig(cpu_hour=0.9, gpu_hour=3.6))
    assert price == pytest.approx((1.8 + 1.8) / 3600)
    assert slot_price(cluster, PricesConfig()) is None
    for changes in (
        {"budget": {"currency": 1.0}},
        {"prices": {"cpu_hour": 1.0}, "cluster": {"gpus_per_worker": 1}},
    ):
        with pytest.raises(ConfigError, match=r"Give it; 0 if it costs nothing"):
            select_job(tmp_path, **changes)
