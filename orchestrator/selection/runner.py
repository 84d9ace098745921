"""The benchmark and select jobs on a cluster: trials on Ray Tune, proxies as Ray tasks."""

import logging
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from orchestrator.config import JobResult
from orchestrator.errors import StageError
from orchestrator.selection.benchmark import (
    BenchmarkPlan,
    complete_matrix,
    describe_benchmark,
    plan_benchmark,
)
from orchestrator.selection.candidates import absolute, portable, resolve_packages
from orchestrator.selection.config import BenchmarkConfig, SelectConfig
from orchestrator.selection.halving import Bracket
from orchestrator.selection.journal import Journal, Row, row_of
from orchestrator.selection.matrix_io import read_matrix, write_matrix
from orchestrator.selection.outcome import selection_report
from orchestrator.selection.planning import (
    SelectionPlan,
    describe_selection,
    open_bracket,
    plan_selection,
    rank_candidates,
)
from orchestrator.selection.proxy import ProxyScore
from orchestrator.selection.publish import publish_winner, summary_of
from orchestrator.selection.recall import Recalled
from orchestrator.storage import RunFolder, atomic_write_json

logger = logging.getLogger(__name__)

TRIAL = "orchestrator.selection.trainable:FineTuneTrial"
TRIALS_NAME, REPORT_NAME, MATRIX_NAME = "trials.jsonl", "selection.json", "matrix.parquet"
PROXY_TIMEOUT_S = 600.0


def check_benchmark(config: BenchmarkConfig) -> str:
    """What the benchmark would do; no cluster, no rows read."""
    from orchestrator.zoo import Zoo

    return describe_benchmark(config, resolve_packages(Zoo(config.run.zoo), config.packages))


def run_benchmark(config: BenchmarkConfig) -> JobResult:
    """Fine-tune every package on every set; complete the matrix file; resumable.

    Raises:
        InputError: Packages, data or CPUs are not there.
        StageError: No trial finished.
    """
    with RunFolder.open(config, "benchmark") as run:
        if (done := run.finished()) is not None:
            return done
        plan = plan_benchmark(config)
        journal = Journal(run.path / TRIALS_NAME)
        _train_cells(config, plan, journal, run.path)
        matrix = complete_matrix(plan, journal, config.fine_tune.epochs)
        if matrix.final().isna().all(axis=None):
            raise StageError(
                "benchmark: no trial finished; the reasons are in "
                f"{journal.path}. Remove the failing packages, or delete {run.path}."
            )
        write_matrix(matrix, config.matrix)
        finals = matrix.final()
        result = JobResult(
            metrics={
                "models": len(finals),
                "datasets": len(finals.columns),
                "cells_trained": len(plan.cells),
                "cells_missing": len(matrix.missing()),
                "epochs": len(journal.rows),
                "steps": sum(row.steps for row in journal.rows),
                "matrix": config.matrix,
                "best": {str(name): str(finals[name].idxmax()) for name in finals.columns},
            },
            run_dir=str(run.path),
        )
        run.finish(result)
        _clear(run.path)
        return result


def check(config: SelectConfig) -> str:
    """What the selection would do and cost at most; no cluster, no rows read."""
    from orchestrator.zoo import Zoo

    return describe_selection(config, resolve_packages(Zoo(config.run.zoo), config.candidates))


def run(config: SelectConfig) -> JobResult:
    """Recall, halve, fine-tune the winner and commit it; resumable at every epoch.

    Raises:
        InputError: Packages, matrix, target or CPUs are not there, or the target is in the matrix.
        StageError: Every candidate failed.
    """
    with RunFolder.open(config, "select") as run:
        if (done := run.finished()) is not None:
            return done
        fixed = _fixed_inputs(config, run)
        plan = plan_selection(fixed)
        journal = Journal(run.path / TRIALS_NAME)
        with _session(config, len(plan.packages)):
            proxies = _score_proxies(fixed, plan, run)
            recalled = rank_candidates(plan, fixed, proxies)
            kept = ", ".join(item.model for item in recalled if item.kept)
            logger.info("recalled %d of %d candidates: %s", plan.pool, len(recalled), kept)
            bracket = _halve(fixed, plan, recalled, journal, run.path)
        report = selection_report(plan, recalled, proxies, bracket, journal)
        for entry in report["ranking"]:
            logger.info("%(place)d. %(model)s: %(status)s, %(reason)s", entry)
        atomic_write_json(run.path / REPORT_NAME, report)
        state = _state(run.path, bracket.winner)
        reference = publish_winner(config, plan, report, run, state)
        result = JobResult(package=reference, metrics=summary_of(report), run_dir=str(run.path))
        run.finish(result)
        _clear(run.path)
        return result


