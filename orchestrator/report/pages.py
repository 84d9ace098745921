"""Pages: of a package, from the results of its ancestors, oldest first; of an evaluation."""

from collections.abc import Iterator
from pathlib import Path

from orchestrator.continual.results import MATRIX_FILE, StreamEvaluation
from orchestrator.errors import InputError
from orchestrator.finetuning.evaluating.results import EVALUATION_FILE, EvaluationReport
from orchestrator.pretraining.results import EVALUATION, Evaluation
from orchestrator.quantization.results import PARETO_FILE
from orchestrator.report import sections
from orchestrator.report.answers import answer_sections, interval
from orchestrator.report.finetuning import finetuning_sections, run_sections, suite_section
from orchestrator.report.page import Cell, Page, Section, Table, show
from orchestrator.report.precision import quantization_section
from orchestrator.report.selection import performance_matrix, selection
from orchestrator.selection.results import SelectionReport
from orchestrator.storage import read_model
from orchestrator.storage.json_files import MAX_JSON_BYTES, parse_json
from orchestrator.storage.stores import open_store
from orchestrator.zoo import Package, Zoo
from orchestrator.zoo.flatness import flatness_rows, read_flatness

SHOWN_METRICS = 6
SELECTION_FILE = "evaluation/selection.json"

Part = Section | str
"""A section, or a note on a section that cannot be shown."""


def package_of_run(folder: str | Path) -> str:
    """Return the package reference that a finished run recorded.

    Args:
        folder: The run's folder: a path, or an address on an object store.

    Raises:
        InputError: The folder is not that of a run, the run is not finished, or made no package.
    """
    try:
        content = open_store(folder).read("result.json", MAX_JSON_BYTES)
    except FileNotFoundError as error:
        message = f"{folder} has no result.json: the run is not finished. Run it again to finish it"
        raise InputError(message) from error
    stored = parse_json(content, f"{folder}/result.json")
    package = stored.get("package") if isinstance(stored, dict) else None
    if not package:
        raise InputError(f"the run in {folder} made no package; report a run that did")
    return str(package)


def package_page(zoo: Zoo, ref: str, run: Path | None = None) -> Page:
    """Return the page of a package.

    Args:
        zoo: The zoo that holds it.
        ref: Its reference.
        run: Folder of the run that made it, for what only the run stores.

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
    parts += [] if run is None else run_sections(run)
    parts += suite_section(package)
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
        *_flatness(package),
        *finetuning_sections(package),
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


def _flatness(package: Package) -> Iterator[Part]:
    if (flatness := read_flatness(package)) is not None:
        yield Section(
            "Flatness",
            f"Rise of the validation loss of {package.ref} at the worst point near its weights; a "
            "flat minimum rises little.",
            (Table.of_figures(dict(flatness_rows(flatness))),),
        )


def _selection(package: Package) -> Iterator[Part]:
    if not package.has(SELECTION_FILE):
        return
    report = package.read_model(SELECTION_FILE, SelectionReport)
    if report.matrix:
        yield performance_matrix(report)
    else:
        yield f"{package.ref} was selected without history: the performance matrix is missing."
    yield selection(report)


def _continual(package: Package) -> Iterator[Part]:
    if package.has(MATRIX_FILE):
        yield sections.continual(package.read_model(MATRIX_FILE, StreamEvaluation))


def _quantization(package: Package) -> Iterator[Part]:
    if package.has(PARETO_FILE):
        yield quantization_section(package)


def holds_evaluation(folder: Path) -> bool:
    """Return whether a run folder is that of an evaluation."""
    return (folder / EVALUATION_FILE).is_file()


def evaluation_page(folder: Path) -> Page:
    """Return the page of an evaluation.

    Raises:
        IntegrityError: The report is damaged.
    """
    report = read_model(folder / EVALUATION_FILE, EvaluationReport)
    primary = report.metrics.get(report.primary)
    facts = {"rows": f"{report.rows:,}", "split": report.split}
    if primary is not None:
        facts = {report.primary: interval(primary), **facts}
    return Page(
        title=report.package,
        subtitle=f"evaluation of head {report.task.head!r} ({report.task.kind}) on "
        f"{report.data.spec.get('source', 'rows')}",
        facts=facts,
        sections=evaluation_sections(report),
        notes=[f"{count} rows left out: {reason}." for reason, count in report.rejected.items()],
    )


def evaluation_sections(report: EvaluationReport) -> list[Section]:
    """Return metrics, the table per label with the confusion matrix, calibration, worst rows."""
    of_labels = {f"{m}.{row.label}" for row in report.labels for m in ("precision", "recall", "f1")}
    figures = {name: found for name, found in report.metrics.items() if name not in of_labels}
    columns: tuple[str, ...] = ("metric", "value", "95 % from", "to")
    rows: list[tuple[Cell, ...]] = [(n, f.value, f.low, f.high) for n, f in figures.items()]
    if report.compared is not None:
        columns += (report.compared, "better by", "95 % from", "to", "rows won", "rows lost")
        rows = [row + _difference(report, str(row[0])) for row in rows]
    metrics = Section(
        "Metrics",
        "Intervals are from 1,000 resamples of the rows; differences are paired by row.",
        (Table(columns, tuple(rows)),),
    )
    return [metrics, *answer_sections(report)]


def _difference(report: EvaluationReport, name: str) -> tuple[Cell, ...]:
    found = report.differences.get(name)
    if found is None:
        return (None,) * 6
    return (found.parent, -found.drop, -found.high, -found.low, found.gained, found.lost)
