"""Training of a trial by several workers: rank 0 leads, the others follow.

Rank 0 decides, measures, answers rows and commits, as a trial of one worker does. Where it trains,
measures the loss, saves or loads, its peers do the same with their part of the rows. The state that
is committed can be read by any number of workers.
"""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from orchestrator.config import StrictModel
from orchestrator.data.spec import DatasetSpec
from orchestrator.errors import IntegrityError
from orchestrator.selection.target_tasks import TargetTask
from orchestrator.selection.trials.loading import lesson_for
from orchestrator.training.config import EngineConfig, FineTuneConfig
from orchestrator.training.engines.engine import Engine
from orchestrator.training.finetune.finetuner import FineTuner, Place
from orchestrator.training.worker_context import Peers, WorkerContext

if TYPE_CHECKING:
    from orchestrator.modeling.model import Model
    from orchestrator.training.config import OptimizerConfig
    from orchestrator.training.finetune.lesson_data import Split
    from orchestrator.training.finetune.lessons import Lesson

FOLLOWER = "orchestrator.selection.trials.group:Follower"
_numbers = itertools.count(1)


class SharedTraining(StrictModel):
    """One package that several workers train."""

    package: str
    """Folder of its files."""
    task: DatasetSpec
    """The rows; local paths are absolute."""
    asked: TargetTask | None
    """The task; null: classification by accuracy."""
    fine_tune: FineTuneConfig
    """Training settings, with a learning rate."""
    seed: int
    """Seed of the run."""
    precision: Literal["fp32", "bf16"]
    """Number format of forward and backward passes."""

    def lessons(self) -> "list[Lesson]":
        """Rows and question of the head that is trained."""
        return [lesson_for(self.task, self.asked)]


def lead(peers: Peers, training: SharedTraining) -> FineTuner:
    """Return a training with peers, at its first step, on rank 0."""
    place = _place(peers.start(FOLLOWER), training.precision)
    number, lessons = next(_numbers), training.lessons()
    folder, config, seed = Path(training.package), training.fine_tune, training.seed
    with peers.doing("make", number, training.model_dump_json()):
        return Leader(peers, number, folder, lessons, config, seed, place)


class Leader(FineTuner):
    """The training on rank 0: its collective methods are called on the peers as well.

    Args:
        peers: The other workers, which make the same training at this moment.
        number: Of this training.
        package: As the other arguments, see `FineTuner`.
    """

    def __init__(
        self,
        peers: Peers,
        number: int,
        package: Path,
        lessons: "Sequence[Lesson]",
        config: FineTuneConfig,
        seed: int,
        place: Place,
    ) -> None:
        super().__init__(package, lessons, config, seed, place=place)
        self._peers, self._number = peers, number

    def train_epoch(self, steps: int | None = None) -> dict[str, float]:
        """Train, as `FineTuner.train_epoch`."""
        with self._peers.doing("train", self._number, steps):
            return super().train_epoch(steps)

    def figures(self, split: "Split" = "validation") -> dict[str, float]:
        """Measure a split, as `FineTuner.figures`."""
        with self._peers.doing("measure", self._number, split):
            return super().figures(split)

    def save(self, folder: Path) -> None:
        """Write the state, as `FineTuner.save`."""
        with self._peers.doing("save", self._number, str(folder)):
            super().save(folder)

    def load(self, folder: Path) -> None:
        """Continue from a state, as `FineTuner.load`."""
        with self._peers.doing("load", self._number, str(folder)):
            super().load(folder)


class Follower:
    """Worker that trains beside rank 0, and decides nothing.

    Args:
        context: This worker.
    """

    def __init__(self, context: WorkerContext) -> None:
        self._context = context
        self._number = 0
        self._made: FineTuner | None = None

    def make(self, number: int, training: str) -> None:
        """Make a training in place of the one before; collective."""
        self._made = None  # one in memory at a time
        asked = SharedTraining.model_validate_json(training)
        place = _place(self._context, asked.precision)
        self._made = FineTuner(
            Path(asked.package), asked.lessons(), asked.fine_tune, asked.seed, place=place
        )
        self._number = number

    def train(self, number: int, steps: int | None) -> None:
        """Train to the end of the epoch, or for some steps; collective."""
        self._training(number).train_epoch(steps)

    def measure(self, number: int, split: "Split") -> None:
        """Measure a split; collective."""
        self._training(number).figures(split)

    def save(self, number: int, folder: str) -> None:
        """Write this rank's part of the state; collective."""
        self._training(number).engine.save(Path(folder))

    def load(self, number: int, folder: str) -> None:
        """Continue from a state; collective."""
        self._training(number).load(Path(folder))

    def _training(self, number: int) -> FineTuner:
        if self._made is None or number != self._number:
            raise IntegrityError(f"training {number} is asked of a worker that has {self._number}")
        return self._made


def _place(context: WorkerContext, precision: Literal["fp32", "bf16"]) -> Place:
    """Return where one worker of a trial trains: in the engine of the finetune stage."""
    settings = EngineConfig(precision=precision)

    def engine(model: "Model", optimizer: "OptimizerConfig") -> Engine:
        return context.build_engine(model, optimizer, settings)

    return Place(
        device=context.device,
        build_engine=engine,
        world=context.world,
        on_rank_zero=context.on_rank_zero,
    )