def _fixed_inputs(config: SelectConfig, run: RunFolder) -> SelectConfig:
    """The config with candidates and matrix as they were when the run began.

    Decisions are derived again from the journal when a run continues: packages or columns that
    came in the meantime must not change them.
    """
    from orchestrator.zoo import Zoo

    copy = run.path / MATRIX_NAME
    inputs = run.done("inputs")
    if inputs is None:
        found = resolve_packages(Zoo(config.run.zoo), config.candidates)
        if config.matrix is not None:
            write_matrix(read_matrix(config.matrix), copy)
        inputs = {"candidates": [package.ref for package in found]}
        run.mark("inputs", inputs)
    matrix = None if config.matrix is None else str(copy)
    return config.model_copy(update={"candidates": tuple(inputs["candidates"]), "matrix": matrix})


def _session(config: BenchmarkConfig | SelectConfig, trials: int) -> Any:
    from orchestrator.cluster.session import ray_session

    cluster = config.cluster
    workers = min(cluster.workers, max(trials, 1))
    purpose = f"workers: {workers} x {cluster.cpus_per_worker:g} CPU"
    return ray_session(
        cluster,
        purpose,
        workers * cluster.cpus_per_worker,
        workers * cluster.gpus_per_worker,
    )


def _train_cells(
    config: BenchmarkConfig, plan: BenchmarkPlan, journal: Journal, folder: Path
) -> None:
    """Run the cells that have no final row yet; each epoch's row is on disk before the next."""
    from orchestrator.cluster.tune import run_trials

    epochs = config.fine_tune.epochs
    ended = {row.trial for row in journal.rows if row.rung == epochs or row.error}
    open_cells = [cell for cell in plan.cells if cell.trial not in ended]
    if not open_cells:
        return
    payloads = {
        cell.trial: _payload(config, cell.trial, cell.package, cell.spec, folder)
        for cell in open_cells
    }
    total = len(plan.cells) * epochs
    with (
        _session(config, len(open_cells)),
        _Watch("benchmark", "benchmark", total, journal) as watch,
    ):
        outcomes = run_trials(
            TRIAL,
            payloads,
            storage=folder / "tune",
            cluster=config.cluster,
            on_result=watch.record,
        )
    for trial, outcome in outcomes.items():
        if outcome.error is not None:
            logger.warning("%s failed: %s", trial, outcome.error)
            journal.append(Row(trial, len(journal.of(trial)) + 1, None, error=outcome.error))


def _halve(
    config: SelectConfig,
    plan: SelectionPlan,
    recalled: Iterable[Recalled],
    journal: Journal,
    folder: Path,
) -> Bracket:
    """Phase two on Ray Tune, from where the journal ends."""
    from orchestrator.cluster.tune import run_trials
    from orchestrator.selection.scheduler import HalvingScheduler

    epochs = config.fine_tune.epochs
    bracket = open_bracket(plan, recalled, epochs, journal)
    if bracket.finished:
        return bracket
    target, left = portable(config.target), epochs - bracket.rung + 1
    payloads = {
        model: {
            **_payload(config, model, model, target, folder),
            "start": bracket.rung - 1,
            "keep_package": True,
        }
        for model in bracket.pool
        if model not in bracket.failures
    }
    paid = sum(1 for row in journal.rows if row.rung < bracket.rung)
    most = paid + sum(plan.policy.sizes(len(bracket.pool), left))
    scheduler = HalvingScheduler(bracket, journal)
    with _Watch("select", "halving", most, journal) as watch:
        run_trials(
            TRIAL,
            payloads,
            storage=folder / "tune",
            cluster=config.cluster,
            scheduler=scheduler,
            on_result=watch.record,
        )
    if scheduler.error is not None:
        raise scheduler.error
    return bracket


