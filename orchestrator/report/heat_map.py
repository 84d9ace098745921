"""Heat map of a performance matrix: one small cell per model and data set, readable at 200 x 50.

A table instead of a picture, without scripts: names stay in sight while it scrolls, every cell says
its data set and score under the pointer, and radio buttons show a part of the models. No library
draws one: Plotly needs a script of megabytes, Matplotlib and seaborn make a fixed picture.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

SHADES = 21
CELLS_WIDTH = 600
"""Pixels that the cells take where the window is wide enough."""
CELL_WIDTHS = (11, 56)
NUMBERED_WIDTH = 34
"""Pixels from which a cell shows its number."""
CELL_HEIGHTS = (14, 22)
MAX_TALL_ROWS = 40
TREE_WIDTH = 110
OUTLIERS = 0.02
"""Share of the scores beyond each end of the scale at most."""


@dataclass(frozen=True, slots=True)
class Shade:
    """A color of the scale, and the text color that is readable on it."""

    color: str
    ink: str


@dataclass(frozen=True, slots=True)
class Cell:
    """One score.

    Attributes:
        value: The score; None: not measured.
        shade: Style class of its color.
        text: Number in the cell; empty where the cell is too small.
    """

    value: float | None
    shade: str
    text: str


@dataclass(frozen=True, slots=True)
class Row:
    """The scores of one model.

    Attributes:
        name: Model id.
        groups: Names of the choices that show it.
        cells: One per column.
    """

    name: str
    groups: tuple[str, ...]
    cells: tuple[Cell, ...]


@dataclass(frozen=True, slots=True)
class Choice:
    """Rows that the reader may choose to see."""

    name: str
    title: str
    rows: int


@dataclass(frozen=True, slots=True)
class HeatMap:
    """A block of the page.

    Attributes:
        columns: Data sets.
        rows: Models, in the order of the tree.
        choices: Parts of the rows; none where there is nothing to choose.
        low: Score of the darkest shade.
        high: Score of the brightest shade.
        width: Of a cell, pixels.
        height: Of a cell, pixels.
        tree: Path of the dendrogram in pixels; empty without one.
        depth: Largest distance in the tree.
    """

    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    choices: tuple[Choice, ...]
    low: float
    high: float
    width: int
    height: int
    tree: str = ""
    depth: float = 0.0
    tree_width: int = TREE_WIDTH


@cache
def shades() -> tuple[Shade, ...]:
    """Return the scale from the lowest to the highest score: cividis, also for color-blind eyes."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    scale = colormaps["cividis"].resampled(SHADES)
    return tuple(
        Shade(to_hex(scale(place)), "#fff" if place < 0.55 * SHADES else "#000")
        for place in range(SHADES)
    )


def heat_map(
    scores: Mapping[str, Mapping[str, float | None]],
    linkage: Sequence[Sequence[float]] = (),
    groups: Mapping[str, Collection[str]] | None = None,
) -> HeatMap:
    """Return the heat map of a matrix.

    Args:
        scores: Model to data set to score; None: not measured. With a tree, in the order of its
            leaves before clustering.
        linkage: ``[M-1, 4]`` SciPy linkage over the models; empty: no tree, the order stays.
        groups: Title of a choice to the models that it shows; a choice of all or none is left out.
    """
    models = list(scores)
    columns = tuple(dict.fromkeys(name for row in scores.values() for name in row))
    width, height = _cell_size(len(models), len(columns))
    tree, depth = "", 0.0
    if len(linkage):
        tree, depth, order = _tree(np.asarray(linkage, dtype=float), height)
        models = [models[leaf] for leaf in order]
    shown = {t: set(names) & set(models) for t, names in (groups or {}).items()}
    shown = {title: names for title, names in shown.items() if 0 < len(names) < len(models)}
    known = [value for row in scores.values() for value in row.values() if value is not None]
    low, high = _span(known)
    rows = tuple(
        Row(
            name=model,
            groups=tuple(f"in-{n}" for n, names in enumerate(shown.values()) if model in names),
            cells=tuple(
                _cell(scores[model].get(name), low, high, width >= NUMBERED_WIDTH)
                for name in columns
            ),
        )
        for model in models
    )
    choices = [Choice("all", "all models", len(models))] if shown else []
    choices += [Choice(str(n), title, len(names)) for n, (title, names) in enumerate(shown.items())]
    return HeatMap(columns, rows, tuple(choices), low, high, width, height, tree, depth)


def _cell_size(models: int, columns: int) -> tuple[int, int]:
    least, most = CELL_WIDTHS
    width = min(most, max(least, CELLS_WIDTH // max(1, columns)))
    return width, CELL_HEIGHTS[models <= MAX_TALL_ROWS]


def _span(known: Sequence[float]) -> tuple[float, float]:
    """Both ends of the scale, rounded outward to .05; a few outliers must not take the colors."""
    if not known:
        return 0.0, 1.0
    low, high = np.quantile(known, [OUTLIERS, 1 - OUTLIERS]) / 0.05
    low, high = np.floor(low) * 0.05, np.ceil(high) * 0.05
    return round(float(low), 2), round(float(max(high, low + 0.05)), 2)


def _cell(value: float | None, low: float, high: float, numbered: bool) -> Cell:
    if value is None:
        return Cell(None, "gap", "")
    place = round((value - low) / (high - low) * (SHADES - 1))
    text = f"{value:.3f}" if numbered else ""
    return Cell(value, f"c{min(max(place, 0), SHADES - 1)}", text)


def _tree(linkage: np.ndarray, height: int) -> tuple[str, float, list[int]]:
    """Path of a dendrogram whose leaves are at the right, its depth, and the order of the leaves.

    SciPy puts leaf i at 10 i + 5.
    """
    from scipy.cluster.hierarchy import dendrogram

    drawn = dendrogram(linkage, no_plot=True)
    depth = float(linkage[:, 2].max())
    scale = (TREE_WIDTH - 2) / depth if depth > 0 else 0.0
    parts = []
    for across, along in zip(drawn["icoord"], drawn["dcoord"], strict=True):
        points = [
            f"{TREE_WIDTH - distance * scale:.1f} {place / 10 * height:.1f}"
            for place, distance in zip(across, along, strict=True)
        ]
        parts.append("M" + "L".join(points))
    return "".join(parts), depth, [int(leaf) for leaf in drawn["leaves"]]
