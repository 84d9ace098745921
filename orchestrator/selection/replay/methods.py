"""Methods that a replay compares: each decides which curves to pay for, and names a winner.

``two_phase`` is the product's own path: its recall, policies and bracket. ``paper`` is the
published one. The others are baselines: every candidate, or the ``keep`` best by mean score, or
``keep`` drawn at random.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Self, get_args

import numpy as np

from orchestrator.errors import InputError
from orchestrator.selection.halving import Bracket, fit_to_budget
from orchestrator.selection.matrix.clustering import (
    NLP_THRESHOLD,
    cluster_models,
    similarity_matrix,
)
from orchestrator.selection.matrix.history import History
from orchestrator.selection.policies.base import (
    POLICIES,
    Policy,
    Verdict,
    choose_policy,
    ranked,
)
from orchestrator.selection.recall import (
    RecallPlan,
    keep_best,
    plan_open_choice,
    plan_recall,
    rank_default,
    rank_paper,
    unit_scores,
)
from orchestrator.selection.replay.stored import StoredTarget
from orchestrator.selection.results import ProxyScore, Recalled
from orchestrator.selection.score_predictor import Observed, ShrunkenPredictor

Method = Literal[
    "two_phase", "paper", "successive_halving", "asha", "hyperband", "brute_force", "random"
]
METHODS: tuple[Method, ...] = get_args(Method)
THROUGH_TUNE: tuple[Method, ...] = ("asha", "hyperband")
PAPER_POOL = 10
PAPER_MIN_COMMON = 6
"""Common data sets of two models that the published code compares."""


@dataclass(frozen=True)
class ReplaySettings:
    """Settings of a replay.

    Attributes:
        method: One of `METHODS`.
        policy: Of ``two_phase``, as in `SelectConfig.halving`.
        keep: Models to recall; None takes the method's default, 0 all.
        never_history: Columns left out of every history (other targets).
        budget: Hard limit of epochs.
        use_tags: Leave tagged cells out of the prior and add the tag effect.
        threshold: Distance up to which models form one cluster, in ``paper``.
        seed: Of ``random``, and of the order in which ASHA and HyperBand start models.
        first_rung_steps: Of a job; refused, because stored curves have no score within an epoch.
    """

    method: Method = "two_phase"
    policy: str = "default"
    keep: int | None = None
    never_history: tuple[str, ...] = ()
    budget: int | None = None
    use_tags: bool = False
    threshold: float = NLP_THRESHOLD
    seed: int = 0
    first_rung_steps: int | None = None

    def check(self, proxies: Mapping[str, ProxyScore] | None) -> None:
        """Refuse settings that the method cannot honor.

        Raises:
            InputError: Names the option and the methods that have it.
        """
        halving = ("two_phase", "paper", "successive_halving", "random")
        for option, is_set, methods in (
            ("--policy", self.policy != "default", ("two_phase",)),
            ("--tags", self.use_tags, ("two_phase",)),
            ("--proxy", proxies is not None, ("two_phase", "paper")),
            ("--threshold", self.threshold != NLP_THRESHOLD, ("paper",)),
            ("--budget", self.budget is not None, halving),
            ("--seed", self.seed != 0, ("random", *THROUGH_TUNE)),
        ):
            if is_set and self.method not in methods:
                raise InputError(f"{option} belongs to --method {' or '.join(methods)}.")
        if self.first_rung_steps is not None:
            raise InputError(
                f"--first-rung-steps: stored curves have scores after whole epochs, none after "
                f"{self.first_rung_steps} steps. Leave it out."
            )
        if self.keep is not None and self.keep < 0:
            raise InputError(f"--keep: {self.keep} models cannot be recalled. Use 0 for all.")
        if self.seed < 0:
            raise InputError(f"--seed: {self.seed} is negative. Use 0 or more.")
        if not 0 < self.threshold < 1:
            raise InputError(
                f"--threshold: {self.threshold:g} is not a distance between 0 and 1, as "
                "recall.cluster_threshold."
            )


@dataclass(frozen=True)
class Start:
    """Models that a method trains, before the first epoch.

    Attributes:
        recalled: All candidates, the ``kept`` ones first.
        policy: Decides between rungs; None where Tune decides.
        policy_name: Its registered name; None for one that only exists here.
        passes: Proxy passes paid.
        warnings: For the result.
    """

    recalled: list[Recalled]
    policy: Policy | None
    policy_name: str | None = None
    passes: int = 0
    warnings: tuple[str, ...] = field(default=())

    @property
    def pool(self) -> tuple[str, ...]:
        """Models that enter the first rung."""
        return tuple(item.model for item in self.recalled if item.kept)


@dataclass(frozen=True)
class Played:
    """A finished replay before its test scores are read.

    Attributes:
        winner: The choice.
        observed: Every value paid for: (model, epoch) → validation score.
        kept: Survivors of each epoch, best first.
        reasons: Model to why it was dropped.
        failures: Model to why its trial failed.
    """

    winner: str
    observed: Mapping[tuple[str, int], float]
    kept: Sequence[Sequence[str]]
    reasons: Mapping[str, str]
    failures: Mapping[str, str]

    def trained(self, rung: int) -> tuple[str, ...]:
        """Models with a value after epoch ``rung``, by id."""
        return tuple(sorted(model for model, at in self.observed if at == rung))


class Everyone(Policy):
    """Trains every model to the end (brute force). Not registered: it is not a way to save."""

    @classmethod
    def make(cls, history: History, predictor: ShrunkenPredictor | None) -> Self:
        """Make the policy."""
        return cls()

    def judge(self, pool: Sequence[str], stage: int, last: int, observed: Observed) -> Verdict:
        """Keep all."""
        scores = {model: observed[(model, stage)] for model in pool}
        return Verdict(tuple(ranked(scores)), {}, scores)

    def sizes(self, pool: int, stages: int) -> list[int]:
        """All models in every stage."""
        return [pool] * stages


def start(
    target: StoredTarget, settings: ReplaySettings, proxies: Mapping[str, ProxyScore] | None
) -> Start:
    """Decide what a method trains; reads no value of the target."""
    history = target.history if settings.use_tags else target.history.without_tags()
    begin: Callable[..., Start] = _STARTS.get(settings.method, _baseline)
    found = begin(target, history, settings, proxies)
    return found if settings.budget is None else _within_budget(found, target, settings.budget)


def play(target: StoredTarget, begun: Start) -> Bracket:
    """Reveal the curves rung by rung until one model is left."""
    assert begun.policy is not None
    bracket = Bracket(begun.pool, target.stages, begun.policy)
    while not bracket.finished:
        rung = bracket.rung
        for model in bracket.waiting():
            curve = target.curves[model]
            if len(curve) >= rung:
                bracket.record(model, rung, curve[rung - 1])
            else:
                bracket.fail(model, f"no score after epoch {rung}: {target.gaps[model]}")
    return bracket


def _two_phase(
    target: StoredTarget,
    history: History,
    settings: ReplaySettings,
    proxies: Mapping[str, ProxyScore] | None,
) -> Start:
    tags = sorted(target.tagged) if settings.use_tags else ()
    decider = choose_policy(settings.policy, history, tags)
    if settings.budget is None:
        decider = decider.with_usual_epochs(target.stages)
    pool = settings.keep
    if pool is None:
        pool = int(POLICIES.component_class(settings.policy).default_pool)
    pool = _pool(pool, target)
    plan = plan_open_choice(history, target.candidates, decider.predictor, pool)
    scored: dict[str, ProxyScore] = {}
    if proxies is not None:
        _require_choice(pool, target)
        scored = _scores_of(plan.to_score, proxies)
    recalled = keep_best(rank_default(plan, decider.predictor, scored), pool)
    warnings = []
    if decider.name != settings.policy:
        sets = history.curved_datasets()
        warnings.append(f"policy {settings.policy} became {decider.name}: {sets} sets with curves")
    return Start(recalled, decider.policy, decider.name, len(scored), tuple(warnings))


def _paper(
    target: StoredTarget,
    history: History,
    settings: ReplaySettings,
    proxies: Mapping[str, ProxyScore] | None,
) -> Start:
    """Section 3 of arXiv 2404.00069: Eq. 1-4, the trend filter, and half an epoch per pass."""
    plan = paper_plan(history, target.candidates, settings.threshold)
    scored = {*plan.representatives.values(), *plan.unknown}
    warnings: tuple[str, ...] = ()
    if proxies is None:
        factors = dict.fromkeys(scored, 1.0)
        warnings = (f"no --proxy: the mean score ranks; its {len(scored)} passes are charged",)
    else:
        factors = unit_scores(plan, _scores_of(sorted(scored), proxies))
    pool = _pool(PAPER_POOL if settings.keep is None else settings.keep, target)
    recalled = keep_best(rank_paper(plan, factors), pool)
    passes = len(scored) if pool < len(target.candidates) else 0
    return Start(recalled, choose_policy("paper", history).policy, "paper", passes, warnings)


def paper_plan(history: History, candidates: Sequence[str], threshold: float) -> RecallPlan:
    """Clusters as the published code cuts them: scores <= 0 are missing, six common sets."""
    plan = plan_recall(history, candidates, threshold)
    if plan.clustering is None:
        return plan
    names = plan.clustering.models
    finals = history.with_models(names).curves[:, :, -1]
    similarity = similarity_matrix(finals, positive_only=True, min_common=PAPER_MIN_COMMON)
    clustering = cluster_models(names, finals, threshold, similarity)
    return replace(plan, clustering=clustering, representatives=clustering.representatives())


def _baseline(
    target: StoredTarget,
    history: History,
    settings: ReplaySettings,
    proxies: Mapping[str, ProxyScore] | None,
) -> Start:
    """All candidates, or the best by mean score."""
    pool = _pool(settings.keep or 0, target)
    scores = dict.fromkeys(target.candidates, (0.0, "every candidate is trained"))
    if pool < len(target.candidates):
        scores = _mean_scores(target, history)
    policy: Policy | None = None
    if settings.method not in THROUGH_TUNE:
        policy = Everyone() if settings.method == "brute_force" else _halving(history)
    name = "sh" if settings.method == "successive_halving" else None
    return Start(keep_best(scores, pool), policy, name)


def _random(
    target: StoredTarget,
    history: History,
    settings: ReplaySettings,
    proxies: Mapping[str, ProxyScore] | None,
) -> Start:
    """Halving of models drawn at random."""
    order = np.random.default_rng(settings.seed).permutation(len(target.candidates))
    places = zip(target.candidates, order, strict=True)
    drawn = {model: (-float(place), "drawn at random") for model, place in places}
    pool = _pool(PAPER_POOL if settings.keep is None else settings.keep, target)
    return Start(keep_best(drawn, pool), _halving(history), "sh")


def _halving(history: History) -> Policy:
    return choose_policy("sh", history).policy


_STARTS = {"two_phase": _two_phase, "paper": _paper, "random": _random}


def _pool(wanted: int, target: StoredTarget) -> int:
    return min(wanted or len(target.candidates), len(target.candidates))


def _within_budget(begun: Start, target: StoredTarget, budget: int) -> Start:
    assert begun.policy is not None
    size = fit_to_budget(len(begun.pool), target.stages, begun.policy, budget)
    scores = {item.model: (item.score, item.reason) for item in begun.recalled}
    return replace(begun, recalled=keep_best(scores, size))


def _require_choice(pool: int, target: StoredTarget) -> None:
    """Refuse stored proxy scores where every candidate is recalled without them."""
    if pool >= (count := len(target.candidates)):
        raise InputError(
            f"--proxy: all {count} candidates are recalled, and no proxy is read. Say --keep with "
            f"less than {count}."
        )


def _scores_of(models: Sequence[str], proxies: Mapping[str, ProxyScore]) -> dict[str, ProxyScore]:
    missing = [model for model in models if model not in proxies]
    if missing:
        raise InputError(f"--proxy: no score of {missing[0]!r}, which is run on the target.")
    return {model: proxies[model] for model in models}


def _mean_scores(target: StoredTarget, history: History) -> dict[str, tuple[float, str]]:
    """Mean final score of each candidate over the history; without any, the pool's mean."""
    finals = history.with_models(target.candidates).curves[:, :, -1]
    known = ~np.isnan(finals)
    sums = np.nansum(finals, axis=1) if finals.size else np.zeros(len(finals))
    counts = known.sum(axis=1)
    means = np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
    middle = float(np.nanmean(means)) if counts.any() else 0.0
    return {
        model: (float(mean), "mean score") if not np.isnan(mean) else (middle, "no history")
        for model, mean in zip(target.candidates, means, strict=True)
    }
