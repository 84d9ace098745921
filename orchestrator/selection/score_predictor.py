"""The shrunken predictor: a linear predictor with an empirical-Bayes prior per model.

The score of model m on a data set is a level of that data set plus a residual of the model:

    y(m, e) = level(e) + mu(m, e) + residual(m, e),
    level ~ N(g, G),  residual(m, .) ~ N(0, R) independently for each model.

The prediction is the conditional mean of y(m, T) given every value seen, so models that were not
trained are updated too (through the level). It replaces the nearest-centroid look-up of the paper
(`trend.KMeansTrend`), which loses to a straight line after one epoch and to the last value after
two.

- Moments g, G, mu, R: `ShrunkenPredictor.fit`; conditional mean: `ShrunkenPredictor.predict`.
- Conditional deviation sd_e: `ShrunkenPredictor.spread`; split-conformal interval:
  `conformal_halfwidth`.

Shapes: M models, N history sets, E stages; index E of a curve is T, the final test.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np

from orchestrator.arrays import FloatArray, IntArray
from orchestrator.errors import InputError
from orchestrator.selection.matrix.history import History

RESIDUAL_CLIP = 0.1
"""Largest residual of a history cell, in units of the score: one outlier must not set a prior."""
OBSERVATION_NOISE = 0.02
"""Standard deviation of a measured score: repeated runs of the published cells differ by about one
point on average."""
MIN_HISTORY_SETS = 3
MIN_ROWS_FOR_CENTER = 2
"""Models with fewer history cells do not enter the mean that others are shrunk to."""
PRIOR_VARIANCE_FLOOR = 1 / 40
"""Smallest variance between models, as a share of the variance within a model."""
TAG_SHRINKAGE = 2
"""Cells without effect that are added to the tagged ones."""
STAGE_PRIOR_ROWS = 8
STAGE_PRIOR_CORRELATION = 0.5
"""Residuals of two stages correlate .1 to .6 on the published curves. With little history the
estimated covariance is noise, and may claim that validation predicts nothing. It is therefore
blended with this constant correlation, which counts as eight rows: 1 % of the weight with 20 sets
of 39 models."""
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
        rows: ``[M]`` number of history cells of each model.
        kappa: Noise-to-signal ratio; a model with ``rows = kappa`` is shrunk half-way.
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
    def fit(
        cls,
        history: History,
        target_tags: Collection[str] = (),
        least: int = MIN_HISTORY_SETS,
    ) -> "ShrunkenPredictor":
        """Estimate every moment from a history without the target.

        Args:
            history: Curves; tagged cells are left out of the prior, not counted as zero.
            target_tags: Models tagged for the target; their prior gets the tag effect.
            least: Data sets needed.

        Raises:
            InputError: Fewer than ``least`` usable data sets.
        """
        if history.curved_datasets() < least:
            history = history.only_finals()
        residual, medians = _residuals(history)
        sets = len(medians)
        if sets < least:
            raise InputError(
                f"history prior: {sets} data sets with at least two models; it needs "
                f"{least}. Benchmark more data sets, or use recall.mode=paper."
            )
        seen = ~np.isnan(residual[:, :, -1])
        rows = seen.sum(axis=1).astype(float)
        counts = (~np.isnan(residual)).sum(axis=1).astype(float)  # [M, E+1]
        average = np.where(
            counts > 0, np.nansum(residual, axis=1) / np.maximum(counts, 1.0), np.nan
        )
        free = max(int(rows.sum()) - int((rows > 0).sum()), 1)
        deviations = (residual - average[:, None, :])[seen]
        within = float((deviations[:, -1] ** 2).sum() / free)
        known = average[rows > 0]
        spread = float(np.var(known[:, -1], ddof=1)) if len(known) > 1 else 0.0
        between = max(spread - within / sets, within * PRIOR_VARIANCE_FLOOR, 1e-12)
        kappa = within / between
        center = np.nanmean(known[rows[rows > 0] >= min(MIN_ROWS_FOR_CENTER, rows.max())], axis=0)
        mean = center + counts / (counts + kappa) * (np.nan_to_num(average) - center)
        deviations = deviations[~np.isnan(deviations).any(axis=1)]
        free = max(len(deviations) - int((counts.min(axis=1) > 0).sum()), 1)
        medians = medians[~np.isnan(medians).any(axis=1)]
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
        """Count ``residuals`` (model to value, equal at every stage) as one more history set.

        A proxy score enters in this way: as one noisy benchmark set. It weighs
        ``1 / (n + 1 + kappa)`` for a model with n history cells.
        """
        mean = self.mean.copy()
        for row, model in enumerate(self.models):
            if model in residuals:
                gain = 1.0 / (self.rows[row] + 1.0 + self.kappa)
                bounded = float(np.clip(residuals[model], -RESIDUAL_CLIP, RESIDUAL_CLIP))
                mean[row] += gain * (bounded - mean[row])
        return replace(self, mean=mean)

    def prior(self) -> dict[str, float]:
        """Prior mean of each model's final residual, mu(m, T); recall ranks by it."""
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
        surprise = values - self.mean[rows, at] - self.level[at]
        weight = self._solve(rows, at, surprise)
        own = np.bincount(rows, self.residual_cov[-1, at] * weight, minlength=len(self.models))
        predicted = prior + self.level_cov[-1, at] @ weight + own
        return {m: float(v) for m, v in zip(self.models, predicted, strict=True)}

    def _solve(self, rows: IntArray, at: IntArray, right: FloatArray) -> FloatArray:
        """``K^-1 right`` for cells of models ``rows`` at stages ``at``, sorted by model; ``[C]``.

        K is one small block per model plus ``Z G Z^T`` (Z: cell to stage), so that Woodbury's
        identity needs no ``[C, C]`` matrix: ten thousand models would not fit.
        """
        stages = len(self.level)
        sides = np.column_stack([right, np.eye(stages)[at]])
        solved = np.empty_like(sides)
        firsts = np.flatnonzero(np.diff(rows, prepend=-1))
        cells_of: dict[tuple[int, ...], list[IntArray]] = {}
        for cells in np.split(np.arange(len(rows)), firsts[1:]):
            cells_of.setdefault(tuple(at[cells].tolist()), []).append(cells)
        for pattern, groups in cells_of.items():
            block = self.residual_cov[np.ix_(pattern, pattern)]
            block = block + OBSERVATION_NOISE**2 * np.eye(len(pattern))
            index = np.stack(groups)
            solved[index] = np.linalg.inv(block) @ sides[index]
        alone, shared = solved[:, 0], solved[:, 1:]
        inner = np.eye(stages) + self.level_cov @ (sides[:, 1:].T @ shared)
        level = np.linalg.solve(inner, self.level_cov @ (sides[:, 1:].T @ alone))
        return np.asarray(alone - shared @ level)

    def spread(self, stage: int) -> float:
        """Standard deviation of a model's own final residual after ``stage`` stages.

        ``sd_e^2 = R[T,T] - R[T,1:e] (R[1:e,1:e] + noise^2 I)^-1 R[1:e,T]``.
        """
        seen = min(stage, len(self.level) - 1)
        inner = self.residual_cov[:seen, :seen] + OBSERVATION_NOISE**2 * np.eye(seen)
        cross = self.residual_cov[-1, :seen]
        variance = self.residual_cov[-1, -1] - cross @ np.linalg.solve(inner, cross)
        return float(np.sqrt(max(float(variance), 1e-12)))

    def predict_for_report(self, observed: Observed, pool: Collection[str]) -> dict[str, float]:
        """Predicted final scores of ``pool`` at the measured level, for reports.

        Differences between models are those of `predict`. After one stage the level is the median
        prediction (plain `predict`); from two stages on it is the median of the last validation
        values, which tracks the level better.
        """
        predicted = self.predict(observed)
        last = {model: observed[(model, stage)] for model, stage in sorted(observed)}
        shown = {model: predicted[model] for model in pool if model in predicted}
        depth = max((stage for _, stage in observed), default=0)
        measured = [last[model] for model in shown if model in last]
        if depth < 2 or not measured:
            return shown
        shift = float(np.median(measured)) - float(np.median(list(shown.values())))
        return {model: value + shift for model, value in shown.items()}

    def _usable(self, observed: Observed) -> list[tuple[str, int]]:
        """Cells of known models and stages, sorted so that sums round the same in any order."""
        known, stages = set(self.models), len(self.level) - 1
        return sorted(cell for cell in observed if cell[0] in known and cell[1] <= stages)

    def _with_tag_effect(self, history: History, tags: Collection[str]) -> "ShrunkenPredictor":
        """``beta(e) = sum of (r - mu) over tagged cells / (count + 2)``, added to tagged models."""
        if not tags:
            return self
        raw, _ = _residuals(history.without_tags())
        cells = history.tagged & ~np.isnan(raw[:, :, -1])
        excess = (raw - self.mean[:, None, :])[cells]
        counts = (~np.isnan(excess)).sum(axis=0)
        effect = np.nansum(excess, axis=0) / (counts + TAG_SHRINKAGE)
        mean = self.mean.copy()
        mean[[model in tags for model in self.models]] += effect
        return replace(self, mean=mean)


