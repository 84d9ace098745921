"""What a candidate will reach: predictors of the final test score from the epochs seen so far.

`ShrunkenPredictor` is one linear predictor with an empirical-Bayes prior per model: the score of
model m on a data set is a level of that data set plus a residual of the model,

    y(m, e) = level(e) + mu(m, e) + residual(m, e),
    level ~ N(g, G),  residual(m, .) ~ N(0, R) independently for each model.

Its prediction is the conditional mean of y(m, T) given every value seen, so untrained models are
updated too (through the level). It replaces the paper's nearest-centroid look-up, kept here as
`KMeansTrend`, which loses to a straight line after one epoch and to the last value after two.

Shapes: M models, N history sets, E stages; index E of a curve is T, the final test.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from orchestrator.arrays import FloatArray
from orchestrator.errors import InputError
from orchestrator.selection.matrix import History

RESIDUAL_CLIP = 0.1
OBSERVATION_NOISE = 0.02
MIN_HISTORY_SETS = 3
MIN_ROWS_FOR_CENTRE = 2
PRIOR_VARIANCE_FLOOR = 1 / 40
TAG_SHRINKAGE = 2
STAGE_PRIOR_ROWS = 8
STAGE_PRIOR_CORRELATION = 0.5
"""Residuals of two stages correlate .1 to .6 on the published curves. With little history the
estimated covariance is noise (and may say that validation predicts nothing), so it is blended with
this constant correlation, counted as eight rows: 1 % of the weight with 20 sets of 39 models."""
INTERVAL = 0.9

Observed = Mapping[tuple[str, int], float]
"""Validation scores seen on the target: (model, stage 1..E) -> value."""


@dataclass(frozen=True)
class ShrunkenPredictor:
    """Conditional mean of the final test score under a shrunken prior.

    Attributes:
        models: M model ids.
        mean: ``[M, E+1]`` prior mean of each model's residual, mu.
        level: ``[E+1]`` mean of the data sets' medians, g.
        level_cov: ``[E+1, E+1]`` their covariance, G.
        residual_cov: ``[E+1, E+1]`` covariance of one model's residual across stages, R.
        rows: ``[M]`` history cells behind each model's mean.
        kappa: Noise-to-signal ratio: a model with ``rows = kappa`` is shrunk half-way.
        spread_between: Standard deviation of one history residual across models, at T.
    """

    models: tuple[str, ...]
    mean: FloatArray
    level: FloatArray
    level_cov: FloatArray
    residual_cov: FloatArray
    rows: FloatArray
    kappa: float
    spread_between: float

    @classmethod
    def fit(cls, history: History, target_tags: Collection[str] = ()) -> "ShrunkenPredictor":
        """Estimate every moment from the history (the target must not be in it).

        Args:
            history: Curves; tagged cells are left out of the prior, not counted as zero.
            target_tags: Models tagged for the target: the tag effect is added to their prior.

        Raises:
            InputError: Fewer than `MIN_HISTORY_SETS` usable data sets.
        """
        residual, medians = _residuals(history)
        sets = len(medians)
        if sets < MIN_HISTORY_SETS:
            raise InputError(
                f"history prior: {sets} data sets with at least two models; it needs "
                f"{MIN_HISTORY_SETS}. Benchmark more data sets, or use recall.mode=paper."
            )
        seen = ~np.isnan(residual[:, :, -1])
        rows = seen.sum(axis=1).astype(float)
        average = _mean_over_sets(residual, rows)
        free = max(int(rows.sum()) - int((rows > 0).sum()), 1)
        deviations = (residual - average[:, None, :])[seen]
        within = float((deviations[:, -1] ** 2).sum() / free)
        known = average[rows > 0]
        spread = float(np.var(known[:, -1], ddof=1)) if len(known) > 1 else 0.0
        between = max(spread - within / sets, within * PRIOR_VARIANCE_FLOOR, 1e-12)
        kappa = within / between
        centre = known[rows[rows > 0] >= min(MIN_ROWS_FOR_CENTRE, rows.max())].mean(axis=0)
        weight = (rows / (rows + kappa))[:, None]
        mean = centre + weight * (np.nan_to_num(average) - centre)
        fitted = cls(
            models=history.models,
            mean=mean,
            level=medians.mean(axis=0),
            level_cov=np.atleast_2d(np.cov(medians.T)),
            residual_cov=_stage_covariance(deviations, free) * (1 + 1 / (sets + kappa)),
            rows=rows,
            kappa=float(kappa),
            spread_between=float(np.sqrt(between + within)),
        )
        return fitted._with_tag_effect(history, target_tags)

    def with_extra_row(self, residuals: Mapping[str, float]) -> "ShrunkenPredictor":
        """Count ``residuals`` (model -> value, same at every stage) as one more history set.

        This is how a proxy score enters: as one noisy benchmark, weighing 1 of n+1 for a model
        with history and shrunk by ``1 / (1 + kappa)`` for a model without.
        """
        mean = self.mean.copy()
        for row, model in enumerate(self.models):
            if model in residuals:
                gain = 1.0 / (self.rows[row] + 1.0 + self.kappa)
                bounded = float(np.clip(residuals[model], -RESIDUAL_CLIP, RESIDUAL_CLIP))
                mean[row] += gain * (bounded - mean[row])
        return replace(self, mean=mean)

    def prior(self) -> dict[str, float]:
        """Prior mean of each model's final residual, mu(m, T): what recall ranks by."""
        return {m: float(v) for m, v in zip(self.models, self.mean[:, -1], strict=True)}

    def predict(self, observed: Observed) -> dict[str, float]:
        """Final test score of every model, given all values seen on the target so far.

        ``K = G[e,e'] + [m=m'] R[e,e'] + noise^2 I``;
        ``pred(m) = mu(m,T) + g(T) + (G[T,e] + [m=m'] R[T,e]) K^-1 (y - mu - g)``.
        """
        prior = self.mean[:, -1] + self.level[-1]
        cells = self._usable(observed)
        if not cells:
            return {m: float(v) for m, v in zip(self.models, prior, strict=True)}
        place = {model: row for row, model in enumerate(self.models)}
        rows = np.array([place[model] for model, _ in cells])
        at = np.array([stage - 1 for _, stage in cells])
        values = np.array([observed[cell] for cell in cells])
        same = rows[:, None] == rows[None, :]
        covariance = self.level_cov[np.ix_(at, at)] + same * self.residual_cov[np.ix_(at, at)]
        covariance += OBSERVATION_NOISE**2 * np.eye(len(cells))
        surprise = values - self.mean[rows, at] - self.level[at]
        own = np.arange(len(self.models))[:, None] == rows[None, :]
        cross = self.level_cov[-1, at][None, :] + own * self.residual_cov[-1, at][None, :]
        predicted = prior + cross @ np.linalg.solve(covariance, surprise)
        return {m: float(v) for m, v in zip(self.models, predicted, strict=True)}

    def spread(self, stage: int) -> float:
        """Standard deviation of a model's own final residual after ``stage`` stages.

        ``sd_e^2 = R[T,T] - R[T,1:e] (R[1:e,1:e] + noise^2 I)^-1 R[1:e,T]``.
        """
        seen = min(stage, len(self.level) - 1)
        inner = self.residual_cov[:seen, :seen] + OBSERVATION_NOISE**2 * np.eye(seen)
        cross = self.residual_cov[-1, :seen]
        variance = self.residual_cov[-1, -1] - cross @ np.linalg.solve(inner, cross)
        return float(np.sqrt(max(float(variance), 1e-12)))

    def displayed(self, observed: Observed, pool: Collection[str]) -> dict[str, float]:
        """The numbers to show a person: contrast from `predict`, level from what was measured.

        After one stage the level is the pool's median prediction (plain `predict`); from two on it
        is the median of the last validation values, which tracks the level better.
        """
        predicted = self.predict(observed)
        last = _last_values(observed)
        shown = {model: predicted[model] for model in pool if model in predicted}
        depth = max((stage for _, stage in observed), default=0)
        measured = [last[model] for model in shown if model in last]
        if depth < 2 or not measured:
            return shown
        shift = float(np.median(measured)) - float(np.median(list(shown.values())))
        return {model: value + shift for model, value in shown.items()}

    def _usable(self, observed: Observed) -> list[tuple[str, int]]:
        """Cells in one order (so that sums round alike), without stages the history never had."""
        known, stages = set(self.models), len(self.level) - 1
        return sorted(cell for cell in observed if cell[0] in known and cell[1] <= stages)

    def _with_tag_effect(self, history: History, tags: Collection[str]) -> "ShrunkenPredictor":
        """``beta(e) = sum of (r - mu) over tagged cells / (count + 2)``, added to tagged models."""
        if not tags:
            return self
        raw, _ = _residuals(replace(history, tagged=np.zeros_like(history.tagged)))
        cells = history.tagged & ~np.isnan(raw[:, :, -1])
        excess = (raw - self.mean[:, None, :])[cells]
        effect = excess.sum(axis=0) / (len(excess) + TAG_SHRINKAGE)
        mean = self.mean.copy()
        mean[[model in tags for model in self.models]] += effect
        return replace(self, mean=mean)


