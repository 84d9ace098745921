"""A pre-training worker with poisoned data on one rank: what comes of it is everybody's matter."""

import math

import torch

import orchestrator.pretraining.worker as stage
from orchestrator.data.steps import StepSource

WORKER = "tests.support.poisoned:pretrain_all"
POISON = {2: math.nan, 5: math.inf, 6: -math.inf, 9: 1e15}
"""Step of the source -> factor of the last rank's loss sums. Two in a row lead to a roll-back."""


def pretrain_all(context, payload):
    """Run the stage's own worker function; the losses of some samples are not numbers."""
    step = {"now": 0}
    window, build = StepSource.window, stage.first_model

    def reading(source, number, rank=0, world=1):
        step["now"] = number
        return window(source, number, rank, world)

    def building(inputs, start, found):
        model, values = build(inputs, start, found)
        model.register_forward_hook(poison)
        return model, values

    def poison(module, _inputs, outputs):
        if not (module.training and torch.is_grad_enabled() and context.rank == context.world - 1):
            return outputs
        factor = POISON.get(step["now"], 1.0)
        return {k: v * factor if k.startswith("loss.") else v for k, v in outputs.items()}

    StepSource.window, stage.first_model = reading, building
    try:
        return stage.pretrain_all(context, payload)
    finally:
        StepSource.window, stage.first_model = window, build