class _Watch:
    """Brings finished epochs to disk, shows them, and tells Ray's metrics."""

    def __init__(self, stage: str, title: str, total: int, journal: Journal) -> None:
        from orchestrator.cluster.observe.metrics import TrainingMetrics
        from orchestrator.cluster.observe.progress import Progress

        self._metrics = TrainingMetrics(stage)
        self._progress = Progress(title, total, unit="epoch")
        self._journal = journal

    def __enter__(self) -> "_Watch":
        self._progress.update(len(self._journal.rows))
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.close()

    def record(self, trial: str, result: dict[str, Any]) -> None:
        """Take a finished epoch (the scheduler may have written it already)."""
        self._journal.append(row_of(result))
        note = f"{trial} {result['validation']:.3f} after epoch {result['rung']}"
        self._progress.update(len(self._journal.rows), note)
        steps = sum(row.steps for row in self._journal.of(trial))
        losses = {"loss": result["loss"]} if "loss" in result else {}
        self._metrics.observe(trial, {"step": steps, "split": "train", "metrics": {}})
        self._metrics.observe(trial, {"step": steps, "split": "validation", "metrics": losses})


def _state(folder: Path, trial: str) -> Path:
    """Where a trial commits its training state."""
    return folder / "trials" / re.sub(r"[^A-Za-z0-9._-]+", "_", trial)


def _clear(folder: Path) -> None:
    """Remove what only an unfinished run needs."""
    for name in ("trials", "tune"):
        shutil.rmtree(folder / name, ignore_errors=True)


def _payload(
    config: BenchmarkConfig | SelectConfig,
    trial: str,
    package: str,
    task: Mapping[str, Any],
    folder: Path,
) -> dict[str, Any]:
    """What a `FineTuneTrial` is made from."""
    return {
        "trial": trial,
        "package": package,
        "zoo": absolute(config.run.zoo),
        "task": dict(task),
        "cache": None,
        "fine_tune": config.fine_tune.model_dump(mode="json"),
        "seed": config.seed,
        "state": str(_state(folder, trial).absolute()),
        "start": 0,
        "keep_package": False,
    }


def _score_proxies(
    config: SelectConfig, plan: SelectionPlan, run: RunFolder
) -> dict[str, ProxyScore]:
    """Forward passes of representatives and models without history, in parallel Ray tasks."""
    import ray

    from orchestrator.selection.features import as_score, score_package

    wanted = plan.to_score if config.recall.mode != "all" else ()
    stored = {model: run.done(f"proxy {model}") for model in wanted}
    task = ray.remote(
        num_cpus=config.cluster.cpus_per_worker,
        num_gpus=config.cluster.gpus_per_worker,
        max_retries=config.cluster.max_failures,
    )(score_package)
    pending = {
        task.remote(_proxy_payload(config, model)): model for model in wanted if not stored[model]
    }
    while pending:
        ready, _ = ray.wait(list(pending), timeout=PROXY_TIMEOUT_S)
        if not ready:
            raise StageError(f"proxies: nothing came back within {PROXY_TIMEOUT_S:.0f} s.")
        model = pending.pop(ready[0])
        stored[model] = ray.get(ready[0])
        run.mark(f"proxy {model}", stored[model] or {})
        logger.info("proxy scores of %s: %s", model, _shown(stored[model]))
    return {model: as_score(score) for model, score in stored.items() if score}


def _shown(score: Mapping[str, Any] | None) -> str:
    """Proxy scores in words, each with what it gives without information."""
    values, floors = (score or {}).get("values", {}), (score or {}).get("floors", {})
    return ", ".join(f"{n} {v:.3f} (floor {floors[n]:.3f})" for n, v in sorted(values.items()))


def _proxy_payload(config: SelectConfig, model: str) -> dict[str, Any]:
    return {
        "package": model,
        "zoo": absolute(config.run.zoo),
        "task": portable(config.target),
        "cache": None,
        "proxies": list(config.recall.proxies),
        "rows": config.recall.max_proxy_rows,
        "max_length": config.fine_tune.max_length,
        "seed": config.seed,
    }
