"""Fine-tune one package on one labelled task, an epoch at a time, in one process.

This is what a selection trial runs: quick to start (the head is the only thing that is built),
texts tokenized once, exact to resume. What a step does depends on (seed, step) alone, so a trial
that is paused, saved and continued elsewhere is the trial that was never paused.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from orchestrator.data.processors.text import TextProcessor
from orchestrator.data.rows.rows import Rows, TaskData
from orchestrator.data.samples.labelled_samples import ClsSamples
from orchestrator.data.steps import StepSource, eval_batches
from orchestrator.errors import IntegrityError
from orchestrator.modeling.lora import add_lora, freeze, merged_state
from orchestrator.modeling.package import load_model, write_model
from orchestrator.training.config import (
    FineTuneConfig,
    OptimizerConfig,
    ScheduleConfig,
    TrainConfig,
)
from orchestrator.training.engine import Batch
from orchestrator.training.engines.single import SingleEngine
from orchestrator.training.heads import classification_head
from orchestrator.training.history import History
from orchestrator.training.loop import train
from orchestrator.training.seeding import derive_seed

Split = Literal["train", "validation", "test"]
PROGRESS = "finetune.json"
HISTORY = "history.parquet"

__all__ = ["FineTuneConfig", "FineTuner"]


class FineTuner:
    """A package being fine-tuned.

    Attributes:
        engine: The model with its optimizer.
        head: Name of the task's head.
        steps_done: Optimizer steps taken, counted in the loop.
        epochs_done: Whole epochs trained.
        history: Learning curves so far.

    Args:
        package: Folder of the package to start from.
        task: What to learn; its test rows are only read by ``evaluate("test")``.
        config: How.
        seed: Decides the head's first weights, which rows a cap keeps, their order, and dropout.

    Raises:
        IntegrityError: The package's model does not fit its config.
        InputError: The package has no tokenizer, the task no rows, or ``freeze`` or ``lora`` names
            what the model does not have.
    """

    def __init__(
        self, package: Path, task: TaskData, config: FineTuneConfig, seed: int = 7
    ) -> None:
        self.task, self.config, self.seed = task, config, seed
        head = classification_head(
            task, config.pooling, hidden=config.hidden, dropout=config.dropout
        )
        self.head = head.name
        torch.manual_seed(derive_seed(seed, "head"))
        self._model = load_model(package, targets=[head])
        if config.lora is not None:
            add_lora(self._model, config.lora)
        freeze(self._model, config.freeze)
        images = task.train.images is not None
        self._processor = None if images else TextProcessor.load(package)
        self.max_length = min(config.max_length, self._model.config.max_position_embeddings)
        self._samples: dict[Split, ClsSamples] = {}
        size = min(config.global_batch_size, len(self.samples("train")))
        order = derive_seed(seed, "order") % 2**32
        self._source = StepSource(self.samples("train"), size, size, order)
        self._train_config = self._plan(size)
        self.engine = SingleEngine(self._model, self._train_config.optimizer)
        self.steps_done = 0
        self.epochs_done = 0
        self.history = History()

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of one epoch."""
        return self._source.steps_per_epoch

    @property
    def finished(self) -> bool:
        """Whether all epochs of the config are trained."""
        return self.epochs_done >= self.config.epochs

    def samples(self, split: Split) -> ClsSamples:
        """Return a split's rows, tokenized when first asked for and kept."""
        if split not in self._samples:
            limit = self.config.max_train_rows if split == "train" else self.config.max_eval_rows
            rows = self._capped(self.task.split(split), limit, split)
            self._samples[split] = ClsSamples(rows, self._processor, self.head, self.max_length)
        return self._samples[split]

    def train_epoch(self) -> dict[str, float]:
        """Train one more epoch.

        Returns:
            Mean ``loss`` and ``accuracy`` over the epoch's training batches.
        """
        until = self.steps_done + self.steps_per_epoch
        result = train(
            self.engine,
            self._source,
            self._train_config,
            first_step=self.steps_done,
            until_step=until,
            seed=self.seed,
        )
        self.steps_done = result.steps
        self.epochs_done += 1
        return self._log("train", result.train)

    def evaluate(self, split: Split = "validation") -> dict[str, float]:
        """Measure ``accuracy`` and ``loss`` on a split, without dropout."""
        batches = eval_batches(self.samples(split), self.config.eval_batch_size)
        return self._log(split, self.engine.evaluate(batches))

    def predict(self, split: Split = "test") -> Iterator[np.ndarray[Any, np.dtype[np.float32]]]:
        """Yield class probabilities [B, K] of a split's rows, in order."""
        self._model.eval()
        for batch in eval_batches(self.samples(split), self.config.eval_batch_size):
            yield self._probabilities(batch)

    def save(self, folder: Path) -> None:
        """Write everything that :meth:`load` needs; the caller makes the folder atomic."""
        self.engine.save(folder)
        self.history.to_parquet(folder / HISTORY)
        (folder / PROGRESS).write_text(json.dumps(self._progress(), indent=1), encoding="utf-8")

    def load(self, folder: Path) -> None:
        """Continue from a saved state, exactly.

        Raises:
            IntegrityError: The state is missing or of another task, seed or config.
        """
        try:
            found = json.loads((folder / PROGRESS).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise IntegrityError(f"{folder / PROGRESS} cannot be read: {error}") from error
        expected = self._progress()
        counters = ("steps_done", "epochs_done")
        if {**found, **{c: 0 for c in counters}} != {**expected, **{c: 0 for c in counters}}:
            raise IntegrityError(
                f"{folder} is the state of another trial: {found}, this one is {expected}"
            )
        self.engine.load(folder)
        self.steps_done, self.epochs_done = found["steps_done"], found["epochs_done"]
        self.history = History.from_parquet(folder / HISTORY)

    def write(self, folder: Path) -> None:
        """Write the files of a package: model, adapters merged, tokenizer, learning curves."""
        write_model(folder, merged_state(self._model), self._model.config)
        if self._processor is not None:
            self._processor.save(folder)
        self.history.to_parquet(folder / HISTORY)

    def _plan(self, batch_size: int) -> TrainConfig:
        config = self.config
        steps = config.epochs * self._source.steps_per_epoch
        return TrainConfig(
            max_steps=steps,
            global_batch_size=batch_size,
            micro_batch_size=batch_size,
            optimizer=OptimizerConfig(
                learning_rate=config.learning_rate, weight_decay=config.weight_decay
            ),
            schedule=ScheduleConfig(
                type="linear", warmup_steps=int(config.warmup_fraction * steps)
            ),
            max_grad_norm=config.max_grad_norm,
            log_every_steps=steps,
        )

    def _capped(self, rows: Rows, limit: int | None, split: str) -> Rows:
        """Keep ``limit`` rows, the same ones for every package."""
        if limit is None or len(rows) <= limit:
            return rows
        order = np.random.default_rng(derive_seed(self.seed, "cap", split)).permutation(len(rows))
        return rows.take(np.sort(order[:limit]))

    def _log(self, split: Split, metrics: dict[str, float]) -> dict[str, float]:
        short = {
            "loss": metrics.get("loss", float("nan")),
            "accuracy": metrics.get(f"accuracy.{self.head}", float("nan")),
        }
        self.history.log(self.steps_done, split, short, epoch=float(self.epochs_done))
        return short

    @torch.no_grad()
    def _probabilities(self, batch: Batch) -> np.ndarray[Any, np.dtype[np.float32]]:
        logits = self._model.predict(batch)[self.head]
        return torch.softmax(logits.float(), dim=-1).cpu().numpy()

    def _progress(self) -> dict[str, Any]:
        return {
            "task": self.task.name,
            "labels": list(self.task.label_names),
            "seed": self.seed,
            "config": self.config.model_dump(mode="json"),
            "steps_done": self.steps_done,
            "epochs_done": self.epochs_done,
        }
