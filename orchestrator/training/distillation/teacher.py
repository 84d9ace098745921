"""A teacher at work: its logits for the rows that are learned, its layers for each batch.

Logits are computed once per launch, before training, from the texts themselves: the teacher may
have another tokenizer. Outputs of layers are compared token by token, so the teacher reads the
student's batches while they are learned.

Legend: N rows, S tokens, K outputs.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from orchestrator.arrays import Float32Array, IntArray
from orchestrator.data.processors.example_processor import RowProcessor
from orchestrator.data.rows.rows import Rows
from orchestrator.data.samples.base import Batch, SampleDataset
from orchestrator.inference.predictor import Predictor
from orchestrator.modeling.package import load_model
from orchestrator.modeling.targets.configs import StatesConfig
from orchestrator.tasks.base import build_task, text_processor
from orchestrator.training.distillation.config import TeacherPlan
from orchestrator.training.distillation.losses import TEACHER, HiddenStates, SoftLabels
from orchestrator.training.objective import ExtraLoss
from orchestrator.training.watchdog import beat

STATES = "distillation"
"""Name of the student's head that projects its layers; the finished package has no such head."""


class Teacher:
    """A package that teaches.

    Attributes:
        helpers: Heads that the student has during training alone.
        terms: Loss terms of every step.

    Args:
        plan: What was decided.
        device: Where it runs: the student's device.

    Raises:
        IntegrityError: The package's files do not fit together.
    """

    def __init__(self, plan: TeacherPlan, device: torch.device) -> None:
        self._plan, self._device = plan, device
        self._known: dict[tuple[str, int], SampleDataset] = {}
        self.helpers: tuple[StatesConfig, ...] = ()
        options = plan.options
        terms: list[ExtraLoss] = []
        if options.soft_weight:
            terms += [
                SoftLabels(head, task.kind, options.temperature, options.soft_weight)
                for head, task in plan.tasks.items()
            ]
        if plan.layers is not None:
            layers = plan.layers
            self.helpers = (StatesConfig(name=STATES, layers=layers.student, width=layers.width),)
            own = StatesConfig(name=STATES, layers=layers.teacher)
            model = load_model(Path(plan.folder), targets=[own], device=str(device)).eval()
            terms.append(HiddenStates(STATES, model, options.hidden_weight))
        self.terms = tuple(terms)

    def teach(
        self,
        head: str,
        rows: Rows,
        samples: SampleDataset,
        processor: RowProcessor | None,
        max_length: int,
    ) -> SampleDataset:
        """Return samples whose batches also have the teacher's logits.

        Args:
            head: The student's head.
            rows: Its training rows.
            samples: Their samples.
            processor: The student's tokenizer or processors.
            max_length: Tokens a text is cut to, for both.

        Raises:
            StageError: A logit is not finite.
        """
        if not self._plan.options.soft_weight:
            return samples
        key = (head, len(rows))  # a cap takes the same rows each time
        if key not in self._known:
            starts = None
            words = text_processor(processor)
            if self._plan.tasks[head].kind == "tags" and words is not None:
                starts = words.word_arrays(rows.words, max_length)[1]
            logits = self._logits(head, rows, max_length, starts)
            self._known[key] = TaughtSamples(samples, head, logits, per_token=starts is not None)
        return self._known[key]

    def _logits(
        self, head: str, rows: Rows, max_length: int, starts: IntArray | None
    ) -> Float32Array:
        """Return the teacher's logits, [N, K], or [N, S, K] at the first token of each word."""
        task = build_task(self._plan.tasks[head])
        predictor = Predictor.open_folder(
            Path(self._plan.folder),
            {task.head: task},
            ref="the teacher",
            threads=torch.get_num_threads(),
            device=str(self._device),
            max_length=max_length,
        )
        found = predictor.outputs(rows, task, progress=lambda _rows: beat())
        if starts is None:
            return np.stack(found.logits).astype(np.float32)
        words = [reading.words for reading in found.readings or ()]
        return _at_words(found.logits, words, starts)


def _at_words(
    logits: Sequence[Float32Array], words: Sequence[IntArray], starts: IntArray
) -> Float32Array:
    """Move the logits of each word's first token to the student's first token of it.

    Args:
        logits: The teacher's, of each row [its tokens, K].
        words: Word of each of its tokens, -1 for others.
        starts: At the student's first token of each word its place, -1 elsewhere, [N, S].

    Returns:
        [N, S, K], NaN elsewhere and for words that the teacher did not read.
    """
    moved = np.full((*starts.shape, logits[0].shape[-1]), np.nan, dtype=np.float32)
    for row, given, theirs, mine in zip(moved, logits, words, starts, strict=True):
        numbers, first = np.unique(theirs, return_index=True)
        place = dict(zip(numbers.tolist(), first.tolist(), strict=True))
        for token in np.flatnonzero(mine >= 0):
            if (found := place.get(int(mine[token]))) is not None:
                row[token] = given[found]
    return moved


class TaughtSamples:
    """Samples with the teacher's logits, ``teacher.<head>`` [B, K], or [B, S, K] per token."""

    def __init__(
        self, samples: SampleDataset, head: str, logits: Float32Array, *, per_token: bool
    ) -> None:
        self._samples, self._key = samples, TEACHER + head
        self._logits, self._per_token = logits, per_token

    @property
    def lengths(self) -> IntArray | None:
        """Tokens of each sample, if the samples know."""
        return getattr(self._samples, "lengths", None)

    @property
    def parts(self) -> tuple[int, ...]:
        """Number of samples from each source."""
        return self._samples.parts

    def __len__(self) -> int:
        return len(self._samples)

    def collate(self, indices: IntArray, epoch: int | IntArray) -> Batch:
        """Build a batch."""
        batch = self._samples.collate(indices, epoch)
        given = self._logits[indices]
        if self._per_token:
            given = given[:, : batch["input_ids"].shape[1]]
        return batch | {self._key: torch.from_numpy(given)}
