"""A package that classifies by words without having learned to."""

from orchestrator.data.processors.example_processor import open_processor
from orchestrator.finetuning.evaluating.config import EvaluateConfig
from orchestrator.inference.models import TorchModel
from orchestrator.inference.predictor import Predictor
from orchestrator.inference.prompting import completed, fill_prompts
from orchestrator.modeling.package import load_model
from orchestrator.tasks.base import HeadOptions
from orchestrator.tasks.kinds.classification import Classification
from orchestrator.zoo import Package

HEAD = "zero_shot"


def zero_shot(package: Package, config: EvaluateConfig) -> Predictor:
    """Return a package with a head for the words of a task; the classes are the verbalizer's.

    Raises:
        InputError: The package has no masked-word head, or a word is not one token.
    """
    options = config.task
    assert options is not None
    task = Classification(options, tuple(options.verbalizer or ()), HEAD)
    target = completed(package.path, task.target(HeadOptions()))
    model = load_model(package.path, targets=[target], device=config.device)
    fill_prompts(model, package.path, [HEAD])
    return Predictor(
        TorchModel(model, config.device),
        open_processor(package.path),
        {HEAD: task},
        default=HEAD,
        ref=package.ref,
        max_length=config.max_length,
    )
