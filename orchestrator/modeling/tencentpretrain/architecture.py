"""A model of TencentPretrain as an assembly of our components.

Sizes that their file leaves to the tokenizer and to the command line come from the weights.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import JsonValue

from orchestrator.errors import InputError
from orchestrator.modeling.huggingface.values import JsonObject
from orchestrator.modeling.tencentpretrain.deviations import deviations_of
from orchestrator.modeling.tencentpretrain.options import Options
from orchestrator.modeling.tencentpretrain.their_targets import (
    ACTIVATIONS,
    HEAD_NORM_EPS,
    Shapes,
    heads_of,
    shape_of,
    target_of,
)

MASKS = {
    "fully_visible": "bidirectional",
    "causal": "causal",
    "causal_with_prefix": "prefix",
    "prefix": "prefix",
}
SINUSOID_OFFSET = 2
STRIDE = 2
"""Frames that each of their convolutions over sound advances."""
T5_DISTANCE = 128

WORDS = ("word.embedding.weight", "language_embedding.embedding.weight")
"""Ends of the names of word tables."""


@dataclass(frozen=True, slots=True)
class Assembly:
    """A model in our terms.

    Attributes:
        config: Our model config as plain values.
        heads: Their names of the targets that the weights hold.
        deviations: What is computed otherwise than by their code, in words.
    """

    config: JsonObject
    heads: tuple[str, ...]
    deviations: tuple[str, ...]


def assemble(options: Options, shapes: Shapes) -> Assembly:
    """Return our model config for a configuration and the shapes of its tensors.

    Args:
        options: Their options.
        shapes: Name of each tensor of theirs → shape.

    Raises:
        InputError: Parts do not fit together, or one is missing here.
    """
    heads = heads_of(options, shapes)
    streams = options.streams()
    config: JsonObject = {
        "hidden_size": (streams or (options,))[0].hidden_size,
        "vocab_size": _vocabulary(shapes),
        "initialization": "gpt2" if options.deep_init else "normal",
        "target": [target_of(name, options, shapes) for name in heads],
    }
    config |= _two_streams(options, shapes) if streams else _one_stream(options, shapes)
    return Assembly(config, heads, tuple(deviations_of(options, shapes, heads)))


def _one_stream(options: Options, shapes: Shapes) -> JsonObject:
    config: JsonObject = {
        "max_position_embeddings": _positions(options, "", shapes),
        "embedding": _embedding(options, "embedding", options.embedding, shapes),
        "encoder": _encoder(options),
    }
    if options.decoder is not None:
        if options.ties("mlm") and not options.share_embedding:
            raise InputError(
                "target: mlm on a decoder, tied to the table of the encoder's side, cannot be "
                "imported. Missing here: an output layer tied to the other side."
            )
        count = options.decoder_layers_num or options.layers_num
        config["target_embedding"] = _embedding(
            options, "tgt_embedding", options.tgt_embedding, shapes
        )
        config["decoder"] = _blocks(options) | {"num_layers": count}
        config["share_embedding"] = options.share_embedding
    return config


def _two_streams(options: Options, shapes: Shapes) -> JsonObject:
    """Return the parts of a dual model; tied streams are one."""
    first, second = options.streams()
    tie = options.tie_weights
    if tie and options.stream_0 != options.stream_1:
        raise InputError("tie_weights: the options of stream_0 and stream_1 differ. Untie them.")
    norms: list[JsonValue] = []
    stacks: list[JsonObject] = []
    for index, (name, stream) in enumerate((("first", first), ("second", second))):
        stack = _embedding(stream, f"embedding.dual.embedding_{index}", stream.embedding, shapes)
        inner, outer = stream_norms(index, shapes, tied=tie)
        norms += [name] if outer else []
        stacks.append(stack | {"layernorm": inner is not None})
    dual: JsonObject = {
        "type": "dual",
        "first": stacks[0],
        "second": None if tie else stacks[1],
        "tie": tie,
        "norms": norms,
        "norm_eps": HEAD_NORM_EPS,
    }
    sizes: JsonObject = {
        "hidden_size": second.hidden_size,
        "max_position_embeddings": _positions(second, "embedding_1.", shapes),
    }
    return {
        "max_position_embeddings": _positions(first, "embedding_0.", shapes),
        "second": None if tie else sizes,
        "embedding": {"parts": [dual], "layernorm": False, "dropout": 0.0},
        "encoder": {
            "type": "dual",
            "first": _encoder(first),
            "second": None if tie else _encoder(second),
            "tie": tie,
        },
    }


def stream_norms(
    index: int, names: Mapping[str, object], *, tied: bool
) -> tuple[str | None, str | None]:
    """Return their names of the norm inside the stack of a stream and of the one after it.

    Their models normalize each stream twice (T12); conversions write one of the two. A norm after a
    stack that both streams share is each stream's own.

    Args:
        index: The stream, 0 or 1.
        names: Names of the weights.
        tied: Whether both streams share the stack.
    """
    inside = f"embedding.dual.embedding_{index}.layer_norm"
    after = f"embedding.dual.stream_{index}_layer_norm"
    found = [name if f"{name}.gamma" in names else None for name in (inside, after)]
    if found[0] is None and not tied:
        return found[1], None
    return found[0], found[1]


def _positions(options: Options, prefix: str, shapes: Shapes) -> int:
    tables = [n for n in shapes if n.endswith("embedding.weight") and f"{prefix}pos." in n]
    return min((shapes[name][0] for name in tables), default=options.max_seq_length)


def _vocabulary(shapes: Shapes) -> int:
    """Return the rows of the word tables, or of what predicts the codes of an image."""
    sizes = {shape[0] for name, shape in shapes.items() if name.endswith(WORDS)}
    if len(sizes) > 1:
        raise InputError(
            f"the word tables have {' and '.join(map(str, sorted(sizes)))} rows. Missing here: two "
            "vocabularies in one model."
        )
    codes = shapes.get("target.mlm.linear_2.bias", (0,))[0]
    return sizes.pop() if sizes else codes


def _embedding(options: Options, theirs: str, names: tuple[str, ...], shapes: Shapes) -> JsonObject:
    together = "word_patch" in names  # whose segments say what is text and what is image
    stack: JsonObject = {
        "parts": [
            _part(name, options, theirs, shapes)
            for name in names
            if not (together and name == "seg")
        ],
        "layernorm": not options.remove_embedding_layernorm,
        "norm_eps": HEAD_NORM_EPS,
        "dropout": options.dropout,
    }
    if "speech" in names:
        longest = max(options.max_seq_length, options.max_audio_frames)
        stack["max_position_embeddings"] = longest - SINUSOID_OFFSET
    if options.factorized_embedding_parameterization and theirs == "embedding":
        stack["size"] = shape_of(shapes, "embedding.word.embedding.weight")[1]
    elif options.encoder != "transformer" and options.embedding_size != options.hidden_size:
        stack |= {"size": options.embedding_size, "projection": "none"}
    return stack


def _part(name: str, options: Options, theirs: str, shapes: Shapes) -> JsonObject:
    waves = "sinusoidalpos" in options.embedding
    if name == "word":
        return {"type": "word", "scale": waves}
    if name == "sinusoidalpos":
        sound = "speech" in options.embedding
        return {
            "type": "sinusoidalpos",
            "layout": "halves" if sound else "interleaved",
            "spacing": "tensor2tensor",
            "offset": SINUSOID_OFFSET,
            "pad_aware": True,
        }
    if name in ("patch", "masked_patch"):
        return {
            "type": name,
            "image_size": options.image_height,
            "patch_size": options.patch_size,
            "channels": options.channels_num,
            "bias": f"{theirs}.{name}.projection.bias" in shapes,
        }
    if name == "word_patch":
        inner: JsonObject = {"layernorm": False, "dropout": 0.0}
        image = _part("patch", options, f"{theirs}.word_patch.vision_embedding", shapes)
        image["bias"] = f"{theirs}.word_patch.vision_embedding.projection.bias" in shapes
        return {
            "type": "word_patch",
            "text": {"parts": [{"type": "word", "scale": waves}], **inner},
            "image": {"parts": [image], **inner},
            "modalities": "seg" in options.embedding,
        }
    return _speech(options, theirs, shapes, waves) if name == "speech" else {"type": name}


def _speech(options: Options, theirs: str, shapes: Shapes, scale: bool) -> JsonObject:
    """Return the convolutions over sound; their channels are those of the weights."""
    found = [convolution(theirs, index, shapes) for index in range(len(options.conv_kernel_sizes))]
    outputs = [shape_of(shapes, f"{name}.weight")[0] for name in found]
    if outputs[-1] != 2 * options.hidden_size:
        raise InputError(
            f"the last convolution over sound makes {outputs[-1] // 2} values for a frame, but "
            f"hidden_size is {options.hidden_size}; their code cannot add the positions either. "
            f"conv_channels must end with {2 * options.hidden_size}."
        )
    return {
        "type": "speech",
        "mel_bins": options.audio_feature_size,
        "kernels": [*options.conv_kernel_sizes],
        "strides": [STRIDE] * len(options.conv_kernel_sizes),
        "channels": outputs[0],
        "activation": "glu",
        "scale": scale,
    }


def convolution(theirs: str, index: int, names: Mapping[str, object]) -> str:
    """Return their name of a convolution over sound, which older files write without ``.0``."""
    old = f"{theirs}.speech.conv.conv_layers.{index}"
    return old if f"{old}.weight" in names else f"{old}.0"


def _encoder(options: Options) -> JsonObject:
    width = options.embedding_size if options.embedding_size != options.hidden_size else None
    if options.encoder == "transformer":
        return _blocks(options) | {
            "num_layers": options.layers_num,
            "shared_layers": options.parameter_sharing,
            "mask": MASKS[options.mask],
            "rotary": {} if options.rotary_position_embedding else None,
            "residual_attention": options.has_residual_attention,
        }
    if options.encoder == "gatedcnn":
        return {
            "type": "gatedcnn",
            "num_layers": options.layers_num,
            "kernel_size": options.kernel_size,
            "block_size": options.block_size,
            "residual_from": "first_layer",
            "input_size": width,
        }
    recurrent: JsonObject = {
        "type": options.encoder,
        "num_layers": options.layers_num,
        "dropout": options.dropout,
        "input_size": width,
    }
    one = not options.encoder.startswith("bi")
    return recurrent | ({"bidirectional": options.bidirectional} if one else {})


def _blocks(options: Options) -> JsonObject:
    """Return what blocks of encoder and decoder share."""
    bias: JsonObject | None = None
    if options.relative_position_embedding:
        buckets = options.relative_attention_buckets_num
        bias = {"type": "t5", "buckets": buckets, "max_distance": T5_DISTANCE}
    elif options.alibi_position_embedding:
        bias = {"type": "alibi"}
    return {
        "type": "transformer",
        "num_heads": options.heads_num,
        "num_kv_heads": options.local_kv_heads_num,
        "head_size": options.attention_head_size,
        "intermediate_size": options.feedforward_size,
        "norm_position": options.layernorm_positioning,
        "norm": "rms" if options.layernorm in ("t5", "rms") else "layernorm",
        "norm_eps": options.layernorm_eps,
        "activation": ACTIVATIONS[options.hidden_act],
        "feed_forward": options.feed_forward,
        "bias": not options.remove_transformer_bias,
        "attention_scale": 1.0 if options.remove_attention_scale else None,
        "position_bias": bias,
        "dropout": options.dropout,
        "attention_dropout": options.dropout,
    }
