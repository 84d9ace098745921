"""Weights of TencentPretrain: reading them, and the tables of their names and ours.

They are safetensors, or the pickles that its own code writes. This is the only place where a pickle
of somebody else is opened, because those checkpoints have no other form. ``weights_only`` lets it
rebuild tensors and nothing else, and the package made of them holds safetensors.

Norms are called ``gamma`` and ``beta`` (their own LayerNorm), or ``weight`` and ``bias`` (torch's,
T5's and RMSNorm).
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from orchestrator.errors import InputError, IntegrityError
from orchestrator.modeling.huggingface.architecture import Row, Table, expand, linear, same, weight
from orchestrator.modeling.tencentpretrain.architecture import our_target

ENDINGS = (".safetensors", ".bin", ".pt", ".pth")
"""A number of steps may follow, as in ``model.bin-100000``."""
_STEP = re.compile(r"-\d+$")

REPEATED = (
    "*.sinusoidalpos.*",
    "*.relative_pos_emb.*",
    "encoder.freqs_cis",
    "encoder.transformer.*.freqs_cis",
)
"""Tensors that are computed here, or stored more than once there; the table names the one read."""
BIAS = "relative_attention_bias.weight"


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read all tensors of a checkpoint; files stay mapped where their format allows it.

    Raises:
        InputError: The file does not exist, or has another extension.
        IntegrityError: It is damaged, or holds anything but tensors by name.
    """
    if not path.is_file():
        raise InputError(f"{path} is not a file. Give the weights of the configuration.")
    suffix = _STEP.sub("", path.suffix)
    if suffix not in ENDINGS:
        raise InputError(f"{path}: weights end in {', '.join(ENDINGS)}.")
    try:
        content: Any = (
            load_file(str(path))
            if suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True, mmap=_is_archive(path))
        )
    except Exception as error:  # unpickling and safetensors raise many types
        reason = next(iter(str(error).splitlines()), type(error).__name__).rstrip(".")
        raise IntegrityError(
            f"{path} cannot be read as tensors alone: {reason}. Nothing in it was run."
        ) from error
    return _only_tensors(path, content)


def table(options: Mapping[str, Any], names: frozenset[str]) -> Table:
    """Return the rows of a model, layers written out.

    Args:
        options: What ``read_options`` returned.
        names: Names of their tensors, to tell which of two places holds the position bias.
    """
    shared = options["parameter_sharing"]
    rows = [*_embedding(options, "embedding", "embedding"), *_blocks(options, "encoder")]
    rows += _final(options, "encoder") + _position_bias(options, names)
    if options["factorized_embedding_parameterization"]:
        rows += linear("encoder.linear", "embedding.projection")
    if options["decoder"] is not None:
        shared_words = options["share_embedding"]
        rows += _embedding(options, "tgt_embedding", "target_embedding", words=not shared_words)
        rows += _final(options, "decoder")
    for name in options["target"]:
        rows += _target(name, options)
    written = expand(rows, 1 if shared else options["layers_num"])
    if options["decoder"] is not None:
        count = options["decoder_layers_num"] or options["layers_num"]
        written += expand(_blocks(options, "decoder"), count)
    return written


def tied_names(options: Mapping[str, Any]) -> dict[str, str]:
    """Return second names of tied tensors → the name that is read; both must hold the same."""
    word = "embedding.word.embedding.weight"
    output_side = f"tgt_{word}" if options["decoder"] is not None else word
    if options["decoder"] is not None and options["share_embedding"]:
        output_side = word
    tied: dict[str, str] = {}
    if options["decoder"] is not None and options["share_embedding"]:
        tied[f"tgt_{word}"] = word
    if options["tie_weights"]:
        tied["target.mlm.linear_2.weight"] = word
        tied["target.lm.output_layer.weight"] = output_side
    return tied


def output_is_its_own(options: Mapping[str, Any], state: Mapping[str, Tensor]) -> bool:
    """Return whether the output layer is a table of its own although the options tie it.

    Their model ties it to the table of the target side, and then puts the input side's table in the
    place of that one, which is shared. What they train has two tables that differ; a conversion of
    a checkpoint of transformers holds the same one twice.
    """
    output, words = "target.lm.output_layer.weight", "embedding.word.embedding.weight"
    if not (options["tie_weights"] and options["share_embedding"] and options["decoder"]):
        return False
    there = output in state and words in state
    return there and not torch.equal(state[output], state[words])


