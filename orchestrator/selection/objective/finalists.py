"""Full compression of the finalists: search, measurement of the written files, order, limits.

The files that are measured are the files that are published. Validation rows decide alone; test
rows are read once, for the files that are taken. Everything is a mark of the run, so that a killed
run continues behind the finalists that it has compressed.
"""

import hashlib
import logging
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.errors import StageError
from orchestrator.selection.halving import Bracket
from orchestrator.selection.objective.checking import PREFIX
from orchestrator.selection.objective.config import ObjectiveConfig
from orchestrator.selection.objective.measuring import FileFigures, FilesToMeasure, Split, measure
from orchestrator.selection.objective.results import CompressedFinalist, Miss, ObjectiveResult
from orchestrator.selection.results import JournalRow
from orchestrator.selection.salvage.results import Salvage
from orchestrator.selection.trials.fine_tuning import PACKAGE
from orchestrator.selection.trials.runner import merged_folder, state_folder
from orchestrator.storage.commit import commit_folder
from orchestrator.training.compression import CompressionJob, Compressor, Pool, compressor_of
from orchestrator.zoo.gate import is_within

if TYPE_CHECKING:
    from orchestrator.selection.config import SelectConfig
    from orchestrator.selection.planning import SelectionPlan
    from orchestrator.storage import RunFolder

FILES, RECORD = "files", "compressed.json"
logger = logging.getLogger(__name__)


class Finishing:
    """Compresses the finalists of one run.

    Args:
        config: The job; its objective names a compression.
        plan: Candidates and target.
        run: The run; its marks hold what is finished.
        pool: Runs searches and measurements.
    """

    def __init__(
        self, config: "SelectConfig", plan: "SelectionPlan", run: "RunFolder", pool: Pool
    ) -> None:
        assert config.objective.after is not None
        self._config, self._plan, self._run, self._pool = config, plan, run, pool
        self.after = config.objective.after
        self._compressor: Compressor = compressor_of(self.after)

    def trained(self, model: str) -> Path:
        """Folder with the files of a trained finalist."""
        return state_folder(self._run.path, model) / PACKAGE

    @property
    def merged(self) -> Path:
        """Folder with the files of the merged winner."""
        return merged_folder(self._run.path) / PACKAGE

    def compress(self, model: str, source: Path, *, merged: bool = False) -> CompressedFinalist:
        """Compress one finalist, or return what was found when that was done before.

        Args:
            model: Its id.
            source: Files of its trained package.
            merged: Whether these are merged weights.
        """
        step = f"compressed {model}" + (" merged" if merged else "")
        folder = compressed_folder(self._run.path, model, merged=merged)
        if (done := self._run.done(step)) is not None:
            found = CompressedFinalist.model_validate(done)
            if found.misses or (folder / RECORD).exists():
                return found
        logger.info("%s: %s", self.after, step)
        found = self._search(model, source, folder).model_copy(update={"merged": merged})
        self._run.mark(step, found.model_dump(mode="json"))
        return found

    def _search(self, model: str, source: Path, folder: Path) -> CompressedFinalist:
        began, objective = time.perf_counter(), self._config.objective
        before = self._measure(source, "validation")
        last: dict[str, FileFigures] = {}

        def accept(files: Path) -> list[Miss]:
            last["found"] = self._measure(files, "validation", timed=True)
            return misses(before.score, last["found"], objective)

        scratch = folder.with_name(f"{folder.name}-draft")
        shutil.rmtree(scratch, ignore_errors=True)
        (scratch / FILES).mkdir(parents=True)
        job = self._job(source, folder, accept)
        missed = self._compressor.search(job, self._pool, scratch / FILES)
        found = CompressedFinalist(
            model=model, validation_before=before.score, misses=tuple(missed)
        )
        if not missed:
            files = scratch / FILES
            figures = {
                "validation": last["found"].score,
                "p95_ms": last["found"].p95_ms,
                "test": self._measure(files, "test").score,
                "test_before": self._measure(source, "test").score,
                "bytes": sum(file.stat().st_size for file in files.glob("*.onnx")),
            }
            found = found.model_copy(update=figures)
            commit_folder(scratch, folder, {"model": model}, RECORD)
        shutil.rmtree(scratch, ignore_errors=True)
        return found.model_copy(update={"seconds": time.perf_counter() - began})

    def _measure(self, folder: Path, split: Split, *, timed: bool = False) -> FileFigures:
        files = FilesToMeasure(
            folder=str(folder),
            data=self._plan.spec,
            asked=self._plan.asked,
            max_length=self._config.fine_tune.max_length,
            split=split,
            timed=timed,
        )
        return self._pool.call(measure, files)

    def _job(
        self, source: Path, folder: Path, accept: Callable[[Path], Sequence[Miss]]
    ) -> CompressionJob:
        config, head = self._config, self._plan.asked.spec.head
        return CompressionJob(
            name=folder.name,
            source=source,
            task={
                "kind": self._plan.asked.kind,
                "modality": "text",
                "labels": {head: list(self._plan.asked.spec.labels)},
                "max_length": config.fine_tune.max_length,
            },
            data=self._plan.spec,
            head=head,
            seed=config.seed,
            cluster=config.cluster.of_tasks,
            work=folder.parent / "searches",
            max_accuracy_drop=config.objective.max_accuracy_drop,
            max_latency_ms=config.objective.p95_ms,
            accept=accept,
        )


