"""From a config to a model."""

import torch

from orchestrator.config import require_no_problems
from orchestrator.errors import ConfigError, Problem
from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.initialization import initialize
from orchestrator.modeling.model import Model


def build_model(config: ModelConfig) -> Model:
    """Return a new model on the CPU, with values from torch's global generator.

    Raises:
        ConfigError: The config does not fit together, or has no vocabulary size yet.
    """
    _require_buildable(config)
    model = Model(config)
    initialize(model, config.initializer_range)
    return model


def build_on_meta(config: ModelConfig) -> Model:
    """Return the model on the meta device: all shapes, no memory.

    Raises:
        ConfigError: The config does not fit together, or has no vocabulary size yet.
    """
    _require_buildable(config)
    with torch.device("meta"):
        return Model(config)


def _require_buildable(config: ModelConfig) -> None:
    require_no_problems(config, "model")
    needs_words = config.embedding.part("word") is not None or config.target_embedding is not None
    if needs_words and not config.vocab_size:
        message = "is 0. Take it from the tokenizer: config.with_vocab(processor.vocab_size)."
        raise ConfigError("model", [Problem("vocab_size", message)])
