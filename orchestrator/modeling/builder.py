"""Construction of models and heads from configs."""

import torch

from orchestrator.config import require_no_problems
from orchestrator.errors import ConfigError, Problem
from orchestrator.modeling.component import targets
from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.initialization import initialize_model
from orchestrator.modeling.interfaces import Target
from orchestrator.modeling.model import Model
from orchestrator.modeling.targets.configs import TargetConfig


def build_model(config: ModelConfig) -> Model:
    """Return a new model on the CPU, with values from torch's global generator.

    Raises:
        ConfigError: The config does not fit together, or has no vocabulary size yet.
    """
    _require_buildable(config)
    model = Model(config)
    initialize_model(model, config)
    return model


def build_on_meta(config: ModelConfig) -> Model:
    """Return the model on the meta device: all shapes, no memory.

    Raises:
        ConfigError: The config does not fit together, or has no vocabulary size yet.
    """
    _require_buildable(config)
    with torch.device("meta"):
        return Model(config)


def build_target(target: TargetConfig, config: ModelConfig) -> Target:
    """Return a new head on the CPU for a model of ``config``; ties are made by the model."""
    component = targets.component_class(target.type_name())
    head: Target = component(target, config.dimensions)
    initialize_model(head, config)
    return head


def _require_buildable(config: ModelConfig) -> None:
    require_no_problems(config, "model")
    needs_words = config.embedding.reads_words or config.target_embedding is not None
    needs_words |= any(target.reads_words for target in config.target)
    if needs_words and not config.vocab_size:
        message = "is 0. Take it from the tokenizer: config.with_vocab(processor.vocab_size)."
        raise ConfigError("model", [Problem("vocab_size", message)])
