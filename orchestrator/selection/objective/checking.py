"""Check of one trial after one rung: its score after compression. Runs in a trial; imports no Ray.

The weights of the moment are compressed without a search and answer a bounded number of validation
rows, the same for every candidate. A model that loses by the strongest compression is tried in
gentler forms, as the full search would; the best that may keep the limit of time counts. The rung
ranks by the validation score less the measured drop::

    score = validation - (float score on the rows - compressed score on the rows)

With no more validation rows than ``check_rows`` that is the compressed score itself. Rows that tell
ties are those of the compressed model. Test rows take no part.
"""

import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from orchestrator.arrays import AnyArray
from orchestrator.selection.objective.config import ObjectiveConfig
from orchestrator.selection.objective.measuring import (
    CHECK_CALLS,
    CHECK_TEXTS,
    Scored,
    open_files,
    percentile_ms,
    score_of,
)
from orchestrator.selection.objective.results import CompressionCheck
from orchestrator.selection.results import EpochResult
from orchestrator.selection.ties.row_scores import row_scores
from orchestrator.training.compression import Miss, compressor_of

if TYPE_CHECKING:
    from orchestrator.training.finetune.finetuner import FineTuner

CHECK_SEED = 7
ENOUGH = 0.005
"""Largest drop at which no gentler form is tried."""
SLACK = 1.25
"""A candidate leaves a rung only if its check takes this much longer than allowed: the full search
may find a form that is faster than the check's, and a busy machine measures too much."""
PREFIX = "objective."
"""Beginning of the reasons of candidates that miss a limit of the objective."""


def check_trial(
    tuner: "FineTuner", objective: ObjectiveConfig
) -> tuple[CompressionCheck, AnyArray]:
    """Compress the weights of the moment and measure them.

    Returns:
        The figures, and the score of each checked row (see `ties.row_scores`).

    Raises:
        InputError: The model cannot be compressed.
    """
    assert objective.after is not None
    began, head = time.perf_counter(), tuner.head
    task, rows = tuner.tasks[head], tuner.data.rows("validation", 0)
    primary = tuner.lessons[0].task.primary  # which may not be the kind's first metric
    places = check_places(len(rows), objective.check_rows)
    rows, answers = rows.take(places), tuner.answers("validation")
    before = score_of(task, primary, rows, [answers[place] for place in places])
    forms: list[tuple[Scored, float]] = []
    with tempfile.TemporaryDirectory(prefix="orch-objective-") as scratch:
        trained, folder = Path(scratch) / "trained", Path(scratch) / "compressed"
        trained.mkdir()
        tuner.write(trained)
        for files in compressor_of(objective.after).quick_forms(trained, folder):
            predictor = open_files(files, {head: task}, tuner.max_length)
            after = score_of(task, primary, rows, predictor.answers(rows, head))
            p95 = percentile_ms(predictor, head, rows, texts=CHECK_TEXTS, calls=CHECK_CALLS)
            forms.append((after, p95))
            if after.score >= before.score - ENOUGH and may_fit(p95, objective):
                break
    after, p95 = max(forms, key=lambda form: (may_fit(form[1], objective), form[0].score))
    figures = CompressionCheck(
        rows=len(rows),
        before=before.score,
        after=after.score,
        p95_ms=p95,
        forms=len(forms),
        seconds=time.perf_counter() - began,
    )
    return figures, row_scores(primary, after.statistics)


def checked_row(
    row: EpochResult, check: CompressionCheck, objective: ObjectiveConfig
) -> EpochResult:
    """Return the result of an epoch with its score after compression, or why the trial leaves."""
    assert row.validation is not None
    found = {"validation": row.validation - check.drop, "check": check, "finished_at": time.time()}
    if not may_fit(check.p95_ms, objective):
        assert objective.p95_ms is not None
        miss = Miss(limit="p95_ms", value=check.p95_ms, allowed=objective.p95_ms)
        found |= {"validation": None, "error": f"{PREFIX}{miss.in_words()}"}
    return row.model_copy(update=found)


def may_fit(p95_ms: float, objective: ObjectiveConfig) -> bool:
    """Whether some form of a model may keep the limit of time, by the time of one form."""
    return objective.p95_ms is None or p95_ms <= SLACK * objective.p95_ms


def check_places(rows: int, most: int) -> AnyArray:
    """Return the places of the rows to check, in order: all, or ``most`` of them drawn once."""
    if rows <= most:
        return np.arange(rows)
    return np.sort(np.random.default_rng(CHECK_SEED).permutation(rows)[:most])
