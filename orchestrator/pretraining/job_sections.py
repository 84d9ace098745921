"""Sections of a pre-training job's settings. Imports neither torch nor ray."""

from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import Field

from orchestrator.config import Name, StrictModel
from orchestrator.data.spec import DatasetSpec
from orchestrator.errors import Problem
from orchestrator.training.config import TrainConfig

BATCH_FIELDS = ("global_batch_size", "micro_batch_size")


class StartSection(StrictModel):
    """Starting point of a run that does not start from nothing; exactly one is given."""

    run: Name | None = None
    """Name of another run in run.dir: everything is taken from its checkpoint (a branch)."""
    path: str | None = None
    """A run folder elsewhere, or one checkpoint in it; everything is taken from that."""
    package: str | None = None
    """Package of run.zoo, like bert@champion: its weights are taken, and training begins at 0."""
    step: Annotated[int, Field(ge=1)] | Literal["latest"] = "latest"
    """Step of the checkpoint of that run."""

    def problems(self) -> Iterable[Problem]:
        """One place, and a step only where there are several."""
        given = [n for n in ("run", "path", "package") if getattr(self, n) is not None]
        if len(given) != 1:
            found = " and ".join(given) or "nothing"
            yield Problem("", f"{found} given. Give exactly one of run, path and package.")
        elif self.package is not None and self.step != "latest":
            yield Problem("step", "a package has no steps. Leave it out, or start from a run.")


class FlatnessSection(StrictModel):
    """Sharpness-aware steps at the end of a run, and the flatness of its result."""

    rho: float = Field(0.5, ge=0)
    """Radius of the ascent, relative to each weight when adaptive; 0: none."""
    last_fraction: float = Field(0.1, ge=0, le=1)
    """Share of the steps, the last ones, whose gradient is taken at the worst point near the
    weights: two gradients per step. 0: flatness is only measured."""
    adaptive: bool = True
    """Scale the ascent by the weights (ASAM); false: plain SAM, with a rho of about 0.05."""

    def late_steps(self, max_steps: int) -> int:
        """Return the number of sharpness-aware steps."""
        return round(self.last_fraction * max_steps) if self.rho else 0


class TrainingSection(TrainConfig):
    """Training, and evaluation on held-out blocks."""

    eval_batch_size: int = Field(64, ge=1)
    """Blocks of one evaluation pass of one worker."""
    eval_blocks: int | None = Field(512, ge=1)
    """Held-out blocks that are measured; null measures all."""
    eval_beside: bool = False
    """Evaluate in a process beside the workers where the cluster has room for one more; training
    goes on meanwhile. Without room, and after the last step, the workers evaluate."""
    prefetch_steps: int | None = Field(None, ge=0, le=64)
    """Steps whose batches a thread makes ahead; null: 2; 0: none."""
    freeze: tuple[str, ...] = ()
    """Parameters that stay as they are, by name: embedding, encoder.layers.0, encoder.*.bias."""
    flatness: FlatnessSection | None = None
    """Sharpness-aware steps in the last part, and flatness figures in the package; null: none."""
    start_from: StartSection | None = None
    """Start from a checkpoint of another run or from a package; null: from nothing."""
    keep_every_steps: int = Field(0, ge=0)
    """Keep the checkpoints of multiples of this step, so that other runs can start from them; 0:
    none but the last."""
    keep_last: int = Field(1, ge=0, le=2)
    """Number of last checkpoints that a finished run keeps, so that it can be prolonged and other
    runs can start from it; while it is not finished, it has two."""

    @property
    def late_steps(self) -> int:
        """Sharpness-aware steps at the end."""
        return 0 if self.flatness is None else self.flatness.late_steps(self.max_steps)

    def gradients(self, step: int) -> int:
        """Return the number of gradients of a step (from 0)."""
        return 2 if step >= self.max_steps - self.late_steps else 1

    def problems(self) -> Iterable[Problem]:
        """Leave the batch sizes to the job, which knows the number of workers."""
        yield from (each for each in super().problems() if each.path not in BATCH_FIELDS)
        if self.eval_beside and not self.eval_every_steps:
            yield Problem("eval_beside", "needs evaluations. Set eval_every_steps.")
        if self.eval_beside and self.early_stopping is not None:
            yield Problem(
                "eval_beside",
                "early_stopping decides by an evaluation before the next step. Leave out one.",
            )
        keep, every = self.keep_every_steps, self.checkpoint_every_steps
        if keep and (not every or keep % every):
            yield Problem(
                "keep_every_steps",
                f"{keep} is not a multiple of checkpoint_every_steps ({every}). Use one.",
            )


class GuardSection(StrictModel):
    """Text of the kind that a package knows, whose loss may rise only so far in a run from it."""

    data: DatasetSpec
    """Source of the documents."""
    max_rise: float = Field(0.1, gt=0)
    """Largest accepted rise of the loss over its value before the first step, in nats. Beyond, the
    run ends and the package is committed as rejected."""


class PackageSection(StrictModel):
    """Name and license of the result in the zoo."""

    name: Name
    """Name of the package; each run that finishes makes its next version."""
    licence: str | None = None
    """SPDX identifier of the license."""
