"""The page of one package: sections from the results of its ancestors, oldest first."""

from collections.abc import Iterator
from pathlib import Path

from orchestrator.continual.results import MATRIX_FILE, StreamEvaluation
from orchestrator.errors import InputError
from orchestrator.pretraining.results import EVALUATION, Evaluation
from orchestrator.quantization.results import PARETO_FILE, ParetoReport
from orchestrator.report import sections
from orchestrator.report.page import Page, Section, show
from orchestrator.selection.results import SelectionReport
from orchestrator.storage import read_json
from orchestrator.zoo import Package, Zoo

SHOWN_METRICS = 6
SELECTION_FILE = "evaluation/selection.json"

Part = Section | str
"""A section, or a note on a section that cannot be shown."""


def package_of_run(folder: Path) -> str:
    """Return the package reference that a finished run recorded.

    Raises:
        InputError: The folder is not that of a run, the run is not finished, or made no package.
    """
    try:
        stored = read_json(folder / "result.json")
    except FileNotFoundError as error:
        message = f"{folder} has no result.json: the run is not finished. Run it again to finish it"
        raise InputError(message) from error
    package = stored.get("package") if isinstance(stored, dict) else None
    if not package:
        raise InputError(f"the run in {folder} made no package; report a run that did")
    return str(package)


def package_page(zoo: Zoo, ref: str) -> Page:
    """Return the page of a package.

    Raises:
        InputError: No such package.
        IntegrityError: It is damaged, or this release cannot read its results.
    """
    package = zoo.get(ref)
    chain = _chain(zoo, package)
    facts = {
        name.replace("_", " "): show(value)
        for name, value in package.manifest.metrics.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
    parts = [part for each in chain for part in _parts(each)]
    return Page(
        title=package.ref,
        subtitle=f"{package.kind}; lineage {' → '.join(each.ref for each in chain)}",
        facts=dict(list(facts.items())[:SHOWN_METRICS]),
        sections=[part for part in parts if isinstance(part, Section)],
        notes=[part for part in parts if isinstance(part, str)],
    )


def _chain(zoo: Zoo, package: Package) -> list[Package]:
    """Return the package and its first parents, oldest first."""
    chain = [package]
    while chain[0].manifest.parents:
        parent = chain[0].manifest.parents[0]
        chain.insert(0, zoo.get(f"{parent.name}/{parent.version}"))
    return chain


def _parts(package: Package) -> Iterator[Part]:
    """Yield the sections of one package, and notes on sections that cannot be shown."""
    found = [
        *_pretraining(package),
        *_selection(package),
        *_continual(package),
        *_quantization(package),
    ]
    yield from found or [f"{package.ref} ({package.kind}) holds no results to show."]


def _pretraining(package: Package) -> Iterator[Part]:
    if not package.has(EVALUATION):
        return
    evaluation, history = package.read_model(EVALUATION, Evaluation), package.history()
    if history is None:
        yield f"{package.ref} has no history: its learning curves are missing."
        return
    table = sections.evaluation_table(evaluation)
    yield sections.pretraining({package.ref: history}, evaluation.unigram_entropy, table)
    if evaluation.skipped_steps is None:
        yield f"{package.ref} was made by an earlier release: training progress is missing."
    else:
        yield sections.training(history, evaluation)


def _selection(package: Package) -> Iterator[Part]:
    if not package.has(SELECTION_FILE):
        return
    report = package.read_model(SELECTION_FILE, SelectionReport)
    if report.matrix:
        yield sections.performance_matrix(report)
    else:
        yield f"{package.ref} was selected without history: the performance matrix is missing."
    yield sections.selection(report)


def _continual(package: Package) -> Iterator[Part]:
    if package.has(MATRIX_FILE):
        yield sections.continual(package.read_model(MATRIX_FILE, StreamEvaluation))


def _quantization(package: Package) -> Iterator[Part]:
    if package.has(PARETO_FILE):
        yield sections.quantization(package.read_model(PARETO_FILE, ParetoReport))
