"""A small job config in the shape of the real ones."""

from typing import Annotated, Literal

from pydantic import Field, SecretStr, field_validator
from pydantic_core import PydanticCustomError

from orchestrator.config import JobConfig, StrictModel
from orchestrator.errors import Problem


class Transformer(StrictModel):
    type: Literal["transformer"] = "transformer"
    hidden_size: int = Field(64, ge=8, description="Width of the hidden states.")
    num_layers: int = 2
    activation: Literal["gelu", "relu"] = "gelu"


class Lstm(StrictModel):
    type: Literal["lstm"] = "lstm"
    layers: int = 1


class Dual(StrictModel):
    type: Literal["dual"] = "dual"
    streams: tuple[Annotated[Transformer | Lstm, Field(discriminator="type")], ...] = ()


class Model(StrictModel):
    encoder: Annotated[Transformer | Lstm | Dual, Field(discriminator="type")]
    parts: list[str | Transformer] = Field(default=["word", "pos"])
    decoder: Transformer | None = None
    weights: dict[str, float] = Field(default_factory=dict)


class Train(StrictModel):
    max_steps: int = Field(100, gt=0)
    global_batch_size: int = 64
    micro_batch_size: int = 8
    learning_rate: float = Field(1e-3, gt=0)
    precision: Literal["fp32", "bf16"] = "fp32"
    resume: bool = True
    note: str | None = None
    name_even: str = "even"

    @field_validator("name_even")
    @classmethod
    def _even(cls, value):
        if len(value) % 2:
            raise PydanticCustomError(
                "odd", "{value} has an odd length. Add a letter.", {"value": value}
            )
        return value


class SampleConfig(JobConfig):
    model: Model
    train: Train = Train(max_steps=50)
    key: SecretStr | None = None

    def problems(self):
        share = self.train.global_batch_size // self.cluster.workers
        if share % self.train.micro_batch_size:
            allowed = [n for n in range(1, share + 1) if share % n == 0]
            yield Problem(
                "train.micro_batch_size",
                f"{self.train.micro_batch_size} does not divide train.global_batch_size "
                f"({self.train.global_batch_size}) / workers ({self.cluster.workers}). "
                f"Use {', '.join(map(str, allowed[:-1]))} or {allowed[-1]}.",
            )


VALID = {"run": {"name": "x"}, "model": {"encoder": {"type": "transformer"}}}
