"""Blocks with a window in configs that name the type of each block (``layer_types``)."""

from orchestrator.errors import InputError
from orchestrator.modeling.encoders.configs import TransformerConfig
from orchestrator.modeling.huggingface.values import JsonObject, Values

FULL, SLIDING = "full_attention", "sliding_attention"


def window_options(theirs: Values) -> dict[str, object]:
    """Return our options of the encoder: the window, and which blocks have it.

    Raises:
        InputError: A block is of another type.
    """
    types = theirs.texts("layer_types")
    if unknown := sorted({*types} - {FULL, SLIDING}):
        raise InputError(f"layer_types: {unknown} is not supported; {FULL} and {SLIDING} are.")
    blocks = tuple(block for block, name in enumerate(types) if name == SLIDING)
    if not blocks:
        return {}
    window, first = theirs.integer("sliding_window"), blocks[0]
    if blocks == tuple(range(first, len(types))):
        return {"window": window, "window_from": first}
    return {"window": window, "window_layers": blocks}


def their_layer_types(encoder: TransformerConfig) -> JsonObject:
    """Return ``layer_types``."""
    windows = [encoder.window_of(block) for block in range(encoder.num_layers)]
    return {"layer_types": [FULL if window is None else SLIDING for window in windows]}


def their_windows(encoder: TransformerConfig) -> JsonObject:
    """Return their window, and which blocks have it, for configs that can switch it off."""
    if encoder.window is None:
        return {"use_sliding_window": False}
    values: JsonObject = {"use_sliding_window": True, "sliding_window": encoder.window}
    return values | their_layer_types(encoder)
