"""A model of TencentPretrain as an assembly of our components, read from its flat JSON of options.

Options have their defaults; unused ones are passed over. Deviations of its code are numbered as in
the list of its defects: LayerNorm (T1, T2), masks (T4), relative positions (T5, T6), tied output
layers of T5 (T7), ALiBi (T9), segments (T11).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from orchestrator.config import nearest
from orchestrator.errors import InputError

ACTIVATIONS = {"gelu": "gelu", "gelu_fast": "gelu_tanh", "relu": "relu", "silu": "silu"}
MASKS = {"fully_visible": "bidirectional", "causal": "causal", "causal_with_prefix": "prefix"}
HEAD_NORM_EPS = 1e-6
"""Their norms of embeddings and heads have it whatever ``layernorm_eps`` says."""
SINUSOID_OFFSET = 2
T5_DISTANCE = 128

Shapes = Mapping[str, torch.Size]

DEFAULTS: dict[str, Any] = {
    "embedding": ["word"],
    "tgt_embedding": None,
    "encoder": "transformer",
    "decoder": None,
    "target": ["mlm"],
    "emb_size": None,
    "hidden_size": None,
    "feedforward_size": None,
    "hidden_act": "gelu",
    "heads_num": None,
    "layers_num": None,
    "decoder_layers_num": None,
    "max_seq_length": 512,
    "dropout": 0.1,
    "mask": "fully_visible",
    "layernorm": "normal",
    "layernorm_eps": 1e-6,
    "layernorm_positioning": "post",
    "feed_forward": "dense",
    "attention_head_size": None,
    "local_kv_heads_num": None,
    "relative_position_embedding": False,
    "relative_attention_buckets_num": 32,
    "rotary_position_embedding": False,
    "alibi_position_embedding": False,
    "layer_number_scale": False,
    "remove_attention_scale": False,
    "remove_transformer_bias": False,
    "remove_embedding_layernorm": False,
    "parameter_sharing": False,
    "factorized_embedding_parameterization": False,
    "has_residual_attention": False,
    "has_lmtarget_bias": False,
    "tie_weights": False,
    "share_embedding": False,
    "pooling": "first",
    "labels_num": None,
    "data_processor": None,
}
"""Options that decide what the model is, with the defaults of their command line."""

TRAINING = frozenset({
    "tokenizer", "vocab_path", "spm_model_path", "merges_path", "tgt_tokenizer",
    "tgt_vocab_path", "label_smoothing", "ignore_index", "prefix_lm_loss", "batch_size",
    "seq_length", "learning_rate", "warmup", "optimizer", "scheduler", "seed", "use_mp",
    "tensor_model_parallel_size", "pipeline_model_parallel_size",
    "deepspeed_checkpoint_activations", "deepspeed_checkpoint_layers_num", "whole_word_masking",
    "span_masking", "do_lower_case",
})  # fmt: skip
"""Options of data and training; they change no tensor and are passed over."""

REQUIRED = ("hidden_size", "feedforward_size", "heads_num", "layers_num")
PARTS = ("word", "pos", "seg", "sinusoidalpos")
"""Embedding parts that text models have."""
TARGETS = ("mlm", "lm", "sp", "cls")
PAIRS = {"bert": "nsp", "albert": "sop"}
"""Our name of a sentence pair target, by the data processor that it was trained with."""
LISTS = ("embedding", "tgt_embedding", "target")


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


def is_first_t5(options: Mapping[str, Any]) -> bool:
    """Return whether a model is T5 v1.0, whose tied output layer reads scaled vectors."""
    t5 = options["layernorm"] == "t5" and options["decoder"] is not None
    return bool(t5 and options["tie_weights"] and options["relative_position_embedding"])


def read_options(path: Path) -> dict[str, Any]:
    """Read a configuration file and fill in the defaults.

    Raises:
        InputError: It cannot be read, lacks a size, or has options or parts that are not known.
    """
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}. Give the model's JSON file.") from error
    if not isinstance(raw, dict):
        raise InputError(f"{path} is not a mapping. Give the model's JSON file.")
    for key in sorted(raw.keys() - DEFAULTS.keys() - TRAINING):
        near = nearest(key, DEFAULTS)
        hint = f" Did you mean {near!r}?" if near else ""
        raise InputError(f"{path}: {key!r} is not an option of a model that is read here.{hint}")
    options = {**DEFAULTS, **{key: raw[key] for key in raw.keys() & DEFAULTS.keys()}}
    for key in REQUIRED:
        if not isinstance(options[key], int) or options[key] < 1:
            raise InputError(f"{path}: {key} is {options[key]!r}; it must be a whole number.")
    for key in LISTS:
        options[key] = _listed(options[key])
    _require_known(path, options)
    return options


def our_target(name: str, options: Mapping[str, Any]) -> str:
    """Return our name of a target; ``sp`` is nsp or sop, as the data processor says."""
    return PAIRS.get(str(options["data_processor"]), name) if name == "sp" else name


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


def _listed(value: Any) -> list[str]:
    """Return names as a list; older files write ``word_pos_seg`` and ``bert`` for mlm and sp."""
    if value is None:
        return []
    if isinstance(value, list):
        return [str(name) for name in value]
    if value == "bert":
        return ["mlm", "sp"]
    return str(value).split("_")


def _require_known(path: Path, options: Mapping[str, Any]) -> None:
    allowed: dict[str, tuple[Any, ...]] = {
        "embedding": PARTS,
        "tgt_embedding": PARTS,
        "target": TARGETS,
        "encoder": ("transformer",),
        "decoder": (None, "transformer"),
        "mask": ("fully_visible", "causal", "causal_with_prefix"),
        "layernorm": ("normal", "normal_torch", "t5", "rms"),
        "layernorm_positioning": ("post", "pre"),
        "feed_forward": ("dense", "gated"),
        "hidden_act": ("gelu", "gelu_fast", "relu", "silu"),
        "pooling": ("first", "mean", "last", "max"),
        "has_residual_attention": (False,),
    }
    for key, names in allowed.items():
        values = options[key] if key in LISTS else [options[key]]
        for value in values:
            if value not in names:
                listed = ", ".join(map(repr, names))
                raise InputError(f"{path}: {key}: {value!r} cannot be imported; can be: {listed}.")
