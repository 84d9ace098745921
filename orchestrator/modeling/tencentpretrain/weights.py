"""Weights of TencentPretrain: reading them, and bringing them into one form.

They are safetensors, or the pickles that its own code writes. This is the only place where a pickle
of somebody else is opened, because those checkpoints have no other form. ``weights_only`` lets it
rebuild tensors and nothing else, and the package made of them holds safetensors.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from orchestrator.errors import InputError, IntegrityError
from orchestrator.modeling.tencentpretrain.options import Options
from orchestrator.modeling.tencentpretrain.tensor_names import GATED

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
SEGMENTS = "seg.embedding.weight"
PARAMETERS = ("weight", "bias")


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


def canonical(options: Options, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors with one name and form for each thing.

    Segment tables begin with segment A, as everywhere else. The stacks of two streams stand below
    ``embedding.dual``, which the conversion of SBERT leaves out. A gated convolution is one with
    its gate, and its two biases are added.

    Raises:
        IntegrityError: Tensors of a gated convolution are missing.
    """
    found = {
        re.sub(r"^embedding\.(embedding_[01]\.)", r"embedding.dual.\1", name): (
            tensor[1:] if name.endswith(SEGMENTS) else tensor
        )
        for name, tensor in state.items()
    }
    streams = options.streams()
    places = [(f"encoder.encoder_{i}", each) for i, each in enumerate(streams)]
    for place, each in places or [("encoder", options)]:
        if each.encoder == "gatedcnn":
            _join_gates(found, place, each.layers_num)
    return found


def _join_gates(state: dict[str, Tensor], place: str, layers: int) -> None:
    """Put joined convolutions [2 D, C, K] in the place of values and gates.

    The first one of theirs is [D, 1, K, C], the others are [D, C, K, 1]; each has a bias and a
    second one of [1, D, 1, 1].
    """
    for layer in range(layers):
        end, added = (f".{layer - 1}", f"_b.{layer - 1}") if layer else ("_1", "_b1")
        names = [f"{place}.{part}{end}.{kind}" for part in ("conv", "gate") for kind in PARAMETERS]
        names += [f"{place}.{part}{added}" for part in ("conv", "gate")]
        missing = [name for name in names if name not in state]
        if missing:
            raise IntegrityError(f"missing: {', '.join(missing)}. Are they of this configuration?")
        values, bias, gates, gate_bias, second, gate_second = (state.pop(name) for name in names)
        weight = torch.cat([values, gates])
        weight = weight.flatten(2) if layer else weight.squeeze(1).transpose(1, 2)
        state[f"{place}.{GATED}.{layer}.weight"] = weight.contiguous()
        biases = torch.cat([bias + second.flatten(), gate_bias + gate_second.flatten()])
        state[f"{place}.{GATED}.{layer}.bias"] = biases


def output_is_its_own(options: Options, state: Mapping[str, Tensor]) -> bool:
    """Return whether the output layer is a table of its own although the options tie it.

    Their model ties it to the table of the target side, and then puts the input side's table in the
    place of that one, which is shared. What they train has two tables that differ; a conversion of
    a checkpoint of transformers holds the same one twice.
    """
    output, words = "target.lm.output_layer.weight", "embedding.word.embedding.weight"
    if not (options.ties("lm") and options.share_embedding and options.decoder):
        return False
    there = output in state and words in state
    return there and not torch.equal(state[output], state[words])


def in_halves(options: Options, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return our tensors with queries and keys whose channels turn as halves, not as pairs.

    In their code channel 2i turns with 2i + 1 (as in LLaMA's own), here and in transformers channel
    i with i + d/2; the rows of each head are brought into that order, and scores stay the same.
    """
    result = dict(state)
    names = [f"encoder.{name}." for name in ("first", "second")]
    streams = dict(zip(names, options.streams(), strict=False)) or {"encoder.": options}
    for prefix, each in streams.items():
        heads = {"query": each.heads_num, "key": each.local_kv_heads_num or each.heads_num}
        for name, tensor in state.items() if each.rotary_position_embedding else ():
            parts = name.split(".")
            if name.startswith(prefix) and parts[-2] in heads and parts[-3] == "attention":
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
