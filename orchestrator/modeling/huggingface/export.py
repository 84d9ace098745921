"""Write a model of ours as a folder that transformers opens."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.huggingface.architecture import Architecture
from orchestrator.modeling.huggingface.folder import CONFIG, WEIGHTS
from orchestrator.modeling.huggingface.keys import to_theirs


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
    tensors = to_theirs(architecture.table(config), state)
    save_file(
        {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
        str(folder / WEIGHTS),
        metadata={"format": "pt"},
    )
    header = {"architectures": [architecture.name], "model_type": architecture.model_type}
    values = header | architecture.their_config(config) | dict(overrides or {})
    (folder / CONFIG).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