def in_halves(options: Mapping[str, Any], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return our tensors with queries and keys whose channels turn as halves, not as pairs.

    In their code channel 2i turns with 2i + 1 (as in LLaMA's own), here and in transformers channel
    i with i + d/2; the rows of each head are brought into that order, and scores stay the same.
    """
    if not options["rotary_position_embedding"]:
        return dict(state)
    heads = {"query": options["heads_num"]}
    heads["key"] = options["local_kv_heads_num"] or options["heads_num"]
    result = dict(state)
    for name, tensor in state.items():
        parts = name.split(".")
        if parts[-2] in heads and parts[-3] == "attention" and parts[0] == "encoder":
            pairs = tensor.reshape(heads[parts[-2]], -1, 2, *tensor.shape[1:])
            result[name] = pairs.transpose(1, 2).flatten(0, 2).contiguous()
    return result


def _is_archive(path: Path) -> bool:
    """Return whether a file has today's format, which can be mapped, not that before torch 1.6."""
    with path.open("rb") as file:
        return file.read(2) == b"PK"


def _only_tensors(path: Path, content: Any) -> dict[str, Tensor]:
    wrapped = content.get("module") if isinstance(content, Mapping) else None
    state = wrapped if isinstance(wrapped, Mapping) else content  # as DeepSpeed saves
    if not isinstance(state, Mapping) or not state:
        raise IntegrityError(f"{path} holds no tensors by name.")
    wrong = [str(name) for name, value in state.items() if not isinstance(value, Tensor)]
    if wrong:
        raise IntegrityError(f"{path} holds more than tensors: {', '.join(wrong[:5])}.")
    return {str(name).removeprefix("module."): value for name, value in state.items()}


def _norm(theirs: str, ours: str, kind: str) -> list[Row]:
    if kind in ("t5", "rms"):
        return [weight(theirs, ours)]
    if kind == "normal_torch":
        return list(linear(theirs, ours))
    return [same(f"{theirs}.gamma", f"{ours}.weight"), same(f"{theirs}.beta", f"{ours}.bias")]


def _linear(theirs: str, ours: str, bias: bool) -> list[Row]:
    return list(linear(theirs, ours)) if bias else [weight(theirs, ours)]


def _embedding(
    options: Mapping[str, Any], theirs: str, ours: str, *, words: bool = True
) -> list[Row]:
    names = [n for n in options[theirs] if n != "sinusoidalpos" and (words or n != "word")]
    rows = [weight(f"{theirs}.{name}.embedding", f"{ours}.{name}") for name in names]
    if not options["remove_embedding_layernorm"]:
        rows += _norm(f"{theirs}.layer_norm", f"{ours}.norm", "normal")
    return rows


def _blocks(options: Mapping[str, Any], side: str) -> list[Row]:
    """Return the rows of one block; ``{layer}`` stands for its number."""
    if side == "decoder":
        front = "decoder.transformer_decoder.{layer}"
    else:
        front = "encoder.transformer" + ("" if options["parameter_sharing"] else ".{layer}")
    ours = f"{side}.layers.{'0' if options['parameter_sharing'] else '{layer}'}"
    has_bias, kind = not options["remove_transformer_bias"], options["layernorm"]
    rows = _attention(f"{front}.self_attn", f"{ours}.attention", has_bias)
    rows += _norm(f"{front}.layer_norm_1", f"{ours}.norm1", kind)
    last = "layer_norm_2"
    if side == "decoder":
        rows += _attention(f"{front}.context_attn", f"{ours}.cross_attention", has_bias)
        rows += _norm(f"{front}.layer_norm_2", f"{ours}.cross_norm", kind)
        last = "layer_norm_3"
    rows += _norm(f"{front}.{last}", f"{ours}.norm2", kind)
    parts = {"linear_1": "up", "linear_2": "down"}
    if options["feed_forward"] == "gated":
        parts["linear_gate"] = "gate"
    for theirs, name in parts.items():
        rows += _linear(f"{front}.feed_forward.{theirs}", f"{ours}.feed_forward.{name}", has_bias)
    return rows


def _attention(theirs: str, ours: str, bias: bool) -> list[Row]:
    parts = [(f"linear_layers.{i}", name) for i, name in enumerate(("query", "key", "value"))]
    parts.append(("final_linear", "output"))
    return [r for t, o in parts for r in _linear(f"{theirs}.{t}", f"{ours}.{o}", bias)]


def _final(options: Mapping[str, Any], side: str) -> list[Row]:
    if options["layernorm_positioning"] == "post":
        return []
    return _norm(f"{side}.layer_norm", f"{side}.norm", _final_kind(options, side))


def _final_kind(options: Mapping[str, Any], side: str) -> str:
    """Their decoder knows T5's norm and their own LayerNorm only."""
    kind: str = options["layernorm"]
    return kind if side == "encoder" or kind == "t5" else "normal"


def _position_bias(options: Mapping[str, Any], names: frozenset[str]) -> list[Row]:
    if not options["relative_position_embedding"]:
        return []
    layered = f"encoder.transformer.0.relative_pos_emb.{BIAS}"
    encoder = layered if layered in names else f"encoder.relative_pos_emb.{BIAS}"
    rows = [same(encoder, "encoder.position_bias.weight")]
    if options["decoder"] is not None:
        rows.append(same(f"decoder.self_pos_emb.{BIAS}", "decoder.position_bias.weight"))
    return rows


def _target(name: str, options: Mapping[str, Any]) -> list[Row]:
    theirs, ours = f"target.{name}", f"targets.{our_target(name, options)}"
    tied = options["tie_weights"]
    if name == "mlm":
        rows = [
            *linear(f"{theirs}.linear_1", f"{ours}.transform_layer.dense"),
            *_norm(f"{theirs}.layer_norm", f"{ours}.transform_layer.norm", "normal"),
            same(f"{theirs}.linear_2.bias", f"{ours}.output.bias"),
        ]
        return rows if tied else [*rows, weight(f"{theirs}.linear_2", f"{ours}.output")]
    if name == "lm":
        output = f"{theirs}.output_layer"
        bias = options["has_lmtarget_bias"]
        rows = [same(f"{output}.bias", f"{ours}.output.bias")] if bias else []
        return rows if tied else [*rows, weight(output, f"{ours}.output")]
    dense, output = linear(f"{theirs}.linear_1", f"{ours}.dense"), f"{ours}.output"
    return [*dense, *linear(f"{theirs}.linear_2", output)]
