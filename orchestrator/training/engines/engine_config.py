"""Settings of the engine that runs the training steps. Imports neither torch nor ray.

A JSON file may amend the DeepSpeed configuration that an engine generates from these settings: it
may change how DeepSpeed works (buckets, prefetching, communication). The settings decide what is
computed, and keys that would decide it differently are refused one by one.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from orchestrator.config import StrictModel
from orchestrator.errors import Problem
from orchestrator.training.engines.layer_cut_settings import LayerCutSettings

if TYPE_CHECKING:
    from orchestrator.training.config import OptimizerConfig

Precision = Literal["fp32", "bf16", "fp16"]
"""Number formats of forward and backward passes."""


def _device(value: object) -> object:
    """Read ``true`` as ``cpu`` and ``false`` as null."""
    return {True: "cpu", False: None}[value] if isinstance(value, bool) else value


Device = Annotated[Literal["cpu"] | None, BeforeValidator(_device)]


class OffloadConfig(StrictModel):
    """State that is offloaded to the host's memory (Ren et al. 2021, ZeRO-Offload).

    On a machine without an accelerator the same code runs and nothing becomes smaller.
    """

    optimizer: Device = Field(
        None,
        description="cpu (or true): masters, moments and reduced gradients lie in the host's "
        "memory, where the optimizer steps; null (or false): on the accelerator.",
    )
    parameters: Device = Field(
        None,
        description="cpu (or true): weights lie there too and are fetched when they are used; "
        "ZeRO stage 3 and fsdp2 only.",
    )

    @property
    def any(self) -> bool:
        """Whether anything is offloaded."""
        return bool(self.optimizer or self.parameters)


class LossScaleConfig(StrictModel):
    """Loss scaling with precision fp16, whose smallest number is 6e-8."""

    initial: float = Field(65536.0, ge=1, description="Factor at the start.")
    growth_steps: int = Field(
        1000, ge=1, description="Steps without an overflow after which the factor is doubled."
    )


USUAL_SCALE = LossScaleConfig()


_BATCH = "use train.global_batch_size, train.micro_batch_size and cluster.workers"
_PRECISION = "use engine.precision, and engine.loss_scale with fp16"
_OFFLOAD = "use engine.offload"
_LAYOUT = "it changes where parameters lie, which checkpoints rely on. Remove it"
_OTHER = "it changes what is computed, and this system does not know it. Remove it"
_OURS = "the engine sets it. Remove it"

REFUSED: dict[str, str] = {
    "train_batch_size": _BATCH,
    "train_micro_batch_size_per_gpu": _BATCH,
    "gradient_accumulation_steps": _BATCH,
    "gradient_clipping": "use train.max_grad_norm",
    "optimizer": "use train.optimizer",
    "scheduler": "use train.schedule",
    "fp16": _PRECISION,
    "bf16": _PRECISION,
    "bfloat16": _PRECISION,
    "amp": _PRECISION,
    "torch_autocast": _PRECISION,
    "data_types": _PRECISION,
    "activation_checkpointing": "use engine.activation_checkpointing",
    "elasticity": "use cluster.workers: {min, max}",
    "zero_allow_untested_optimizer": _OURS,
    "zero_force_ds_cpu_optimizer": _OURS,
    "pipeline": _OTHER,
    "tensor_parallel": _OTHER,
    "sequence_parallel_size": _OTHER,
    "data_efficiency": _OTHER,
    "curriculum_learning": _OTHER,
    "compression_training": _OTHER,
    "progressive_layer_drop": _OTHER,
    "sparse_gradients": _OTHER,
    "zero_optimization.stage": "use engine.zero_stage",
    "zero_optimization.cpu_offload": _OFFLOAD,
    "zero_optimization.cpu_offload_params": _OFFLOAD,
    "zero_optimization.offload_optimizer.device": _OFFLOAD,
    "zero_optimization.offload_optimizer.nvme_path": _OFFLOAD,
    "zero_optimization.offload_optimizer.ratio": _OFFLOAD,
    "zero_optimization.offload_optimizer.super_offload": _OFFLOAD,
    "zero_optimization.offload_param.device": _OFFLOAD,
    "zero_optimization.offload_param.nvme_path": _OFFLOAD,
    "zero_optimization.zenflow": _OFFLOAD,
    "zero_optimization.round_robin_gradients": _LAYOUT,
    "zero_optimization.mics_shard_size": _LAYOUT,
    "zero_optimization.zero_hpz_partition_size": _LAYOUT,
    "zero_optimization.stage3_module_granularity_threshold": _LAYOUT,
    "zero_optimization.zero_quantized_weights": _OTHER,
    "zero_optimization.zero_quantized_gradients": _OTHER,
    "zero_optimization.zero_quantized_nontrainable_weights": _OTHER,
    "zero_optimization.ignore_unused_parameters": _OURS,
}
"""Keys of a file that are not taken, and what to do instead."""


def read_amendment(value: object) -> object:
    """Return the content of a file when given its path, anything else as it is.

    The content and not the path becomes part of the job, so that it reaches every worker and a
    changed file is a changed job.

    Raises:
        ValueError: The file cannot be read, or is no JSON object.
    """
    if not isinstance(value, str):
        return value
    try:
        content: object = json.loads(Path(value).read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{value!r} cannot be read: {error.strerror}. Name a JSON file") from error
    except ValueError as error:
        raise ValueError(f"{value!r} is not JSON: {error}. Correct it") from error
    if not isinstance(content, dict):
        raise ValueError(f"{value!r} holds no JSON object. Write {{...}} as DeepSpeed documents it")
    return content


def amendment_problems(content: Mapping[str, Any], path: str) -> Iterator[Problem]:
    """Yield one problem for each key that is refused.

    Args:
        content: What the file holds.
        path: Of the setting, for the messages.
    """
    for key, instead in REFUSED.items():
        if _holds(content, key.split(".")):
            yield Problem(f"{path}.{key}", f"cannot be amended: {instead}")


def _holds(content: object, keys: list[str]) -> bool:
    for key in keys:
        if not isinstance(content, Mapping) or key not in content:
            return False
        content = content[key]
    return True


def amended(generated: Mapping[str, Any], content: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the generated configuration with the content of a file merged in, section by section.

    Args:
        generated: Made from our settings.
        content: Of the file; its values win.
    """
    merged = dict(generated)
    for key, value in (content or {}).items():
        below = merged.get(key)
        nested = isinstance(below, Mapping) and isinstance(value, Mapping)
        merged[key] = amended(below, value) if nested else value  # type: ignore[arg-type]
    return merged


