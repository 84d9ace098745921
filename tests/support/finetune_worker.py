"""A worker group that fine-tunes several jobs one after the other: a group is slow to start."""

import math
from pathlib import Path

import torch

from orchestrator.errors import OrchestratorError
from orchestrator.finetuning.state import FinetuneJob
from orchestrator.finetuning.worker import finetune
from tests.support.state import AnyState

GROUP = "tests.support.finetune_worker:finetune_all"


def finetune_all(ctx, payload):
    """Run the stage's own worker on each job; return its summary, or its error, by name."""
    found = {}
    for name, dumped in payload.jobs.items():
        job = FinetuneJob.model_validate(dumped)
        context = ctx.within(Path(job.run_dir))
        try:
            if name.startswith("poisoned"):
                with poisoned(context.rank == context.world - 1):
                    result = finetune(context, job).result
            else:
                result = finetune(context, job).result
            found[name] = result.model_dump()
        except OrchestratorError as error:
            found[name] = {"error": type(error).__name__, "message": str(error)}
    return AnyState(found=found)


class poisoned:
    """Make losses of training NaN on one rank, while it is entered."""

    def __init__(self, active):
        self.active = active

    def __enter__(self):
        import orchestrator.training.finetune.finetuner as module

        self.module, self.first = module, module.first_model

        def first_model(*args):
            model, values = self.first(*args)
            if self.active:
                model.register_forward_hook(self.poison)
            return model, values

        module.first_model = first_model

    def __exit__(self, *_):
        self.module.first_model = self.first

    @staticmethod
    def poison(module, _inputs, outputs):
        if not (module.training and torch.is_grad_enabled()):
            return outputs
        return {k: v * math.nan if k.startswith("loss.") else v for k, v in outputs.items()}
