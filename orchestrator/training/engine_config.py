"""Settings of the engine that runs the training steps. Imports neither torch nor ray."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from orchestrator.config import StrictModel
from orchestrator.errors import Problem
from orchestrator.training.deepspeed_file import amendment_problems, read_amendment

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


class EngineConfig(StrictModel):
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
        yield from self._offload_problems()

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
        if self.type == "single" and workers > 1:
            yield Problem(
                "type", f"'single' runs on one worker, {workers} are requested. Use ddp or zero"
            )
