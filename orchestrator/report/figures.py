"""Pictures of a run: curves, accuracy matrix, Pareto front, latencies.

Style: one palette that color-blind readers can distinguish, SVG with real text.
"""

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from orchestrator.quantization.results import ParetoPoint
from orchestrator.report.page import Picture

# Okabe & Ito, "Color Universal Design" (2008).
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
HEAT = "cividis"
SCORES = (0.0, 1.0)
"""Span of scores: with it, a point more or less looks like a point."""
FLOAT_PLAN = "float"
"""Name of the plan without INT8 units."""
LINE_STYLES = ("-", "--", "-.", ":")


def render_svg(
    draw: Callable[..., None], *, width: float, height: float, **subplots: Any
) -> Picture:
    """Return the SVG element that ``draw(axes)`` paints.

    Args:
        draw: Called with the axes that ``plt.subplots`` returns.
        width: Inches.
        height: Inches.
        subplots: Passed on to ``plt.subplots`` (``ncols``, ``width_ratios``, ...).
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from cycler import cycler
    from matplotlib import pyplot as plt

    settings = {
        "svg.fonttype": "none",
        "svg.hashsalt": "orchestrator",  # element ids, and so pages, are reproducible
        "text.parse_math": False,  # names with a dollar sign are text, not formulas
        "font.family": "sans-serif",
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.prop_cycle": cycler(color=PALETTE[:-1]),
        "legend.frameon": False,
    }
    with mpl.rc_context(settings):
        figure, axes = plt.subplots(figsize=(width, height), layout="constrained", **subplots)
        draw(axes)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
        plt.close(figure)
    text = buffer.getvalue()
    return Picture(Markup(text[text.index("<svg") :]))  # noqa: S704 - Matplotlib escapes texts


def series_style(index: int) -> dict[str, str]:
    """Return color and dash of the ``index``-th line: neither alone carries meaning."""
    colors = PALETTE[:-1]
    return {
        "color": colors[index % len(colors)],
        "linestyle": LINE_STYLES[index // len(colors) % len(LINE_STYLES)],
    }


def ink_on(value: float, low: float, high: float) -> str:
    """Return the text color that is readable on the heat color of ``value``."""
    share = 0.5 if high <= low else (value - low) / (high - low)
    return "black" if share > 0.55 else "white"


PROGRESS = {
    "tokens_per_second": "tokens/s, without padding",
    "grad_norm": "gradient norm before clipping",
    "learning_rate": "learning rate",
}
"""Drawn training metrics, and their titles."""


def learning_curves(
    histories: Mapping[str, pd.DataFrame], baseline: float | None = None, metric: str = "loss"
) -> Picture:
    """Draw validation (thick) and training (thin) curves of several runs.

    Args:
        histories: Run name to its long-form history (``step split metric value``).
        baseline: A horizontal line to beat (for language models: the unigram entropy in nats).
        metric: Which metric to draw.
    """

    def draw(axis: Any) -> None:
        for index, (name, history) in enumerate(histories.items()):
            style = series_style(index)
            rows = history[history["metric"] == metric]
            for split, width, alpha in (("train", 0.7, 0.45), ("validation", 1.8, 1.0)):
                part = rows[rows["split"] == split].sort_values("step")
                label = name if split == "validation" else None
                axis.plot(part["step"], part["value"], lw=width, alpha=alpha, label=label, **style)
        if baseline is not None:
            axis.axhline(baseline, color="#666666", lw=0.8, ls=(0, (6, 3)))
            axis.annotate(
                f"unigram entropy {baseline:.2f}", (0.99, baseline), va="bottom", ha="right",
                xycoords=("axes fraction", "data"), color="#444444", fontsize=8,
            )  # fmt: skip
        axis.set_xlabel("optimizer step")
        axis.set_ylabel(f"{metric} (nats per target)" if metric == "loss" else metric)
        axis.legend(fontsize=8)

    return render_svg(draw, width=7.2, height=3.4)


def training_progress(history: pd.DataFrame) -> Picture:
    """Draw speed, gradient norm and learning rate of one run; skipped steps are marked.

    Args:
        history: Long form (``step split metric value``), one row per interval and metric.
    """
    rows = history[history["split"] == "train"]
    by_step = rows.pivot_table(index="step", columns="metric", values="value")

    def draw(axes: Any) -> None:
        for axis, (metric, title) in zip(axes, PROGRESS.items(), strict=True):
            axis.plot(by_step.index, by_step[metric], lw=1.2)
            axis.set_title(title, fontsize=9, loc="left")
            axis.set_xlabel("optimizer step")
            axis.set_ylim(bottom=0)
        skipped = by_step.index[by_step["skipped"] > 0]
        for step in skipped:
            axes[1].axvline(step, color=PALETTE[1], lw=1.0, ls="--")

    return render_svg(draw, width=7.2, height=2.1, ncols=len(PROGRESS))


def accuracy_matrix(
    matrix: Sequence[Sequence[float | None]],
    tasks: Sequence[str],
    names: Sequence[str] | None = None,
) -> Picture:
    """Draw ``R[i, j]``: accuracy on task j after learning task i (empty where not evaluated).

    Args:
        matrix: the scores.
        tasks: names of the columns.
        names: names of the rows; None: the tasks that were learned.
    """
    table = pd.DataFrame(
        [[np.nan if value is None else value for value in row] for row in matrix],
        index=list(names or [f"after {task}" for task in tasks[: len(matrix)]]),
        columns=list(tasks),
    )
    return render_svg(
        lambda axis: draw_table(axis, table, span=SCORES),
        width=1.9 + 1.2 * len(tasks),
        height=1.3 + 0.4 * len(table),
    )


def draw_table(
    axis: Any, table: pd.DataFrame, form: str = "{:.3f}", span: tuple[float, float] | None = None
) -> None:
    """Draw a table of numbers as colored cells with the numbers in them.

    Args:
        axis: where.
        table: the numbers; NaN leaves a cell empty.
        form: format of a number.
        span: values of the darkest and the brightest color; None: the smallest and the largest.
    """
    values = table.to_numpy(dtype=float)
    if span is None:
        span = (float(np.nanmin(values)), float(np.nanmax(values))) if values.size else SCORES
    low, high = span
    axis.imshow(values, cmap=HEAT, aspect="auto", vmin=low, vmax=high)
    axis.set_xticks(range(table.shape[1]), [str(name) for name in table.columns], rotation=20)
    axis.set_yticks(range(table.shape[0]), [str(name) for name in table.index])
    axis.tick_params(length=0)
    for spine in axis.spines.values():
        spine.set_visible(False)
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            ink = ink_on(value, low, high)
            axis.text(
                column, row, form.format(value), ha="center", va="center", color=ink, fontsize=8
            )


def pareto_front(points: Sequence[ParetoPoint]) -> Picture:
    """Draw accuracy, and divergence from the float model, against latency of every measured plan.

    A ring marks the chosen one. Plans whose accuracy is the same on a few hundred rows still differ
    in their divergence.
    """

    def draw(axes: Any) -> None:
        accuracy, divergence = axes
        _draw_plans(accuracy, points, [quality(point) for point in points])
        accuracy.set_ylabel(f"{quality_name(points)} of the deployed artifact")
        _draw_plans(divergence, points, [1000 * point.error.error for point in points])
        only_vectors = all(point.error.kl is None for point in points)
        unit = "1 - cosine to float (thousandths)" if only_vectors else "KL divergence (millinats)"
        divergence.set_ylabel(unit)
        divergence.set_yscale("symlog", linthresh=0.1)  # a cut text moves answers far more
        divergence.set_ylim(bottom=0)
        divergence.yaxis.set_major_formatter("{x:g}")
        divergence.legend(fontsize=7.5)

    return render_svg(draw, width=7.2, height=3.4, ncols=2)


def quality(point: ParetoPoint) -> float:
    """Return the primary metric of a plan, or its mean cosine where rows have no labels."""
    return 1 - point.error.cosine if point.accuracy is None else point.accuracy


def quality_name(points: Sequence[ParetoPoint]) -> str:
    """Return the name of what `quality` returns."""
    named = [point.paired.metric for point in points if point.paired is not None]
    return named[0].replace("_", " ") if named else "cosine"


def _draw_plans(axis: Any, points: Sequence[ParetoPoint], heights: Sequence[float]) -> None:
    for point, height in zip(points, heights, strict=True):
        place = (point.latency_ms, height)
        axis.plot(*place, "o", ms=5, color=PALETTE[0] if point.on_front else "#999999")
        if point.chosen:
            axis.plot(*place, "o", ms=13, mfc="none", color=PALETTE[1], label="chosen")
        if point.chosen or point.name == FLOAT_PLAN:
            axis.annotate(
                point.name, place, xytext=(0, 10), ha="center",
                textcoords="offset points", fontsize=7.5,
            )  # fmt: skip
    axis.plot([], [], "o", ms=5, color=PALETTE[0], label="on the Pareto front")
    axis.plot([], [], "o", ms=5, color="#999999", label="beaten by another plan")
    axis.set_xlabel("latency, one request (ms)")
    axis.margins(0.25)


def latency_histogram(latencies_ms: Sequence[float]) -> Picture:
    """Draw the latencies of the requests sent, with p50 and p99 marked (milliseconds)."""
    values = np.asarray(latencies_ms, dtype=float)

    def draw(axis: Any) -> None:
        axis.hist(values, bins=min(40, max(5, values.size // 4)), color=PALETTE[5])
        for quantile, color in ((50, PALETTE[0]), (99, PALETTE[1])):
            at = float(np.percentile(values, quantile))
            axis.axvline(at, color=color, lw=1.2, label=f"p{quantile} {at:.1f} ms")
        axis.set_xlabel("HTTP round trip (ms)")
        axis.set_ylabel("requests")
        axis.legend(fontsize=8)

    return render_svg(draw, width=7.2, height=2.4)
