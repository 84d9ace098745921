"""The interface of a halving policy, and the registry of all policies."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self

from orchestrator.config.registry import EntryConfig, Registry
from orchestrator.selection.matrix.history import History
from orchestrator.selection.score_predictor import (
    MIN_HISTORY_SETS,
    Observed,
    ShrunkenPredictor,
)


class PolicyConfig(EntryConfig):
    """A policy has no options: a config names it. A subclass has ``type: str = "<name>"``."""


@dataclass(frozen=True, slots=True)
class Reason:
    """Reason of a policy with scores, which it compares on the scale of decisions.

    Attributes:
        parts: Words and scores in their order.
    """

    parts: tuple[str | float, ...]

    def in_words(self, score_of: Callable[[float], float]) -> str:
        """Return the reason.

        Args:
            score_of: Returns a score in the unit of the metric.
        """
        return "".join(p if isinstance(p, str) else f"{score_of(p):.3f}" for p in self.parts)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Decision of a policy on one complete rung.

    Attributes:
        kept: Models that train another epoch, best first.
        dropped: Model to the reason.
        scores: Model to the number it was ranked by (a predicted final score, or the last value).
    """

    kept: tuple[str, ...]
    dropped: dict[str, str | Reason]
    scores: dict[str, float]


class Judge(ABC):
    """Decides after a complete rung."""

    @abstractmethod
    def judge(self, pool: Sequence[str], stage: int, last: int, observed: Observed) -> Verdict:
        """Judge ``pool`` after ``stage`` of ``last`` stages."""

    def sizes(self, pool: int, stages: int) -> list[int]:
        """Largest number of models in each of the last ``stages`` stages."""
        return halving_sizes(pool, stages)


class Policy(Judge):
    """Decides on whole epochs; a subclass nests a `PolicyConfig` and joins `POLICIES`."""

    Config: ClassVar[type[PolicyConfig]]
    default_pool: ClassVar[int] = 10
    """Models to recall unless the config says how many."""
    min_history: ClassVar[int] = 0
    """Data sets with curves in the history that the policy needs."""
    fallback: ClassVar[str] = "sh"
    """Policy that takes its place when the history has fewer."""

    @classmethod
    @abstractmethod
    def make(cls, history: History, predictor: ShrunkenPredictor | None) -> Self:
        """Make the policy.

        Args:
            history: Benchmark curves without the target.
            predictor: Fitted on it; None with fewer than `MIN_HISTORY_SETS` data sets.
        """

    def within(self, epochs: int) -> "Policy":
        """The policy where all stages may take ``epochs``, if it can cut later than halving does.

        Args:
            epochs: Limit; a smaller one than halving takes has no effect.
        """
        return self


POLICIES = Registry("policy", PolicyConfig, builtin="orchestrator.selection.policies")


@dataclass(frozen=True)
class Decider:
    """The policy that really decides, and what it knows.

    Attributes:
        name: Its registered name; with little history not the one asked for.
        policy: The policy.
        predictor: Of final scores; None with fewer than `MIN_HISTORY_SETS` data sets.
    """

    name: str
    policy: Policy
    predictor: ShrunkenPredictor | None

    def changes(self, asked: str, history: History) -> list[str]:
        """A warning where it is not the policy that was asked for."""
        sets = len(history.datasets)
        return [f"policy {asked} became {self.name}: {sets} history sets"] * (asked != self.name)

    def with_usual_epochs(self, stages: int) -> "Decider":
        """The same where a small pool may take the epochs of the usual one: it is cut later."""
        usual = sum(self.policy.sizes(self.policy.default_pool, stages))
        return replace(self, policy=self.policy.within(usual))


def choose_policy(name: str, history: History, tags: Iterable[str] = ()) -> Decider:
    """Make the policy ``name``, or the one that replaces it with little history.

    Args:
        name: A registered policy.
        history: Benchmark curves without the target.
        tags: Models that declare training on the target.
    """
    predictor: ShrunkenPredictor | None = None
    if history.measured_datasets() >= MIN_HISTORY_SETS:
        predictor = ShrunkenPredictor.fit(history, set(tags))
    policy: type[Policy] = POLICIES.component_class(name)
    while history.curved_datasets() < policy.min_history:
        name = policy.fallback
        policy = POLICIES.component_class(name)
    return Decider(name, policy.make(history, predictor), predictor)


def halving_sizes(pool: int, stages: int) -> list[int]:
    """Models trained in each stage when half is dropped every time: 40, 20, 10, 5, 2."""
    return [max(1, pool >> stage) for stage in range(stages)]


def largest_room(pool: int, spent: int, stages: int, epochs: int) -> int:
    """Models that can go on when halving them to the end may cost at most ``epochs`` in all.

    Args:
        pool: Models of the complete stage.
        spent: Epochs of all stages so far.
        stages: Stages that are left.
        epochs: Limit.
    """
    fitting = (n for n in range(pool, 1, -1) if spent + sum(halving_sizes(n, stages)) <= epochs)
    return next(fitting, 1)


def ranked(scores: dict[str, float]) -> list[str]:
    """Best first; ties by model id."""
    return sorted(scores, key=lambda model: (-scores[model], model))


def cut(
    order: Sequence[str],
    scores: dict[str, float],
    room: int,
    reasons: Mapping[str, str | Reason],
    by: str,
) -> Verdict:
    """Drop the models in ``reasons``, then the worst until ``room`` are left.

    Args:
        order: Models, best first.
        scores: Model to the number that orders them.
        room: Largest number of survivors.
        reasons: Models to drop in any case, with the reason.
        by: What the scores are, in words.
    """
    alive = [model for model in order if model not in reasons]
    dropped: dict[str, str | Reason] = dict(reasons)
    for place, model in enumerate(order, start=1):
        if model not in reasons and model not in alive[:room]:
            text = f"place {place} of {len(order)} by {by} ("
            leader = f"; {order[0]}: ", scores[order[0]]
            dropped[model] = Reason((text, scores[model], *leader, f"), {room} kept"))
    return Verdict(tuple(alive[:room]), dropped, dict(scores))
