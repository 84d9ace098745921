"""Adversarial training: steps that also learn at a worse word table.

Fast gradient method (Miyato et al. 2017, equation 5): the table is moved by r = epsilon g / ||g||,
g its gradient, and the step takes the sum of the gradients before and after the move. Projected
gradient descent (Madry et al. 2018) moves it several times by alpha g / ||g||, back onto the ball
of radius epsilon each time, and takes the last gradient. As in the implementations that
TencentPretrain uses (FGM and PGD), the table itself moves, not the vectors of each sample, and
norms are over the whole table.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import isfinite

import torch
from torch import Tensor

from orchestrator.errors import InputError
from orchestrator.modeling.model import Model
from orchestrator.training.descent import StepFunction, descend
from orchestrator.training.engines.engine import Batch, Engine, Shard, global_norm, gradient
from orchestrator.training.finetune.lesson_options import AdversarialConfig
from orchestrator.training.metrics import StepMetrics
from orchestrator.training.objective import ExtraLoss


def adversarial_step(
    config: AdversarialConfig,
    table: str,
    max_grad_norm: float | None,
    extra: Sequence[ExtraLoss] = (),
) -> StepFunction:
    """Return the step function of adversarial training.

    Args:
        config: How the table moves.
        table: Name of the word table's parameter.
        max_grad_norm: Bound of the global norm of the summed gradient; None: never clip.
        extra: More loss terms of every step, before and after the move.
    """

    def step(engine: Engine, window: Sequence[Batch], lr: float) -> StepMetrics:
        metrics = engine.forward_backward(window, extra)
        if isfinite(metrics["loss"]):  # else `descend` skips the step
            clean = [gradient(shard).clone() for shard in engine.shards()]
            with _restored(engine, table) as start:
                for _ in range(config.moves):
                    _move(engine, table, start, config)
                    engine.refresh()
                    there = engine.forward_backward(window, extra)
            for shard, before in zip(engine.shards(), clean, strict=True):
                gradient(shard).add_(before)
            metrics = StepMetrics(metrics, {"adversarial_loss": there["loss"]})
        return descend(engine, metrics, lr, max_grad_norm=max_grad_norm)

    return step


def word_table(model: Model) -> str:
    """Return the name of a model's word table, which adversarial training moves.

    Raises:
        InputError: The model reads no words, or the table is not trained.
    """
    name = f"embedding.{model.embedding.word_table}.weight"
    found = dict(model.named_parameters()).get(name)
    if found is None or not found.requires_grad:
        reason = "has no word table" if found is None else "does not train its word table"
        raise InputError(
            f"train.adversarial moves the word table, and this model {reason}. Leave adversarial "
            "out, or lora and the embedding out of freeze."
        )
    return name


@contextmanager
def _restored(engine: Engine, table: str) -> Iterator[list[Tensor]]:
    """Yield copies of the table's shards, and put them back at the end, bit by bit.

    On normal exit they are not published: the optimizer step that follows does that.
    """
    start = [shard.master.clone() for shard in _shards(engine, table)]
    try:
        yield start
    except BaseException:
        _put(engine, table, start)
        engine.refresh()
        raise
    _put(engine, table, start)


def _shards(engine: Engine, table: str) -> list[Shard]:
    return [shard for shard in engine.shards() if shard.name == table]


@torch.no_grad()
def _put(engine: Engine, table: str, values: Sequence[Tensor]) -> None:
    for shard, value in zip(_shards(engine, table), values, strict=True):
        shard.master.copy_(value)


@torch.no_grad()
def _move(engine: Engine, table: str, start: Sequence[Tensor], config: AdversarialConfig) -> None:
    """Move the table along its gradient, no further than epsilon from its start; collective."""
    shards = _shards(engine, table)
    grads = [gradient(shard).to(shard.master.dtype) for shard in shards]
    norm = float(global_norm(engine, grads))
    scale = config.stride / norm if norm > 0 and isfinite(norm) else 0.0
    moved = [
        shard.master - first + scale * grad
        for shard, first, grad in zip(shards, start, grads, strict=True)
    ]
    far = float(global_norm(engine, moved))
    factor = min(1.0, config.epsilon / far) if far > 0 else 1.0
    _put(engine, table, [first + factor * r for first, r in zip(start, moved, strict=True)])
