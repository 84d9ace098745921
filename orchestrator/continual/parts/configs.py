"""Options of the parts, and their registry. Imports neither torch nor ray.

Another package adds a part through an entry point ``continual_part.<type>`` that names a subclass
of ``parts.base.Part`` with a nested ``Config``; a job uses it with ``method.parts: [<type>]``.
"""

from typing import ClassVar, Literal

from pydantic import Field

from orchestrator.config.registry import EntryConfig, Registry
from orchestrator.modeling.targets.configs import ClsConfig, TargetConfig


class PartConfig(EntryConfig):
    """Options of one part, and its costs (for ``--check``)."""

    protects: ClassVar[bool] = True
    """Whether the part protects earlier tasks; such a part means nothing in joint training."""

    @property
    def gradients_per_update(self) -> int:
        """Factor by which the part multiplies the gradients of an update."""
        return 1

    @property
    def copies(self) -> frozenset[str]:
        """Copies of the weights that the part holds; parts share a copy of the same name."""
        return frozenset()

    def protects_head(self, head: TargetConfig, *, importance: bool, exemplars: bool) -> bool:
        """Whether the part protects a head of the starting package whose task is not learned again.

        Args:
            head: The head.
            importance: The package keeps how important each weight is for the head.
            exemplars: The package keeps training rows of the head.
        """
        del head, importance, exemplars
        return self.protects

    def rehearsals(self, earlier: int, steps: int) -> int:
        """Return the additional updates in a task of ``steps`` steps after ``earlier`` tasks."""
        del earlier, steps
        return 0


CONTINUAL_PARTS = Registry("continual_part", PartConfig)


class SectionConfig(PartConfig):
    """Options of a part that has its own section in ``method`` and belongs to presets."""

    enabled: bool | None = None
    """null: as the preset says."""


@CONTINUAL_PARTS.register("orchestrator.continual.parts.create:Create")
class CreateConfig(SectionConfig):
    """Create flat regions: the gradient is taken at the worst point nearby."""

    protects: ClassVar[bool] = False
    type: Literal["create"] = Field("create", exclude=True)
    rho: float = Field(0.65, ge=0)
    """Radius of the ascent, relative to each weight when adaptive (0.65 in the paper)."""
    adaptive: bool = True
    """Scale the ascent by the weights (ASAM); false: plain SAM, with a rho of about 0.05."""

    @property
    def gradients_per_update(self) -> int:
        """Two: at the weights, and at the worst point near them."""
        return 2 if self.rho > 0 else 1

    @property
    def copies(self) -> frozenset[str]:
        """The weights to return to."""
        return frozenset({"start of the ascent"})


@CONTINUAL_PARTS.register("orchestrator.continual.parts.find:Find")
class FindConfig(SectionConfig):
    """Find flatness: importance of each weight for what was learned, and a penalty by it."""

    type: Literal["find"] = Field("find", exclude=True)
    penalty: float = Field(0.5, ge=0)
    """Strength lambda of the penalty; with normalise: false the scale is that of the Fisher
    information itself (50000 in the paper)."""
    normalise: bool = True
    """Divide each task's importance by its mean, so that lambda carries over between models."""
    gamma: float = Field(0.95, ge=0, le=1)
    """Share of the earlier importance that remains when a task's is added; 0: only the last
    task."""
    fisher_samples: int = Field(128, ge=1)
    """Training rows whose gradients measure the importance."""
    way: Literal["gathered", "sharded"] = "gathered"
    """gathered: ranks share the rows, each holds the whole model; sharded: memory stays cut,
    every rank runs every row."""

    @property
    def copies(self) -> frozenset[str]:
        """Anchors and importance."""
        return frozenset({"anchors", "importance"})

    def protects_head(self, head: TargetConfig, *, importance: bool, exemplars: bool) -> bool:
        """With importance, which exemplars can measure too."""
        del head
        return self.penalty > 0 and (importance or exemplars)


@CONTINUAL_PARTS.register("orchestrator.continual.parts.clamp:Clamp")
class ClampConfig(SectionConfig):
    """A box around the weights at the end of the previous task."""

    type: Literal["clamp"] = Field("clamp", exclude=True)
    radius: float = Field(2.0, ge=0)
    """Half width relative to each anchor's size (0.65, tied to rho, in the paper: too tight for
    small models trained from scratch)."""
    floor: float = Field(0.05, ge=0)
    """Smallest half width, so that weights anchored at zero can move (0 in the paper)."""

    @property
    def copies(self) -> frozenset[str]:
        """Anchors."""
        return frozenset({"anchors"})

    def protects_head(self, head: TargetConfig, *, importance: bool, exemplars: bool) -> bool:
        """False: a box bounds how far weights go, but not what a head forgets within it."""
        del head, importance, exemplars
        return False


@CONTINUAL_PARTS.register("orchestrator.continual.parts.replay:Replay")
class ReplayConfig(SectionConfig):
    """Rehearse a few rows of earlier tasks."""

    type: Literal["replay"] = Field("replay", exclude=True)
    fraction: float = Field(0.01, gt=0, le=1)
    """Share of each task's training rows that is stored (at least one row per class)."""
    every_steps: int = Field(20, ge=1)
    """After this many steps each earlier task gets one step on its buffer."""
    choice: Literal["random", "kmeans"] = "kmeans"
    """Selection of rows: at random, or nearest to the centers of their features."""

    def protects_head(self, head: TargetConfig, *, importance: bool, exemplars: bool) -> bool:
        """With rows to rehearse."""
        del head, importance
        return exemplars

    def rehearsals(self, earlier: int, steps: int) -> int:
        """Return one update per earlier task every ``every_steps`` steps."""
        return earlier * (steps // self.every_steps)


@CONTINUAL_PARTS.register("orchestrator.continual.parts.distill:Distill")
class DistillConfig(SectionConfig):
    """Distill the answers of earlier heads on the rows of the new task."""

    type: Literal["distill"] = Field("distill", exclude=True)
    weight: float = Field(0.5, ge=0)
    """Weight of the term of each earlier head beside the task's loss."""
    temperature: float = Field(2.0, gt=0)
    """Softens the answers of teacher and student (2 in the paper)."""

    @property
    def copies(self) -> frozenset[str]:
        """The model before the task."""
        return frozenset({"teacher"})

    def protects_head(self, head: TargetConfig, *, importance: bool, exemplars: bool) -> bool:
        """On the new rows alone, heads that answer one class per row."""
        del importance, exemplars
        return self.weight > 0 and isinstance(head, ClsConfig)
