"""Baselines: loss and accuracy of guessing without looking at the inputs."""

from typing import Any

import numpy as np
import numpy.typing as npt

from orchestrator.data.rows.guesses import Guess, guess_classes, guess_flags, guess_numbers
from orchestrator.data.samples.base import SampleDataset
from orchestrator.modeling.targets.answer_configs import MultilabelConfig, RegressionConfig
from orchestrator.modeling.targets.configs import TargetConfig
from orchestrator.modeling.targets.stream_configs import ClrConfig
from orchestrator.pretraining.config import PretrainConfig

Labels = npt.NDArray[Any]
SAMPLES_AT_ONCE = 64


def baselines(
    config: PretrainConfig, train: SampleDataset, held_out: SampleDataset, most: int
) -> dict[str, float]:
    """Return what guessing by frequency reaches: the loss and accuracy of each target.

    Labels of the first ``most`` samples of each are counted; see ``data/guesses.py``.

    Returns:
        ``loss.<target>`` and ``accuracy.<target>``.
    """
    seen, asked = _labels(train, most), _labels(held_out, most)
    figures: dict[str, float] = {}
    for target in config.model.target:
        name = target.name
        if name in seen:
            loss, accuracy = _guess(target, seen[name], asked[name])
            figures |= {f"loss.{name}": loss, f"accuracy.{name}": accuracy}
    return figures


def _guess(target: TargetConfig, seen: list[Labels], asked: list[Labels]) -> Guess:
    """Guess the labels of a target, given those of each batch."""
    if isinstance(target, MultilabelConfig):
        return guess_flags(np.concatenate(seen), np.concatenate(asked))
    if isinstance(target, RegressionConfig):
        return guess_numbers(np.concatenate(seen), np.concatenate(asked), target.tolerance)
    before, after = (np.concatenate([part[part >= 0] for part in parts]) for parts in (seen, asked))
    return guess_classes(before, after)


def pair_baselines(config: PretrainConfig, rows: int, workers: int) -> dict[str, float]:
    """Return what guessing reaches where each row's partner is to be found in its own batch.

    Softmax: the logarithm of the batch. Sigmoid: yes with the share of the right answers.

    Args:
        config: The job; says how rows are measured in batches.
        rows: Measured rows.
        workers: Ranks that share them.

    Returns:
        ``loss.<target>`` and ``accuracy.<target>`` of each contrastive target.
    """
    group = config.train.eval_batch_size * workers
    groups = (min(group, rows - start) for start in range(0, rows, group))
    batches = [len(part) for size in groups for part in np.array_split(np.arange(size), workers)]
    sizes = np.asarray([size for size in batches if size], dtype=np.float64)
    others = np.where(sizes > 1, (sizes - 1) * np.log(sizes / np.maximum(sizes - 1, 1)), 0.0)
    figures: dict[str, float] = {}
    for target in config.model.target:
        if isinstance(target, ClrConfig):
            losses = np.log(sizes) + (others if target.loss == "sigmoid" else 0.0)
            figures[f"loss.{target.name}"] = float((sizes * losses).sum() / rows)
            figures[f"accuracy.{target.name}"] = len(sizes) / rows
    return figures


def _labels(samples: SampleDataset, most: int) -> dict[str, list[Labels]]:
    """Return the labels of each target, batch by batch."""
    found: dict[str, list[Labels]] = {}
    for start in range(0, min(most, len(samples)), SAMPLES_AT_ONCE):
        stop = min(start + SAMPLES_AT_ONCE, most, len(samples))
        for key, value in samples.collate(np.arange(start, stop), 0).items():
            if key.startswith("labels."):
                found.setdefault(key.removeprefix("labels."), []).append(value.numpy())
    return found
