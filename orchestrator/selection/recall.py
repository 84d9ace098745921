"""Coarse recall: which few of many candidates are worth training on the target at all.

Two modes. ``default``: the shrunken prior of `convergence` over the benchmark history, with the
proxy scores counted as one more noisy benchmark set. ``paper`` (Eq. 2-4 of arXiv 2404.00069):
mean accuracy times the proxy score of the cluster's representative. In both, a forward pass on the
target is spent on representatives of non-singleton clusters, and on models without history, only.

Deviations: Eq. 4's weight is Eq. 1's similarity (the published code uses the cosine); the published
code gives every member its own proxy score, which saves nothing (``own_scores``, to compare).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from orchestrator.arrays import FloatArray
from orchestrator.selection.clustering import Clustering, cluster_models
from orchestrator.selection.convergence import MIN_HISTORY_SETS, ShrunkenPredictor
from orchestrator.selection.matrix import History
from orchestrator.selection.proxy import ProxyScore


@dataclass(frozen=True)
class RecallPlan:
    """Who must be scored on the target before recall can rank.

    Attributes:
        candidates: Every model that may be chosen.
        clustering: Of the candidates with history; None when none has any.
        heads: Model of a non-singleton cluster -> its representative.
        unknown: Candidates without any history.
    """

    candidates: tuple[str, ...]
    clustering: Clustering | None
    heads: Mapping[str, str]
    unknown: tuple[str, ...]

    @property
    def to_score(self) -> tuple[str, ...]:
        """Models to run forward on the target: representatives and models without history.

        A singleton needs none (Eq. 4), except in a tiny zoo with a single larger cluster: one
        score compares with nothing, so each cluster's representative is scored.
        """
        scored = {*self.heads.values(), *self.unknown}
        if len(scored) == 1 and self.clustering is not None:
            scored |= set(self.clustering.models) - set(self.heads)
        return tuple(sorted(scored))


@dataclass(frozen=True)
class Recalled:
    """One candidate's place in the recall ranking.

    Attributes:
        model: Its id.
        score: What it was ranked by (larger is better).
        reason: In words: prior, cluster, proxy.
        kept: Whether it enters halving.
    """

    model: str
    score: float
    reason: str
    kept: bool


def plan_recall(
    history: History, candidates: Sequence[str], threshold: float | None = None
) -> RecallPlan:
    """Cluster the candidates that have history and name the representatives."""
    narrowed = history.with_models(sorted(candidates))
    finals = narrowed.curves[:, :, -1]
    known = [bool((~np.isnan(row)).any()) for row in finals]
    names = [model for model, there in zip(narrowed.models, known, strict=True) if there]
    unknown = tuple(m for m, there in zip(narrowed.models, known, strict=True) if not there)
    if not names:
        return RecallPlan(narrowed.models, None, {}, unknown)
    clustering = cluster_models(names, finals[known], threshold)
    return RecallPlan(narrowed.models, clustering, clustering.representatives(), unknown)


def rank_default(
    plan: RecallPlan, predictor: ShrunkenPredictor | None, proxies: Mapping[str, ProxyScore]
) -> dict[str, tuple[float, str]]:
    """Prior mean of each candidate, proxies counted as one more benchmark set.

    Without a predictor (fewer than `MIN_HISTORY_SETS` sets) the proxies alone rank, and where they
    say nothing, the mean score.

    Returns:
        Model -> (score, reason).
    """
    residuals = proxy_residuals(plan, proxies, predictor.spread_between if predictor else 1.0)
    if predictor is None:
        means = _mean_scores(plan)
        return {m: _rank_without_prior(m, residuals, means) for m in plan.candidates}
    before = predictor.prior()
    after = predictor.with_extra_row(residuals).prior()
    return {m: (after[m], _reason(plan, before, after, m)) for m in plan.candidates}


def rank_paper(
    plan: RecallPlan,
    proxies: Mapping[str, float],
    *,
    own_scores: bool = False,
    similarity: FloatArray | None = None,
) -> dict[str, tuple[float, str]]:
    """Eq. 2-4: ``recall(m) = acc(m) * proxy``, the proxy being the representative's.

    Args:
        plan: Clusters; candidates without history are ranked by proxy times the mean accuracy.
        proxies: Model -> proxy score in [0, 1] (``exp(LEEP)``, or a kNN accuracy).
        own_scores: Members use their own score where they have one (as the published code does).
        similarity: Weight of a representative for a singleton, default Eq. 1.
    """
    if plan.clustering is None:
        return {m: (proxies[m], "proxy score alone: no history") for m in plan.candidates}
    clustering = plan.clustering
    alike = clustering.similarity if similarity is None else similarity
    place = {model: row for row, model in enumerate(clustering.models)}
    heads = sorted(set(plan.heads.values()))
    ranked: dict[str, tuple[float, str]] = {}
    for model, mean in zip(clustering.models, clustering.means, strict=True):
        if model in plan.heads:
            source = model if own_scores and model in proxies else plan.heads[model]
            factor, why = proxies[source], f"proxy of {source}"
        else:
            weights = [alike[place[model], place[head]] * proxies[head] for head in heads]
            factor = float(np.mean(weights)) if weights else 1.0
            why = f"singleton: proxies of {len(heads)} representatives by similarity"
        ranked[model] = (float(mean) * factor, f"mean score {mean:.3f} × {factor:.3f} ({why})")
    average = float(np.mean(clustering.means))
    for model in plan.unknown:
        ranked[model] = (average * proxies[model], "no history: the pool's mean score × its proxy")
    return ranked


def keep_best(ranked: Mapping[str, tuple[float, str]], keep: int) -> list[Recalled]:
    """Sort by score (ties by model id) and mark the first ``keep``."""
    order = sorted(ranked, key=lambda model: (-ranked[model][0], model))
    return [
        Recalled(model, ranked[model][0], ranked[model][1], place < keep)
        for place, model in enumerate(order)
    ]


def proxy_residuals(
    plan: RecallPlan, proxies: Mapping[str, ProxyScore], spread: float
) -> dict[str, float]:
    """Proxy scores as residuals of one more benchmark set, propagated to cluster members.

    Each proxy becomes its normal score (van der Waerden) times the spread of a history residual:
    ranks, because proxies of different widths share no scale. Proxies that no model lifts above
    its floor carry nothing and are skipped.
    """
    names = sorted({name for score in proxies.values() for name in score.values})
    columns: list[dict[str, float]] = []
    for name in names:
        column = {m: score for m, score in proxies.items() if name in score.values}
        if len(column) > 1 and any(score.informative(name) for score in column.values()):
            columns.append(_normal_scores({m: s.values[name] for m, s in column.items()}))
    if not columns:
        return {}
    scored = {m: [column[m] for column in columns if m in column] for m in proxies}
    own = {m: spread * float(np.mean(values)) for m, values in scored.items() if values}
    return own | {m: own[head] for m, head in plan.heads.items() if head in own}


def default_pool(candidates: int, at_most: int) -> int:
    """How many to keep unless told: ``at_most``, and at most 60 % of a small zoo."""
    return min(candidates, at_most, max(2, math.ceil(0.6 * candidates)))


def _normal_scores(values: Mapping[str, float]) -> dict[str, float]:
    """Van der Waerden's scores; ties share their mean rank."""
    names = sorted(values)
    scores = np.array([values[name] for name in names])
    below = (scores[None, :] < scores[:, None]).sum(axis=1)
    ties = (scores[None, :] == scores[:, None]).sum(axis=1)
    middle = (below + ties / 2) / len(names)
    normal = NormalDist()
    return {name: normal.inv_cdf(float(q)) for name, q in zip(names, middle, strict=True)}


def _mean_scores(plan: RecallPlan) -> dict[str, float]:
    if plan.clustering is None:
        return {}
    means = plan.clustering.means
    return {m: float(v) for m, v in zip(plan.clustering.models, means, strict=True)}


def _rank_without_prior(
    model: str, residuals: Mapping[str, float], means: Mapping[str, float]
) -> tuple[float, str]:
    """Proxy rank first; the mean score is at most a tie-breaker (scaled below one rank)."""
    score = residuals.get(model, 0.0) + 1e-3 * means.get(model, 0.0)
    source = "proxy rank" if model in residuals else "mean score"
    return score, f"{source}: fewer than {MIN_HISTORY_SETS} benchmark sets in the history"


def _reason(
    plan: RecallPlan, before: Mapping[str, float], after: Mapping[str, float], model: str
) -> str:
    parts = [f"expected {after[model]:+.3f} against the median model"]
    if model in plan.unknown:
        parts.append("no history: prior of the pool")
    if model in plan.heads and plan.heads[model] != model:
        parts.append(f"cluster of {plan.heads[model]}")
    if abs(after[model] - before[model]) > 1e-9:
        parts.append(f"proxy moved it by {after[model] - before[model]:+.3f}")
    return "; ".join(parts)
