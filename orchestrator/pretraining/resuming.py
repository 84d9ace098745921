"""Settings of pre-training that may change when a run goes on, and finished runs that go on.

Imports neither torch nor ray.
"""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Final

from pydantic import JsonValue

from orchestrator.config.changes import PLACES, Change, Changes, Effect, change_of
from orchestrator.config.job import RunProgress
from orchestrator.errors import Problem
from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.targets.stream_configs import ClrConfig
from orchestrator.storage.run_changes import Changed, flatten
from orchestrator.training.free_settings import (
    ENGINE,
    NOISE,
    NOTHING,
    RESULT,
    TRACKING,
    TRAIN,
)

if TYPE_CHECKING:
    from orchestrator.pretraining.config import PretrainConfig
    from orchestrator.training.worker_context import StoredState

CHECKPOINTS = "checkpoints"
"""Folder of a run's checkpoints, as in `cluster.checkpoints.store`, which imports torch."""
LENGTHLESS = ("constant", "inverse_sqrt", "infinite")
"""Schedules whose rates do not depend on the length of the run; infinite: only without a decay."""

CHANGES: Final[Changes] = {
    **PLACES,
    "cluster.max_workers": Change(NOISE, "the same sum of gradients in other parts"),
    "run.name": Change(RESULT, "another name is another run"),
    "seed": Change(RESULT, "weights, order of samples, noise"),
    "data": Change(RESULT, "the samples"),
    "data.prepared": Change(NOTHING, "a place; the corpus is compared by its content"),
    "samples": Change(RESULT, "the samples"),
    "model": Change(RESULT, "the model"),
    **TRAIN,
    "train.eval_batch_size": Change(NOTHING, "speed of evaluations"),
    "train.eval_blocks": Change(
        NOTHING, "how exact evaluations are; decides with early_stopping or guard"
    ),
    "train.eval_beside": Change(NOTHING, "where evaluations run"),
    "train.prefetch_steps": Change(NOTHING, "when batches are made"),
    "train.freeze": Change(RESULT, "which weights are trained"),
    "train.flatness": Change(RESULT, "the gradients of the last steps"),
    "train.start_from": Change(RESULT, "the first weights"),
    "train.keep_every_steps": Change(NOTHING, "what is kept"),
    "train.keep_last": Change(NOTHING, "what is kept"),
    **ENGINE,
    "guard": Change(RESULT, "when the run ends, and whether its package is rejected"),
    "package.name": Change(NOTHING, "name of the result"),
    "package.licence": Change(NOTHING, "a note on the result"),
    **TRACKING,
}
"""Every setting of a pre-training job, or its section; a test fails where one is missing."""

RATES = ("dropout", "drop_path")
"""Endings of options that make training draw random numbers."""
OTHER_NOISE = (
    "dropout draws other numbers from there on than in a run that was never stopped: not bit by "
    "bit the same, but of the same distribution"
)
MEASURING = ("train.eval_every_steps", "train.eval_blocks")
"""Settings that decide where evaluations do."""


def fixed(
    config: "PretrainConfig", before: Mapping[str, JsonValue], progress: RunProgress
) -> Iterator[Problem]:
    """Yield settings that decide the result of this job, although not of every one."""
    train = config.train
    if train.max_steps != before.get("train.max_steps"):
        yield from _length_problems(config, before, progress)
    contrast = any(isinstance(target, ClrConfig) for target in config.model.target)
    if train.early_stopping is not None or config.guard is not None:
        judge = "guard" if train.early_stopping is None else "train.early_stopping"
        for path in (*MEASURING, *(["train.eval_batch_size"] if contrast else [])):
            yield Problem(path, f"{judge} ends the run by its evaluations.")
    if contrast:
        yield from _contrast_problems(config, before)


