"""How figures look: one palette that colour-blind readers can tell apart, SVG with real text."""

import io
from collections.abc import Callable
from typing import Any

# Okabe & Ito, "Color Universal Design" (2008).
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
HEAT = "cividis"
LINE_STYLES = ("-", "--", "-.", ":")


def render_svg(draw: Callable[..., None], *, width: float, height: float, **subplots: Any) -> str:
    """Return the SVG element that ``draw(axes)`` paints.

    Args:
        draw: called with what ``plt.subplots`` returns as its second value.
        width: inches.
        height: inches.
        subplots: passed on to ``plt.subplots`` (``ncols``, ``width_ratios``, ...).
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from cycler import cycler
    from matplotlib import pyplot as plt

    settings = {
        "svg.fonttype": "none",
        "svg.hashsalt": "orchestrator",
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
    return text[text.index("<svg") :]


def series_style(index: int) -> dict[str, str]:
    """Return colour and dash of the ``index``-th line: neither alone carries meaning."""
    colours = PALETTE[:-1]
    return {
        "color": colours[index % len(colours)],
        "linestyle": LINE_STYLES[index // len(colours) % len(LINE_STYLES)],
    }


def ink_on(value: float, low: float, high: float) -> str:
    """Return the text colour that reads on the heat colour of ``value``."""
    share = 0.5 if high <= low else (value - low) / (high - low)
    return "black" if share > 0.55 else "white"
