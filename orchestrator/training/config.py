"""Settings of training: batch sizes, optimizer, schedule, engine. Imports neither torch nor ray.

Trackers that record a run's metrics in addition to its ``history.parquet``. Imports nothing heavy.
"""

import importlib.util
from collections.abc import Iterable
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field

from orchestrator.config import StrictModel
from orchestrator.errors import InputError, Problem
from orchestrator.modeling.config import LoraConfig
from orchestrator.training.engines.engine_config import EngineConfig

__all__ = [
    "EarlyStoppingConfig",
    "EngineConfig",
    "FineTuneConfig",
    "FineTuneOptions",
    "OptimizerConfig",
    "ScheduleConfig",
    "TrainConfig",
    "batch_problems",
]


class OptimizerConfig(StrictModel):
    """Optimizer and its hyperparameters; weight decay is decoupled in all of them."""

    type: Literal["adamw", "adamw8bit", "lion", "lamb", "muon", "adafactor"] = Field(
        "adamw",
        description="adamw: torch's fused kernel; adamw8bit: its moments in one byte each; lion: "
        "one moment, signs of updates; lamb: updates scaled layer by layer, for large batches; "
        "muon: orthogonalized momentum for hidden matrices, adamw for the rest; adafactor: "
        "factored second moments, not with sharding.",
    )
    learning_rate: float = Field(1e-3, gt=0, description="Peak learning rate.")
    weight_decay: float = Field(
        0.01, ge=0, description="Decay of weight matrices; tables, norms and biases have none."
    )
    cautious: bool = Field(
        False,
        description="Decay only the weights that the update shrinks anyway (Chen et al. 2025); not "
        "with adafactor.",
    )
    momentum: float = Field(0.95, ge=0, lt=1, description="Decay rate of muon's momentum.")
    betas: tuple[float, float] | None = Field(
        None,
        description="Decay rates of the moment estimates, each in [0, 1); null: 0.9 and 0.999, for "
        "lion 0.9 and 0.99. Adafactor has none.",
    )
    eps: float = Field(
        1e-8, gt=0, description="Added to the root of the second moment; not of lion, adafactor."
    )
    average_decay: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="Keep an exponential moving average of the weights with this decay, and "
        "evaluate and export that; null: none.",
    )

    @property
    def moments(self) -> tuple[float, float]:
        """Decay rates of the moment estimates."""
        return self.betas or ((0.9, 0.99) if self.type == "lion" else (0.9, 0.999))

    def state_bytes(self, trained: int, hidden: int) -> float:
        """Return the bytes of state of ``trained`` parameters, ``hidden`` of them in Muon's care.

        Adafactor's factors are not counted.
        """
        moments = {"adamw8bit": 2 + 8 / 256, "lion": 4.0, "adafactor": 0.0}
        average = 4.0 if self.average_decay is not None else 0.0
        less = 4.0 * hidden if self.type == "muon" else 0.0
        return (moments.get(self.type, 8.0) + average) * trained - less

    def problems(self) -> Iterable[Problem]:
        """Both betas must lie in [0, 1), and every number must be of use."""
        for index, beta in enumerate(self.betas or ()):
            if not 0 <= beta < 1:
                yield Problem(f"betas.{index}", f"{beta} is not in [0, 1). Use for example 0.9")
        if self.betas is not None and self.type == "adafactor":
            yield Problem("betas", "has no effect with type: adafactor. Remove it")
        if self.eps != 1e-8 and self.type in ("lion", "adafactor"):
            yield Problem("eps", f"{self.eps} has no effect with type: {self.type}. Remove it")
        if self.momentum != 0.95 and self.type != "muon":
            yield Problem("momentum", f"is muon's and has no effect with {self.type}. Remove it")
        if self.cautious and self.type == "adafactor":
            yield Problem("cautious", "does not work with type: adafactor. Use adamw, or false")
        elif self.cautious and not self.weight_decay:
            yield Problem("cautious", "has no effect with weight_decay: 0. Remove it")


USED_BY: dict[str, tuple[str, ...]] = {
    "final_ratio": (
        "linear", "cosine", "cosine_restarts", "polynomial", "wsd", "tri_stage", "infinite",
    ),
    "power": ("polynomial",),
    "cycles": ("cosine_restarts",),
    "hold_steps": ("tri_stage",),
    "cooldown_steps": ("infinite",),
    "constant_ratio": ("infinite",),
    "decay_steps": ("wsd", "infinite"),
}  # fmt: skip
"""Schedules that read a field; others must leave it at its default."""

Shape = Literal[
    "constant", "linear", "cosine", "cosine_restarts", "inverse_sqrt", "polynomial", "tri_stage",
    "wsd", "infinite",
]  # fmt: skip
"""Names of the schedules."""