@dataclass(frozen=True)
class KMeansTrend:
    """The paper's predictor (Eq. 5-6): the test mean of the nearest validation cluster.

    For each model, its benchmark sets are clustered by its scalar validation score at this stage;
    the prediction is the mean final test score of the nearest cluster. Deviation: k-means of
    numbers has an exact solution, so it is computed instead of sampled (the published code runs an
    unseeded k-means, and its survivors differ from run to run).
    """

    history: History
    clusters: int = 4

    def predict(self, model: str, stage: int, value: float) -> float:
        """Predicted final test score of ``model``; ``value`` itself where it has no history."""
        if model not in self.history.models or stage > self.history.stages:
            return value
        curves = self.history.curves[self.history.models.index(model)]
        curves = curves[~np.isnan(curves[:, -1])]
        if not len(curves):
            return value
        ordered = curves[np.argsort(curves[:, stage - 1], kind="stable")]
        groups = [
            ordered[start:stop]
            for start, stop in exact_kmeans(ordered[:, stage - 1], self.clusters)
        ]
        nearest = min(groups, key=lambda group: abs(float(group[:, stage - 1].mean()) - value))
        return float(nearest[:, -1].mean())


def exact_kmeans(ordered: FloatArray, clusters: int) -> list[tuple[int, int]]:
    """The best partition of sorted numbers into at most ``clusters`` runs (Wang & Song 2011).

    Args:
        ordered: n numbers, ascending.
        clusters: c.

    Returns:
        Half-open index ranges, in order, with the least sum of squared deviations.
    """
    count = len(ordered)
    sums = np.concatenate([[0.0], np.cumsum(ordered)])
    squares = np.concatenate([[0.0], np.cumsum(ordered**2)])

    def spread(start: int, stop: int) -> float:
        total = sums[stop] - sums[start]
        return float(squares[stop] - squares[start] - total * total / (stop - start))

    groups = min(clusters, count)
    cost = [spread(0, stop) if stop else 0.0 for stop in range(count + 1)]
    cuts: list[list[int]] = []
    for used in range(1, groups):
        best = [
            min((cost[cut] + spread(cut, stop), cut) for cut in range(used, stop))
            if stop > used
            else (np.inf, stop)
            for stop in range(count + 1)
        ]
        cost, last = [value for value, _ in best], [cut for _, cut in best]
        cuts.append(last)
    ranges, stop = [], count
    for last in reversed(cuts):
        ranges.append((last[stop], stop))
        stop = last[stop]
    return [(0, stop), *reversed(ranges)]


