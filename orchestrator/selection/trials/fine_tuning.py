"""One candidate on one data set, trained epoch by epoch; runs in a Tune actor and imports no Ray.

After every epoch the training state and all results so far are committed as one folder. An epoch
whose result is committed is never trained again: a paused, restored or restarted trial that is
asked for it returns the stored result.
"""

import functools
import json
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from orchestrator.config import StrictModel
from orchestrator.data.spec import DatasetSpec
from orchestrator.errors import IntegrityError
from orchestrator.selection.objective.config import ObjectiveConfig
from orchestrator.selection.results import EpochResult, JournalRow
from orchestrator.selection.rungs import Rungs
from orchestrator.selection.target_tasks import TargetTask
from orchestrator.selection.ties.row_scores import row_scores, write_row_scores
from orchestrator.selection.trials.failures import reason_of, repeats
from orchestrator.selection.trials.loading import held, hold, lesson_for, package_of
from orchestrator.selection.trials.rates import RateTrials
from orchestrator.selection.trials.starting import clock
from orchestrator.selection.trials.threads import UsedSlots
from orchestrator.storage import staged, verify_folder
from orchestrator.training.config import FineTuneConfig
from orchestrator.zoo import Package, Zoo
from orchestrator.zoo.suite import TaskSpec

if TYPE_CHECKING:
    from orchestrator.modeling.model import Model
    from orchestrator.training.finetune.finetuner import FineTuner
    from orchestrator.training.worker_context import Peers

logger = logging.getLogger(__name__)

TRIAL = "orchestrator.selection.trials.fine_tuning:FineTuneTrial"
POSITION_NAME = "position.json"
STATE_MANIFEST = "state.json"
TRAINER, PACKAGE = "trainer", "package"


class TrialPayload(StrictModel):
    """One package to be fine-tuned on one task."""

    trial: str
    """Trial id."""
    package: str
    """Package reference with its version."""
    zoo: str
    """The zoo; a local path is absolute."""
    task: DatasetSpec
    """The rows; local paths are absolute."""
    asked: TargetTask | None = None
    """The task; null: classification by accuracy."""
    fine_tune: FineTuneConfig
    """Training settings."""
    seed: int
    """Seed of the run."""
    state: str
    """Folder of the training state, on storage that every worker sees."""
    start: int = 0
    """Rungs done already."""
    first_rung_steps: int | None = None
    """Optimizer steps of the first rung; None: each rung is an epoch."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Number format of forward and backward passes."""
    gpus: float = 0.0
    """GPUs that are reserved for the trial."""
    keep_package: bool = False
    """Write the files of a package after the last epoch."""
    learning_rates: tuple[float, ...] = ()
    """Learning rates to try in the first epoch; none: that of ``fine_tune``."""
    row_scores: str = ""
    """Folder of the scores per validation row; empty: they are not written."""
    slots: int = 1
    """Slots whose CPUs it may use: more than one where survivors are fewer than slots."""
    objective: ObjectiveConfig | None = None
    """Compression before the score of an epoch; None: it is that of the trained weights."""


