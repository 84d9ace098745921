"""The last step of every stage: one run commits one package, however often it is started.

A stage follows this protocol, so that a run may be killed anywhere and started again::

    with RunFolder.open(config, STAGE) as run:
        if (result := run.finished()) is not None:     # done: answer at once
            return result
        package = committed(run, config.output)        # killed after the commit, before `finish`
        if package is None:
            ...                                        # prepare, train; finished steps are marked
            package = commit_once(run, config.output, kind=..., write=...)
        run.finish(JobResult(package=package.ref, ...))
        ...                                            # remove what only an unfinished run needs
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from orchestrator.storage import RunFolder
from orchestrator.zoo.draft import Draft
from orchestrator.zoo.manifest import Kind
from orchestrator.zoo.package import Package
from orchestrator.zoo.zoo import Zoo


def committed(run: RunFolder, name: str) -> Package | None:
    """Return the package that this run has committed under a name already, if any.

    Ask before any work: a run that was killed between its commit and `RunFolder.finish` has
    nothing left to do but to record its result.

    Args:
        run: The open run; its config names the zoo.
        name: Name of the package that the run makes.
    """
    return Zoo(run.config.run.zoo).made_by(name, run.id)


def commit_once(
    run: RunFolder,
    name: str,
    *,
    kind: Kind,
    write: Callable[[Draft], None],
    parents: Sequence[str | Package] = (),
    task: Mapping[str, Any] | None = None,
    metrics: Mapping[str, Any] | None = None,
    licence: str | None = None,
) -> Package:
    """Commit the package of a run, or return the one it has committed before.

    Args:
        run: The open run. Its stage, name and id become the package's producer.
        name: Name of the package.
        kind: As for `Zoo.draft`.
        write: Writes the package's files into ``draft.path``; called at most once.
        parents: As for `Zoo.draft`.
        task: As for `Zoo.draft`.
        metrics: As for `Zoo.draft`.
        licence: As for `Zoo.draft`.

    Raises:
        InputError: A name, parent or value is not allowed.
        IntegrityError: A file of a kind that is never stored.
        StageError: Disk full, read-only, or the store failed; nothing was committed.
    """
    package = committed(run, name)
    if package is not None:
        return package
    with draft_of(
        run, name, kind=kind, parents=parents, task=task, metrics=metrics, licence=licence
    ) as draft:
        write(draft)
        return draft.commit()


def draft_of(
    run: RunFolder,
    name: str,
    *,
    kind: Kind,
    parents: Sequence[str | Package] = (),
    task: Mapping[str, Any] | None = None,
    metrics: Mapping[str, Any] | None = None,
    licence: str | None = None,
) -> Draft:
    """Begin the package of a run; `Draft.discard` it to check its description before training.

    Raises:
        InputError: A name, parent or value is not allowed. StageError: The zoo is not writable.
    """
    return Zoo(run.config.run.zoo).draft(
        name,
        kind=kind,
        producer={"stage": run.stage, "job": run.config.run.name, "run_id": run.id},
        parents=parents,
        task=task,
        metrics=metrics,
        licence=licence,
    )
