"""The compressed finalists as packages; their float models are their parents."""

import json
from typing import TYPE_CHECKING

from orchestrator.config import dump_yaml
from orchestrator.errors import IntegrityError
from orchestrator.inference.examination import examine_draft
from orchestrator.selection.card_rows import card_rows
from orchestrator.selection.objective.config import FLOAT_SUFFIX
from orchestrator.selection.objective.finalists import FILES, compressed_folder
from orchestrator.selection.objective.results import CompressedFinalist, ObjectiveResult
from orchestrator.selection.results import REPORT_NAME, Finalist, SelectionReport
from orchestrator.storage import RunFolder
from orchestrator.tasks.base import build_task
from orchestrator.tasks.suite import Learned
from orchestrator.training.compression import compressor_of
from orchestrator.zoo import Package, commit_once
from orchestrator.zoo.draft import Draft

if TYPE_CHECKING:
    from orchestrator.selection.config import SelectConfig
    from orchestrator.selection.planning import SelectionPlan


def with_objective(report: SelectionReport, objective: ObjectiveResult) -> SelectionReport:
    """Add the compressed finalists to a report; the figures become theirs."""
    found = {each.model: each for each in objective.finalists}
    finalists = tuple(
        each.model_copy(
            update={"validation": found[each.model].validation, "test": found[each.model].test}
        )
        for each in report.finalists
    )
    return report.model_copy(
        update={
            "objective": objective,
            "finalists": finalists,
            "validation_accuracy": finalists[0].validation,
            "test_accuracy": finalists[0].test,
        }
    )


def as_trained(report: SelectionReport, place: int) -> Finalist:
    """Return the finalist at a place as it was trained: its scores before a compression."""
    finalist = report.finalists[place - 1]
    if report.objective is None:
        return finalist
    found = compressed(report.objective, finalist.model)
    return finalist.model_copy(
        update={
            "package": f"{finalist.package}{FLOAT_SUFFIX}",
            "validation": found.validation_before,
            "test": found.test_before,
        }
    )


def compressed(objective: ObjectiveResult, model: str) -> CompressedFinalist:
    """Return the compressed form of a finalist."""
    return next(each for each in objective.finalists if each.model == model)


def publish_compressed(
    config: "SelectConfig",
    plan: "SelectionPlan",
    report: SelectionReport,
    run: RunFolder,
    place: int,
    parent: Package,
) -> Package:
    """Commit the compressed form of one finalist.

    Args:
        config: The job; its objective names a compression.
        plan: Candidates and target.
        report: Stored in the package as ``evaluation/selection.json``.
        run: The run.
        place: 1 for the winner.
        parent: The float package of the finalist.

    Raises:
        IntegrityError: The compressed files are not complete.
    """
    assert report.objective is not None
    compressor, finalist = compressor_of(report.objective.after), report.finalists[place - 1]
    found = compressed(report.objective, finalist.model)
    folder = compressed_folder(run.path, finalist.model, merged=found.merged)
    files = folder / FILES
    if not files.is_dir():
        raise IntegrityError(f"{folder} is not complete. Delete {folder} and run again.")
    spec = plan.asked.spec

    def write(draft: Draft) -> None:
        compressor.publish(files, draft.path, parent)
        draft.card["Selection"] = card_rows(report, place)
        text = json.dumps(report.model_dump(), indent=1, sort_keys=True, allow_nan=False)
        (draft.path / "evaluation" / REPORT_NAME).write_text(text + "\n", encoding="utf-8")
        (draft.path / "job.yaml").write_text(dump_yaml(config), encoding="utf-8")
        examine_draft(
            draft,
            parent=parent,
            learned={spec.head: Learned(build_task(spec), plan.task, plan.spec)},
            default=spec.head,
            promotion=config.objective.promotion,
            config=config.suite,
        )

    scores = report.scores_of(finalist.test, finalist.validation)
    task = parent.manifest.task
    return commit_once(
        run,
        finalist.package,
        kind="quantized",
        write=write,
        parents=[parent],
        task=None if task is None else task.model_dump(mode="json"),
        metrics={
            **report.figures(),
            **scores,
            "p95_ms": found.p95_ms,
            "bytes": found.bytes,
            "validation_drop": found.validation_before - found.validation,
            "model": finalist.model,
            "place": place,
        },
        licence=parent.manifest.licence,
    )
