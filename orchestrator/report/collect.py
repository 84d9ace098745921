"""A report page of one package: what each of its ancestors left to look at, oldest first."""

import json
from pathlib import Path

from orchestrator.continual.results import MATRIX_FILE, StreamEvaluation
from orchestrator.errors import InputError
from orchestrator.pretraining.results import EVALUATION, Evaluation
from orchestrator.report import sections
from orchestrator.report.page import Page, Section, show
from orchestrator.selection.results import SelectionReport
from orchestrator.zoo import Package, Zoo

SHOWN_METRICS = 6


def package_of_run(folder: Path) -> str:
    """Return the package reference that a finished run recorded.

    Raises:
        InputError: The folder is no run, or the run is not finished.
    """
    try:
        result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        message = f"{folder} holds no result.json: not a finished run. Run it again to finish it"
        raise InputError(message) from error
    if not result.get("package"):
        raise InputError(f"the run in {folder} made no package; report a run that did")
    return str(result["package"])


def package_page(zoo: Zoo, ref: str) -> Page:
    """Return the page of a package.

    Raises:
        InputError: No such package.
        IntegrityError: It is damaged.
    """
    package = zoo.get(ref)
    chain = _chain(zoo, package)
    facts = {
        name.replace("_", " "): show(value)
        for name, value in package.manifest.metrics.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
    return Page(
        title=package.ref,
        subtitle=f"{package.kind}; lineage {' → '.join(each.ref for each in chain)}",
        facts=dict(list(facts.items())[:SHOWN_METRICS]),
        sections=[section for each in chain for section in _sections(each)],
    )


def _chain(zoo: Zoo, package: Package) -> list[Package]:
    """The package and its first parents, oldest first."""
    chain = [package]
    while chain[0].manifest.parents:
        parent = chain[0].manifest.parents[0]
        chain.insert(0, zoo.get(f"{parent.name}/{parent.version}"))
    return chain


def _sections(package: Package) -> list[Section]:
    found = []
    if package.has(EVALUATION):
        evaluation = package.read_model(EVALUATION, Evaluation)
        history = package.history()
        if history is not None:
            figures = evaluation.model_dump(exclude={"schema_version"}, exclude_none=True)
            rows = [{"figure": name, "": value} for name, value in figures.items()]
            entropy = evaluation.unigram_entropy
            found.append(sections.pretraining({package.ref: history}, entropy, rows))
            if evaluation.skipped_steps is not None:
                found.append(sections.training(history, evaluation))
    if package.has("evaluation/selection.json"):
        report = SelectionReport.model_validate(package.read_json("evaluation/selection.json"))
        if report.matrix:
            found.append(sections.performance_matrix(report))
        found.append(sections.selection(report))
    if package.has(MATRIX_FILE):
        stream = StreamEvaluation.model_validate(package.read_json(MATRIX_FILE))
        found.append(sections.continual(stream))
    if package.has("evaluation/pareto.json"):
        found.append(sections.quantization(package.read_json("evaluation/pareto.json")))
    return found
