"""Settings of training: batch sizes, optimizer, schedule, engine. Imports neither torch nor ray."""

from collections.abc import Iterable
from typing import Literal

from pydantic import Field

from orchestrator.config import StrictModel
from orchestrator.errors import Problem


class OptimizerConfig(StrictModel):
    """AdamW, Loshchilov & Hutter 2019 (decoupled weight decay), always torch's fused kernel."""

    type: Literal["adamw"] = Field("adamw", description="Which optimizer.")
    learning_rate: float = Field(1e-3, gt=0, description="Peak learning rate.")
    weight_decay: float = Field(
        0.01, ge=0, description="Decay of weight matrices; tables, norms and biases have none."
    )
    betas: tuple[float, float] = Field(
        (0.9, 0.999), description="Decay rates of the two moment estimates, each in [0, 1)."
    )
    eps: float = Field(1e-8, gt=0, description="Added to the root of the second moment.")

    def problems(self) -> Iterable[Problem]:
        """Both betas must lie in [0, 1)."""
        for index, beta in enumerate(self.betas):
            if not 0 <= beta < 1:
                yield Problem(f"betas.{index}", f"{beta} is not in [0, 1). Use for example 0.9")


class ScheduleConfig(StrictModel):
    """How the learning rate moves over the optimizer steps (``training/schedules.py``)."""

    type: Literal["constant", "linear", "cosine", "inverse_sqrt", "polynomial", "wsd"] = Field(
        "linear", description="Shape after the warm-up; wsd is warm-up, stable, decay."
    )
    warmup_steps: int = Field(0, ge=0, description="Steps of linear rise to the peak.")
    final_ratio: float = Field(
        0.0, ge=0, le=1, description="Share of the peak at which the decay ends."
    )
    power: float = Field(1.0, gt=0, description="Exponent of the polynomial schedule.")
    decay_steps: int | None = Field(
        None, ge=1, description="Length of wsd's decay; default: the last tenth of the steps."
    )

    def problems(self) -> Iterable[Problem]:
        """Fields that the chosen type does not use must keep their defaults."""
        if self.power != 1.0 and self.type != "polynomial":
            yield Problem(
                "power", f"{self.power} is only used by type: polynomial, not {self.type}"
            )
        if self.decay_steps is not None and self.type != "wsd":
            yield Problem(
                "decay_steps", f"{self.decay_steps} is only used by type: wsd, not {self.type}"
            )
        if self.final_ratio > 0 and self.type in ("constant", "inverse_sqrt"):
            yield Problem("final_ratio", f"{self.final_ratio} has no effect with type: {self.type}")


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
        5, ge=0, description="Non-finite steps in a row that are skipped before the run fails."
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
        if schedule.warmup_steps >= self.max_steps:
            yield Problem(
                "schedule.warmup_steps",
                f"{schedule.warmup_steps} must be below max_steps ({self.max_steps})",
            )
        if schedule.decay_steps and schedule.warmup_steps + schedule.decay_steps > self.max_steps:
            yield Problem(
                "schedule.decay_steps",
                f"{schedule.decay_steps} after {schedule.warmup_steps} warm-up steps exceeds "
                f"max_steps ({self.max_steps})",
            )


class EngineConfig(StrictModel):
    """Which engine runs the training steps, and in which number format."""

    type: Literal["auto", "single", "ddp", "zero", "fsdp2"] = Field(
        "auto",
        description="auto: single on one worker, ddp on more; zero: DeepSpeed ZeRO; fsdp2: "
        "PyTorch's own sharding, weights included.",
    )
    zero_stage: Literal[1, 2, 3] = Field(
        2, description="What ZeRO shards: 1 optimizer, 2 and gradients, 3 and weights."
    )
    precision: Literal["fp32", "bf16"] = Field(
        "fp32", description="Number format of the forward pass; masters are always fp32."
    )
    activation_checkpointing: bool = Field(
        False,
        description="Keep only the inputs of blocks for the backward pass and compute the rest "
        "again: a third more time, a fraction of the memory.",
    )

    @property
    def sharding_stage(self) -> int:
        """What is cut between workers: 0 nothing, 1 optimizer state, 2 gradients too, 3 all."""
        return {"zero": self.zero_stage, "fsdp2": 3}.get(self.type, 0)

    @property
    def title(self) -> str:
        """The engine's name for people."""
        return f"ZeRO-{self.zero_stage}" if self.type == "zero" else self.type

    def problems_with(self, workers: int) -> Iterable[Problem]:
        """A single engine cannot have more than one worker (paths relative to this section)."""
        if self.type == "single" and workers > 1:
            yield Problem(
                "type", f"'single' runs on one worker, {workers} are requested. Use ddp or zero"
            )


class FineTuneConfig(StrictModel):
    """Train a new classification head and everything below it on one labelled task."""

    epochs: int = Field(4, ge=1, description="Passes over the training rows.")
    global_batch_size: int = Field(32, ge=1, description="Rows of one step.")
    eval_batch_size: int = Field(128, ge=1, description="Rows of one evaluation pass.")
    learning_rate: float = Field(
        2e-3, gt=0, description="Peak; 2e-3 suits small encoders, 2e-5 to 5e-5 BERT-sized ones."
    )
    weight_decay: float = Field(0.01, ge=0, description="Decay of weight matrices.")
    warmup_fraction: float = Field(0.1, ge=0, lt=1, description="Share of steps of warm-up.")
    max_grad_norm: float | None = Field(1.0, gt=0, description="Clip to this norm; null: never.")
    max_length: int = Field(64, ge=4, description="Tokens a text is cut to.")
    pooling: Literal["mean", "first", "last", "max"] = Field(
        "mean", description="How token vectors become one; mean suits every encoder."
    )
    hidden: bool = Field(False, description="Put a tanh layer below the classifier.")
    dropout: float = Field(0.1, ge=0, lt=1, description="Dropout rate before the classifier.")
    max_train_rows: int | None = Field(None, ge=1, description="Use only this many training rows.")
    max_eval_rows: int | None = Field(None, ge=1, description="Use only this many rows a split.")


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
