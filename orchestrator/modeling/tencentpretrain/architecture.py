"""A model of TencentPretrain as an assembly of our components, and the deviations of its code.

Deviations are numbered as in the list of its defects: LayerNorm (T1, T2), masks (T4), relative
positions (T5, T6), tied output layers of T5 (T7), ALiBi (T9), segments (T11).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from orchestrator.errors import InputError
from orchestrator.modeling.tencentpretrain.options import our_target

ACTIVATIONS = {"gelu": "gelu", "gelu_fast": "gelu_tanh", "relu": "relu", "silu": "silu"}
MASKS = {"fully_visible": "bidirectional", "causal": "causal", "causal_with_prefix": "prefix"}
HEAD_NORM_EPS = 1e-6
"""Their norms of embeddings and heads have it whatever ``layernorm_eps`` says."""
SINUSOID_OFFSET = 2
T5_DISTANCE = 128

Shapes = Mapping[str, torch.Size]


@dataclass(frozen=True, slots=True)
class Assembly:
    """A model in our terms.

    Attributes:
        config: Our model config as plain values.
        deviations: What is computed otherwise than by their code, in words.
    """

    config: dict[str, Any]
    deviations: tuple[str, ...]


def assemble(options: Mapping[str, Any], shapes: Shapes) -> Assembly:
    """Return our model config for a configuration and the shapes of its tensors.

    Args:
        options: What ``read_options`` returned.
        shapes: Name of each tensor of theirs → shape; sizes that their file leaves to the
            tokenizer and to the command line come from here.

    Raises:
        InputError: Parts do not fit together.
    """
    factorized = options["factorized_embedding_parameterization"]
    word = _shape(shapes, "embedding.word.embedding.weight")
    config: dict[str, Any] = {
        "hidden_size": options["hidden_size"],
        "vocab_size": word[0],
        "max_position_embeddings": _positions(options, shapes),
        "embedding": _embedding(options, "embedding"),
        "encoder": _blocks(options) | _encoder(options),
        "target": [_target(name, options, shapes) for name in options["target"]],
    }
    if factorized:
        config["embedding"]["size"] = word[1]
    if options["decoder"] is not None:
        count = options["decoder_layers_num"] or options["layers_num"]
        config["target_embedding"] = _embedding(options, "tgt_embedding")
        config["decoder"] = _blocks(options) | {"num_layers": count}
        config["share_embedding"] = bool(options["share_embedding"])
    return Assembly(config, tuple(_deviations(options, shapes)))


def _shape(shapes: Shapes, name: str) -> torch.Size:
    if name not in shapes:
        raise InputError(f"the weights hold no {name}. Are they those of this configuration?")
    return shapes[name]


def _positions(options: Mapping[str, Any], shapes: Shapes) -> int:
    tables = [n for n in shapes if n.endswith("embedding.pos.embedding.weight")]
    return min((shapes[name][0] for name in tables), default=options["max_seq_length"])


def _embedding(options: Mapping[str, Any], slot: str) -> dict[str, Any]:
    names = options[slot]
    if not names:
        raise InputError(f"{slot} is missing, but there is a decoder. Add it.")
    waves = "sinusoidalpos" in names
    special: dict[str, Any] = {
        "word": {"type": "word", "scale": waves},
        "sinusoidalpos": {
            "type": "sinusoidalpos",
            "spacing": "tensor2tensor",
            "offset": SINUSOID_OFFSET,
            "pad_aware": True,
        },
    }
    return {
        "parts": [special.get(name, name) for name in names],
        "layernorm": not options["remove_embedding_layernorm"],
        "norm_eps": HEAD_NORM_EPS,
        "dropout": options["dropout"],
    }


def _blocks(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return what blocks of encoder and decoder share."""
    bias: dict[str, Any] | None = None
    if options["relative_position_embedding"]:
        buckets = options["relative_attention_buckets_num"]
        bias = {"type": "t5", "buckets": buckets, "max_distance": T5_DISTANCE}
    elif options["alibi_position_embedding"]:
        bias = {"type": "alibi"}
    return {
        "type": "transformer",
        "num_heads": options["heads_num"],
        "num_kv_heads": options["local_kv_heads_num"],
        "head_size": options["attention_head_size"],
        "intermediate_size": options["feedforward_size"],
        "norm_position": options["layernorm_positioning"],
        "norm": "rms" if options["layernorm"] in ("t5", "rms") else "layernorm",
        "norm_eps": options["layernorm_eps"],
        "activation": ACTIVATIONS[options["hidden_act"]],
        "feed_forward": options["feed_forward"],
        "bias": not options["remove_transformer_bias"],
        "attention_scale": 1.0 if options["remove_attention_scale"] else None,
        "position_bias": bias,
        "dropout": options["dropout"],
        "attention_dropout": options["dropout"],
    }


