"""Options of TencentPretrain's flat JSON with their defaults; unused ones are passed over."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orchestrator.config import nearest
from orchestrator.errors import InputError

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
