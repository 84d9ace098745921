"""The last step of every stage: one run commits one package, however often it is started.

A stage follows this protocol, so that a run may be killed anywhere and started again::

    with RunFolder.open(config, STAGE) as run:
        if (result := run.finished()) is not None:     # done: answer at once
            return result
        package = committed(run, config.output)        # killed after the commit, before `finish`
        if package is None:
            ...                                        # prepare, train; finished steps are marked
            package = commit_once(run, config.output, kind=..., write=...)
        return conclude(run, package, leftovers=...)   # alias, result, clean up; refused: raise
"""

import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NotRequired, TypedDict, Unpack

from pydantic import JsonValue

from orchestrator.config import JobResult
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
    return Zoo(run.config.run.zoo).made_by(name, run.package_id)


class Description(TypedDict):
    """Manifest fields of a package: the arguments of `Zoo.draft` without the producer."""

    kind: Kind
    """Kind of stage that makes it."""
    parents: NotRequired[Sequence[str | Package]]
    """Packages, or references, it is made from."""
    task: NotRequired[Mapping[str, Any] | None]
    """``kind``, ``modality``, ``labels``, ``max_length``."""
    metrics: NotRequired[Mapping[str, Any] | None]
    """Summary figures."""
    licence: NotRequired[str | None]
    """SPDX identifier."""


def commit_once(
    run: RunFolder,
    name: str,
    *,
    write: Callable[[Draft], None],
    **description: Unpack[Description],
) -> Package:
    """Commit the package of a run, or return the one it has committed before.

    Args:
        run: The open run. Its stage, name and id become the package's producer.
        name: Name of the package.
        write: Writes the package's files into ``draft.path``; called at most once.
        description: See `Description`.

    Raises:
        InputError: A name, parent or value is not allowed.
        IntegrityError: A file of a kind that is never stored.
        StageError: Disk full, read-only, or the store failed; nothing was committed.
    """
    package = committed(run, name)
    if package is not None:
        return package
    with draft_of(run, name, **description) as draft:
        write(draft)
        return draft.commit()


def conclude(
    run: RunFolder,
    package: Package,
    *,
    metrics: Mapping[str, JsonValue] | None = None,
    alias: str | None = None,
    leftovers: Iterable[Path] = (),
) -> JobResult:
    """Move the alias to the package of a run, record the result, and clean up.

    A run that was killed after its commit comes here again, so that the alias moves once.

    Args:
        run: The open run.
        package: What it has committed.
        metrics: Figures of the result; None: those of the manifest.
        alias: Alias to move; it stays where it is when the package is rejected.
        leftovers: Folders that only an unfinished run needs.

    Raises:
        RefusedError: The package is rejected; the result is recorded all the same.
    """
    manifest = package.manifest
    if alias is not None and not package.rejected:
        Zoo(run.config.run.zoo).promote(package.ref, alias)
    result = JobResult(
        status="refused" if package.rejected else "done",
        reasons=tuple(manifest.reasons),
        package=package.ref,
        metrics=dict(manifest.metrics if metrics is None else metrics),
        run_dir=str(run.path),
    )
    run.finish(result)
    for folder in leftovers:
        shutil.rmtree(folder, ignore_errors=True)
    return result.accepted()


def draft_of(run: RunFolder, name: str, **description: Unpack[Description]) -> Draft:
    """Begin the package of a run; `Draft.discard` it to check its description before training.

    Raises:
        InputError: A name, parent or value is not allowed. StageError: The zoo is not writable.
    """
    producer = {"stage": run.stage, "job": run.config.run.name, "run_id": run.package_id}
    return Zoo(run.config.run.zoo).draft(name, producer=producer, **description)