def finish(
    finishing: Finishing, bracket: Bracket, salvaged: Salvage | None
) -> tuple[Salvage | None, list[CompressedFinalist]]:
    """Compress every finalist; put them into the order of their scores after it.

    Args:
        finishing: Of the run.
        bracket: Finished.
        salvaged: Merges into its winner; left out where another finalist wins after compression.

    Returns:
        What is published: the merges, and the finalists.

    Raises:
        StageError: No finalist keeps the limits; names the nearest miss.
    """
    leader = bracket.winner
    found = [finishing.compress(model, finishing.trained(model)) for model in bracket.winners]
    settle(bracket, found, finishing.after)
    if salvaged is None or not salvaged.merged:
        return salvaged, found
    if bracket.winner != leader:
        return salvaged.without_merges(), found
    return with_merged(finishing, found, salvaged)


def with_merged(
    finishing: Finishing, found: Sequence[CompressedFinalist], salvaged: Salvage
) -> tuple[Salvage, list[CompressedFinalist]]:
    """Compress merged weights; leave the merge out unless it keeps the limits and scores more.

    Args:
        finishing: Of the run.
        found: Compressed finalists.
        salvaged: Merges into the best of them.

    Returns:
        What is published: the merges, and the finalists.
    """
    best = max((each for each in found if not each.misses), key=lambda each: each.validation)
    other = finishing.compress(best.model, finishing.merged, merged=True)
    if other.misses or other.validation <= best.validation:
        return salvaged.without_merges(), list(found)
    return salvaged, [other if each is best else each for each in found]


def compressed_folder(run: Path, model: str, *, merged: bool = False) -> Path:
    """Folder in which the compressed files of a finalist are committed."""
    digest = hashlib.sha256(model.encode()).hexdigest()[:16]
    return run / "trials" / "~compressed" / (f"{digest}-merged" if merged else digest)


def misses(before: float, after: FileFigures, objective: ObjectiveConfig) -> list[Miss]:
    """Return the limits that compressed files do not keep.

    Args:
        before: Validation score of the float model.
        after: Figures of the compressed files on the same rows.
        objective: The limits.
    """
    found = []
    drop, allowed = before - after.score, objective.max_accuracy_drop
    if allowed is not None and not is_within(drop, allowed, before):
        found.append(Miss(limit="max_accuracy_drop", value=drop, allowed=allowed))
    if objective.p95_ms is not None and after.p95_ms > objective.p95_ms:
        found.append(Miss(limit="p95_ms", value=after.p95_ms, allowed=objective.p95_ms))
    return found


def settle(bracket: Bracket, found: Sequence[CompressedFinalist], after: str) -> None:
    """Put the finalists into the order of their compressed scores; without those that miss a limit.

    Args:
        bracket: Finished.
        found: Its finalists, in their order.
        after: Compression, for messages.

    Raises:
        StageError: No finalist keeps the limits; names the nearest miss.
    """
    good = sorted((f for f in found if not f.misses), key=lambda each: -each.validation)
    if not good:
        raise StageError(unsatisfiable({f.model: f.misses for f in found}, after))
    for each in found:
        if each.misses:
            words = "; ".join(miss.in_words() for miss in each.misses)
            bracket.dropped[each.model] = (len(bracket.verdicts), f"{PREFIX}{words}")
    bracket.pool = tuple(each.model for each in good)
    bracket.finalists = len(good)


def unsatisfiable(found: Mapping[str, Sequence[Miss]], after: str) -> str:
    """Return the message that no candidate keeps the limits, with the nearest miss."""
    nearest = min(found, key=lambda model: (sum(m.excess for m in found[model]), model))
    words = "; ".join(miss.in_words() for miss in found[nearest])
    count = (
        "the only candidate does not keep"
        if len(found) == 1
        else (f"none of {len(found)} candidates keeps")
    )
    return (
        f"objective: {count} the limits after {after}. The nearest is {nearest}: {words}. Nothing "
        "is published. Relax the limit, name other candidates, or raise finish_top."
    )


def explained(
    error: StageError, objective: ObjectiveConfig, rows: Sequence[JournalRow]
) -> StageError:
    """Return an error that ends the halving; of limits of the objective, their nearest miss."""
    found = {
        row.trial: [Miss(limit="p95_ms", value=row.check.p95_ms, allowed=objective.p95_ms)]
        for row in rows
        if row.check is not None and row.error.startswith(PREFIX) and objective.p95_ms is not None
    }
    return StageError(unsatisfiable(found, objective.after or "")) if found else error


def result_of(objective: ObjectiveConfig, found: Sequence[CompressedFinalist]) -> ObjectiveResult:
    """Return the objective with all its finalists: best first, those that miss a limit last."""
    assert objective.after is not None
    ranked = sorted(found, key=lambda each: (bool(each.misses), -each.validation))
    return ObjectiveResult(
        after=objective.after,
        p95_ms=objective.p95_ms,
        max_accuracy_drop=objective.max_accuracy_drop,
        finalists=tuple(ranked),
    )
