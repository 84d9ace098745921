"""The classes of transformers that can be imported and exported."""

import difflib
import re
from collections.abc import Iterable, Mapping
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pkgutil import iter_modules
from typing import get_args

from orchestrator.config.registry import ENTRY_POINT_GROUP
from orchestrator.errors import ConfigError, InputError
from orchestrator.modeling.component import Dimensions, EncoderConfig
from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.encoders.configs import DualEncoderConfig, TransformerConfig
from orchestrator.modeling.huggingface import families
from orchestrator.modeling.huggingface.architecture import Architecture, quiet
from orchestrator.modeling.huggingface.values import Values
from orchestrator.modeling.layers.block_options import BlockOptions, Projection
from orchestrator.modeling.targets.configs import TargetConfig

PLUGIN = "family."
"""Beginning of the entry points of other packages that refer to a module of a family."""


@cache
def architectures() -> Mapping[str, Architecture]:
    """Return every architecture by the name of its class.

    A family is a module with a tuple ``ARCHITECTURES``: one of ``families``, or one of another
    package, named by the entry point ``family.<name>`` of the group ``orchestrator.components``.

    Raises:
        InputError: A module of another package has no such tuple, or a class that is known already.
    """
    found: dict[str, Architecture] = {}
    for info in sorted(iter_modules(families.__path__), key=lambda info: info.name):
        module = import_module(f"{families.__name__}.{info.name}")
        for each in getattr(module, "ARCHITECTURES", ()):  # some modules only hold shared rows
            found[each.name] = each
    for plugin in entry_points(group=ENTRY_POINT_GROUP):
        if plugin.name.startswith(PLUGIN):
            found |= _added(plugin, found)
    return found


def _added(plugin: EntryPoint, known: Mapping[str, Architecture]) -> dict[str, Architecture]:
    """Return the architectures of another package."""
    added = getattr(plugin.load(), "ARCHITECTURES", ())
    named = f"Entry point {plugin.name} = {plugin.value}"
    if not added:
        raise InputError(f"{named} is not a family: the module needs a tuple ARCHITECTURES.")
    for each in added:
        if each.name in known:
            raise InputError(f"{named} defines {each.name}, which exists already. Remove one.")
    return {each.name: each for each in added}


def find_architecture(name: str) -> Architecture:
    """Return the architecture of a class name.

    Raises:
        InputError: It is not supported; the nearest one and all others are listed.
    """
    known = architectures()
    if name in known:
        return known[name]
    near = _nearest_class(name, known)
    hint = f" The nearest one is {near}." if near else ""
    raise InputError(
        f"{name!r} is not a supported architecture.{hint} Supported: {', '.join(sorted(known))}."
    )


def _family_and_head(name: str) -> tuple[str, str]:
    """Return the parts of a class name: ``Bert`` and ``ForMaskedLM``."""
    found = re.match(r"(.+?)((?:For[A-Z]|LMHeadModel|MTModel|EncoderModel|Model).*)$", name)
    return (found[1], found[2]) if found else (name, "")


def _nearest_class(name: str, known: Iterable[str]) -> str | None:
    """Return the class of the same or nearest family with the nearest head; else one of that head.

    Spelling as a whole misleads: ``WhisperForAudioClassification`` looks like
    ``BertForTokenClassification``.
    """
    family, head = _family_and_head(name)
    parts = {each: _family_and_head(each) for each in known}
    near = difflib.get_close_matches(family, {own for own, _ in parts.values()}, n=1, cutoff=0.6)
    if near:
        chosen = [each for each, (own, _) in parts.items() if own == near[0]]
        return max(chosen, key=lambda each: _likeness(parts[each][1], head))
    chosen = [each for each, (_, own) in parts.items() if own == head]
    return max(chosen, key=lambda each: _likeness(parts[each][0], family), default=None)


def _likeness(one: str, other: str) -> float:
    return difflib.SequenceMatcher(None, one, other).ratio()


