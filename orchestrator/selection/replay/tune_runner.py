"""ASHA and HyperBand of Ray Tune on stored curves: real schedulers, trials that only read.

ASHA starts one trial at a time, in an order drawn by the seed: its decisions depend on the order
in which results arrive, and a baseline must be repeatable. HyperBand decides on complete rungs.
"""

import json
import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ray import tune
from ray.tune.experiment import Trial
from ray.tune.schedulers import AsyncHyperBandScheduler, HyperBandScheduler, TrialScheduler
from ray.tune.search import BasicVariantGenerator

from orchestrator.cluster.environment import temporary_defaults
from orchestrator.cluster.session import session_for
from orchestrator.cluster.tune import TUNE_ENVIRONMENT
from orchestrator.config import ClusterSection
from orchestrator.errors import StageError
from orchestrator.selection.replay.methods import Played, ReplaySettings, Start
from orchestrator.selection.replay.stored import StoredTarget

SCORE, EPOCH = "score", "epoch"
REDUCTION = 3
"""eta of both; Tune's default for HyperBand."""
SECONDS_PER_EPOCH, START_S = 5.0, 120.0
"""Deadline of one replay: a trial reads a number, and Tune answers within milliseconds."""
POSITION = "position.json"


class StoredCurve(tune.Trainable):  # type: ignore[misc]
    """A trial that reads one validation score per epoch. Its config: ``trial``, ``curve``."""

    def setup(self, config: dict[str, Any]) -> None:
        """Take a curve."""
        self._curve: list[float] = config["curve"]
        self._epochs: int = config["epochs"]
        self._done = 0

    def step(self) -> dict[str, Any]:
        """Reveal the next score."""
        if self._done == len(self._curve):
            raise StageError(f"no score after epoch {self._done + 1}")
        self._done += 1
        score = self._curve[self._done - 1]
        return {SCORE: score, EPOCH: self._done, "done": self._done == self._epochs}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Called when HyperBand pauses the trial."""
        (Path(checkpoint_dir) / POSITION).write_text(json.dumps(self._done))

    def load_checkpoint(self, checkpoint: str) -> None:
        """Called when HyperBand resumes the trial."""
        self._done = json.loads((Path(checkpoint) / POSITION).read_text())

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take over another trial in this process."""
        self.setup(new_config)
        return True


class _Paid(tune.Callback):  # type: ignore[misc]
    """Values that were paid for."""

    def __init__(self) -> None:
        self.observed: dict[tuple[str, int], float] = {}

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **_: Any
    ) -> None:
        """Called in the driver's process, after the scheduler saw the result."""
        self.observed[trial.config["trial"], result[EPOCH]] = result[SCORE]


def play_through_tune(
    targets: Sequence[StoredTarget], begun: Sequence[Start], settings: ReplaySettings
) -> list[Played]:
    """Run Tune's scheduler on each target, in one Ray of its own.

    Raises:
        StageError: Ray does not start, or a scheduler does not finish.
    """
    logging.getLogger("ray.tune.tune").setLevel(logging.CRITICAL)
    played = []
    # Every trial of a band must be there before it fills: else HyperBand waits for the rest.
    environment = {**TUNE_ENVIRONMENT, "TUNE_MAX_PENDING_TRIALS_PG": "100000"}
    with (
        temporary_defaults(environment),
        session_for(ClusterSection(), 1),
        tempfile.TemporaryDirectory(prefix="orch-replay-") as storage,
    ):
        for target, first in zip(targets, begun, strict=True):
            order = np.random.default_rng(settings.seed).permutation(first.pool)
            found = _fit(target, [str(name) for name in order], settings.method, storage)
            played.append(_played(target, found, settings.method))
    return played


def _fit(
    target: StoredTarget, order: list[str], method: str, storage: str
) -> dict[tuple[str, int], float]:
    """Run one scheduler to its end and return every value it paid for."""
    paid, curves = _Paid(), target.curves
    scheduler: TrialScheduler
    search = None
    if method == "asha":
        scheduler = AsyncHyperBandScheduler(max_t=target.stages, reduction_factor=REDUCTION)
        search = BasicVariantGenerator(max_concurrent=1)
    else:
        scheduler = HyperBandScheduler(max_t=target.stages, reduction_factor=REDUCTION)
    limit = START_S + SECONDS_PER_EPOCH * len(order) * target.stages
    tune.Tuner(
        tune.with_resources(StoredCurve, {"cpu": 1}),
        param_space={
            "trial": tune.grid_search(order),
            "curve": tune.sample_from(lambda spec: list(curves[spec.config.trial])),
            "epochs": target.stages,
        },
        tune_config=tune.TuneConfig(
            metric=SCORE,
            mode="max",
            scheduler=scheduler,
            search_alg=search,
            reuse_actors=True,
            time_budget_s=limit,
        ),
        run_config=tune.RunConfig(
            storage_path=storage,
            failure_config=tune.FailureConfig(max_failures=0),
            callbacks=[paid],
            verbose=0,
        ),
    ).fit()
    untried = [model for model in order if (model, 1) not in paid.observed]
    if untried:
        raise StageError(f"{method}: Tune ended after {limit:.0f} s without trying {untried[0]!r}.")
    return paid.observed


def _played(target: StoredTarget, observed: dict[tuple[str, int], float], method: str) -> Played:
    """The decision of a scheduler; what its winner lacks to the end is paid too.

    ASHA chooses the best of those trained longest. The brackets of HyperBand end at different
    epochs (Tune rounds them down), so it chooses the best last score of all, as its algorithm 1
    (Li et al. 2018) and Tune's ``get_best_result`` do.
    """
    depth: dict[str, int] = {}
    for model, epoch in observed:
        depth[model] = max(epoch, depth.get(model, 0))
    failures = {
        model: f"no score after epoch {len(target.curves[model]) + 1}: {target.gaps[model]}"
        for model in depth
        if depth[model] == len(target.curves[model]) < target.stages
    }
    alive = [model for model in depth if model not in failures]
    if not alive:
        raise StageError("every candidate failed: no complete curve is stored.")
    longest = max(depth[m] for m in alive)
    asked = [m for m in alive if method == "hyperband" or depth[m] == longest]
    winner = max(asked, key=lambda m: (observed[m, depth[m]], m))
    values = dict(observed)
    for epoch, value in enumerate(target.curves[winner], start=1):
        values[winner, epoch] = value
    depth[winner] = target.stages
    kept = []
    for rung in range(1, target.stages + 1):
        further = [m for m in depth if depth[m] > rung or (m == winner and rung == target.stages)]
        kept.append(sorted(further, key=lambda m: (-values[m, rung], m)))
    reasons = {m: f"stopped by Tune after epoch {depth[m]}" for m in depth if m != winner}
    return Played(winner, values, kept, reasons, failures)
