"""``config.json`` of a model folder. Imports without torch: a graph is served without it."""

import json
from pathlib import Path
from typing import Any

from orchestrator.config import validate_config
from orchestrator.errors import ConfigError, IntegrityError
from orchestrator.modeling.config import ModelConfig

CONFIG_FILE = "config.json"
MODEL_TYPE = "orchestrator"
"""Value of Hugging Face's ``model_type`` key: their tools name the format they cannot open."""


def read_config(folder: Path) -> ModelConfig:
    """Return the model config of a folder.

    Raises:
        IntegrityError: There is no config, or it is not one of ours.
    """
    path = folder / CONFIG_FILE
    try:
        data: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise IntegrityError(f"{path} cannot be read: {error}. Restore it.") from error
    found = data.pop("model_type", None) if isinstance(data, dict) else None
    if found != MODEL_TYPE:
        raise IntegrityError(
            f"{path}: model_type is {found!r}, only {MODEL_TYPE!r} is read here. "
            "Import other checkpoints into the zoo first."
        )
    try:
        return validate_config(ModelConfig, data, str(path))
    except ConfigError as error:
        raise IntegrityError(str(error)) from error