class ScheduleConfig(StrictModel):
    """Learning rate schedule over the optimizer steps (``training/learning_rates.py``)."""

    type: Shape = Field(
        "linear",
        description="Shape after the warm-up; wsd: stable, then decay; infinite: a constant trunk "
        "that does not depend on max_steps, with decay_steps a branch that is to be released.",
    )
    warmup_steps: int = Field(0, ge=0, description="Steps of linear rise to the peak.")
    final_ratio: float = Field(
        0.0, ge=0, le=1, description="Share of the peak at which the decay ends."
    )
    power: float = Field(1.0, gt=0, description="Exponent of the polynomial schedule.")
    cycles: int = Field(1, ge=1, description="Times that cosine_restarts begins at the peak.")
    hold_steps: int = Field(0, ge=0, description="Steps that tri_stage stays at the peak.")
    cooldown_steps: int = Field(
        0, ge=0, description="Steps in which infinite falls from the peak to its trunk."
    )
    constant_ratio: float = Field(
        1.0, gt=0, le=1, description="Share of the peak at which infinite's trunk stays."
    )
    decay_steps: int | None = Field(
        None,
        ge=1,
        description="Length of the last decay; wsd: null is the last tenth of the steps; infinite: "
        "null is the trunk, which never decays.",
    )

    def problems(self) -> Iterable[Problem]:
        """Fields that the chosen type does not use must keep their defaults."""
        for name, types in USED_BY.items():
            value = getattr(self, name)
            if value != type(self).model_fields[name].default and self.type not in types:
                yield Problem(
                    name, f"{value} is only used by type: {', '.join(types)}, not {self.type}"
                )
        released = self.type == "infinite" and self.decay_steps is not None
        if (self.type == "tri_stage" or released) and not self.final_ratio:
            yield Problem(
                "final_ratio", f"the exponential decay of {self.type} cannot end at 0.0. Use 0.01"
            )


class EarlyStoppingConfig(StrictModel):
    """Stop when evaluations no longer get better, and go back to the best one."""

    metric: str = Field(
        "loss", description="What is watched: loss, loss.<target> or accuracy.<target>."
    )
    patience: int = Field(3, ge=1, description="Evaluations without a gain before the run ends.")
    min_delta: float = Field(0.0, ge=0, description="Smallest change that counts as a gain.")


class TrainConfig(StrictModel):
    """One training run: how long, in what batches, with which optimizer."""

    max_steps: int = Field(200, ge=1, description="Optimizer steps of the whole run.")
    global_batch_size: int = Field(32, ge=1, description="Samples of one step, over all workers.")
    micro_batch_size: int = Field(
        16, ge=1, description="Samples of one forward and backward pass of one worker."
    )
    optimizer: OptimizerConfig = Field(OptimizerConfig(), description="The optimizer.")
    schedule: ScheduleConfig = Field(ScheduleConfig(), description="The learning-rate schedule.")
    max_grad_norm: float | None = Field(
        1.0, gt=0, description="Clip the global gradient norm to this; null: never clip."
    )
    max_skipped_steps: int = Field(
        5, ge=0, description="Non-finite steps in a row that are skipped before going back."
    )
    max_rollbacks: int = Field(
        2,
        ge=0,
        description="Times that a run goes back to its last checkpoint and around the data after "
        "which nothing was finite, before it fails.",
    )
    hang_timeout_s: float = Field(
        60.0,
        gt=0,
        description="A step, evaluation or checkpoint without progress for longer than this, and "
        "20 times the usual, is treated as hung: the workers start again from the last checkpoint. "
        "The first of a start, which compiles and connects, and building have at least 600 s.",
    )
    early_stopping: EarlyStoppingConfig | None = Field(
        None, description="End when evaluations get no better, with the best weights; null: never."
    )
    log_every_steps: int = Field(10, ge=1, description="Interval of training metrics.")
    eval_every_steps: int = Field(
        0, ge=0, description="Interval of evaluation; 0: only after the last step."
    )
    checkpoint_every_steps: int = Field(
        0, ge=0, description="Interval of checkpoints; 0: only after the last step."
    )

    def problems(self) -> Iterable[Problem]:
        """Warm-up and decay must fit into the run; batch sizes are the job's, which has workers."""
        schedule = self.schedule
        if self.early_stopping is not None and not self.eval_every_steps:
            yield Problem("early_stopping", "needs evaluations. Set eval_every_steps")
        if schedule.warmup_steps >= self.max_steps:
            yield Problem(
                "schedule.warmup_steps",
                f"{schedule.warmup_steps} must be below max_steps ({self.max_steps})",
            )
        before = schedule.warmup_steps + schedule.hold_steps + schedule.cooldown_steps
        if schedule.decay_steps and before + schedule.decay_steps > self.max_steps:
            yield Problem(
                "schedule.decay_steps",
                f"{schedule.decay_steps} after {before} earlier steps exceeds "
                f"max_steps ({self.max_steps})",
            )