def architecture_of(config: ModelConfig) -> Architecture:
    """Return the architecture that a model of ours is, if there is one.

    An architecture fits if its config, taken from ours, gives ours back. If none does, one is taken
    that differs in dropout rates only, which change no output of a trained model: many of their
    configs know fewer rates than ours.

    Raises:
        InputError: None fits; the nearest one of the same shape and what differs are named.
    """
    differences: dict[str, list[str]] = {}
    for name, candidate in architectures().items():
        again = _there_and_back(candidate, config)
        if again is None:
            continue
        differing = differing_keys(spelled_out(config), spelled_out(again))
        if not differing:
            return candidate
        if _alike(config, again):
            differences[name] = differing
    for name, differing in differences.items():
        if all(key.endswith(RATES) for key in differing):
            return architectures()[name]
    raise InputError(_no_counterpart(differences))


def fitting_head(config: ModelConfig, target: TargetConfig) -> TargetConfig:
    """Return a head in the layout that the class of transformers gives it on a model's body.

    Args:
        config: The model; its own heads are not looked at.
        target: A head of the wanted type with the wanted name, labels and dropout.

    Raises:
        InputError: No class has this body with such a head.
    """
    asked = config.with_targets((target.model_copy(update={"name": target.type_name()}),))
    inexact: TargetConfig | None = None
    for candidate in architectures().values():
        again = _there_and_back(candidate, asked)
        if again is None or [each.type_name() for each in again.target] != [target.type_name()]:
            continue
        found = again.target[0]
        differing = differing_keys(spelled_out(asked.with_targets((found,))), spelled_out(again))
        own = {key: getattr(target, key) for key in ("name", *LOSS_ONLY) if hasattr(target, key)}
        if not differing:
            return found.model_copy(update=own)
        if all(key.endswith(RATES) for key in differing):
            inexact = inexact or found.model_copy(update=own)
    if inexact is None:
        raise InputError(
            f"exportable: no class of transformers has this encoder with a head of type "
            f"{target.type_name()!r}. Set train.exportable false."
        )
    return inexact


def padding_of(config: ModelConfig) -> int:
    """Return the padding id of the class that a model has the shape of; its own if any will do.

    Tokenizers made here pad with 0. A class that reads another meaning into that id
    (``Architecture.pad_token_id``) can take the model when its tokens are renumbered.
    """
    for candidate in architectures().values():
        if candidate.pad_token_id not in (None, config.pad_token_id):
            moved = config.model_copy(update={"pad_token_id": candidate.pad_token_id})
            again = _there_and_back(candidate, moved)
            if again is not None and _alike(moved, again):
                return moved.pad_token_id
    return config.pad_token_id


def _there_and_back(candidate: Architecture, config: ModelConfig) -> ModelConfig | None:
    """Return our config of what an architecture makes of one; None: it is about something else."""
    try:
        with quiet():  # most are asked about sizes that no model of theirs has
            return returned(candidate, config)
    except (ConfigError, InputError, ArithmeticError, LookupError, TypeError, ValueError):
        return None


def _alike(one: ModelConfig, other: ModelConfig) -> bool:
    """Return whether two models read the same kind of input by the same kind of parts."""
    shapes = [
        (
            [part.type_name() for part in each.embedding.parts[:1]],
            each.encoder.type_name(),
            None if each.decoder is None else each.decoder.type_name(),
        )
        for each in (one, other)
    ]
    return shapes[0] == shapes[1]


def returned(candidate: Architecture, config: ModelConfig) -> ModelConfig:
    """Return what an architecture makes of our config, there and back.

    Raises:
        InputError: Transformers refuses its own config with our values.
    """
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig

    theirs = candidate.their_config(config)
    try:
        complete = AutoConfig.for_model(candidate.model_type, **theirs).to_dict()
    except StrictDataclassError as error:
        raise InputError(f"{candidate.name} cannot be configured so: {error}") from error
    return candidate.read(Values(complete), candidate.name)


