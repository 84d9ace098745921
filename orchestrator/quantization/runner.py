"""The quantization job: a package and a bound in, an INT8 package and its Pareto front out.

Steps: measure the error of each unit and the time of each role, let the method propose plans,
measure these plans on validation rows, take the best one that keeps the goal, write it, measure the
written file again, confirm it on test rows, commit.
"""

from pathlib import Path
from typing import Final

from pydantic import JsonValue

from orchestrator.cluster.session import session_for
from orchestrator.cluster.tasks import TaskPool
from orchestrator.config import JobResult
from orchestrator.data.rows.same_rows import require_same_rows
from orchestrator.inference.examination import examine_draft
from orchestrator.inference.heads import default_head, package_tasks
from orchestrator.quantization.artifact import summary, write_package
from orchestrator.quantization.config import QuantizeConfig
from orchestrator.quantization.describing import plan_text
from orchestrator.quantization.inputs import Prepared, prepare, read_subject
from orchestrator.quantization.plans import PLAN_FILE, PlanFile
from orchestrator.quantization.results import QuantizeMetrics
from orchestrator.quantization.search import Search
from orchestrator.storage import RunFolder
from orchestrator.tasks.suite import Learned
from orchestrator.training.compression import Pool
from orchestrator.zoo import Package, commit_once, committed, conclude
from orchestrator.zoo.draft import Draft

KIND: Final = "quantized"
STAGE: Final = "quantize"


def run(config: QuantizeConfig, pool: Pool | None = None) -> JobResult:
    """Quantize a package under the configured goal.

    Args:
        config: The job.
        pool: Runs the measurements; None: tasks on the configured Ray cluster.

    Raises:
        InputError: if the package, the target or the data do not fit.
        NoPlanError: if no measured plan reaches the goal, or the test rows do not confirm the one
            that was chosen.
        RefusedError: if the package is committed, but its gate rejected it.
    """
    # A first start checks everything before it leaves a folder; a later one reads the folder first.
    prepared = None if (Path(config.run.dir) / config.run.name).exists() else prepare(config)
    with RunFolder.open(config, STAGE) as folder:
        finished = folder.finished()
        if finished is not None:
            return finished
        package = committed(folder, config.output)
        if package is None:
            pinned = folder.done("package")
            if pinned is None:
                prepared = prepared or prepare(config)
                pinned = {"ref": prepared.subject.package.ref}
                folder.pin("package", pinned)
            config = config.model_copy(update={"package": pinned["ref"]})  # its alias may move
            package = _quantize(config, prepared or prepare(config), folder, pool)
        return conclude(folder, package, metrics=_metrics(package))


def check(config: QuantizeConfig) -> str:
    """Describe the job: the units of the package, and the number of sessions to measure."""
    return plan_text(config, read_subject(config))


def _quantize(
    config: QuantizeConfig, prepared: Prepared, folder: RunFolder, pool: Pool | None
) -> Package:
    subject = prepared.subject
    require_same_rows(folder, {subject.target or "texts": prepared.data})
    if pool is not None:
        choice = Search(config, prepared, folder, pool).run()
    else:
        with session_for(config.cluster):
            choice = Search(config, prepared, folder, TaskPool(config.cluster)).run()
    parent = subject.package
    manifest = parent.manifest
    stated = None if manifest.task is None else manifest.task.model_dump(mode="json")
    if stated is not None:
        stated["max_length"] = choice.limit(prepared)  # what the figures were measured with

    def write(draft: Draft) -> None:
        write_package(draft.path, config, prepared, choice)
        examine_draft(
            draft,
            parent=parent,
            learned=_learned(prepared),
            default=default_head(parent, package_tasks(parent)) or subject.target,
            promotion=config.promotion,
            config=config.suite,
        )

    return commit_once(
        folder,
        config.output,
        kind=KIND,
        write=write,
        parents=[parent.ref],
        task=stated,
        metrics=summary(prepared, choice).model_dump(exclude_none=True),
        licence=manifest.licence,
    )


def _learned(prepared: Prepared) -> dict[str, Learned]:
    """Return the task of labelled rows, which the suite examines on the package."""
    task = prepared.subject.task
    if task is None or not prepared.inputs.labelled:
        return {}
    return {task.head: Learned(task, prepared.data, prepared.spec)}


def _metrics(package: Package) -> dict[str, JsonValue]:
    plan = PlanFile.of(package.read_json(PLAN_FILE))
    metrics = QuantizeMetrics.model_validate(package.manifest.metrics | {"plan": plan.units})
    return metrics.model_dump()