class EngineConfig(LayerCutSettings):
    """Engine of the training steps, and its number format."""

    type: Literal["auto", "single", "ddp", "zero", "fsdp2"] = Field(
        "auto",
        description="auto: single on one worker, ddp on more; zero: DeepSpeed ZeRO; fsdp2: "
        "PyTorch's own sharding, weights included.",
    )
    zero_stage: Literal[0, 1, 2, 3] = Field(
        2,
        description="What ZeRO shards: 1 optimizer, 2 and gradients, 3 and weights; 0 shards "
        "nothing, which is what single and ddp do: those run then.",
    )
    precision: Precision = Field(
        "fp32",
        description="Number format of forward and backward passes; masters are always fp32. fp16 "
        "scales the loss.",
    )
    loss_scale: LossScaleConfig = Field(USUAL_SCALE, description="Loss scaling of fp16.")
    activation_checkpointing: bool = Field(
        False,
        description="Keep only the inputs of blocks for the backward pass and compute the rest "
        "again: a third more time, a fraction of the memory.",
    )
    compile: bool = Field(
        False,
        description="Compile blocks with torch.compile, for accelerators: the first steps take a "
        "minute, the others are faster. Not with type: zero, nor for experts.",
    )
    tf32: bool = Field(
        False,
        description="With precision fp32, let accelerators round the inputs of matrix products to "
        "10 bits of mantissa (TF32): several times faster.",
    )
    peak_tflops: float | None = Field(
        None,
        gt=0,
        description="Peak of one device for the metric mfu, in 10^12 operations a second; null: "
        "its maker's figure, by its name; of a CPU, measured.",
    )
    replicas: int | None = Field(
        None,
        ge=2,
        description="Groups of workers with the whole model each (hybrid sharding): weights are "
        "gathered inside of a group, only gradients are sent between groups, once a step; fsdp2 "
        "only. Use the number of hosts; null: one group.",
    )
    offload: OffloadConfig = Field(OffloadConfig(), description="What waits in host memory.")
    deepspeed: Annotated[
        dict[str, Any] | None,
        BeforeValidator(read_amendment, json_schema_input_type=str | dict[str, Any] | None),
    ] = Field(
        None,
        description="A JSON file that amends DeepSpeed's generated configuration, or its content; "
        "what the other settings decide cannot be in it.",
    )

    @property
    def sharding_stage(self) -> int:
        """State sharded over workers: 0 none, 1 optimizer state, 2 gradients too, 3 all."""
        return {"zero": self.zero_stage, "fsdp2": 3}.get(self.type, 0)

    @property
    def title(self) -> str:
        """The engine's name for people."""
        name = f"ZeRO-{self.zero_stage}" if self.type == "zero" else self.type
        name += self.cut_title if self.type == "fsdp2" else ""
        moved = [key for key in ("optimizer", "parameters") if getattr(self.offload, key)]
        return f"{name} with {' and '.join(moved)} in host memory" if moved else name

    def problems(self) -> Iterable[Problem]:
        """Settings that have no effect, or that DeepSpeed's file must not hold."""
        if self.loss_scale != USUAL_SCALE and self.precision != "fp16":
            yield Problem("loss_scale", f"has no effect with precision: {self.precision}. Remove")
        if self.deepspeed is not None:
            if self.type != "zero" or not self.zero_stage:
                yield Problem("deepspeed", f"is not read by {self.title}. Use type: zero")
            yield from amendment_problems(self.deepspeed, "deepspeed")
        if self.compile and self.type == "zero" and self.zero_stage:
            yield Problem(
                "compile",
                "is not for DeepSpeed, whose hooks run inside of blocks. Use type: ddp or fsdp2",
            )
        if self.tf32 and self.precision != "fp32":
            yield Problem("tf32", f"has no effect with precision: {self.precision}. Remove it")
        yield from self._offload_problems()
        yield from self.cut_problems(self.type, self.title)
        if self.replicas is not None and self.type != "fsdp2":
            yield Problem("replicas", f"is not for {self.title}. Use type: fsdp2")
        elif self.replicas is not None and self.cuts_layers:
            yield Problem(
                "replicas",
                "is not for layers that are cut. Set tensor_parallel to 1, and expert_parallel",
            )
        if self.compile and self.cuts_layers:
            yield Problem(
                "compile", "is not for blocks that are cut: they communicate inside. Set it false"
            )

    def _offload_problems(self) -> Iterator[Problem]:
        """ZeRO-1 and 2 have no cut weights to move; FSDP2 moves all it has."""
        offload = self.offload
        if offload.any and not self.sharding_stage:
            yield Problem("offload", f"{self.title} keeps all in one place. Use type: zero")
        elif offload.parameters and self.sharding_stage < 3:
            yield Problem(
                "offload.parameters",
                f"ZeRO-{self.zero_stage} keeps whole weights on every worker. Use zero_stage: 3",
            )
        elif self.type == "fsdp2" and bool(offload.optimizer) != bool(offload.parameters):
            yield Problem("offload", "fsdp2 moves weights and optimizer together. Set both")

    def problems_with(
        self, workers: int, optimizer: "OptimizerConfig | None" = None
    ) -> Iterable[Problem]:
        """Yield settings that contradict each other (paths relative to this section).

        A single engine cannot have more than one worker; Adafactor reads the rows and columns of
        whole matrices, which no worker of a sharded engine has.
        """
        if self.sharding_stage and optimizer is not None and optimizer.type == "adafactor":
            yield Problem(
                "type",
                f"'{self.type}' cuts matrices, adafactor needs them whole. Use ddp, or adamw",
            )
        yield from self.uncut_problems(workers)
        yield from self._replica_problems(workers)
        if self.type == "single" and workers > 1:
            yield Problem(
                "type", f"'single' runs on one worker, {workers} are requested. Use ddp or zero"
            )

    def _replica_problems(self, workers: int) -> Iterator[Problem]:
        """Each group has as many workers, two or more."""
        if self.replicas is None:
            return
        if workers % self.replicas or workers == self.replicas:
            yield Problem(
                "replicas",
                f"{self.replicas} groups of {workers} workers are not equally large groups of two "
                f"or more. Use cluster.workers: {2 * self.replicas}, or another number",
            )
