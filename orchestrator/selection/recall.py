"""Coarse recall (phase one): the few of many candidates that are worth training on the target.

- Mode ``default``, `rank_default`: the prior of the shrunken predictor over the benchmark history;
  proxy scores count as one more noisy benchmark set. Proxies go to where the choice is open: the
  best candidates by the prior, and all candidates without history. On tables that nobody tuned on,
  ten such passes gave all that a pass of every model gave, and cluster heads gave nothing.
- Mode ``paper``, `rank_paper`: Eq. 2-4 of arXiv 2404.00069, mean accuracy times the proxy score of
  the cluster's representative. Only representatives of non-singleton clusters and models without
  history are run forward on the target.

Deviations: the weight in Eq. 4 is the similarity of Eq. 1 (the published code uses the cosine). The
published code gives every member its own proxy score, which saves nothing (``own_scores``).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np

from orchestrator.arrays import BoolArray, FloatArray
from orchestrator.errors import InputError
from orchestrator.selection.matrix.clustering import Clustering, cluster_models
from orchestrator.selection.matrix.history import History
from orchestrator.selection.results import ProxyScore, Recalled
from orchestrator.selection.score_predictor import MIN_HISTORY_SETS, ShrunkenPredictor
from orchestrator.selection.scores.base import PROXIES, unit_proxies
from orchestrator.selection.scores.permutations import is_informative, says_something
from orchestrator.selection.ties.tie_breaker import weights_bytes

if TYPE_CHECKING:
    from orchestrator.selection.config import RecallConfig
    from orchestrator.zoo import Package


@dataclass(frozen=True)
class RecallPlan:
    """Candidates before any proxy is computed.

    Attributes:
        candidates: Every model that may be chosen.
        clustering: Clusters of the candidates with history; None in mode default, and when none
            has any.
        representatives: Model of a non-singleton cluster to its representative.
        unknown: Candidates without any history.
        means: Candidate with history to its mean score.
        open_choice: Models that proxies look at in mode default; None: those of the paper.
        sizes: Candidate to the bytes of its weights; they order what nothing else orders.
    """

    candidates: tuple[str, ...]
    clustering: Clustering | None
    representatives: Mapping[str, str]
    unknown: tuple[str, ...]
    means: Mapping[str, float] = field(default_factory=dict)
    open_choice: tuple[str, ...] | None = None
    sizes: Mapping[str, int] = field(default_factory=dict)

    @property
    def to_score(self) -> tuple[str, ...]:
        """Models to run forward on the target.

        In the paper's mode singletons need no pass (Eq. 4), except in a small zoo with one larger
        cluster: a single score cannot be compared, so singletons are scored too.
        """
        if self.open_choice is not None:
            return self.open_choice
        scored = {*self.representatives.values(), *self.unknown}
        if len(scored) == 1 and self.clustering is not None:
            scored |= set(self.clustering.models) - set(self.representatives)
        return tuple(sorted(scored))


def plan_recall(
    history: History, candidates: Sequence[str], threshold: float | None = None
) -> RecallPlan:
    """Cluster the candidates that have history and name the representatives (mode paper)."""
    narrowed, finals, known = _finals(history, candidates)
    names = [model for model, measured in zip(narrowed, known, strict=True) if measured]
    unknown = tuple(m for m, measured in zip(narrowed, known, strict=True) if not measured)
    if not names:
        return RecallPlan(narrowed, None, {}, unknown)
    clustering = cluster_models(names, finals[known], threshold)
    means = dict(zip(names, clustering.means.tolist(), strict=True))
    return RecallPlan(narrowed, clustering, clustering.representatives(), unknown, means)


def plan_open_choice(
    history: History,
    candidates: Sequence[str],
    predictor: ShrunkenPredictor | None,
    top: int,
    sizes: Mapping[str, int] | None = None,
) -> RecallPlan:
    """Name the candidates that proxies look at: the best by the prior, and those without history.

    Args:
        history: Benchmark curves.
        candidates: Every model that may be chosen.
        predictor: Fitted on the history; None with little history: the mean score decides.
        top: How many of the candidates with history.
        sizes: Candidate to the bytes of its weights.
    """
    models, finals, known = _finals(history, candidates)
    unknown = tuple(m for m, measured in zip(models, known, strict=True) if not measured)
    average = np.nanmean(finals[known], axis=1) if known.any() else np.zeros(0)
    names = [model for model, measured in zip(models, known, strict=True) if measured]
    means = dict(zip(names, average.tolist(), strict=True))
    order = means if predictor is None else predictor.prior()
    best = sorted(names, key=lambda model: (-order[model], model))[:top]
    scored = tuple(sorted({*best, *unknown}))
    scored = scored if len(scored) > 1 else ()  # a single score cannot be compared
    return RecallPlan(models, None, {}, unknown, means, scored, sizes or {})


def plan_mode(
    config: "RecallConfig",
    history: History,
    packages: Mapping[str, "Package"],
    predictor: ShrunkenPredictor | None,
    pool: int,
) -> RecallPlan:
    """Plan recall as `RecallConfig.mode` says, for a pool of ``pool`` candidates."""
    if config.mode == "paper":
        return plan_recall(history, list(packages), config.cluster_threshold)
    top = pool if config.score_top is None else config.score_top
    sizes = {ref: weights_bytes(package.manifest) for ref, package in packages.items()}
    return plan_open_choice(history, list(packages), predictor, top, sizes)


def _finals(
    history: History, candidates: Sequence[str]
) -> tuple[tuple[str, ...], FloatArray, BoolArray]:
    """Sorted candidates, their final scores ``[M, N]``, and which of them have any."""
    row_of = {model: row for row, model in enumerate(history.models)}
    models = tuple(sorted(candidates))
    finals = np.full((len(models), len(history.datasets)), np.nan)
    rows = [(row, row_of[model]) for row, model in enumerate(models) if model in row_of]
    if rows:
        own, theirs = np.array(rows).T
        finals[own] = history.curves[theirs, :, -1]
    return models, finals, ~np.isnan(finals).all(axis=1)


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
        return keep_best(rank_default(plan, predictor, proxies), pool, plan.sizes)
    # When every candidate is recalled no proxy is computed: the mean score alone ranks.
    everyone = pool >= len(plan.candidates)
    factors = dict.fromkeys(plan.to_score, 1.0) if everyone else unit_scores(plan, proxies)
    return keep_best(rank_paper(plan, factors), pool)


def lacks_information(
    plan: RecallPlan, predictor: ShrunkenPredictor | None, proxies: Mapping[str, ProxyScore]
) -> bool:
    """Return whether neither history nor a proxy says anything about the candidates."""
    informed = predictor is not None or len(plan.means) > 1
    return not informed and not proxy_residuals(plan, proxies, None)


def rank_default(
    plan: RecallPlan, predictor: ShrunkenPredictor | None, proxies: Mapping[str, ProxyScore]
) -> dict[str, tuple[float, str]]:
    """Rank by the prior mean of each candidate; proxies count as one more benchmark set.

    Without a predictor (fewer than `MIN_HISTORY_SETS` data sets) the proxies alone rank, and the
    mean score where they carry no information.

    Returns:
        Model to (score, reason).
    """
    residuals = proxy_residuals(plan, proxies, predictor)
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


def keep_best(
    ranked: Mapping[str, tuple[float, str]], keep: int, sizes: Mapping[str, int] | None = None
) -> list[Recalled]:
    """Sort by score and mark the first ``keep`` models; ties by size, then by model id."""
    bytes_of = sizes or {}
    order = sorted(ranked, key=lambda model: (-ranked[model][0], bytes_of.get(model, 0), model))
    return [
        Recalled(model=model, score=ranked[model][0], reason=ranked[model][1], kept=place < keep)
        for place, model in enumerate(order)
    ]


def proxy_residuals(
    plan: RecallPlan, proxies: Mapping[str, ProxyScore], predictor: ShrunkenPredictor | None
) -> dict[str, float]:
    """Proxy scores as residuals of one more benchmark set, of the models that were scored.

    Each proxy becomes its normal score (van der Waerden) times the spread of a history residual.
    Ranks are used because proxies of different feature widths share no scale. The scored models are
    the best by the prior, so that their mean residual is the mean of their priors, not zero. A
    proxy that is above chance for no model carries no information and is skipped; models that are
    not above chance share its last place.
    """
    columns: list[dict[str, float]] = []
    for name in sorted({name for score in proxies.values() for name in score.values}):
        column = {m: score for m, score in proxies.items() if name in score.values}
        if len(column) > 1 and says_something(column, name):
            least = min(score.values[name] for score in column.values())
            raised = {m: s.values[name] for m, s in column.items() if is_informative(s, name)}
            columns.append(_normal_scores({m: raised.get(m, least) for m in column}))
    scored = {m: [column[m] for column in columns if m in column] for m in proxies}
    spread, center = 1.0, 0.0
    if predictor is not None:
        prior, spread = predictor.prior(), predictor.spread_between
        known = [prior[m] for m in proxies if m in prior and m in plan.candidates]
        center = float(np.mean(known)) if known else 0.0
    return {m: center + spread * float(np.mean(found)) for m, found in scored.items() if found}


def default_pool(candidates: int, at_most: int) -> int:
    """Candidates to recall by default: ``at_most``, and at most 60 % of a small zoo."""
    return min(candidates, at_most, max(2, math.ceil(0.6 * candidates)))


def _normal_scores(values: Mapping[str, float]) -> dict[str, float]:
    """Van der Waerden scores; ties share their mean rank."""
    _, place, counts = np.unique(list(values.values()), return_inverse=True, return_counts=True)
    middle = (np.cumsum(counts) - counts / 2) / len(values)
    normal = NormalDist()
    scores = [normal.inv_cdf(float(quantile)) for quantile in middle]
    return {name: scores[at] for name, at in zip(values, place, strict=True)}


def _rank_without_prior(
    plan: RecallPlan, residuals: Mapping[str, float]
) -> dict[str, tuple[float, str]]:
    """Proxy rank first; the mean score breaks ties (scaled below one rank)."""
    average = float(np.mean(list(plan.means.values()))) if plan.means else 0.0
    few = f"fewer than {MIN_HISTORY_SETS} benchmark sets in the history"
    nothing = not residuals and len(plan.means) < 2
    ranked = {}
    for model in plan.candidates:
        if nothing:
            why = "no information (no history, no proxy above chance): in order of size"
        elif model in residuals:
            why = f"proxy rank: {few}"
        elif model in plan.means:
            why = f"mean score {plan.means[model]:.3f}: {few}"
        else:
            why = "no history and no proxy above chance: the mean of the others"
        mean = 0.0 if nothing else plan.means.get(model, average)
        ranked[model] = (residuals.get(model, 0.0) + 1e-3 * mean, why)
    return ranked


def _reason(
    plan: RecallPlan, before: Mapping[str, float], after: Mapping[str, float], model: str
) -> str:
    parts = [f"expected {after[model]:+.3f} against the median model"]
    if model in plan.unknown:
        parts.append("no history: prior of the pool")
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
