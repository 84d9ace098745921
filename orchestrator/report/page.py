"""The page: one HTML file without scripts, fonts or external links, from ``page.html``."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from orchestrator.report.heat_map import TREE_WIDTH, HeatMap, shades

TEMPLATE = "page.html"
LONG_TABLE = 30
"""Rows from which a table scrolls in a box of its own."""

Cell = str | float | int | bool | None
"""A value of a table; text is escaped, numbers are rounded by ``show``."""


@dataclass(frozen=True, slots=True)
class Table:
    """A table; columns that hold only numbers are right-aligned.

    Attributes:
        columns: Names of the columns.
        rows: One tuple of cells per row.
        highlight: Index of the row to mark.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    highlight: int | None = None

    @property
    def is_long(self) -> bool:
        """Whether it scrolls in a box of its own."""
        return len(self.rows) >= LONG_TABLE

    def is_numeric(self, column: int) -> bool:
        """Return whether a column holds numbers only; missing values count as numbers."""
        return all(isinstance(row[column], int | float | None) for row in self.rows)

    @classmethod
    def of_figures(cls, figures: Mapping[str, Cell], title: str = "figure") -> "Table":
        """Return a table of two columns: the names of figures, and their values."""
        return cls((title, ""), tuple(figures.items()))


@dataclass(frozen=True, slots=True)
class Picture:
    """An SVG element drawn by ``figures``, which escapes its texts."""

    svg: Markup


@dataclass(frozen=True, slots=True)
class Note:
    """A sentence between tables and pictures."""

    text: str


Block = Table | Picture | HeatMap | Note


@dataclass(frozen=True, slots=True)
class Section:
    """One part of the page: a heading, a sentence on how to read it, then its blocks."""

    title: str
    lead: str
    blocks: tuple[Block, ...]

    @property
    def anchor(self) -> str:
        """Target of the links to this section."""
        return "".join(c if c.isalnum() else "-" for c in self.title.lower())


@dataclass(frozen=True, slots=True)
class Page:
    """A report.

    Attributes:
        title: Heading of the page.
        subtitle: One line below it.
        facts: The few figures that matter, as text, by name.
        sections: The parts of the page.
        notes: Parts that are missing, and why.
    """

    title: str
    subtitle: str
    facts: Mapping[str, str] = field(default_factory=dict)
    sections: Sequence[Section] = ()
    notes: Sequence[str] = ()

    def html(self) -> str:
        """Return the whole document."""
        environment = Environment(
            loader=FileSystemLoader(Path(__file__).parent),
            autoescape=True,
            undefined=StrictUndefined,
            keep_trailing_newline=True,
        )
        environment.filters["show"] = show
        environment.tests["table"] = lambda block: isinstance(block, Table)
        environment.tests["heat_map"] = lambda block: isinstance(block, HeatMap)
        environment.tests["note"] = lambda block: isinstance(block, Note)
        environment.globals |= {"shades": shades(), "tree_width": TREE_WIDTH}
        return environment.get_template(TEMPLATE).render(page=self)


def show(value: Cell) -> str:
    """Return a value for people: four significant digits, thousands separated by commas."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    if isinstance(value, int):
        return f"{value:,}"
    return str(value)
