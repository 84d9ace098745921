"""Evaluations beside training: weights go to a folder, a process reads them, training goes on.

One evaluation at a time. Its figures are stored in a file of the run before its weights are
removed, so that a run that is resumed neither loses nor repeats one. One that failed, or whose
process was lost, is made again in the process of rank 0 when training ends.
"""

import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

import torch
from pydantic import ConfigDict

from orchestrator.config import StrictModel
from orchestrator.data.steps import eval_batches
from orchestrator.errors import StageError
from orchestrator.modeling.package import load_model
from orchestrator.pretraining.inputs import open_inputs
from orchestrator.pretraining.state import EVALUATIONS, PretrainJob
from orchestrator.storage import atomic_write_bytes, staged
from orchestrator.storage.atomic import is_temporary
from orchestrator.training.engines.torch_engines import SingleEngine
from orchestrator.training.events import Notice
from orchestrator.training.history import HistoryRow
from orchestrator.training.worker_context import Errand, WorkerContext, reserved_device

FUNCTION: Final = f"{__name__}:evaluate"
WAIT_S: Final = 600.0
"""Longest wait of a finished run for its last evaluation."""


class Order(StrictModel):
    """An evaluation to make."""

    job: PretrainJob
    """Its run."""
    weights: str
    """Folder of the weights."""


class Figures(StrictModel):
    """Result of an evaluation; a loss that diverged is NaN or infinite, and stays so."""

    model_config = ConfigDict(allow_inf_nan=True, ser_json_inf_nan="constants")

    metrics: dict[str, float]
    """Names to values."""


def evaluate(order: Order) -> Figures:
    """Measure stored weights on the held-out samples, as the workers of the run would."""
    inputs = open_inputs(order.job)
    config = inputs.config
    device = reserved_device(config.cluster.gpus_per_worker)
    model = load_model(Path(order.weights), device=str(device))
    torch.set_float32_matmul_precision("high" if config.engine.tf32 else "highest")
    weights = {target.name: target.weight for target in inputs.model.target}
    precision = config.engine.precision
    engine = SingleEngine(model, config.train.optimizer, weights, precision=precision)
    batches = eval_batches(inputs.held_out, config.train.eval_batch_size)
    return Figures(metrics=engine.evaluate(batches))


class EvaluationsBeside:
    """The evaluations of a run that its workers hand off.

    Args:
        context: This worker.
        job: The run.
        write: Writes the weights of the present step into a folder; collective, and the other
            ranks have none.
        report: Receives the step and the figures of an evaluation, on rank 0.
    """

    def __init__(
        self,
        context: WorkerContext,
        job: PretrainJob,
        write: Callable[[Path | None], None],
        report: Callable[[int, dict[str, float]], None],
    ) -> None:
        self._context, self._job, self._write, self._report = context, job, write, report
        self._folder = context.run_dir / EVALUATIONS
        self._errand: Errand | None = None
        self._step = 0

    def hand_off(self, step: int) -> bool:
        """Evaluate the weights of a step beside training if there is a place; collective.

        Returns:
            Whether it was handed off. No place is free, or the last one has not ended: no.
        """
        if not self._job.config.train.eval_beside:
            return False
        self.collect()
        if not self._context.broadcast_from_rank_zero(int(self._is_free())):
            return False
        if self._context.rank:
            self._write(None)
            return True
        self._folder.mkdir(parents=True, exist_ok=True)
        with staged(self._weights(step), {"kind": "evaluation", "step": step}) as folder:
            self._write(folder)
        self._start(step)
        return True

    def _is_free(self) -> bool:
        beside = self._context.beside
        if self._context.rank or beside is None or self._errand is not None:
            return False
        return beside.has_place(self._job.config.cluster)

    def _start(self, step: int) -> None:
        order, cluster = self._order(step), self._job.config.cluster
        if self._context.beside is None:  # a run that is resumed without a cluster
            self._record(step, evaluate(order))
        else:
            self._errand, self._step = self._context.beside.start(FUNCTION, order, cluster), step

    def _order(self, step: int) -> Order:
        return Order(job=self._job, weights=str(self._weights(step)))

    def collect(self) -> None:
        """Report the evaluation that has ended, if one has; for rank 0, the others do nothing."""
        if self._errand is not None and self._errand.ended():
            self._take(self._errand)

    def settle(self) -> None:
        """Report the last evaluation; rank 0 waits for it, or makes it; collective."""

        def take() -> None:
            if self._errand is not None:
                self._errand.ended(WAIT_S)
                self._take(self._errand)

        self._context.on_rank_zero(take)

    def _take(self, errand: Errand) -> None:
        self._errand = None
        try:
            if not errand.ended():
                errand.cancel()
                raise StageError(f"it took more than {WAIT_S:g} s")
            figures = errand.result(Figures)
        except StageError as error:
            message = f"the evaluation of step {self._step} beside training failed: {error}"
            self._context.emit(Notice(message=message))
            figures = evaluate(self._order(self._step))
        self._record(self._step, figures)

    def _record(self, step: int, figures: Figures) -> None:
        self._context.require_claim()
        atomic_write_bytes(self._result(step), figures.model_dump_json().encode())
        shutil.rmtree(self._weights(step), ignore_errors=True)
        self._report(step, figures.metrics)

    def resume(self, first: int, rows: Iterable[HistoryRow]) -> None:
        """Report what an earlier part of the run handed off; for rank 0, the others do nothing.

        Args:
            first: Step of the checkpoint: later ones are evaluated again.
            rows: The curves that the checkpoint holds.
        """
        if self._context.rank or not self._folder.is_dir():
            return
        if self._errand is not None:  # the run went back
            self._errand.cancel()
            self._errand = None
        known = {row.step for row in rows if row.split == "validation"}
        for path in sorted(self._folder.iterdir()):
            step = -1 if is_temporary(path.name) else int(path.stem.removeprefix("step-"))
            missing = 0 <= step <= first and step not in known
            if path.is_dir() and missing:
                self._start(step)
            elif path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            elif missing:
                self._report(step, Figures.model_validate_json(path.read_bytes()).metrics)
            elif step > first:
                path.unlink()

    def _weights(self, step: int) -> Path:
        return self._folder / f"step-{step:08d}"

    def _result(self, step: int) -> Path:
        return self._folder / f"step-{step:08d}.json"
