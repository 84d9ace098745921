"""Low-rank adapters in the format of the library ``peft``, written and read by tables of names.

A tensor of theirs may hold several layers of ours (GPT-2's query, key and value). Its adapter is
then block-wise: the A of all parts stand below one another, and each part of B reads its own.

Legend: I and O inputs and outputs of a linear layer, r rank, R rank of a tensor of theirs.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from orchestrator.errors import InputError, IntegrityError
from orchestrator.modeling.config import LoraConfig
from orchestrator.modeling.huggingface.architecture import Row
from orchestrator.modeling.huggingface.classes import architecture_of, find_architecture
from orchestrator.modeling.huggingface.exporting import named_after_types
from orchestrator.modeling.lora import LoraLinear, adapt, adapted
from orchestrator.modeling.model import Model

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
FRONT = "base_model.model."
"""In front of every name in their files."""
WEIGHT = ".weight"
UNSUPPORTED = {
    "bias": "none",
    "use_dora": False,
    "lora_bias": False,
    "layer_replication": None,
    "use_qalora": False,
    "use_bdlora": None,
    "alora_invocation_tokens": None,
    "arrow_config": None,
    "kasa_config": None,
    "monteclora_config": None,
    "target_parameters": None,
    "trainable_token_indices": None,
    "ensure_weight_tying": False,
}
"""Options of theirs that change the model, and the value they must have."""
PLAIN_STARTS = (True, False, "gaussian", "eva", "orthogonal")
"""Values of ``init_lora_weights`` that leave the base as it is. The others (pissa, olora, corda,
loftq, ...) subtract the first product from the base, whenever peft opens the adapter."""
ENDINGS = (".lora_A.weight", ".lora_B.weight")


class _Names:
    """Names of layers and parameters: ours to theirs, and back.

    Args:
        model: Ours.
        name: Their class; None: one that the model is equal to.
    """

    def __init__(self, model: Model, name: str | None = None) -> None:
        config, rename = named_after_types(model.config)
        self.architecture = architecture_of(config) if name is None else find_architecture(name)
        self.rows = self.architecture.table(config)
        self.own = {rename(name): name for name, _ in model.named_parameters()}
        self.by_ours = {name: row for row in self.rows for name in row.ours}
        self.by_theirs = {row.theirs[0]: row for row in self.rows if len(row.theirs) == 1}
        self.rename: Callable[[str], str] = rename

    def layers(self, row: Row) -> list[str]:
        """Return our layers whose weights a tensor of theirs holds."""
        return [self.own[name].removesuffix(WEIGHT) for name in row.ours]


def write_adapter(
    folder: Path,
    model: Model,
    config: LoraConfig,
    base: str | None = None,
    name: str | None = None,
) -> None:
    """Write what was trained as ``adapter_config.json`` and ``adapter_model.safetensors``.

    Args:
        folder: An existing folder.
        model: A model adapted by ``add_lora``.
        config: How it was adapted.
        base: Name or folder of the model that the adapters belong to, for their config.
        name: Class that the model was imported as, whose names are written; None: one that it is
            equal to (a Phi-3 may be equal to a LLaMA, but its fused tensors have other names).

    Raises:
        InputError: The model has no adapters, no counterpart in transformers, or parts of a tensor
            of theirs were trained.
    """
    names = _Names(model, name)
    layers = dict(adapted(model))
    if not layers:
        raise InputError("the model has no adapters. Call add_lora first.")
    rows = {names.by_ours[names.rename(f"{n}{WEIGHT}")].theirs[0]: n for n in layers}
    tensors: dict[str, Tensor] = {}
    ranks: dict[str, int] = {}
    for theirs in rows:
        row = names.by_theirs[theirs]
        module = theirs.removesuffix(WEIGHT)
        a, b = _joined(row, [layers.get(n) for n in names.layers(row)], model, names)
        tensors[f"{FRONT}{module}.lora_A.weight"] = a
        tensors[f"{FRONT}{module}.lora_B.weight"] = b
        ranks[module] = len(a)
    trained = _trained_tensors(model, names)
    tensors |= {FRONT + name: tensor for name, tensor in trained.items()}
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    values = _their_config(config, ranks, sorted({n.rpartition(".")[0] for n in trained}), base)
    values["fan_in_fan_out"] = any(names.by_theirs[theirs].transposed for theirs in rows)
    (folder / CONFIG).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def _joined(
    row: Row, parts: list[LoraLinear | None], model: Model, names: _Names
) -> tuple[Tensor, Tensor]:
    """Return A [R, I] and B [O, R] of a tensor of theirs from those of ours."""
    adapters = [part for part in parts if part is not None]
    a = torch.cat([part.lora_a.detach() for part in adapters])
    blocks: dict[str, Tensor] = {}
    begin = 0
    for name, part in zip(row.ours, parts, strict=True):
        outputs = model.get_parameter(names.own[name]).shape[0]
        block = a.new_zeros(outputs, len(a))
        if part is not None:
            rank = part.lora_b.shape[1]
            block[:, begin : begin + rank] = part.lora_b.detach()
            begin += rank
        blocks[name] = block
    (b,) = replace(row, transposed=False).to_theirs(blocks.__getitem__).values()
    return a.clone(), b.contiguous().clone()


def _trained_tensors(model: Model, names: _Names) -> dict[str, Tensor]:
    """Return the other tensors that were trained, under their names."""
    trained = {
        names.rename(name): parameter.detach()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and ".lora_" not in name
    }
    result: dict[str, Tensor] = {}
    for row in names.rows:
        ours = [name for name in row.ours if name in trained]
        if ours and len(ours) < len(row.ours):
            raise InputError(f"{row.theirs[0]} was trained in part: {', '.join(ours)}.")
        if ours:
            found = row.to_theirs(trained.__getitem__)
            result |= {name: tensor.contiguous().clone() for name, tensor in found.items()}
    return result


def _their_config(
    config: LoraConfig, ranks: Mapping[str, int], saved: list[str], base: str | None
) -> dict[str, Any]:
    other = {module: rank for module, rank in ranks.items() if rank != config.rank}
    return {
        "peft_type": "LORA",
        "base_model_name_or_path": base,
        "r": config.rank,
        "lora_alpha": config.alpha,
        "lora_dropout": config.dropout,
        "use_rslora": config.rank_stabilised,
        "target_modules": sorted(ranks),
        "rank_pattern": other,
        "alpha_pattern": {
            module: config.scale * (rank**0.5 if config.rank_stabilised else rank)
            for module, rank in other.items()
        },
        "modules_to_save": saved or None,
        "bias": "none",
        "task_type": None,
        "inference_mode": True,
    }


def read_adapter(folder: Path, model: Model, name: str | None = None) -> list[str]:
    """Put the adapters of a folder into a model; the rest is frozen, but for what they trained.

    Args:
        folder: What ``save_pretrained`` of a PEFT model, or `write_adapter`, wrote.
        model: The model they belong to, without adapters.
        name: Class that the model was imported as; None: one that it is equal to.

    Returns:
        Names of the adapted layers.

    Raises:
        InputError: The folder holds no low-rank adapters in safetensors, or an option of theirs is
            not supported.
        IntegrityError: They do not fit the model.
    """
    values = _read_config(folder)
    names = _Names(model, name)
    if not (folder / WEIGHTS).is_file():
        raise InputError(f"{folder} has no {WEIGHTS}. Only safetensors are read.")
    state = {key.removeprefix(FRONT): t for key, t in load_file(folder / WEIGHTS).items()}
    modules = [key.removesuffix(ENDINGS[0]) for key in state if key.endswith(ENDINGS[0])]
    wrong = [module for module in modules if module + WEIGHT not in names.by_theirs]
    rest = {key: tensor for key, tensor in state.items() if not key.endswith(ENDINGS)}
    wrong += [key for key in rest if key not in names.by_theirs]
    if wrong or not modules:
        raise IntegrityError(f"the adapters do not fit {names.architecture.name}: {wrong}.")
    _refuse_half_of_a_tied_table(model, names, rest)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for module in modules:
        _split(model, names, module, state, values)
    _put(model, names, rest)
    return [name for name, _ in adapted(model)]


def _refuse_half_of_a_tied_table(model: Model, names: _Names, saved: Iterable[str]) -> None:
    """Refuse a trained word table of a model whose output layer is that table.

    peft trains a copy of the table and leaves the output layer as it was; here both are one tensor.

    Raises:
        InputError: Such a table was saved.
    """
    tied = set(model.tied_names().values())
    for key in saved:
        if tied & {names.own[name] for name in names.by_theirs[key].ours}:
            raise InputError(
                f"modules_to_save: {key} is also the output layer of this model, which peft leaves "
                "as it was. Merge the adapter in peft and import the merged model."
            )


def _read_config(folder: Path) -> dict[str, Any]:
    try:
        values: dict[str, Any] = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{folder / CONFIG} cannot be read: {error}.") from error
    if values.get("peft_type") != "LORA":
        raise InputError(f"{folder}: peft_type {values.get('peft_type')!r}; only 'LORA' is read.")
    for key, value in UNSUPPORTED.items():
        if (values.get(key) or value) != value:
            raise InputError(f"{folder}: {key}: {values[key]!r} is not supported; {value!r} is.")
    start = values.get("init_lora_weights", True)
    if start not in PLAIN_STARTS:
        raise InputError(
            f"{folder}: init_lora_weights: {start!r} changes the base when peft opens the adapter. "
            f"Supported: {', '.join(map(repr, PLAIN_STARTS))}. Save it again as a plain adapter: "
            "save_pretrained(..., path_initial_model_for_weight_conversion=...)."
        )
    return values


def _alpha_of(module: str, values: dict[str, Any]) -> float:
    """Return ``lora_alpha`` of a module; keys of its pattern are regular expressions of its end.

    The first key that fits counts, as in ``peft.utils.other.get_pattern_key``.

    Raises:
        InputError: A key is not a regular expression.
    """
    for key, alpha in (values.get("alpha_pattern") or {}).items():
        try:
            if re.match(rf"(.*\.)?({key})$", module):
                return float(alpha)
        except re.error as error:
            raise InputError(f"alpha_pattern: {key!r} is not a pattern: {error}.") from error
    return float(values["lora_alpha"])


def _split(
    model: Model, names: _Names, module: str, state: Mapping[str, Tensor], values: dict[str, Any]
) -> None:
    """Adapt our layers that a tensor of theirs holds."""
    row = names.by_theirs[module + WEIGHT]
    a, b = (state[f"{module}.lora_{letter}.weight"] for letter in "AB")
    rank = len(a)
    scale = _alpha_of(module, values) / (rank**0.5 if values.get("use_rslora") else rank)
    parts = replace(row, transposed=False).to_ours({row.theirs[0]: b}.__getitem__)
    empty = all(not part.any() for part in parts.values())
    for name, layer in zip(row.ours, names.layers(row), strict=True):
        if not (empty or parts[name].any()):
            continue  # this part of the tensor is not adapted
        adapter = adapt(model, layer, rank, scale, float(values.get("lora_dropout", 0.0)))
        if adapter.lora_a.shape != a.shape or adapter.lora_b.shape != parts[name].shape:
            raise IntegrityError(f"{module}: adapters of {list(a.shape)} do not fit {layer}.")
        adapter.lora_a.data.copy_(a)
        adapter.lora_b.data.copy_(parts[name])


@torch.no_grad()
def _put(model: Model, names: _Names, tensors: Mapping[str, Tensor]) -> None:
    for key, tensor in tensors.items():
        for name, part in names.by_theirs[key].to_ours({key: tensor}.__getitem__).items():
            parameter = model.get_parameter(names.own[name])
            if parameter.shape != part.shape:
                raise IntegrityError(f"{key} is {list(tensor.shape)}; it does not fit {name}.")
            parameter.copy_(part)
            parameter.requires_grad_(True)