def conformal_halfwidth(history: History, stage: int, pool: Sequence[str]) -> float:
    """Half-width of a 90 % interval of `ShrunkenPredictor.predict_for_report` (split conformal).

    The quantile of its errors on all history sets, each left out of the fit for its own, times
    ``t / z``: errors within a set go together, so that n sets are n draws and not n M. Student's t
    with n - 1 degrees of freedom widens the interval of three sets by .78 and of twenty by .05.

    Returns:
        NaN when leaving one set out leaves fewer than two.
    """
    from scipy.stats import t as student

    errors: list[float] = []
    sets = 0
    for place, dataset in enumerate(history.datasets):
        rest = history.without_dataset(dataset)
        column = history.curves[:, place]
        seen = {m: row for m, row in zip(history.models, column, strict=True) if m in set(pool)}
        seen = {model: row for model, row in seen.items() if not np.isnan(row).any()}
        if len(_residuals(rest)[1]) < MIN_HISTORY_SETS - 1 or not seen:
            continue
        observed = {
            (m, e): float(row[e - 1]) for m, row in seen.items() for e in range(1, stage + 1)
        }
        fitted = ShrunkenPredictor.fit(rest, least=MIN_HISTORY_SETS - 1)
        shown = fitted.predict_for_report(observed, list(seen))
        errors += [abs(shown[model] - float(row[-1])) for model, row in seen.items()]
        sets += 1
    if not errors:
        return float("nan")
    tail = (1 + INTERVAL) / 2
    widening = float(student.ppf(tail, sets - 1)) / NormalDist().inv_cdf(tail)
    return float(np.quantile(errors, INTERVAL)) * widening


def _residuals(history: History) -> tuple[FloatArray, FloatArray]:
    """Clipped residuals ``[M, N', E+1]`` without tagged cells, and set medians ``[N', E+1]``.

    Sets with fewer than two measured models say nothing about models and are omitted. A set with
    fewer than two curves has values at T only.
    """
    counts = (~np.isnan(history.curves[:, :, -1])).sum(axis=0)
    usable = counts >= 2
    curves = history.curves[:, usable]
    if not usable.any():
        return curves, np.zeros((0, curves.shape[2]))
    curved = (~np.isnan(curves[:, :, 0])).sum(axis=0) >= 2
    medians = np.full(curves.shape[1:], np.nan)
    medians[curved] = np.nanmedian(curves[:, curved], axis=0)
    medians[~curved, -1] = np.nanmedian(curves[:, ~curved, -1], axis=0)
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
