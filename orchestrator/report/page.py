"""The page itself: one HTML file without scripts, fonts or links to elsewhere."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

_STYLE = """
:root{color-scheme:light}
body{font:15px/1.5 system-ui,sans-serif;color:#1c1c1c;max-width:960px;margin:2rem auto;
padding:0 1rem}
h1{font-size:1.6rem;margin-bottom:.2rem} h2{font-size:1.15rem;margin:2.2rem 0 .3rem;border-top:1px
solid #ddd;padding-top:1rem} p{margin:.3rem 0 .6rem;max-width:46rem} .muted{color:#555}
table{border-collapse:collapse;font-size:.88rem;margin:.5rem 0;display:block;overflow-x:auto}
th,td{padding:.22rem .7rem;border-bottom:1px solid #e3e3e3;text-align:left;vertical-align:top}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums} tr.on td{background:#fff4e5}
svg{max-width:100%;height:auto} .facts{display:flex;flex-wrap:wrap;gap:.6rem;margin:1rem 0}
.facts div{border:1px solid #ddd;border-radius:6px;padding:.5rem .8rem;min-width:8rem}
.facts b{display:block;font-size:1.15rem} nav a{margin-right:1rem}
"""


@dataclass(frozen=True, slots=True)
class Section:
    """One part of the page: a heading, a sentence that says what to see, then HTML blocks."""

    title: str
    lead: str
    blocks: tuple[str, ...]
    anchor: str = ""


@dataclass(frozen=True, slots=True)
class Page:
    """A report: title, the few figures that matter, then sections."""

    title: str
    subtitle: str
    facts: Mapping[str, str] = field(default_factory=dict)
    sections: Sequence[Section] = ()

    def html(self) -> str:
        """Return the whole document."""
        links = "".join(f'<a href="#{_anchor(s)}">{escape(s.title)}</a>' for s in self.sections)
        facts = "".join(
            f"<div><b>{escape(value)}</b><span class=muted>{escape(name)}</span></div>"
            for name, value in self.facts.items()
        )
        body = "\n".join(_section(section) for section in self.sections)
        return (
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width,initial-scale=1">'
            f"<title>{escape(self.title)}</title><style>{_STYLE}</style></head><body>"
            f"<h1>{escape(self.title)}</h1><p class=muted>{escape(self.subtitle)}</p>"
            f"<nav>{links}</nav><div class=facts>{facts}</div>\n{body}\n</body></html>\n"
        )


def _anchor(section: Section) -> str:
    return section.anchor or "".join(c if c.isalnum() else "-" for c in section.title.lower())


def _section(section: Section) -> str:
    blocks = "\n".join(section.blocks)
    return (
        f'<section id="{_anchor(section)}"><h2>{escape(section.title)}</h2>'
        f"<p>{escape(section.lead)}</p>\n{blocks}</section>"
    )


def table(rows: Sequence[Mapping[str, Any]], highlight: str | None = None) -> str:
    """Return an HTML table; numbers are right-aligned; rows whose ``highlight`` is true are marked.

    Args:
        rows: one mapping a row, the same keys in each; the key ``highlight`` is not shown.
        highlight: name of the boolean key that marks a row.
    """
    if not rows:
        return "<p class=muted>nothing to show</p>"
    columns = [name for name in rows[0] if name != highlight]
    numeric = {
        name: all(isinstance(row.get(name), int | float | None) for row in rows) for name in columns
    }
    head = "".join(f"<th{_class(numeric[name])}>{escape(name)}</th>" for name in columns)
    body = "".join(
        f"<tr{' class=on' if highlight and row.get(highlight) else ''}>"
        + "".join(f"<td{_class(numeric[c])}>{escape(show(row.get(c)))}</td>" for c in columns)
        + "</tr>"
        for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _class(numeric: bool) -> str:
    return " class=n" if numeric else ""


def show(value: Any) -> str:
    """Return a value as people read it: three or four significant digits, thin thousands."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    if isinstance(value, int):
        return f"{value:,}"
    return str(value)