def _contrast_problems(
    config: "PretrainConfig", before: Mapping[str, JsonValue]
) -> Iterator[Problem]:
    """The target clr compares the pairs of one pass of all workers: their number decides."""
    paths = ("train.micro_batch_size", "cluster.workers")
    now = config.train.micro_batch_size * config.cluster.workers
    known = [before.get(path) for path in paths]
    then = int(str(known[0])) * int(str(known[1])) if None not in known else None
    if now != then:
        for path in paths:
            yield Problem(
                path,
                f"the target clr compares the pairs of one pass, {now} in place of {then}. Keep "
                "micro_batch_size × workers.",
            )


def _length_problems(
    config: "PretrainConfig", before: Mapping[str, JsonValue], progress: RunProgress
) -> Iterator[Problem]:
    """Yield why a run cannot become as long as this."""
    schedule = config.train.schedule
    if not prolongs(config, before):
        yield _length("a run is prolonged, never shortened. Stop it, and start another from it.")
    elif schedule.type not in LENGTHLESS or schedule.decay_steps is not None:
        decay = " with decay_steps" if schedule.type in LENGTHLESS else ""
        yield _length(
            f"the schedule {schedule.type}{decay} depends on the length of the run, so its steps "
            "had other rates than those of a longer run. Only constant, inverse_sqrt and infinite "
            "without decay_steps can be prolonged."
        )
    elif config.train.late_steps:
        yield _length("train.flatness counts from the end, which would be another one.")
    elif progress.status is None:
        return
    elif config.train.early_stopping is not None:
        yield _length("train.early_stopping has ended the run and taken its best weights.")
    elif progress.status == "refused":
        yield _length("guard has ended the run.")
    elif not progress.folders(CHECKPOINTS):
        yield _length(
            "the run is finished and keeps no checkpoint (train.keep_last: 0). Train its package "
            "on, which has the weights: model.from or train.start_from={package: …}."
        )


def _length(message: str) -> Problem:
    return Problem("train.max_steps", message)


def prolongs(config: "PretrainConfig", before: Mapping[str, JsonValue]) -> bool:
    """Return whether a job is longer than the run it goes on with."""
    known = before.get("train.max_steps")
    return isinstance(known, int) and config.train.max_steps > known


def way_on(config: "PretrainConfig") -> str:
    """Return what to do instead of changing what a run learns."""
    name = config.run.name
    return (
        "Set it back to go on with this run. With other settings, go on from its last checkpoint "
        f"in another run: run.name=<new> train.start_from={{run: {name}}}; another model, "
        "tokenizer or optimizer begins anew: choose another run.name."
    )


def notes_on(config: "PretrainConfig", changed: Mapping[str, Changed]) -> Iterator[str]:
    """Yield what to say of settings that changed since the last start of a run."""
    seen = [path for path in changed if change_of({"run": PLACES["run.dir"]}, path) is None]
    if seen:
        texts = (f"{path} ({changed[path].before} -> {changed[path].now})" for path in seen)
        yield f"changed since the last start: {', '.join(texts)}"
    found = (change_of(CHANGES, path) for path in seen)
    if any(each and each.effect == Effect.NOISE for each in found) and is_noisy(config.model):
        yield OTHER_NOISE


def is_noisy(model: ModelConfig) -> bool:
    """Return whether training a model draws random numbers."""
    rates = flatten(model.model_dump(mode="json"))
    return any(path.endswith(RATES) and bool(rate) for path, rate in rates.items())


def resumed_at(checkpoint: "StoredState", world: int, model: ModelConfig) -> str:
    """Return where a run goes on, in words.

    Args:
        checkpoint: What it goes on from.
        world: Number of workers now.
        model: Its model.
    """
    where = f"resuming at step {checkpoint.step} from {checkpoint.path}"
    if checkpoint.world == world:
        return where
    noise = f"; {OTHER_NOISE}" if is_noisy(model) else ""
    return f"{where}, written by {checkpoint.world} workers, now {world}{noise}"
