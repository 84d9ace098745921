"""The labelled tasks of ``builtin:pydoc``, read as one table of texts and labels.

A text counts once: near-duplicates (same words after names, numbers and punctuation are folded) are
dropped, and those that appear under two labels are dropped altogether. Every class gets the same
number of rows where there are enough; a class with fewer than ``MIN_CLASS_ROWS`` is left out.

Labels of the form tasks (kind, style, sections) come from the syntax tree, or from a part of the
docstring that is then cut off: a model that predicts whether a list of parameters follows sees only
the description before it. Classes of the area tasks are places in a library: a few folders or files
below its root. Folders that an installed version does not have are left out of the task.

The tasks differ in difficulty on purpose. Test accuracy of the majority class and of a logistic
regression on TF-IDF words, measured with torch 2.13, transformers 5.23, ray 2.60, Python 3.11:

    library            0.12 0.86    transformers_area  0.29 0.79    raises_error   0.50 0.61
    kind               0.26 0.68    transformers_role  0.24 0.90    is_property    0.55 0.80
    torch_area         0.15 0.81    ray_area           0.13 0.82    is_private     0.50 0.64
    sklearn_area       0.27 0.84    sympy_area         0.20 0.93    arguments      0.25 0.49
    scipy_area         0.23 0.90    stdlib_area        0.15 0.87    has_example    0.50 0.75
    pandas_area        0.25 0.79    style              0.33 0.90    documents_parameters
    numpy_area         0.28 0.87    returns_value      0.50 0.75                   0.50 0.69
"""

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import pandas as pd

from orchestrator.data.rows.splitting import fingerprint
from orchestrator.data.sources.docstrings import (
    Docstring,
    Library,
    find_library,
    list_files,
    versions,
)
from orchestrator.data.sources.pydoc import FORMAT, Shelf, cached_table, to_frame
from orchestrator.errors import InputError

CLASS_ROWS = 600  # rows of a class before splitting
MIN_CLASS_ROWS = 60
FORM_RATIO = 1.25  # of the largest class to the smallest; forms are never scarce by nature
SPARE = 1.25  # near-duplicates are dropped after reading
POOL_DOCUMENTS = 900  # per library, for the form tasks
TEXT_CHARACTERS = 1000  # more than a tiny model reads

# Sections, styles and parts of docstrings.
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


def task_table(task: str, cache: Path | None = None) -> pd.DataFrame:
    """Return the rows of a task, balanced, in an order that depends on their text alone.

    Args:
        task: A key of ``catalogue.PYDOC_TASKS``.
        cache: Folder of the cache; None takes the user's.

    Returns:
        Columns text and label (a name); ``attrs["rejected"]`` counts what was left out, by reason.

    Raises:
        InputError: Fewer than two classes have enough rows with the installed libraries.
    """
    request: dict[str, object] = {
        "format": FORMAT,
        "task": [task, AREAS.get(task)],
        "sizes": [CLASS_ROWS, MIN_CLASS_ROWS, POOL_DOCUMENTS, TEXT_CHARACTERS, SPARE, FORM_RATIO],
        "versions": versions([find_library(name) for name in _libraries(task)]),
    }
    return cached_table(f"pydoc/{task}", request, lambda: _build(task, cache), cache)


def _libraries(task: str) -> tuple[str, ...]:
    """Return the import names of the libraries a task is cut from."""
    if task in AREAS:
        return (AREAS[task][0],)
    return ("transformers",) if task == ROLE_TASK else LIBRARIES


def _build(task: str, cache: Path | None) -> pd.DataFrame:
    pairs = _pool_pairs(task, cache) if _libraries(task) == LIBRARIES else _area_pairs(task)
    table = _distinct(pairs)
    sizes = table.label.value_counts()
    large = sizes[sizes >= MIN_CLASS_ROWS].index
    if len(large) < 2:
        raise InputError(
            f"builtin:pydoc/{task}: the installed libraries give fewer than two classes of "
            f"{MIN_CLASS_ROWS} rows ({dict(sizes)}). Install them as pyproject.toml pins them."
        )
    table.attrs["rejected"]["class too small"] = int(sizes.sum() - sizes[large].sum())
    rows = min(CLASS_ROWS, int(sizes[large].min() * FORM_RATIO)) if task in FORMS else CLASS_ROWS
    balanced = table[table.label.isin(large)].groupby("label", sort=False).head(rows)
    return balanced.reset_index(drop=True)


def _distinct(pairs: Iterable[tuple[str, str]]) -> pd.DataFrame:
    """Drop empty, repeated and contradictory texts; order by fingerprint."""
    table = pd.DataFrame(list(pairs), columns=["text", "label"])
    table["key"] = [fingerprint(text) for text in table.text]
    usable = table[table.key != ""]
    rejected = Counter({"no words": len(table) - len(usable)})
    contradictory = usable.groupby("key").label.transform("nunique") > 1
    rejected["two labels"] = int(contradictory.sum())
    usable = usable[~contradictory]
    once = usable.drop_duplicates("key")
    rejected["repeated"] = len(usable) - len(once)
    order = [hashlib.sha256(key.encode()).hexdigest() for key in once.key]
    result = once.assign(order=order).sort_values("order")[["text", "label"]]
    result.attrs["rejected"] = dict(rejected)
    return result


def _pool_pairs(task: str, cache: Path | None) -> list[tuple[str, str]]:
    """Label the pool: the same documents of eight libraries for every task that is cut from it."""
    label_of, text_of = FORMS.get(task, (None, without_header))
    frame = _pool(cache)
    pairs = []
    for row in frame[["library", *Docstring._fields]].itertuples(index=False):
        library, *fields = (None if value is pd.NA else value for value in row)
        document = Docstring._make(fields)
        label = label_of(document) if label_of is not None else library
        if label is not None:
            pairs.append((text_of(document.text)[:TEXT_CHARACTERS], str(label)))
    return pairs


def _pool(cache: Path | None) -> pd.DataFrame:
    libraries = [find_library(name) for name in LIBRARIES]

    def build() -> pd.DataFrame:
        shelves = [Shelf(library, label=library.name) for library in libraries]
        return _read(shelves, POOL_DOCUMENTS)

    request = {"format": FORMAT, "each": POOL_DOCUMENTS, "versions": versions(libraries)}
    return cached_table("pydoc/pool", request, build, cache)


def _read(shelves: list[Shelf], each: int) -> pd.DataFrame:
    """Read ``each`` documents of every shelf; a text on two shelves appears twice."""
    return to_frame([record for shelf in shelves for record in shelf.take(each, set())], shelves)


def _area_pairs(task: str) -> list[tuple[str, str]]:
    frame = _read(_area_shelves(task), int(CLASS_ROWS * SPARE))
    texts = [without_header(text)[:TEXT_CHARACTERS] for text in frame.text]
    return list(zip(texts, frame.label, strict=True))


def _area_shelves(task: str) -> list[Shelf]:
    """Return one shelf per class."""
    library = find_library(_libraries(task)[0])
    if task == ROLE_TASK:
        return [Shelf(library, _role_files(library, role), label=role) for role in ROLES]
    return [Shelf(library, prefixes, label=label) for label, prefixes in AREAS[task][1].items()]


def _role_files(library: Library, role: str) -> tuple[str, ...]:
    files = list_files(library, ("models",))
    return tuple(file for file in files if file.rpartition("/")[2].startswith(f"{role}_"))


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
