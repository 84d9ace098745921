"""Targets of TencentPretrain as ours; the weights say which are there, and their sizes."""

from collections.abc import Mapping

import torch
from pydantic import JsonValue

from orchestrator.errors import InputError
from orchestrator.modeling.huggingface.values import JsonObject
from orchestrator.modeling.tencentpretrain.options import Options

ACTIVATIONS = {"gelu": "gelu", "gelu_fast": "gelu_tanh", "relu": "relu", "silu": "silu"}
HEAD_NORM_EPS = 1e-6
"""Their norms of embeddings and heads have it whatever ``layernorm_eps`` says."""
PAIRS = {"bert": "nsp", "albert": "sop", "vilt": "itm"}
"""Our name of a sentence pair target, by the data processor that it was trained with."""
FEATURES = ["first", "second", "difference", "product"]
"""Vectors that their classifier of two streams reads."""


Shapes = Mapping[str, torch.Size]


def our_target(name: str, options: Options) -> str:
    """Return our name of a target; ``sp`` is nsp, sop or itm, as the data processor says."""
    return PAIRS.get(str(options.data_processor), name) if name == "sp" else name


def heads_of(options: Options, shapes: Shapes) -> tuple[str, ...]:
    """Return the targets that the weights hold; a tied output layer need not be there."""
    if any(name.startswith("target.") for name in shapes):
        return options.target
    if "lm" in options.target and options.tie_weights:
        return options.target
    return ("siamese",) if options.encoder == "dual" and "classifier.weight" in shapes else ()


def shape_of(shapes: Shapes, name: str) -> torch.Size:
    """Return the shape of a tensor.

    Raises:
        InputError: The weights do not hold it.
    """
    if name not in shapes:
        raise InputError(f"the weights hold no {name}. Are they those of this configuration?")
    return shapes[name]


def target_of(name: str, options: Options, shapes: Shapes) -> JsonObject:
    """Return our config of a target that the weights hold.

    Raises:
        InputError: A tensor that says a size is missing.
    """
    tie, pooling = options.ties(name), options.pooling
    if name == "clr":
        return _contrast(options, shapes)
    if name == "cls":
        labels = shape_of(shapes, "target.cls.linear_2.weight")[0]
        return {"type": "cls", "num_labels": labels, "pooling": pooling, "hidden": True}
    if name == "siamese":
        labels = shape_of(shapes, "classifier.weight")[0]
        features: list[JsonValue] = [*FEATURES]
        return {"type": name, "num_labels": labels, "pooling": pooling, "features": features}
    bias = options.has_lmtarget_bias
    act = ACTIVATIONS[options.hidden_act]
    vocabulary: dict[str, JsonObject] = {
        "mlm": {"type": "mlm", "activation": act, "norm_eps": HEAD_NORM_EPS, "tie": tie},
        "lm": {"type": "lm", "bias": bias, "tie": tie, "scale": options.is_first_t5},
        "bilm": {"type": "bilm", "bias": bias},
    }
    return vocabulary.get(name, {"type": our_target(name, options)})


def _contrast(options: Options, shapes: Shapes) -> JsonObject:
    heads: list[JsonObject] = [
        {"pooling": stream.pooling, "projection": options.projection}
        for stream in options.streams()
    ]
    projection = "target.clr.encoder_0_projection"
    size = shape_of(shapes, projection)[1] if options.projection else None
    return {"type": "clr", "first": heads[0], "second": heads[1], "projection_size": size}