def _encoder(options: Mapping[str, Any]) -> dict[str, Any]:
    rotary: dict[str, Any] | None = {} if options["rotary_position_embedding"] else None
    return {
        "num_layers": options["layers_num"],
        "shared_layers": bool(options["parameter_sharing"]),
        "mask": MASKS[options["mask"]],
        "rotary": rotary,
    }


def _target(name: str, options: Mapping[str, Any], shapes: Shapes) -> dict[str, Any]:
    tie = bool(options["tie_weights"])
    if name == "mlm":
        act = ACTIVATIONS[options["hidden_act"]]
        return {"type": "mlm", "activation": act, "norm_eps": HEAD_NORM_EPS, "tie": tie}
    if name == "lm":
        bias = bool(options["has_lmtarget_bias"])
        return {"type": "lm", "bias": bias, "tie": tie, "scale": is_first_t5(options)}
    if name == "cls":
        labels = _shape(shapes, "target.cls.linear_2.weight")[0]
        pooling = options["pooling"]
        return {"type": "cls", "num_labels": labels, "pooling": pooling, "hidden": True}
    return {"type": our_target(name, options)}


def is_first_t5(options: Mapping[str, Any]) -> bool:
    """Return whether a model is T5 v1.0, whose tied output layer reads scaled vectors."""
    t5 = options["layernorm"] == "t5" and options["decoder"] is not None
    return bool(t5 and options["tie_weights"] and options["relative_position_embedding"])


def _deviations(options: Mapping[str, Any], shapes: Shapes) -> list[str]:
    """Say what is computed otherwise than by their code."""
    masks = "attention masks leave positions out, theirs subtract 10000 from their scores (T4)"
    found = [masks]
    normal = options["layernorm"] == "normal" or not options["remove_embedding_layernorm"]
    if normal or "mlm" in options["target"]:
        found.append(
            "LayerNorm divides by the root of (variance + eps), theirs by (unbiased standard "
            "deviation + eps): about 1 part in 2 * hidden_size (T1)"
        )
    if is_first_t5(options):
        found.append("the tied output layer reads vectors divided by sqrt(hidden_size) (T7)")
    if options["relative_position_embedding"] and not options["remove_attention_scale"]:
        found.append("the relative position bias is not divided by sqrt(head size) (T5)")
    layered = any("relative_pos_emb" in n and n.startswith("encoder.transformer") for n in shapes)
    if layered:
        found.append(
            "the encoder's position bias is the one that its layers used; the second one beside "
            "them, which their converters write and nothing reads, is left out (T6)"
        )
    if options["alibi_position_embedding"]:
        found.append("ALiBi acts on attention; their code declares it and ignores it (T9)")
    if options["layer_number_scale"]:
        found.append("layer_number_scale changes nothing, as in their code (T9)")
    if "seg" in [*options["embedding"], *options["tgt_embedding"]]:
        found.append("row 0 of the segment table, theirs for padding, is left out (T11)")
    return found
