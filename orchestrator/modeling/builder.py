"""Construction of models and heads from configs, and the values of new parameters.

Norm weights are 1, biases 0, every other weight is normal with ``initializer_range``. A module that
wants something else has a method ``first_values(std)`` (recurrent and convolution encoders do) that
returns the draw of each of its parameters by name. A parameter that several modules share is drawn
once, under its first name. The values themselves come from ``initialization``.

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
from orchestrator.errors import ConfigError, Problem, StageError
from orchestrator.modeling.component import targets
from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.decoders.transformer import TransformerDecoder
from orchestrator.modeling.embeddings.patch import PatchEmbedding
from orchestrator.modeling.embeddings.tables import WordEmbedding
from orchestrator.modeling.encoders.transformer import TransformerEncoder
from orchestrator.modeling.initialization import (
    Constant,
    Draw,
    Draws,
    FirstValues,
    Normal,
    fill_all,
    first_seed,
    parameters_on_meta,
)
from orchestrator.modeling.interfaces import Target
from orchestrator.modeling.layers.attention import Attention
from orchestrator.modeling.layers.feed_forward import Experts, FeedForward
from orchestrator.modeling.layers.relative_positions import T5Bias
from orchestrator.modeling.model import Model
from orchestrator.modeling.targets.configs import TargetConfig
from orchestrator.modeling.targets.vocabulary import VocabularyLayer

NORMS = (nn.LayerNorm, nn.RMSNorm)


def build_model(config: ModelConfig, seed: int | None = None) -> Model:
    """Return a new model on the CPU.

    Args:
        config: The model.
        seed: Decides the values of parameters; None: from torch's global generator.

    Raises:
        ConfigError: The config does not fit together, or has no vocabulary size yet.
    """
    model = build_on_meta(config)
    _initialize(model, config, seed)
    return model


def build_on_meta(config: ModelConfig) -> Model:
    """Return the model with parameters on the meta device: all shapes, no memory.

    Raises:
        ConfigError: The config does not fit together, or has no vocabulary size yet.
    """
    _require_buildable(config)
    with parameters_on_meta():
        return Model(config)


def build_target(target: TargetConfig, config: ModelConfig) -> Target:
    """Return a new head on the CPU for a model of ``config``; ties are made by the model.

    Its values come from torch's global generator.
    """
    component = targets.component_class(target.type_name())
    with parameters_on_meta():
        head: Target = component(target, config.dimensions)
    _initialize(head, config, None)
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


def first_values(module: nn.Module, config: ModelConfig, seed: int) -> FirstValues:
    """Return the first values of a model, or of a head for it, as its config says.

    Args:
        module: May be on the meta device.
        config: The model's.
        seed: Below 2^63.

    Raises:
        StageError: A module does not say how its parameters begin.
    """
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    std, draws = config.initializer_range, dict(_usual_draws(module, config.initializer_range))
    if config.initialization != "normal":
        redrawn: set[str] = set()
        for part, place in _places(module, std):
            parameters = dict(part.named_parameters())
            for key, own in RULES[config.initialization](part, place).items():
                name = names[id(parameters[key])] if key in parameters else None
                if name is not None and name not in redrawn:
                    redrawn.add(name)
                    draws[name] = Normal(own)
    return FirstValues(module, draws, seed)


def _initialize(module: nn.Module, config: ModelConfig, seed: int | None) -> None:
    values = first_values(module, config, first_seed() if seed is None else seed)
    fill_all(module, values, torch.device("cpu"))


def _usual_draws(module: nn.Module, std: float) -> Iterator[tuple[str, Draw]]:
    """Yield the first name of every parameter below a module with its draw; no rule applied."""
    seen: set[int] = set()

    def below(part: nn.Module, prefix: str) -> Iterator[tuple[str, Draw]]:
        own = getattr(part, "first_values", None)
        given: Draws | None = own(std) if callable(own) else None
        for key, parameter in part.named_parameters(recurse=given is not None):
            if id(parameter) in seen:
                continue
            seen.add(id(parameter))
            if given is not None:
                if key not in given:
                    raise StageError(f"{type(part).__name__}.first_values says nothing of {key!r}")
                yield prefix + key, given[key]
            elif key.endswith("bias"):
                yield prefix + key, Constant(0.0)
            else:
                yield prefix + key, Constant(1.0) if isinstance(part, NORMS) else Normal(std)
        for key, child in part.named_children() if given is None else ():
            yield from below(child, f"{prefix}{key}.")

    yield from below(module, "")


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
