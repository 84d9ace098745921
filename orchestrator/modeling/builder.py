"""Construction of models and heads from configs, and the values of new parameters.

Norm weights are 1, biases 0, every other weight is normal with ``initializer_range``. A module that
wants something else has a method ``initialize(std)`` (recurrent and convolution encoders do) and
answers for its own parameters. A parameter that several modules share is drawn once.

Families that draw some weights more or less widely have a rule (``ModelConfig.initialization``):

    gpt2  layers whose output is added to the residual stream: divided by sqrt(number of additions)
          (Radford et al. 2019, section 2.3)
    t5    words 1, linear layers 1 / sqrt(inputs), the bias 1 / sqrt(width); queries also
          1 / sqrt(head size), for the factor that T5 leaves out of its scores (Raffel et al. 2020)
    clip  linear layers by width D and depth N: queries, keys, values and the outer layer of the
          feed-forward (2 N D)^-1/2, its inner one (2 D)^-1/2, others and the class token D^-1/2
          (Radford et al. 2021)

Legend: D width, N blocks of a stack.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from orchestrator.config import require_no_problems
from orchestrator.errors import ConfigError, Problem
from orchestrator.modeling.component import targets
from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.decoders.transformer import TransformerDecoder
from orchestrator.modeling.embeddings.patch import PatchEmbedding
from orchestrator.modeling.embeddings.tables import WordEmbedding
from orchestrator.modeling.encoders.transformer import TransformerEncoder
from orchestrator.modeling.interfaces import Target
from orchestrator.modeling.layers.attention import Attention
from orchestrator.modeling.layers.feed_forward import Experts, FeedForward
from orchestrator.modeling.layers.relative_positions import T5Bias
from orchestrator.modeling.model import Model
from orchestrator.modeling.targets.configs import TargetConfig
from orchestrator.modeling.targets.vocabulary import VocabularyLayer

NORMS = (nn.LayerNorm, nn.RMSNorm)


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


@dataclass(frozen=True, slots=True)
class Place:
    """Place of a module in the model.

    Attributes:
        std: The model's ``initializer_range``.
        blocks: Blocks of its stack, N; 1 outside of stacks.
        additions: Outputs that are added to the residual stream of its stack.
        width: Width of its stack.
    """

    std: float
    blocks: int = 1
    additions: int = 1
    width: int = 1


Rule = Callable[[nn.Module, Place], dict[str, float]]
"""A module and its place → its parameters with a standard deviation of their own."""


def initialize_model(module: nn.Module, config: ModelConfig) -> None:
    """Fill all parameters of a model, or of a head for it, as its config says."""
    initialize(module, config.initializer_range)
    if config.initialization != "normal":
        _redraw(module, RULES[config.initialization], config.initializer_range)


@torch.no_grad()
def initialize(module: nn.Module, std: float) -> None:
    """Fill all parameters below ``module`` from the global generator of torch.

    Args:
        module: A model or a part of one, not on the meta device.
        std: Standard deviation of weights.
    """
    _initialize(module, std, set())


def _initialize(module: nn.Module, std: float, done: set[int]) -> None:
    own = getattr(module, "initialize", None)
    if callable(own):
        own(std)
        done.update(id(parameter) for parameter in module.parameters())
        return
    for name, parameter in module.named_parameters(recurse=False):
        if id(parameter) in done:
            continue
        done.add(id(parameter))
        if name.endswith("bias"):
            parameter.zero_()
        elif isinstance(module, NORMS):
            parameter.fill_(1.0)
        else:
            parameter.normal_(0.0, std)
    for child in module.children():
        _initialize(child, std, done)


@torch.no_grad()
def _redraw(module: nn.Module, rule: Rule, std: float) -> None:
    done: set[int] = set()
    for part, place in _places(module, std):
        parameters = dict(part.named_parameters())
        for name, own in rule(part, place).items():
            parameter = parameters.get(name)
            if parameter is not None and id(parameter) not in done:
                done.add(id(parameter))
                parameter.normal_(0.0, own)


def _places(module: nn.Module, std: float) -> Iterator[tuple[nn.Module, Place]]:
    """Yield the modules of each stack of blocks, then embeddings and the layers of heads."""
    for stack in module.modules():
        if isinstance(stack, TransformerEncoder):
            blocks, additions = stack.config.num_layers, 2 * stack.config.num_layers
        elif isinstance(stack, TransformerDecoder):
            blocks, additions = stack.num_layers, 3 * stack.num_layers
        else:
            continue
        first = next(part for part in stack.modules() if isinstance(part, Attention))
        place = Place(std, blocks, additions, first.query.in_features)
        yield from ((part, place) for part in stack.modules())
    for part in module.modules():
        if isinstance(part, WordEmbedding | PatchEmbedding):
            yield part, Place(std)
        elif isinstance(part, Target):
            yield from ((layer, Place(std)) for layer in part.modules())


def _gpt2(module: nn.Module, place: Place) -> dict[str, float]:
    std = place.std / math.sqrt(place.additions)
    if isinstance(module, Attention):
        return {"output.weight": std}
    return {"down.weight": std, "down": std} if isinstance(module, FeedForward | Experts) else {}


def _t5(module: nn.Module, place: Place) -> dict[str, float]:
    if isinstance(module, WordEmbedding | VocabularyLayer):
        return {"weight": 1.0}
    if isinstance(module, T5Bias):
        return {"weight": place.width**-0.5}
    if isinstance(module, Attention):
        own = {name: _by_inputs(getattr(module, name)) for name in ("key", "value", "output")}
        query = _by_inputs(module.query) * module.head_size**-0.5
        return {f"{name}.weight": std for name, std in {"query": query, **own}.items()}
    if isinstance(module, Experts):
        return {"up": place.width**-0.5, "gate": place.width**-0.5} | {
            "router.weight": place.width**-0.5,
            "down": module.down.shape[-1] ** -0.5,
        }
    return {"weight": _by_inputs(module)} if isinstance(module, nn.Linear) else {}


def _clip(module: nn.Module, place: Place) -> dict[str, float]:
    inward = place.width**-0.5 * (2 * place.blocks) ** -0.5
    if isinstance(module, Attention):
        names = ("query", "key", "value")
        return {f"{name}.weight": inward for name in names} | {"output.weight": place.width**-0.5}
    if isinstance(module, FeedForward):
        inner = (2 * place.width) ** -0.5
        return {"up.weight": inner, "gate.weight": inner, "down.weight": inward}
    if isinstance(module, PatchEmbedding) and module.class_token is not None:
        return {"class_token": module.class_token.shape[-1] ** -0.5}
    if isinstance(module, nn.Linear) and not isinstance(module, VocabularyLayer):
        return {"weight": _by_inputs(module)}
    return {}


def _by_inputs(layer: nn.Linear) -> float:
    """Return 1 / sqrt(inputs) of a linear layer."""
    return 1 / math.sqrt(layer.in_features)


RULES: Mapping[str, Rule] = {"gpt2": _gpt2, "t5": _t5, "clip": _clip}
"""Rules by the names that configs use; ``normal`` needs none."""


def _require_buildable(config: ModelConfig) -> None:
    require_no_problems(config, "model")
    needs_words = config.embedding.reads_words or config.target_embedding is not None
    needs_words |= any(target.reads_words for target in config.target)
    if needs_words and not config.vocab_size:
        message = "is 0. Take it from the tokenizer: config.with_vocab(processor.vocab_size)."
        raise ConfigError("model", [Problem("vocab_size", message)])
