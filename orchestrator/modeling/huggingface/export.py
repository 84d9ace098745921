"""Write a model of ours as a folder that transformers opens."""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.huggingface.architecture import Architecture
from orchestrator.modeling.huggingface.folder import CONFIG
from orchestrator.modeling.huggingface.keys import Table, require_same, to_theirs
from orchestrator.modeling.tensor_files import SHARD_BYTES, Fetch, write_tensors


def write_folder(
    folder: Path,
    architecture: Architecture,
    config: ModelConfig,
    state: Mapping[str, Tensor],
    overrides: Mapping[str, Any] | None = None,
) -> None:
    """Write ``config.json`` and ``model.safetensors``.

    Args:
        folder: An existing folder.
        architecture: What the model is in transformers.
        config: Our config.
        state: Our tensors, each tied one once.
        overrides: Values of their config that ours does not know (names of classes, special
            tokens).

    Raises:
        IntegrityError: The state is not that of ``config``.
    """
    write_weights(folder, architecture.table(config), state, state.__getitem__)
    write_values(folder, values_of(architecture, config) | dict(overrides or {}))


def named_after_types(config: ModelConfig) -> tuple[ModelConfig, Callable[[str], str]]:
    """Return a config whose heads are called as tables call them, and how parameters are renamed.

    A head may have any name (``topic``); tables know it by its type (``cls``).
    """
    types = {each.name: each.type_name() for each in config.target}
    heads = [each.model_copy(update={"name": types[each.name]}) for each in config.target]

    def rename(name: str) -> str:
        slot, _, rest = name.partition(".")
        head, _, own = rest.partition(".")
        return f"targets.{types[head]}.{own}" if slot == "targets" else name

    return config.with_targets(heads), rename


def values_of(architecture: Architecture, config: ModelConfig) -> dict[str, Any]:
    """Return the content of their ``config.json`` for a model of ours."""
    header = {"architectures": [architecture.name], "model_type": architecture.model_type}
    return header | architecture.their_config(config)


def write_values(folder: Path, values: Mapping[str, Any]) -> None:
    """Write their ``config.json``."""
    (folder / CONFIG).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def write_weights(
    folder: Path,
    table: Table,
    layout: Mapping[str, Tensor],
    fetch: Fetch,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write our tensors under their names, one row of the table in memory at a time.

    Args:
        folder: An existing folder.
        table: Which tensor of theirs is which of ours.
        layout: Our names → shape and element type (meta device).
        fetch: Reads one of our tensors.
        shard_bytes: Larger models are written as several files.

    Raises:
        IntegrityError: The table and the layout do not name the same tensors.
    """
    require_same({name for row in table for name in row.ours}, set(layout))
    skeletons = {name: tensor.to("meta") for name, tensor in layout.items()}
    theirs = to_theirs(table, skeletons)
    write_tensors(folder, theirs, _renamed(table, fetch), shard_bytes)


def _renamed(table: Table, fetch: Fetch) -> Iterator[tuple[str, Tensor]]:
    for row in table:
        yield from row.to_theirs(fetch).items()