def spelled_out(config: ModelConfig) -> dict[str, object]:
    """Return a config as plain values, with what null stands for in transformer blocks."""
    plain: dict[str, object] = config.model_dump()
    for slot in ("embedding", "target_embedding"):
        stack = getattr(config, slot)
        if stack is not None and not stack.layernorm:
            plain[slot] = stack.model_dump() | {"norm_eps": None, "norm_bias": None}
    sizes, encoder = config.dimensions, config.encoder
    plain["encoder"] = _blocks(encoder, sizes)
    if isinstance(encoder, DualEncoderConfig):
        second = _blocks(encoder.of_second, sizes.of_second)
        both = {"first": _blocks(encoder.first, sizes), "second": second}
        plain["encoder"] = encoder.model_dump() | both
    if config.decoder is not None:
        plain["decoder"] = _blocks(config.decoder, sizes)
    return plain


def _blocks(options: EncoderConfig, sizes: Dimensions) -> dict[str, object]:
    """Return the options of an encoder or decoder, with what null stands for."""
    named = options.model_dump() | {"type": options.type_name()}
    if not isinstance(options, BlockOptions):
        return named
    if isinstance(options, TransformerConfig):
        named |= _layer_patterns(options)
    head_size = options.size_of_head(sizes)
    return named | {
        "intermediate_size": options.size_of_feed_forward(sizes),
        "head_size": head_size,
        "num_kv_heads": options.num_kv_heads or options.num_heads,
        "attention_bias": [p for p in get_args(Projection) if options.has_bias(p)],
        "feed_forward_bias": _feed_forward_biases(options),
        "attention_scale": options.scale_of_attention(sizes),
    }


def _feed_forward_biases(options: BlockOptions) -> bool | list[str]:
    """Return whether all layers of the feed-forward have a bias, or which ones."""
    layers = options.feed_forward_biases()
    count = 3 if options.feed_forward == "gated" else 2
    return sorted(layers) if 0 < len(layers) < count else bool(layers)


def _layer_patterns(options: TransformerConfig) -> dict[str, object]:
    """Return which blocks have a window and rotary positions, however the options say it."""
    blocks = range(options.num_layers)
    near = [block for block in blocks if options.window_of(block) is not None]
    rotated = [block for block in blocks if options.rotary_of(block) is not None]
    both = sorted({*near} & {*rotated})
    own = options.rotary_of(both[0]) if both else None
    return {
        "window_from": 0,
        "window_layers": near,
        "rotary_layers": rotated,
        "window_rotary": None if own is None else own.model_dump(),
    }


def differing_keys(ours: object, other: object, path: str = "") -> list[str]:
    """Return the paths at which two nested values differ.

    What changes no number is left out: names of heads' weights in the loss, and the attention
    kernel.
    """
    if isinstance(ours, Mapping) and isinstance(other, Mapping):
        keys = [*ours, *(key for key in other if key not in ours)]
        return [
            found
            for key in keys
            if key not in UNIMPORTANT
            for found in differing_keys(ours.get(key), other.get(key), f"{path}.{key}".strip("."))
        ]
    if not (isinstance(ours, (list, tuple)) and isinstance(other, (list, tuple))):
        return [] if ours == other else [path]
    if len(ours) == len(other):
        pairs = enumerate(zip(ours, other, strict=True))
        return [p for i, (a, b) in pairs for p in differing_keys(a, b, f"{path}.{i}")]
    return [path]


FIRST_VALUES = ("initialization", "initializer_range", "logit_scale", "logit_bias")
LOSS_ONLY = ("weight", "tolerance", "max_scale", "label_smoothing", "class_weights")
"""Options of heads that only their loss and its figures read."""
UNIMPORTANT = ("attention", *LOSS_ONLY, *FIRST_VALUES)
"""Options that change no output of a trained model."""


RATES = ("dropout", "drop_path")
"""Endings of options that only training reads."""


def _no_counterpart(differences: Mapping[str, list[str]]) -> str:
    if not differences:
        return f"This model has no counterpart. Supported: {', '.join(sorted(architectures()))}."
    nearest = min(differences, key=lambda name: len(differences[name]))
    heads = all(key.partition(".")[0] == "target" for key in differences[nearest])
    hint = " `train.exportable: true` makes heads that have one." if heads else ""
    return (
        f"This model has no counterpart in transformers. The nearest one is {nearest}; it differs "
        f"in {', '.join(differences[nearest])}. Change these, or keep the package as it is."
        f"{hint}"
    )
