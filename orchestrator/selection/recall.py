"""Coarse recall (phase one): the few of many candidates that are worth training on the target.

- Mode ``default``, `rank_default`: the prior of the shrunken predictor over the benchmark history;
  proxy scores count as one more noisy benchmark set.
- Mode ``paper``, `rank_paper`: Eq. 2-4 of arXiv 2404.00069, mean accuracy times the proxy score of
  the cluster's representative.

In both, only representatives of non-singleton clusters and models without history are run forward
on the target.

Deviations: the weight in Eq. 4 is the similarity of Eq. 1 (the published code uses the cosine). The
published code gives every member its own proxy score, which saves nothing (``own_scores``).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from orchestrator.arrays import FloatArray
from orchestrator.errors import InputError
from orchestrator.selection.matrix.clustering import Clustering, cluster_models
from orchestrator.selection.matrix.history import History
from orchestrator.selection.results import ProxyScore, Recalled
from orchestrator.selection.score_predictor import MIN_HISTORY_SETS, ShrunkenPredictor
from orchestrator.selection.scores.base import PROXIES, unit_proxies
from orchestrator.selection.scores.permutations import is_informative, says_something


@dataclass(frozen=True)
class RecallPlan:
    """Candidates and their clusters before any proxy is computed.

    Attributes:
        candidates: Every model that may be chosen.
        clustering: Clusters of the candidates with history; None when none has any.
        representatives: Model of a non-singleton cluster to its representative.
        unknown: Candidates without any history.
    """

    candidates: tuple[str, ...]
    clustering: Clustering | None
    representatives: Mapping[str, str]
    unknown: tuple[str, ...]

    @property
    def to_score(self) -> tuple[str, ...]:
        """Models to run forward on the target: representatives and models without history.

        Singletons need no pass (Eq. 4), except in a small zoo with one larger cluster: a single
        score cannot be compared, so singletons are scored too.
        """
        scored = {*self.representatives.values(), *self.unknown}
        if len(scored) == 1 and self.clustering is not None:
            scored |= set(self.clustering.models) - set(self.representatives)
        return tuple(sorted(scored))


def plan_recall(
    history: History, candidates: Sequence[str], threshold: float | None = None
) -> RecallPlan:
    """Cluster the candidates that have history and name the representatives."""
    narrowed = history.with_models(sorted(candidates))
    finals = narrowed.curves[:, :, -1]
    known = [bool((~np.isnan(row)).any()) for row in finals]
    names = [model for model, measured in zip(narrowed.models, known, strict=True) if measured]
    unknown = tuple(m for m, measured in zip(narrowed.models, known, strict=True) if not measured)
    if not names:
        return RecallPlan(narrowed.models, None, {}, unknown)
    clustering = cluster_models(names, finals[known], threshold)
    return RecallPlan(narrowed.models, clustering, clustering.representatives(), unknown)


def recall_candidates(
    plan: RecallPlan,
    proxies: Mapping[str, ProxyScore],
    *,
    mode: str,
    predictor: ShrunkenPredictor | None,
    pool: int,
) -> list[Recalled]:
    """Rank all candidates and mark the ``pool`` best as recalled.

    Args:
        plan: Candidates and clusters.
        proxies: Scores of the models that were run forward.
        mode: As in `RecallConfig`.
        predictor: Fitted on the history; None with little history.
        pool: How many to recall.
    """
    if mode != "paper":
        return keep_best(rank_default(plan, predictor, proxies), pool)
    # When every candidate is recalled no proxy is computed: the mean score alone ranks.
    everyone = pool >= len(plan.candidates)
    factors = dict.fromkeys(plan.to_score, 1.0) if everyone else unit_scores(plan, proxies)
    return keep_best(rank_paper(plan, factors), pool)


def rank_default(
    plan: RecallPlan, predictor: ShrunkenPredictor | None, proxies: Mapping[str, ProxyScore]
) -> dict[str, tuple[float, str]]:
    """Rank by the prior mean of each candidate; proxies count as one more benchmark set.

    Without a predictor (fewer than `MIN_HISTORY_SETS` data sets) the proxies alone rank, and the
    mean score where they carry no information.

    Returns:
        Model to (score, reason).
    """
    residuals = proxy_residuals(plan, proxies, predictor.spread_between if predictor else 1.0)
    if predictor is None:
        return _rank_without_prior(plan, residuals)
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
    """Eq. 2-4: ``recall(m) = acc(m) * proxy``, with the proxy score of the representative.

    Args:
        plan: Clusters; candidates without history get the mean accuracy of the pool.
        proxies: Model to proxy score in [0, 1] (``exp(LEEP)``, or a kNN accuracy).
        own_scores: Members use their own score if they have one (as the published code does).
        similarity: ``[M, M]`` weight of a representative for a singleton; default Eq. 1.

    Returns:
        Model to (score, reason).
    """
    if plan.clustering is None:
        return {m: (proxies[m], "proxy score alone: no history") for m in plan.candidates}
    clustering = plan.clustering
    weight = clustering.similarity if similarity is None else similarity
    row_of = {model: row for row, model in enumerate(clustering.models)}
    representatives = sorted(set(plan.representatives.values()))
    ranked: dict[str, tuple[float, str]] = {}
    for model, mean in zip(clustering.models, clustering.means, strict=True):
        if model in plan.representatives:
            source = model if own_scores and model in proxies else plan.representatives[model]
            factor, why = proxies[source], f"proxy of {source}"
        else:
            terms = [weight[row_of[model], row_of[r]] * proxies[r] for r in representatives]
            factor = float(np.mean(terms)) if terms else 1.0
            why = f"singleton: proxies of {len(representatives)} representatives by similarity"
        ranked[model] = (float(mean) * factor, f"mean score {mean:.3f} × {factor:.3f} ({why})")
    average = float(np.mean(clustering.means))
    for model in plan.unknown:
        ranked[model] = (average * proxies[model], "no history: the pool's mean score × its proxy")
    return ranked


def keep_best(ranked: Mapping[str, tuple[float, str]], keep: int) -> list[Recalled]:
    """Sort by score (ties by model id) and mark the first ``keep`` models."""
    order = sorted(ranked, key=lambda model: (-ranked[model][0], model))
    return [
        Recalled(model=model, score=ranked[model][0], reason=ranked[model][1], kept=place < keep)
        for place, model in enumerate(order)
    ]


def proxy_residuals(
    plan: RecallPlan, proxies: Mapping[str, ProxyScore], spread: float
) -> dict[str, float]:
    """Proxy scores as residuals of one more benchmark set, passed on to cluster members.

    Each proxy becomes its normal score (van der Waerden) times the spread of a history residual.
    Ranks are used because proxies of different feature widths share no scale. A proxy that is above
    its floor for no model carries no information and is skipped.
    """
    names = sorted({name for score in proxies.values() for name in score.values})
    columns: list[dict[str, float]] = []
    for name in names:
        column = {m: score for m, score in proxies.items() if name in score.values}
        if len(column) > 1 and says_something(column, name):
            least = min(score.values[name] for score in column.values())
            columns.append(
                _normal_scores(
                    {
                        m: s.values[name] if is_informative(s, name) else least
                        for m, s in column.items()
                    }
                )
            )
    if not columns:
        return {}
    scored = {m: [column[m] for column in columns if m in column] for m in proxies}
    own = {m: spread * float(np.mean(values)) for m, values in scored.items() if values}
    return own | {m: own[r] for m, r in plan.representatives.items() if r in own}


def default_pool(candidates: int, at_most: int) -> int:
    """Candidates to recall by default: ``at_most``, and at most 60 % of a small zoo."""
    return min(candidates, at_most, max(2, math.ceil(0.6 * candidates)))


def _normal_scores(values: Mapping[str, float]) -> dict[str, float]:
    """Van der Waerden scores; ties share their mean rank."""
    names = sorted(values)
    scores = np.array([values[name] for name in names])
    below = (scores[None, :] < scores[:, None]).sum(axis=1)
    ties = (scores[None, :] == scores[:, None]).sum(axis=1)
    middle = (below + ties / 2) / len(names)
    normal = NormalDist()
    return {name: normal.inv_cdf(float(q)) for name, q in zip(names, middle, strict=True)}


def _rank_without_prior(
    plan: RecallPlan, residuals: Mapping[str, float]
) -> dict[str, tuple[float, str]]:
    """Proxy rank first; the mean score breaks ties (scaled below one rank)."""
    means: dict[str, float] = {}
    if plan.clustering is not None:
        means = dict(zip(plan.clustering.models, plan.clustering.means.tolist(), strict=True))
    why = f"fewer than {MIN_HISTORY_SETS} benchmark sets in the history"
    return {
        model: (
            residuals.get(model, 0.0) + 1e-3 * means.get(model, 0.0),
            f"{'proxy rank' if model in residuals else 'mean score'}: {why}",
        )
        for model in plan.candidates
    }


def _reason(
    plan: RecallPlan, before: Mapping[str, float], after: Mapping[str, float], model: str
) -> str:
    parts = [f"expected {after[model]:+.3f} against the median model"]
    if model in plan.unknown:
        parts.append("no history: prior of the pool")
    if model in plan.representatives and plan.representatives[model] != model:
        parts.append(f"cluster of {plan.representatives[model]}")
    if abs(after[model] - before[model]) > 1e-9:
        parts.append(f"proxy moved it by {after[model] - before[model]:+.3f}")
    return "; ".join(parts)


def unit_scores(plan: RecallPlan, proxies: Mapping[str, ProxyScore]) -> dict[str, float]:
    """Scores in [0, 1] for the product of `rank_paper`, all of the same proxy.

    Raises:
        InputError: No proxy on that scale was computed for all models to score.
    """
    scored = plan.to_score
    allowed = unit_proxies(PROXIES.names())
    for name in allowed:
        if all(model in proxies and name in proxies[model].values for model in scored):
            proxy = PROXIES.component_class(name)()
            return {model: proxy.to_unit(proxies[model].values[name]) for model in scored}
    raise InputError(
        f"recall.mode paper: none of {', '.join(allowed)} could be computed for all of "
        f"{', '.join(scored)}. Headless models need knn in recall.proxies."
    )
