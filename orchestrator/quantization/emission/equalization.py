"""Equalization: shift and scale of the channels of a norm's output, folded into the weights.

One range or one row scale serves all channels of an activation, so the widest channel sets the
step of all others. A norm's output x is read by GEMMs, and in post-norm blocks it is the residual
too. Instead of x the graph computes x' = (x - c) / s, and its readers undo that exactly in float:

- the norm: weight / s, bias (b - c) / s;
- each GEMM W with bias d: rows of W times s, and d + c W;
- the residual of post-norm blocks: x' s, one product, and c in the bias that is added with it.

The shift c is the middle of each channel's range. The scale s balances the half range a of the
channel and the largest weight w that reads it: s = a^t / w^(1-t), of geometric mean 1, as in
SmoothQuant (Xiao et al. 2022, equation 4); the shift is that of Outlier Suppression+ (Wei et al.
2023). Both move nothing between tokens: the outlier of one token stays one. The input of the second
feed-forward layer is left as it is, because its outliers are tokens.

Legend: D width, N outputs of a GEMM.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from orchestrator.arrays import AnyArray, FloatArray
from orchestrator.errors import InputError
from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.encoders.configs import TransformerConfig
from orchestrator.quantization.kinds import Channels, Range

STRENGTH: Final = 0.75
"""Exponent t: how much of the spread of a channel moves into the weights. On all-MiniLM-L6-v2 0.5
leaves an error of 21e-4 (row_s7) and 7.9e-4 (row_u8), 0.75 of 20.6e-4 and 5.5e-4, 0.9 no less."""
SMALLEST: Final = 1e-5
"""Smallest half range and weight, relative to the largest: silent channels are not amplified."""
RESIDUAL_SCALE: Final = "residual_scale"
"""Name beside a norm's weight of the scale s [D] by which its residual is multiplied."""
INNER_OPTIONS: Final = frozenset(
    {
        "type", "num_layers", "num_heads", "num_kv_heads", "head_size", "intermediate_size",
        "norm_position", "norm", "norm_eps", "norm_bias", "activation", "feed_forward", "bias",
        "attention_bias", "feed_forward_bias", "attention_scale", "query_key_norm",
        "attention_softcap", "window", "window_from", "window_layers", "window_rotary", "mask",
        "rotary", "rotary_layers", "attention", "dropout", "activation_dropout",
        "attention_dropout", "drop_path", "final_norm",
    }
)  # fmt: skip
"""Options of blocks in which only the projections and the residual read a norm's output. Blocks
with any other option are left as they are."""


@dataclass(frozen=True, slots=True)
class Equalizable:
    """A norm whose output may be shifted and scaled."""

    norm: str
    """Name of its module."""
    unit: str
    """A unit that reads it, whose observed input is its output."""
    readers: tuple[str, ...]
    """Linear layers that read it."""
    residual: str | None
    """Linear layer whose bias is added together with the residual; None: no residual reads it."""


def equalizable(config: ModelConfig) -> tuple[Equalizable, ...]:
    """Return the norms of a model that can be equalized, in the order of their use."""
    encoder = config.encoder
    if not isinstance(encoder, TransformerConfig) or encoder.norm_position not in ("post", "pre"):
        return ()
    plain = TransformerConfig()
    options = (name for name in type(encoder).model_fields if name not in INNER_OPTIONS)
    if encoder.norm == "rms_offset" or any(
        getattr(encoder, name) != getattr(plain, name) for name in options
    ):
        return ()
    found = _post(config, encoder) if encoder.norm_position == "post" else _pre(encoder)
    return tuple(found)


def _post(config: ModelConfig, encoder: TransformerConfig) -> Iterator[Equalizable]:
    """Yield the norms whose output is read by a sub-layer and added to what that returns."""
    own = config.embedding.size in (None, config.hidden_size)
    for index in range(encoder.num_layers):
        layer = f"encoder.layers.{index}"
        before = f"encoder.layers.{index - 1}.norm2" if index else "embedding.norm"
        if index or (config.embedding.layernorm and own):
            yield Equalizable(
                before, f"{layer}.attention.qkv", _projections(layer), f"{layer}.attention.output"
            )
        up, readers = f"{layer}.feed_forward.up", _inner(layer, encoder)
        yield Equalizable(f"{layer}.norm1", up, readers, f"{layer}.feed_forward.down")


