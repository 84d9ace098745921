"""What a docstring describes and how it is written: the classes of the form tasks.

Labels come from the syntax tree, or from a part of the docstring that is then cut off: a model that
is to say whether a list of parameters follows sees only the description before it.
"""

import re
from collections.abc import Callable

from orchestrator.data.sources.docstrings import Docstring

SECTION = re.compile(
    r"^\s*(?:(?:Parameters|Args|Arguments|Keyword Args|Other Parameters|Attributes|Returns?|Yields?"
    r"|Raises|Warns|Examples?|Notes?|References|See Also|Methods|Usage)\s*:?\s*$"
    r"|(?:Args|Arguments|Returns?|Yields?|Raises|Examples?|Usage)\s*:"
    r"|:(?:param|returns?|rtype|raises|type)\b|>>>|\.\. |```)",
    re.MULTILINE,
)
NUMPY_STYLE = re.compile(r"^\s*(Parameters|Returns|Yields|Attributes)\s*\n\s*-{3,}\s*$", re.M)
GOOGLE_STYLE = re.compile(r"^\s*(Args|Arguments|Returns|Yields|Raises):", re.M)
SPHINX_STYLE = re.compile(r"^\s*:(param|returns?|rtype|raises|type)\b[^\n:]*:", re.M)
PARAMETERS = re.compile(
    r"^\s*(Parameters\s*\n\s*-{3,}|(?:Args|Arguments|Parameters)\s*:|:param\b)", re.M
)
EXAMPLE = re.compile(r"^\s*(>>>|Examples?\s*:{0,2}\s*$|```)", re.M)
PATH_HEADER = re.compile(r"\A[\w./:`*~-]*[._/:]+[\w./:`*~-]*\s*\n(?:[-=~*#]{3,}\s*\n)?")

Label = Callable[[Docstring], str | None]


def description_of(text: str) -> str:
    """Return what comes before the first section, field list, directive or example."""
    found = SECTION.search(text)
    return text[: found.start()].strip() if found else text


def without_header(text: str) -> str:
    """Drop a first line that is only a dotted path or file name: it would give the label away."""
    return PATH_HEADER.sub("", text, count=1).strip()


def _style(document: Docstring) -> str:
    styles = {"numpy": NUMPY_STYLE, "google": GOOGLE_STYLE, "sphinx": SPHINX_STYLE}
    return next((name for name, style in styles.items() if style.search(document.text)), "plain")


def _is_function(document: Docstring) -> bool:
    return document.kind in ("function", "method")


def _returns(document: Docstring) -> str | None:
    if not _is_function(document) or document.is_property or document.returns is None:
        return None
    return "value" if document.returns else "nothing"


def _raises(document: Docstring) -> str | None:
    if not _is_function(document) or document.raises is None:
        return None
    return "raises" if document.raises else "does not raise"


def _property(document: Docstring) -> str | None:
    if document.kind != "method" or (not document.is_property and document.arguments > 0):
        return None  # against methods without arguments: the others would be too easy
    return "property" if document.is_property else "method"


def _private(document: Docstring) -> str | None:
    name = document.path.rpartition(".")[2]
    if document.kind == "module" or name.startswith("__"):
        return None
    return "private" if name.startswith("_") else "public"


def _arguments(document: Docstring) -> str | None:
    if not _is_function(document) or document.is_property:
        return None
    buckets = {0: "none", 1: "one", 2: "two or three", 3: "two or three"}
    return buckets.get(document.arguments, "four or more")


def _documents_parameters(document: Docstring) -> str | None:
    if not _is_function(document) or document.arguments < 1:
        return None
    return "listed" if PARAMETERS.search(document.text) else "not listed"


def _has_example(document: Docstring) -> str | None:
    return "example" if EXAMPLE.search(document.text) else "no example"


FORMS: dict[str, tuple[Label, Callable[[str], str]]] = {
    "kind": (lambda document: document.kind, without_header),
    "style": (_style, str),
    "returns_value": (_returns, description_of),
    "raises_error": (_raises, description_of),
    "is_property": (_property, str),
    "is_private": (_private, description_of),
    "arguments": (_arguments, description_of),
    "documents_parameters": (_documents_parameters, description_of),
    "has_example": (_has_example, description_of),
}