class FineTuneOptions(StrictModel):
    """Train new heads and everything below them on labelled tasks, whatever the learning rate."""

    epochs: int = Field(4, ge=1, description="Passes over the training rows.")
    global_batch_size: int = Field(32, ge=1, description="Rows of one step.")
    eval_batch_size: int = Field(
        128, ge=1, description="Rows of one evaluation pass at most; texts on a CPU take fewer."
    )
    weight_decay: float = Field(0.01, ge=0, description="Decay of weight matrices.")
    warmup_fraction: float = Field(0.1, ge=0, lt=1, description="Share of steps of warm-up.")
    max_grad_norm: float | None = Field(1.0, gt=0, description="Clip to this norm; null: never.")
    max_length: int = Field(64, ge=4, description="Tokens a text is cut to.")
    pooling: Literal["mean", "first", "last", "max"] = Field(
        "mean", description="How token vectors become one; mean suits every encoder."
    )
    hidden: bool = Field(False, description="Put a tanh layer below the classifier.")
    exportable: bool = Field(
        False,
        description="Give new heads the layers of the class of transformers that the encoder has, "
        "so that `zoo export` finds it; pooling and hidden are then that class's.",
    )
    dropout: float = Field(0.1, ge=0, lt=1, description="Dropout rate before the classifier.")
    max_train_rows: int | None = Field(None, ge=1, description="Use only this many training rows.")
    max_eval_rows: int | None = Field(None, ge=1, description="Use only this many rows per split.")
    freeze: tuple[str, ...] = Field(
        (), description="Parameters that stay as they are, by name: embedding, encoder.layers.0, *"
    )
    lora: LoraConfig | None = Field(
        None, description="Train low-rank adapters instead of all weights; merged in the package."
    )


class FineTuneConfig(FineTuneOptions):
    """Train new heads and everything below them on labelled tasks."""

    learning_rate: float | None = Field(
        None,
        gt=0,
        description="Peak; null: by the rule of training/learning_rates.py, 2e-3 for narrow models "
        "trained here, 5e-5 for BERT-sized imported ones.",
    )


def batch_problems(
    global_batch_size: int, micro_batch_size: int, workers: int
) -> Iterable[Problem]:
    """Problems of cutting a global batch over workers and micro-batches.

    Args:
        global_batch_size: Samples of one optimizer step.
        micro_batch_size: Samples of one pass of one worker.
        workers: Number of data-parallel workers.

    Yields:
        Problems with the field's name as path; allowed values are listed.
    """
    if global_batch_size % workers:
        nearest = -(-global_batch_size // workers) * workers
        yield Problem(
            "global_batch_size",
            f"{global_batch_size} does not divide over {workers} workers. "
            f"Use a multiple of {workers}, for example {nearest}",
        )
        return
    share = global_batch_size // workers
    if share % micro_batch_size:
        allowed = [size for size in range(1, share + 1) if share % size == 0]
        yield Problem(
            "micro_batch_size",
            f"{micro_batch_size} does not divide global_batch_size ({global_batch_size}) / "
            f"workers ({workers}). Use {_listing(allowed)}.",
        )


def _listing(values: list[int]) -> str:
    texts = [str(value) for value in values]
    return " or ".join([", ".join(texts[:-1]), texts[-1]] if len(texts) > 1 else texts)


class MlflowConfig(StrictModel):
    """One MLflow run for one run of ours, however often that is interrupted and continued."""

    tracking_uri: str | None = None
    """Server or store: https://, sqlite:///, a folder; null takes MLFLOW_TRACKING_URI, else a
    database mlflow.db beside the runs."""
    experiment: str = Field("orchestrator", min_length=1)
    """Experiment that the run belongs to; made when it is not there."""

    def problems(self) -> Iterable[Problem]:
        """Passwords stay out of configs: those are stored with every run and package."""
        address = urlsplit(self.tracking_uri or "")
        if address.password is not None or address.username is not None:
            yield Problem(
                "tracking_uri",
                "holds a user name or password, and configs are stored with every run. Set "
                "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_URI.",
            )


class TrackingSection(StrictModel):
    """Receivers of the progress of training."""

    tensorboard: bool = True
    """Write TensorBoard event files into the run's folder."""
    mlflow: MlflowConfig | None = None
    """Log to MLflow as well; null: do not."""

    def require_installed(self) -> None:
        """Refuse what this installation cannot do.

        Raises:
            InputError: MLflow is asked for and not installed; names the extra.
        """
        if self.mlflow is not None and importlib.util.find_spec("mlflow") is None:
            raise InputError(
                "tracking.mlflow: the package mlflow is not installed. Install the extra "
                "`tracking` (pip install 'ray-model-orchestrator[tracking]'), or leave "
                "tracking.mlflow out."
            )