def _pre(encoder: TransformerConfig) -> Iterator[Equalizable]:
    for index in range(encoder.num_layers):
        layer = f"encoder.layers.{index}"
        yield Equalizable(f"{layer}.norm1", f"{layer}.attention.qkv", _projections(layer), None)
        up, readers = f"{layer}.feed_forward.up", _inner(layer, encoder)
        yield Equalizable(f"{layer}.norm2", up, readers, None)


def _projections(layer: str) -> tuple[str, ...]:
    return tuple(f"{layer}.attention.{name}" for name in ("query", "key", "value"))


def _inner(layer: str, encoder: TransformerConfig) -> tuple[str, ...]:
    names = ("up", "gate") if encoder.feed_forward == "gated" else ("up",)
    return tuple(f"{layer}.feed_forward.{name}" for name in names)


def equalize(
    config: ModelConfig,
    state: Mapping[str, AnyArray],
    channels: Mapping[str, Channels],
    ranges: Mapping[str, Range],
    chosen: Iterable[str],
) -> tuple[dict[str, AnyArray], dict[str, Range]]:
    """Fold the shift and scale of norm outputs into the parameters.

    Args:
        config: The model.
        state: Its parameters.
        channels: Smallest and largest input of each unit by channel.
        ranges: Calibrated range of each unit's input.
        chosen: Names of norms.

    Returns:
        The parameters, with ``<norm>.residual_scale`` where the residual is scaled; and the ranges.
        The new ones are those of the observed channels.

    Raises:
        InputError: If a norm cannot be equalized, or was not observed.
    """
    known = {each.norm: each for each in equalizable(config)}
    state, ranges = dict(state), dict(ranges)
    for name in chosen:
        if name not in known:
            raise InputError(
                f"the plan equalizes {name!r}; this model has {', '.join(known) or 'no such norm'}"
            )
        norm = known[name]
        if norm.unit not in channels:
            raise InputError(f"{name!r} is equalized but {norm.unit} was not observed: calibrate")
        bounds = _fold(state, norm, channels[norm.unit])
        for reader in norm.readers:
            unit = norm.unit if reader.endswith((".query", ".key", ".value")) else reader
            if unit in ranges:
                ranges[unit] = bounds
    return state, ranges


def _fold(state: dict[str, AnyArray], norm: Equalizable, channels: Channels) -> Range:
    """Change the parameters around one norm; return the range of its new output."""
    low, high = (np.asarray(bound, np.float64) for bound in channels)
    shift = (low + high) / 2 if _has_biases(state, norm) else np.zeros_like(low)
    half = np.maximum(high - shift, shift - low)
    reading = [np.asarray(state[f"{reader}.weight"], np.float64) for reader in norm.readers]
    scale = _scale(half, np.max([np.abs(weight).max(axis=0) for weight in reading], axis=0))
    if f"{norm.norm}.bias" in state:
        bias = (np.asarray(state[f"{norm.norm}.bias"], np.float64) - shift) / scale
        state[f"{norm.norm}.bias"] = bias.astype(np.float32)
    weight = np.asarray(state[f"{norm.norm}.weight"], np.float64) / scale
    state[f"{norm.norm}.weight"] = weight.astype(np.float32)
    for reader, weight in zip(norm.readers, reading, strict=True):
        state[f"{reader}.weight"] = (weight * scale).astype(np.float32)
        _add(state, f"{reader}.bias", weight @ shift)
    if norm.residual is not None:
        state[f"{norm.norm}.{RESIDUAL_SCALE}"] = scale.astype(np.float32)
        _add(state, f"{norm.residual}.bias", shift)
    return float(((low - shift) / scale).min()), float(((high - shift) / scale).max())


def _has_biases(state: Mapping[str, AnyArray], norm: Equalizable) -> bool:
    """Return whether the shift has biases to go to."""
    layers = [norm.norm, *norm.readers, *([norm.residual] if norm.residual else [])]
    return all(f"{layer}.bias" in state for layer in layers)


def _scale(half: FloatArray, weight: FloatArray) -> FloatArray:
    half = np.maximum(half, SMALLEST * half.max(initial=SMALLEST))
    weight = np.maximum(weight, SMALLEST * weight.max(initial=SMALLEST))
    scale = half**STRENGTH / weight ** (1 - STRENGTH)
    return np.asarray(scale / np.exp(np.log(scale).mean()))


def _add(state: dict[str, AnyArray], name: str, values: FloatArray) -> None:
    """Add to a bias [N]; without one the values are 0."""
    if name in state:
        state[name] = (np.asarray(state[name], np.float64) + values).astype(np.float32)
