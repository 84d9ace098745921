"""The page: one self-contained document, in which every text is escaped."""

from html.parser import HTMLParser

import pytest

from orchestrator.report import precision, sections
from orchestrator.report.page import Page, Section, Table, show
from orchestrator.report.selection import performance_matrix, selection
from tests.support import results

HOSTILE = '<script>alert("x")</script>&$\\frac$'


class Elements(HTMLParser):
    """Collects tags, attributes and texts as a browser sees them."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.texts, self.rows = [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.texts.append(data)

    def named(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def page_of(*blocks, **fields):
    section = Section("A section", "How to read it.", blocks)
    return Page("A title", "a subtitle", sections=[section], **fields).html()


def test_the_document_needs_nothing_from_outside():
    page = page_of(*precision.plans_section(results.pareto_report()).blocks)
    elements = Elements(page)
    assert page.startswith("<!doctype html>")
    assert page.endswith("</html>\n")
    assert not {"script", "link", "img", "iframe"} & {tag for tag, _ in elements.tags}
    assert "@import" not in page


def test_links_lead_to_the_sections():
    elements = Elements(page_of())
    assert elements.named("a") == [{"href": "#a-section"}]
    assert elements.named("section") == [{"id": "a-section"}]


def test_numbers_are_right_aligned_and_the_highlighted_row_is_marked():
    table = Table(("name", "value"), (("x", 0.123456), ("y", None)), highlight=1)
    elements = Elements(page_of(table))
    assert elements.named("th") == [{}, {"class": "n"}]
    assert elements.named("td") == [{}, {"class": "n"}] * 2
    assert elements.named("tr") == [{}, {}, {"class": "on"}]
    assert {"0.1235", "–"} <= set(elements.texts)


def test_an_empty_table_says_so():
    assert "nothing to show" in page_of(Table(("name",), ()))


def test_notes_are_on_the_page():
    assert "<p class=muted>the history is missing</p>" in page_of(notes=["the history is missing"])


@pytest.mark.parametrize(
    "make",
    [
        lambda: Page(HOSTILE, HOSTILE, {HOSTILE: HOSTILE}, notes=[HOSTILE]),
        lambda: Page("t", "s", sections=[Section(HOSTILE, HOSTILE, ())]),
        lambda: Page("t", "s", sections=[Section("x", "y", (Table((HOSTILE,), ((HOSTILE,),)),))]),
        lambda: pages_with(
            sections.pretraining({HOSTILE: results.history()}, 1.0, Table((), ())),
            performance_matrix(results.selection_report((HOSTILE, "two/v0001"))),
            selection(results.selection_report((HOSTILE, "two/v0001"))),
            sections.continual(results.stream_evaluation((HOSTILE, "mail"))),
        ),
    ],
    ids=["heading", "section", "table", "pictures"],
)
def test_hostile_names_are_shown_as_text(make):
    page = make().html()
    elements = Elements(page)
    assert not elements.named("script")
    assert any(HOSTILE in text for text in elements.texts)


def pages_with(*parts):
    return Page("t", "s", sections=parts)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (True, "yes"),
        (False, "no"),
        (0.123456, "0.1235"),
        (12345.6, "12,346"),
        (12345, "12,345"),
        ("as it is", "as it is"),
    ],
)
def test_values_are_rounded_for_people(value, text):
    assert show(value) == text
