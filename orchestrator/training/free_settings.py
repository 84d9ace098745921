"""Settings of training that may change when a run goes on, by path; what decides, with the reason.

A step is a function of the seed and its number: intervals of logging, evaluation and checkpoints
change none. Micro-batches and engines add up the same gradients in another order. Dropout draws its
numbers micro-batch by micro-batch on each worker (`loop.seed_step`): other numbers, of the same
distribution.
"""

from typing import Final

from orchestrator.config.changes import Change, Changes, Effect

NOTHING, ROUNDING, NOISE, RESULT = Effect.NOTHING, Effect.ROUNDING, Effect.NOISE, Effect.RESULT

TRAIN: Final[Changes] = {
    "train.max_steps": Change(
        NOTHING, "may grow, with a schedule that does not depend on the length of the run"
    ),
    "train.global_batch_size": Change(RESULT, "samples of each step"),
    "train.micro_batch_size": Change(NOISE, "the same sum of gradients in other parts"),
    "train.optimizer": Change(RESULT, "every update"),
    "train.schedule": Change(RESULT, "every update"),
    "train.max_grad_norm": Change(RESULT, "every update"),
    "train.max_skipped_steps": Change(NOTHING, "when a run with bad steps gives up"),
    "train.max_rollbacks": Change(NOTHING, "when a run with bad steps gives up"),
    "train.hang_timeout_s": Change(NOTHING, "when workers start again"),
    "train.early_stopping": Change(RESULT, "when the run ends, and with which weights"),
    "train.log_every_steps": Change(NOTHING, "rows of the curve"),
    "train.eval_every_steps": Change(
        NOTHING, "rows of the curve; decides with early_stopping or guard"
    ),
    "train.checkpoint_every_steps": Change(NOTHING, "what is kept"),
}
"""The section `train` of `TrainConfig`."""

ENGINE: Final[Changes] = {
    "engine.type": Change(ROUNDING, "checkpoints fit every engine"),
    "engine.zero_stage": Change(ROUNDING, "checkpoints fit every stage"),
    "engine.replicas": Change(ROUNDING, "checkpoints fit every number of groups"),
    "engine.tensor_parallel": Change(NOISE, "checkpoints fit every cut of layers"),
    "engine.sequence_parallel": Change(NOISE, "dropout of other positions"),
    "engine.expert_parallel": Change(ROUNDING, "where experts lie"),
    "engine.precision": Change(RESULT, "number format of the passes"),
    "engine.loss_scale": Change(RESULT, "which steps overflow"),
    "engine.activation_checkpointing": Change(ROUNDING, "activations are computed again"),
    "engine.compile": Change(NOISE, "other kernels"),
    "engine.tf32": Change(RESULT, "number format of products"),
    "engine.peak_tflops": Change(NOTHING, "the metric mfu"),
    "engine.offload": Change(ROUNDING, "where state lies"),
    "engine.deepspeed": Change(ROUNDING, "buckets and communication; never what is computed"),
}
"""The section `engine` of `EngineConfig`."""

TRACKING: Final[Changes] = {"tracking": Change(NOTHING, "who receives the metrics")}
"""The section `tracking`."""