def conformal_halfwidth(history: History, stage: int, pool: Sequence[str]) -> float:
    """Half-width of a 90 % interval around `ShrunkenPredictor.displayed` (split conformal).

    The quantile of the same errors made on each history set with that set left out of the fit.
    Returns NaN when leaving one out leaves fewer than `MIN_HISTORY_SETS`.
    """
    errors: list[float] = []
    for place, dataset in enumerate(history.datasets):
        rest = history.without_dataset(dataset)
        column = history.curves[:, place]
        seen = {m: row for m, row in zip(history.models, column, strict=True) if m in set(pool)}
        seen = {model: row for model, row in seen.items() if not np.isnan(row).any()}
        if len(_residuals(rest)[1]) < MIN_HISTORY_SETS or not seen:
            continue
        observed = {
            (m, e): float(row[e - 1]) for m, row in seen.items() for e in range(1, stage + 1)
        }
        shown = ShrunkenPredictor.fit(rest).displayed(observed, list(seen))
        errors += [abs(shown[model] - float(row[-1])) for model, row in seen.items()]
    return float(np.quantile(errors, INTERVAL)) if errors else float("nan")


def _residuals(history: History) -> tuple[FloatArray, FloatArray]:
    """Clipped residuals ``[M, N', E+1]`` without tagged cells, and set medians ``[N', E+1]``.

    Sets with fewer than two measured models say nothing about models and are left out.
    """
    counts = (~np.isnan(history.curves[:, :, -1])).sum(axis=0)
    usable = counts >= 2
    curves = history.curves[:, usable]
    if not usable.any():
        return curves, np.zeros((0, curves.shape[2]))
    medians = np.nanmedian(curves, axis=0)
    residual = np.clip(curves - medians[None], -RESIDUAL_CLIP, RESIDUAL_CLIP)
    residual[history.tagged[:, usable]] = np.nan
    return residual, medians


def _stage_covariance(deviations: FloatArray, free: int) -> FloatArray:
    """Covariance of one model's residual across stages ``[E+1, E+1]``, from ``[rows, E+1]``."""
    raw = deviations.T @ deviations
    width = len(raw)
    variance = float(np.trace(raw)) / free / width
    constant = np.full((width, width), STAGE_PRIOR_CORRELATION)
    np.fill_diagonal(constant, 1.0)
    blended = raw + STAGE_PRIOR_ROWS * variance * constant
    return np.asarray(blended / (free + STAGE_PRIOR_ROWS))


def _mean_over_sets(residual: FloatArray, rows: FloatArray) -> FloatArray:
    """Mean residual of each model ``[M, E+1]``; NaN for a model without a row."""
    total = np.nansum(residual, axis=1)
    return np.where(rows[:, None] > 0, total / np.maximum(rows, 1.0)[:, None], np.nan)


def _last_values(observed: Observed) -> dict[str, float]:
    """The latest validation score of each model."""
    return {model: observed[(model, stage)] for model, stage in sorted(observed)}
