"""Exponential moving average of the weights, stored as one more optimizer state.

As optimizer state it is cut, stored and restored like any moment, under every engine. What is
evaluated and exported are the averaged weights (:func:`averaged`); training goes on with the rest.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.optim import Optimizer

from orchestrator.training.engine import Engine

AVERAGE = "average"
"""Name of the state: a tensor like the parameter."""


def keep_average(optimizer: Optimizer, decay: float) -> None:
    """Update ``average = decay * average + (1 - decay) * weights`` after every step.

    The average begins as the weights after the first step.

    Args:
        optimizer: Its states get a tensor more.
        decay: In [0, 1); 0.999 averages about the last thousand steps.
    """

    @torch.no_grad()
    def update(stepped: Optimizer, _args: Any, _kwargs: Any) -> None:
        for group in stepped.param_groups:
            for parameter in group["params"]:
                state = stepped.state[parameter]
                if AVERAGE not in state:
                    state[AVERAGE] = parameter.detach().clone()
                else:
                    state[AVERAGE].lerp_(parameter, 1.0 - decay)

    optimizer.register_step_post_hook(update)
    optimizer.defaults[AVERAGE] = decay


def keeps_average(optimizer: Optimizer) -> bool:
    """Return whether :func:`keep_average` was called for an optimizer."""
    return AVERAGE in optimizer.defaults


@contextmanager
@torch.no_grad()
def averaged(engine: Engine) -> Iterator[None]:
    """Put the averaged weights in the place of the weights for a while; collective.

    Does nothing without an average, or before the first step.
    """
    averages = engine.optimizer_state(AVERAGE)
    ranks = engine.sum_over_ranks(torch.tensor([float(bool(averages))]))
    if not ranks.item():
        yield
        return
    saved = {shard.name: shard.master.clone() for shard in engine.shards()}
    for shard in engine.shards():
        shard.master.copy_(averages[shard.name])
    engine.refresh()
    try:
        yield
    finally:
        for shard in engine.shards():
            shard.master.copy_(saved[shard.name])
        engine.refresh()
