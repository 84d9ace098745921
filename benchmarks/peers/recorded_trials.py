"""Trials and proxy scores of a benchmark of selection, each really run once and stored.

Seconds are CPU seconds of this process with one thread: the wall time of a slot that nothing
disturbs, on a machine that has other work.
"""

import json
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.config import StrictModel
from orchestrator.errors import OrchestratorError
from orchestrator.selection.results import ProxyScore
from orchestrator.selection.scores.features import ProxyPayload, try_package
from orchestrator.selection.trials.fine_tuning import FineTuneTrial, TrialPayload
from orchestrator.selection.trials.rates import RateTrials

if TYPE_CHECKING:
    from orchestrator.training.finetune.finetuner import FineTuner


class Curve(StrictModel):
    """One candidate trained on one target at one learning rate."""

    validation: tuple[float, ...] = ()
    """Score after each epoch."""
    losses: tuple[float, ...] = ()
    """Validation loss after each epoch."""
    test: float = 0.0
    """Score of the test rows after the last one."""
    steps: tuple[int, ...] = ()
    """Optimizer steps of each epoch."""
    seconds: tuple[float, ...] = ()
    """CPU seconds of each epoch; the last one has the test rows."""
    startup: float = 0.0
    """CPU seconds before the first step."""
    error: str = ""
    """Reason of a failure; the curve is empty then."""


class RateChoice(StrictModel):
    """Learning rate of one candidate, chosen as the first rung of `select` does it."""

    rate: float
    """The rate that goes on."""
    steps: int
    """Optimizer steps of the other rates."""
    seconds: float
    """CPU seconds of trying all rates."""


@dataclass
class Records:
    """Curves and proxy scores on disk, a JSON line each.

    Attributes:
        path: The file.
        lines: Key to what is stored.
    """

    path: Path
    lines: dict[str, dict[str, object]] = field(default_factory=dict)
    _warm: bool = False

    def __post_init__(self) -> None:
        if self.path.is_file():
            for line in self.path.read_text(encoding="utf-8").splitlines():
                row = json.loads(line)
                self.lines[row.pop("key")] = row

    def curve(self, key: str, payload: TrialPayload) -> Curve:
        """Return a stored curve, or train it."""
        if key not in self.lines:
            self._warm_up(payload)
            self._append(key, train(payload).model_dump())
        return Curve.model_validate(self.lines[key])

    def choice(self, key: str, payload: TrialPayload, rates: Sequence[float]) -> RateChoice:
        """Return a stored choice among rates, or make it."""
        if key not in self.lines:
            self._warm_up(payload)
            self._append(key, choose_rate(payload, rates).model_dump())
        return RateChoice.model_validate(self.lines[key])

    def proxy(self, key: str, payload: ProxyPayload) -> tuple[ProxyScore, float]:
        """Return stored proxy scores and their CPU seconds, or compute them."""
        if key not in self.lines:
            begun = time.process_time()
            score = try_package(payload)
            seconds = time.process_time() - begun
            self._append(key, {"score": score.model_dump(), "seconds": seconds})
        row = self.lines[key]
        return ProxyScore.model_validate(row["score"]), float(str(row["seconds"]))

    def _warm_up(self, payload: TrialPayload) -> None:
        """Train once for nothing: the first trial of a process also pays its imports."""
        if not self._warm:
            train(payload)
            self._warm = True

    def _append(self, key: str, row: dict[str, object]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"key": key, **row}) + "\n")
        self.lines[key] = row


def train(payload: TrialPayload) -> Curve:
    """Train one candidate to the end with the code of the product's trials."""
    shutil.rmtree(payload.state, ignore_errors=True)
    trial, rows, seconds = FineTuneTrial(payload), [], list[float]()
    try:
        with timed(seconds):
            trial.tuner_after(0)
    except OrchestratorError as error:
        return Curve(error=str(error))
    while not trial.done:
        with timed(seconds):
            rows.append(trial.step())
    shutil.rmtree(payload.state, ignore_errors=True)
    if rows[-1].error or rows[-1].test is None:
        return Curve(error=rows[-1].error or "no score of the test rows")
    return Curve(
        validation=tuple(float(row.validation or 0.0) for row in rows),
        losses=tuple(float(row.loss or 0.0) for row in rows),
        test=rows[-1].test,
        steps=tuple(row.steps for row in rows),
        seconds=tuple(seconds[1:]),
        startup=seconds[0],
    )


def choose_rate(payload: TrialPayload, rates: Sequence[float]) -> RateChoice:
    """Try each rate on the first steps of the first epoch, with the code of the product."""

    def start(rate: float) -> "FineTuner":
        tuning = payload.fine_tune.model_copy(update={"learning_rate": rate})
        return FineTuneTrial(payload.model_copy(update={"fine_tune": tuning})).tuner_after(0)

    seconds = list[float]()
    trials = RateTrials(Path(payload.state), payload.trial, rates, start, lambda score: score)
    with timed(seconds):
        tuner, rows = trials.best()
    trials.remove()
    rate = float(tuner.config.learning_rate or 0.0)
    steps = sum(row.steps for row in rows if row.learning_rate != rate)
    return RateChoice(rate=rate, steps=steps, seconds=seconds[0])


@contextmanager
def timed(into: list[float]) -> Iterator[None]:
    """Append the CPU seconds of a block."""
    begun = time.process_time()
    try:
        yield
    finally:
        into.append(time.process_time() - begun)
