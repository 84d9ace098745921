"""Messages from the driver to the workers, and state that they store with a checkpoint."""

from orchestrator.config import StrictModel
from orchestrator.data.spec import DatasetSpec
from orchestrator.finetuning.config import FinetuneConfig
from orchestrator.finetuning.results import RateTrial
from orchestrator.modeling.config import Target
from orchestrator.training.distillation.config import TeacherPlan
from orchestrator.training.finetune.lesson_options import ClassWeights
from orchestrator.training.history import CurvePosition, HistoryRow
from orchestrator.zoo.suite import TaskSpec


class PlannedLesson(StrictModel):
    """One task, with everything decided."""

    task: TaskSpec
    """Kind, head, labels in order."""
    data: DatasetSpec
    """Its rows; local paths are absolute."""
    weight: float
    """Weight in the sampling of rows."""
    class_weights: ClassWeights
    """Weights of its classes."""


class FinetuneJob(StrictModel):
    """A run; all of it is decided before a worker starts."""

    config: FinetuneConfig
    """The job's config."""
    lessons: tuple[PlannedLesson, ...]
    """Tasks that are learned."""
    package: str
    """Folder of the package whose weights training begins with."""
    kept: tuple[Target, ...] = ()
    """Heads of the package that stay."""
    renewed: tuple[str, ...] = ()
    """Heads that get new weights although the package has one of the same shape."""
    teacher: TeacherPlan | None = None
    """The package that teaches, with everything decided."""
    learning_rate: float
    """Peak."""
    reason: str
    """Reason of the choice."""
    trials: tuple[RateTrial, ...] = ()
    """Rates that were tried."""
    run_dir: str
    """Folder of the run, seen by all workers."""


class RunState(StrictModel):
    """State of a run beside a checkpoint."""

    history: tuple[HistoryRow, ...] = ()
    """Learning curves so far, in checkpoints of earlier versions."""
    curves: CurvePosition | None = None
    """Place in the learning curves."""
    seconds: float
    """Time trained, over all parts of a resumed run."""
