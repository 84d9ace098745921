"""Classes of the form tasks: the kind of a docstring and its style.

Labels come from the syntax tree, or from a part of the docstring that is then cut off: a model that
is to say whether a list of parameters follows sees only the description before it.

Where in a library a docstring lies: the classes of the area tasks.

Each class is a few folders or files below the library's root. Folders that an installed version
does not have are left out of the task.
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


LIBRARIES = ("torch", "transformers", "numpy", "scipy", "sklearn", "pandas", "ray", "matplotlib")

AREAS: dict[str, tuple[str, dict[str, tuple[str, ...]]]] = {
    "torch_area": ("torch", {
        "nn": ("nn",), "distributed": ("distributed",), "inductor": ("_inductor",),
        "dynamo": ("_dynamo",), "quantization": ("ao",), "fx": ("fx",), "onnx": ("onnx",),
        "distributions": ("distributions",),
    }),
    "sklearn_area": ("sklearn", {
        "ensemble": ("ensemble",), "linear_model": ("linear_model",), "metrics": ("metrics",),
        "preprocessing": ("preprocessing",), "model_selection": ("model_selection",),
        "cluster": ("cluster",), "decomposition": ("decomposition",), "utils": ("utils",),
    }),
    "scipy_area": ("scipy", {
        "stats": ("stats",), "optimize": ("optimize",), "sparse": ("sparse",),
        "signal": ("signal",), "interpolate": ("interpolate",), "special": ("special",),
        "linalg": ("linalg",), "spatial": ("spatial",),
    }),
    "pandas_area": ("pandas", {
        "arrays": ("core/arrays",), "indexes": ("core/indexes",), "formats": ("io/formats",),
        "dtypes": ("core/dtypes",), "internals": ("core/internals",),
        "grouping": ("core/groupby", "core/window", "core/resample.py"),
        "plotting": ("plotting",),
    }),
    "numpy_area": ("numpy", {
        "core": ("_core",), "lib": ("lib",), "polynomial": ("polynomial",), "masked": ("ma",),
        "building": ("distutils", "f2py"),
    }),
    "transformers_area": ("transformers", {
        "models": ("models",), "generation": ("generation",), "integrations": ("integrations",),
        "pipelines": ("pipelines",), "utils": ("utils",), "cli": ("cli",),
        "distributed": ("distributed",),
    }),
    "ray_area": ("ray", {
        "data": ("data",), "serve": ("serve",), "train": ("train",), "tune": ("tune",),
        "rllib": ("rllib",), "autoscaler": ("autoscaler",), "llm": ("llm",),
        "dashboard": ("dashboard",),
    }),
    "sympy_area": ("sympy", {
        "polys": ("polys",), "physics": ("physics",), "combinatorics": ("combinatorics",),
        "matrices": ("matrices",), "solvers": ("solvers",), "stats": ("stats",),
        "geometry": ("geometry",), "printing": ("printing",),
    }),
    "stdlib_area": ("stdlib", {
        "asyncio": ("asyncio",), "email": ("email",), "importlib": ("importlib",),
        "markup": ("xml", "html"), "tkinter": ("tkinter",),
        "processes": ("multiprocessing", "concurrent"), "unittest": ("unittest",),
        "network": ("http", "urllib"), "logging": ("logging",),
    }),
}  # fmt: skip

# Model files of Transformers are called ``models/<family>/<role>_<family>.py``.
ROLE_TASK = "transformers_role"
ROLES = ("modeling", "configuration", "tokenization", "image_processing", "processing")
