"""Methods of selection played on recorded trials, with their steps and seconds.

``two_phase`` is the product: its plan, its proxies, its recall, its choice of a learning rate, its
bracket. The baselines have no first phase and no notion of a learning rate: a candidate at one rate
is one arm of theirs.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from orchestrator.config import StrictModel
from orchestrator.selection.config import SelectConfig
from orchestrator.selection.halving import Bracket
from orchestrator.selection.matrix.performance import MeasuredCell, PerformanceMatrix
from orchestrator.selection.planning import SelectionPlan
from orchestrator.selection.replay.methods import Method, ReplaySettings
from orchestrator.selection.replay.playing import replay
from orchestrator.selection.results import ProxyScore
from orchestrator.selection.screening import recall
from orchestrator.selection.ties.row_scores import read_row_scores, write_row_scores
from orchestrator.selection.ties.tie_breaker import TieBreaker, Traits
from orchestrator.storage import atomic_write_json, read_json
from peers.recorded_trials import Curve, RateChoice

Arm = tuple[str, float]
"""A candidate and a learning rate."""
Curves = Mapping[Arm, Curve]
Score = Callable[[str], tuple[ProxyScore, float]]
"""Candidate → its proxy scores and their CPU seconds."""
Choose = Callable[[str], RateChoice]
"""Candidate → the choice among its rates."""
BASELINES: Final[Mapping[str, Method]] = {
    "successive halving": "successive_halving",
    "ASHA (Tune)": "asha",
    "HyperBand (Tune)": "hyperband",
    "brute force": "brute_force",
}


class Outcome(StrictModel):
    """Choice and cost of one method on one target and seed."""

    winner: Arm
    """Candidate and learning rate."""
    validation: float
    """Its last validation score."""
    test: float
    """Its test score, read after the choice."""
    steps: int
    """Optimizer steps of all training."""
    seconds: float
    """CPU seconds of training, evaluation, start of trials and proxies."""
    notes: str = ""
    """The policy that decided, and how many candidates were left out and trained."""


class Outcomes:
    """Outcomes of one method on disk: Tune takes its time for each case.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        rows = read_json(path) if path.is_file() else {}
        self.of = {case: Outcome.model_validate(row) for case, row in rows.items()}

    def add(self, more: Mapping[str, Outcome]) -> None:
        """Store the outcomes of more cases."""
        self.of |= more
        rows = {case: found.model_dump(mode="json") for case, found in self.of.items()}
        atomic_write_json(self.path, rows)


def outcome(winner: Arm, paid: Mapping[Arm, int], curves: Curves, proxies: float = 0.0) -> Outcome:
    """The cost of a choice.

    Args:
        winner: The choice.
        paid: Arm to the epochs that it was trained.
        curves: All recorded curves.
        proxies: CPU seconds of proxy scores.
    """
    chosen = curves[winner]
    return Outcome(
        winner=winner,
        validation=chosen.validation[-1],
        test=chosen.test,
        steps=sum(sum(curves[arm].steps[:epochs]) for arm, epochs in paid.items()),
        seconds=proxies
        + sum(curves[a].startup + sum(curves[a].seconds[:n]) for a, n in paid.items()),
    )


def play_two_phase(
    config: SelectConfig,
    plan: SelectionPlan,
    curves: Curves,
    score: Score,
    rows: Path,
    choose: Choose | None,
) -> Outcome:
    """The product's selection on the recorded trials of one target and seed.

    Args:
        config: The job.
        plan: Its plan.
        curves: All recorded curves.
        score: Computes proxy scores.
        rows: Folder of the scores per validation row, a folder for each rate below it.
        choose: Chooses the rate of a candidate; None: the best after a whole epoch of each.
    """
    found = {model: score(model) for model in plan.to_score}
    seconds, steps = sum(each for _, each in found.values()), 0
    plan, recalled = recall(plan, {m: each for m, (each, _) in found.items()}, config.recall.mode)
    pool = tuple(item.model for item in recalled if item.kept)
    rates = sorted({rate for _, rate in curves})
    if choose is None:
        best = {m: max(rates, key=lambda rate: curves[m, rate].validation[0]) for m in pool}
        paid = {(model, rate): 1 for model in pool for rate in rates}
    else:
        choices = {model: choose(model) for model in pool}
        best = {model: choice.rate for model, choice in choices.items()}
        paid = {}
        seconds += sum(choice.seconds for choice in choices.values())
        steps = sum(choice.steps for choice in choices.values())
    bracket = _halved(config, plan, curves, best, rows)
    for model, rung in bracket.observed:
        paid[model, best[model]] = max(rung, paid.get((model, best[model]), 0))
    winner = bracket.winner, best[bracket.winner]
    notes = f"policy {plan.decider.name}, {len(pool)} of {len(plan.packages)} recalled"
    done = outcome(winner, paid, curves, seconds)
    return done.model_copy(update={"notes": notes, "steps": done.steps + steps})


def _halved(
    config: SelectConfig, plan: SelectionPlan, curves: Curves, best: Mapping[str, float], rows: Path
) -> Bracket:
    """Successive halving of candidates, each at its rate."""
    ties = _ties(config, plan, best, rows)
    bracket = Bracket(tuple(best), config.fine_tune.epochs, plan.decider.policy, ties)
    while not bracket.finished:
        rung = bracket.rung
        for model in bracket.waiting():
            bracket.record(model, rung, curves[model, best[model]].validation[rung - 1])
    return bracket


def _ties(
    config: SelectConfig, plan: SelectionPlan, best: Mapping[str, float], rows: Path
) -> TieBreaker:
    """Settles ties by the scores per row, each candidate's at its rate."""
    for model, rate in best.items():
        for rung in range(1, config.fine_tune.epochs + 1):
            found = read_row_scores(rows / f"{rate:g}", model, rung)
            if found is not None:
                write_row_scores(rows / "played", model, rung, found)
    traits = {ref: Traits.of(package) for ref, package in plan.packages.items()}
    return TieBreaker(config.ties, rows / "played", traits)


def play_baselines(cases: Mapping[str, Curves], method: Method) -> dict[str, Outcome]:
    """One baseline on every case (a target with a seed); Tune's schedulers run in one Ray.

    Returns:
        Case to outcome.
    """
    matrix, arms = PerformanceMatrix(), {_name(arm): arm for c in cases.values() for arm in c}
    for name in arms:
        matrix = matrix.add_model(name)
    for case in cases:
        matrix = matrix.add_dataset(case)
    matrix = matrix.add_cells(
        MeasuredCell(_name(arm), case, curve.validation, curve.test)
        for case, curves in cases.items()
        for arm, curve in curves.items()
    )
    settings = ReplaySettings(method=method, never_history=tuple(cases))
    found = {}
    for result in replay(matrix, list(cases), settings).results:
        paid: dict[Arm, int] = {}
        for rung in result.rungs:
            paid |= {arms[name]: rung.rung for name in rung.trained}
        found[result.target] = outcome(arms[result.winner], paid, cases[result.target])
    return found


def _name(arm: Arm) -> str:
    return f"{arm[0]} at {arm[1]:g}"
