"""Grid search: one trial trains one combination of values; runs in a Tune actor without Ray.

After every epoch the training state and all scores so far are committed as one folder, so a search
that is stopped or killed goes on where it was. Only validation rows decide.
"""

import json
import re
import time
from collections.abc import Mapping, Sequence
from itertools import product
from math import isnan
from pathlib import Path

from orchestrator.config import StrictModel
from orchestrator.errors import StageError
from orchestrator.finetuning.config import FinetuneConfig, SearchSection
from orchestrator.finetuning.inputs import lessons_of, method_of
from orchestrator.finetuning.results import EpochScore, GridTrialResult, GridValues
from orchestrator.finetuning.state import FinetuneJob
from orchestrator.storage import staged, verify_folder
from orchestrator.training.finetune.finetuner import FineTuner, Heads, Place
from orchestrator.training.worker_context import reserved_device

STATE_MANIFEST, TRAINER, POSITION = "state.json", "trainer", "position.json"


class GridPayload(StrictModel):
    """One trial, as its actor gets it."""

    job: FinetuneJob
    """The job with the trial's values."""
    state: str
    """Folder in which it commits its epochs, on storage that every worker sees."""
    gpus: float
    """GPUs that are reserved for it."""


def combinations(search: SearchSection, config: FinetuneConfig, rate: float) -> list[GridValues]:
    """Return all combinations of the values of a search.

    Args:
        search: Values by name; those that are not searched are the job's.
        config: The job.
        rate: Its learning rate, if that is not searched.
    """
    train = config.train
    axes = (
        search.learning_rate or (rate,),
        search.global_batch_size or (train.global_batch_size,),
        search.epochs or (train.epochs,),
    )
    return [
        GridValues(learning_rate=rate, global_batch_size=size, epochs=epochs)
        for rate, size, epochs in product(*axes)
    ]


def with_values(config: FinetuneConfig, values: GridValues) -> FinetuneConfig:
    """Return a job that trains with some values and searches for none."""
    train = config.train.model_copy(update=dict(values))
    return config.model_copy(update={"search": None, "train": train})


class GridTrial:
    """Trains one combination epoch by epoch.

    Args:
        payload: The job with its values, and where to commit.
    """

    def __init__(self, payload: GridPayload) -> None:
        self._payload, self._config = payload, payload.job.config
        self._state = Path(payload.state)
        self._epoch = 0
        self._tuner: FineTuner | None = None

    @property
    def done(self) -> bool:
        """Whether the last epoch is done, or there was no gain for too long."""
        return is_over(committed(self._state)[: self._epoch], self._config)

    def step(self) -> EpochScore:
        """Train one epoch, unless it is committed; return its score."""
        scores = committed(self._state)
        if self._epoch >= len(scores):
            scores.append(self._train(scores))
        self._epoch += 1
        return scores[self._epoch - 1]

    def save(self, folder: Path) -> None:
        """Write the position of this trial; the state itself is committed by `step`."""
        (folder / POSITION).write_text(json.dumps({"epoch": self._epoch}))

    def load(self, folder: Path) -> None:
        """Continue from the position that `save` wrote."""
        self._epoch = int(json.loads((folder / POSITION).read_text())["epoch"])
        self._tuner = None

    def _train(self, scores: Sequence[EpochScore]) -> EpochScore:
        started, tuner = time.perf_counter(), self._tuner_after(len(scores))
        before = tuner.steps_done
        tuner.train_epoch()
        found = tuner.evaluate("validation")
        score = EpochScore(
            value=found[tuner.watched],
            loss=found["loss"],
            higher_is_better=tuner.lessons[0].task.primary.higher_is_better,
            steps=tuner.steps_done - before,
            seconds=time.perf_counter() - started,
        )
        rows = [*scores, score]
        stored = {"scores": [row.model_dump() for row in rows]}
        with staged(self._state, stored, STATE_MANIFEST) as folder:
            if not is_over(rows, self._config):
                (folder / TRAINER).mkdir()
                tuner.save(folder / TRAINER)
        return score

    def _tuner_after(self, epochs: int) -> FineTuner:
        """Return the tuner as it stands after some epochs."""
        if self._tuner is None or self._tuner.epochs_done != epochs:
            self._tuner = self._new_tuner()
            if epochs:
                self._tuner.load(self._state / TRAINER)
        return self._tuner

    def _new_tuner(self) -> FineTuner:
        """Return the tuner before its first step, on the device that is reserved for the trial."""
        job, device = self._payload.job, reserved_device(self._payload.gpus)
        train = self._config.train
        return FineTuner(
            Path(job.package),
            lessons_of(job),
            train.with_rate(job.learning_rate),
            self._config.seed,
            heads=Heads(job.kept, job.renewed),
            place=Place(device=device, micro_batch_size=train.micro_batch_size),
            method=method_of(job, device),
        )


def committed(state: Path) -> list[EpochScore]:
    """Return the scores of the epochs that are committed and intact.

    Raises:
        IntegrityError: The content of the folder differs from its manifest.
    """
    if not (state / STATE_MANIFEST).exists():
        return []
    found = verify_folder(state, STATE_MANIFEST)["scores"]
    return [EpochScore.model_validate(score) for score in found]


def is_over(scores: Sequence[EpochScore], config: FinetuneConfig) -> bool:
    """Return whether a trial has trained all epochs, or without a gain for too long."""
    train = config.train
    if len(scores) >= train.epochs:
        return True
    best, since = -float("inf"), 0
    for score in scores:
        value = score.value if score.higher_is_better else -score.value
        best, since = (value, 0) if value > best + train.min_gain else (best, since + 1)
    return train.patience is not None and since >= train.patience


def trial_name(values: GridValues, search: SearchSection) -> str:
    """Return what a trial is called: the values that are searched."""
    named = [name for name in SearchSection.axes() if getattr(search, name)]
    return ",".join(f"{name}={getattr(values, name):g}" for name in named)


def state_folder(run: Path, trial: str) -> Path:
    """Return the folder in which a trial commits its epochs."""
    return (run / "grid" / re.sub(r"[^A-Za-z0-9._-]+", "_", trial)).absolute()


def decide(
    trials: Mapping[str, GridValues],
    scores: Mapping[str, Sequence[EpochScore]],
    errors: Mapping[str, str | None],
) -> tuple[GridTrialResult, ...]:
    """Return the results of all trials, the best one first.

    The best is the one whose best epoch has the best primary metric on validation rows; of equal
    ones the lower loss, then the fewer steps. A trial whose scores are not numbers comes last.

    Raises:
        StageError: No trial has a score.
    """
    results = []
    for name, values in trials.items():
        seen = scores[name]
        results.append(
            GridTrialResult(
                values=values,
                scores=tuple(score.value for score in seen),
                loss=min((score.loss for score in seen), default=float("nan")),
                steps=sum(score.steps for score in seen),
                seconds=sum(score.seconds for score in seen),
                error=errors.get(name),
            )
        )
    higher = all(score.higher_is_better for seen in scores.values() for score in seen)

    def place(result: GridTrialResult) -> tuple[bool, float, float, int]:
        known = [score for score in result.scores if not isnan(score)]
        bad = result.error is not None or not known or isnan(result.loss)
        value = 0.0 if bad else (-max(known) if higher else min(known))
        return bad, value, 0.0 if bad else result.loss, result.steps

    ranked = tuple(sorted(results, key=place))
    if place(ranked[0])[0]:
        reasons = "; ".join(f"{result.values}: {result.error}" for result in ranked)
        raise StageError(f"search: no trial has a score. {reasons}")
    return ranked
