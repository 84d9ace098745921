"""The file of a model that torch runs: safetensors with config and plan in its header.

An INT8 unit ``U`` is two tensors: ``U.weight`` (s8, as the float one: [N, K], of experts ``U``
[E, N, K]) and ``scales.U`` (float32, [N] or [E, N]). Every other tensor is as in the float package.
Needs neither torch nor ONNX.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from orchestrator.arrays import AnyArray
from orchestrator.errors import InputError, IntegrityError
from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.sentence.statement import SentenceEmbedding
from orchestrator.quantization.kinds import KindName
from orchestrator.quantization.plans import Unit

MODEL_FILE: Final = "model-int8.safetensors"
SCALES: Final = "scales."
"""Prefix of the scales of INT8 units."""
FORMAT: Final = "orchestrator-int8 1"


@dataclass(frozen=True, slots=True)
class Content:
    """Header of a file."""

    config: ModelConfig
    """The model, with the heads that the file answers with."""
    kinds: Mapping[str, KindName]
    """Kind of every unit."""
    statement: SentenceEmbedding | None
    """Statement of the package about embeddings."""


@dataclass(frozen=True, slots=True)
class TorchFile:
    """A model in memory: tensors, and the units that a plan can choose a kind for."""

    tensors: Mapping[str, AnyArray]
    units: tuple[Unit, ...]
    heads: tuple[str, ...]
    header: Mapping[str, str]

    def to_bytes(self) -> bytes:
        """Return the content of the model file."""
        from safetensors.numpy import save

        return bytes(save(dict(self.tensors), dict(self.header)))


def header_of(content: Content) -> dict[str, str]:
    """Return the header that ``content_of`` reads."""
    stated = content.statement
    return {
        "format": FORMAT,
        "config": content.config.model_dump_json(),
        "plan": json.dumps(dict(content.kinds)),
        "statement": "null" if stated is None else stated.model_dump_json(),
    }


def content_of(model: bytes) -> Content:
    """Read the header of a file.

    Raises:
        IntegrityError: It has another format, or is damaged.
    """
    try:
        size = int.from_bytes(model[:8], "little")
        header: dict[str, Any] = json.loads(model[8 : 8 + size])["__metadata__"]
        if header["format"] != FORMAT:
            raise ValueError(f"format {header['format']!r}, this release reads {FORMAT!r}")
        stated = json.loads(header["statement"])
        return Content(
            ModelConfig.model_validate_json(header["config"]),
            json.loads(header["plan"]),
            None if stated is None else SentenceEmbedding.model_validate(stated),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise IntegrityError(
            f"{MODEL_FILE} is damaged: {error}. Run `orchestrator zoo verify`"
        ) from error


def read_file(folder: Path) -> bytes:
    """Return the content of the model file of a package folder.

    Raises:
        InputError: It has none.
    """
    path = folder / MODEL_FILE
    if not path.is_file():
        raise InputError(f"{folder} has no {MODEL_FILE}: give the folder of a quantized package")
    return path.read_bytes()