class FineTuneTrial:
    """Fine-tunes one package on one task.

    Args:
        payload: The package, the task and where to write.
    """

    def __init__(self, payload: TrialPayload) -> None:
        self._payload = payload
        self._state = Path(self._payload.state)
        self._epoch = self._payload.start
        self._last = Rungs(payload.fine_tune.epochs, payload.first_rung_steps).count
        self._tuner: FineTuner | None = None
        self._peers: Peers | None = None
        self._failed = False
        self._rates = RateTrials(
            self._state,
            self._payload.trial,
            self._payload.learning_rates,
            lambda rate: self.tuner_of(self._package.path, rate),
            self._goodness,
            self._payload.first_rung_steps,
        )

    def share(self, peers: "Peers") -> None:
        """Train with other workers, which share the rows of each step."""
        self._peers = peers

    @property
    def _package(self) -> Package:
        return package_of(self._payload.zoo, self._payload.package)

    @property
    def done(self) -> bool:
        """Whether the last epoch is done, or none can be."""
        return self._failed or self._epoch >= self._last

    def step(self) -> EpochResult:
        """Train one rung, unless it is committed; return its result.

        An error that a retry would repeat is a result as well: it carries the reason.
        """
        rows = committed_rows(self._state)
        if self._epoch < len(rows):
            row = rows[self._epoch]
        else:
            try:
                row = self._train(rows)
            except Exception as error:
                if not repeats(error):
                    raise
                self._failed, self._tuner = True, None
                return EpochResult(
                    trial=self._payload.trial,
                    rung=self._epoch + 1,
                    validation=None,
                    error=reason_of(error),
                    rates=self._rates.tried(),
                    finished_at=time.time(),
                )
            self._commit(self.tuner_after(row.rung), [*rows, row])
            if row.rates:
                self._rates.remove()
        self._epoch += 1
        return row

    def save(self, folder: Path) -> None:
        """Write the position of this trial; the state itself is committed by `step`."""
        (folder / POSITION_NAME).write_text(json.dumps({"epoch": self._epoch}))
        if self._tuner is not None and self._peers is None:  # peers keep no more than one
            hold(self._payload.state, self._tuner)

    def load(self, folder: Path) -> None:
        """Continue from the position that `save` wrote."""
        self._epoch = int(json.loads((folder / POSITION_NAME).read_text())["epoch"])
        self._tuner = None

    def _train(self, rows: Sequence[EpochResult]) -> EpochResult:
        rates: tuple[JournalRow, ...] = ()
        if self._payload.learning_rates and not rows:
            self._tuner, rates = self._rates.best()
        asked = time.perf_counter() - self._rates.loading_s
        tuner = self._tuner if rates and self._tuner else self.tuner_after(len(rows))
        startup, started = clock.seconds(asked), time.perf_counter()
        steps_before, rung, rungs = tuner.steps_done, len(rows) + 1, self._rungs(tuner)
        rungs.require_shorter()
        with UsedSlots(tuner, self._payload, rung) as used:
            if (missing := rungs.steps_after(rung) - tuner.steps_done) > 0:
                tuner.train_epoch(missing)  # else a rate was tried on all of them
            trained = time.perf_counter()
            measured = tuner.evaluate("validation")
            evaluation_s = time.perf_counter() - trained
        if self._payload.objective is None:
            self._write_row_scores(tuner, rung)
        test = tuner.evaluate("test")[tuner.watched] if rung == self._last else None
        row = EpochResult(
            trial=self._payload.trial,
            rung=rung,
            validation=measured[tuner.watched],
            goodness=self._goodness(measured[tuner.watched]),
            loss=measured["loss"],
            test=test,
            steps=tuner.steps_done - steps_before,
            epochs=rungs.share(rung),
            seconds=time.perf_counter() - started,
            evaluation_s=evaluation_s,
            startup_s=startup,
            slots=used.mean,
            learning_rate=tuner.config.learning_rate if self._payload.learning_rates else None,
            rates=rates,
            finished_at=time.time(),
        )
        return row if self._payload.objective is None else self._checked(tuner, row)

    def _rungs(self, tuner: "FineTuner") -> Rungs:
        payload = self._payload
        return Rungs(payload.fine_tune.epochs, payload.first_rung_steps, tuner.steps_per_epoch)

    def _checked(self, tuner: "FineTuner", row: EpochResult) -> EpochResult:
        """Return the result with its score after compression; that also decides ties."""
        from orchestrator.selection.objective.checking import check_trial, checked_row

        assert self._payload.objective is not None
        check, scores = check_trial(tuner, self._payload.objective)
        if self._payload.row_scores:
            folder = Path(self._payload.row_scores)
            write_row_scores(folder, self._payload.trial, row.rung, scores)
        return checked_row(row, check, self._payload.objective)

    def finish(self) -> EpochResult:
        """End after the committed epochs: score the test rows and write the package."""
        rows = committed_rows(self._state)
        if rows[-1].test is not None:
            return rows[-1]
        asked, tuner = time.perf_counter(), self.tuner_after(len(rows))
        startup, started = clock.seconds(asked), time.perf_counter()
        if self._payload.asked is not None and self._payload.asked.adapts:
            tuner.figures("validation")  # the state does not hold what is chosen on these rows
        row = rows[-1].model_copy(
            update={
                "phase": "completion",
                "check": None,
                "test": tuner.evaluate("test")[tuner.watched],
                "steps": 0,
                "seconds": time.perf_counter() - started,
                "evaluation_s": 0.0,
                "startup_s": startup,
                "finished_at": time.time(),
            }
        )
        self._commit(tuner, [*rows[:-1], row])
        return row

    def tuner_after(self, rungs: int) -> "FineTuner":
        """The current tuner if it stands at the end of so many rungs, else a restored one."""
        tuner = self._tuner or held(self._payload.state)
        if tuner is None or tuner.steps_done != self._rungs(tuner).steps_after(rungs):
            tuner = self.tuner_of(self._package.path)
            if rungs:
                tuner.load(self._state / TRAINER)
        self._tuner = tuner
        return tuner

    def tuner_of(self, folder: Path, learning_rate: float | None = None) -> "FineTuner":
        """The tuner of a package's files, on the device that is reserved for this trial.

        Args:
            folder: The files.
            learning_rate: To be tried; None: the one that was chosen, or that of the config.
        """
        from orchestrator.selection.trials.group import SharedTraining, lead
        from orchestrator.training.engines.torch_engines import SingleEngine
        from orchestrator.training.finetune.finetuner import FineTuner, Place
        from orchestrator.training.learning_rates import rate_for
        from orchestrator.training.worker_context import reserved_device

        payload, config = self._payload, self._payload.fine_tune
        if payload.learning_rates and learning_rate is None:
            learning_rate = next((r.learning_rate for r in committed_rows(self._state)), None)
        if learning_rate is not None:
            config = config.model_copy(update={"learning_rate": learning_rate})
        if config.learning_rate is None:
            rate = rate_for(Zoo(payload.zoo), self._package, lora=config.lora is not None)
            logger.info("%s: learning rate %g, for %s", payload.trial, rate.value, rate.reason)
            config = config.model_copy(update={"learning_rate": rate.value})
        if self._peers is not None:
            shared = SharedTraining(
                package=str(folder),
                task=payload.task,
                asked=payload.asked,
                fine_tune=config,
                seed=payload.seed,
                precision=payload.precision,
            )
            tuner = lead(self._peers, shared)
        else:
            place = Place(
                device=reserved_device(payload.gpus),
                build_engine=functools.partial(SingleEngine, precision=payload.precision),
            )
            lessons = [lesson_for(payload.task, payload.asked)]
            tuner = FineTuner(folder, lessons, config, payload.seed, place=place)
        _require_finite(tuner.model)
        return tuner

    def _goodness(self, score: float) -> float | None:
        """The score on the scale of decisions; None: as it is."""
        asked = self._payload.asked
        return None if asked is None or asked.plain else asked.goodness(score)

    def _write_row_scores(self, tuner: "FineTuner", rung: int) -> None:
        """Write which validation rows are right, before the epoch is committed."""
        if self._payload.row_scores:
            task, primary = tuner.tasks[tuner.head], tuner.lessons[0].task.primary
            rows = tuner.data.rows("validation", 0)
            statistics = task.statistics(rows, tuner.answers("validation"))[primary.name]
            scores = row_scores(primary, statistics)
            write_row_scores(Path(self._payload.row_scores), self._payload.trial, rung, scores)

    def _commit(self, tuner: "FineTuner", rows: Sequence[EpochResult]) -> None:
        """Commit state and rows together, without what the next epoch cannot need."""
        stored: dict[str, object] = {"rows": [row.model_dump() for row in rows]}
        stored["learned"] = tuner.tasks[tuner.head].spec.model_dump(mode="json")
        with staged(self._state, stored, STATE_MANIFEST) as folder:
            if rows[-1].test is None:
                (folder / TRAINER).mkdir()
                tuner.save(folder / TRAINER)
            elif self._payload.keep_package:
                (folder / PACKAGE).mkdir()
                tuner.write(folder / PACKAGE)


def committed_rows(state: Path) -> list[EpochResult]:
    """Results of the epochs whose state is committed and intact.

    Raises:
        IntegrityError: The content of the state folder differs from its manifest.
    """
    if not (state / STATE_MANIFEST).exists():
        return []
    try:
        manifest = verify_folder(state, STATE_MANIFEST)
    except IntegrityError as error:
        raise IntegrityError(f"{error} Delete {state} to train this trial again.") from error
    return [EpochResult.model_validate(row) for row in manifest["rows"]]


def learned_task(state: Path, manifest: str = STATE_MANIFEST) -> TaskSpec | None:
    """The task with what was chosen on validation rows (a threshold); None in earlier states."""
    found = json.loads((state / manifest).read_text(encoding="utf-8")).get("learned")
    return None if found is None else TaskSpec.model_validate(found)


def _require_finite(model: "Model") -> None:
    """Refuse a package whose weights are not numbers: its accuracy would be that of one class.

    Raises:
        IntegrityError: Naming the first such parameter.
    """
    for name, weight in model.named_parameters():
        if not bool(weight.isfinite().all()):
            raise IntegrityError(f"weights that are not finite: {name}. The package is broken")
