"""Loaded models behind one interface: arrays in, arrays of each head out.

Shapes: B rows, S tokens of the longest, K outputs, D width.
"""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from orchestrator.arrays import AnyArray, Float32Array
from orchestrator.errors import InputError
from orchestrator.modeling.config_file import read_config

if TYPE_CHECKING:
    from orchestrator.modeling.model import Model

EMBEDDING = "embedding"
"""Name of the output that holds one vector per row, [B, D]."""

ONNX_FILE = "model.onnx"


class LoadedModel(Protocol):
    """A model that runs padded arrays.

    Attributes:
        runtime: ``torch`` or the name of another back end.
        dtype: Number format of the weights: ``float32``, ``int8``.
        max_length: Longest input in tokens.
    """

    runtime: str
    dtype: str
    max_length: int

    @property
    def heads(self) -> tuple[str, ...]:
        """Names of the heads that can be asked for."""
        ...

    def run(
        self, batch: Mapping[str, AnyArray], wanted: Collection[str]
    ) -> dict[str, Float32Array]:
        """Run a padded batch.

        Args:
            batch: ``input_ids`` and its companions [B, S], or ``pixel_values``.
            wanted: Names of heads, and ``embedding``.

        Returns:
            Name → [B, K] or [B, S, K]; ``embedding`` → [B, D].
        """
        ...


class TorchModel:
    """A torch model in evaluation mode, on any device."""

    runtime = "torch"

    def __init__(self, model: "Model", device: str = "cpu") -> None:
        self._model = model.to(device).eval()
        self._device = device
        self.dtype = str(next(model.parameters()).dtype).removeprefix("torch.")
        self.max_length = model.config.max_position_embeddings

    @property
    def heads(self) -> tuple[str, ...]:
        """Names of the heads."""
        return tuple(target.name for target in self._model.config.target)

    def run(
        self, batch: Mapping[str, AnyArray], wanted: Collection[str]
    ) -> dict[str, Float32Array]:
        """Run the encoder once, and what is wanted on top of it."""
        import torch

        tensors = {
            name: torch.from_numpy(np.ascontiguousarray(array)).to(self._device)
            for name, array in batch.items()
        }
        self._model.eval()  # a model in training is asked between its epochs
        with torch.inference_mode():
            memory = self._model.read(tensors)
            found = {}
            if any(name != EMBEDDING for name in wanted):
                found = self._model.predict(tensors, wanted, memory)
            if EMBEDDING in wanted:
                found[EMBEDDING] = self._model.pool(memory[0], tensors)
            return {name: found[name].float().cpu().numpy() for name in wanted}


class OnnxModelAdapter:
    """A graph in ONNX Runtime; it computes every output at once."""

    runtime = "onnxruntime"

    def __init__(self, folder: Path, threads: int = 1) -> None:
        from orchestrator.quantization.backends.onnxruntime_cpu.session import (
            OnnxModel,
            is_quantized,
        )

        self._model = OnnxModel.load(folder, threads=threads)
        self.dtype = "int8" if is_quantized(folder) else "float32"
        self.max_length = self._model.max_length

    @property
    def heads(self) -> tuple[str, ...]:
        """Names of the heads that the graph has."""
        return self._model.targets

    def run(
        self, batch: Mapping[str, AnyArray], wanted: Collection[str]
    ) -> dict[str, Float32Array]:
        """Run the graph.

        Raises:
            InputError: It reads other inputs than the batch has.
        """
        if "input_ids" not in batch:
            raise InputError(f"this graph reads tokens; the rows have {', '.join(batch)}.")
        outputs = self._model.predict(batch)
        return {name: outputs[name] for name in wanted}


def load_folder(
    folder: Path, *, threads: int = 1, device: str = "cpu", keep: Collection[str] | None = None
) -> LoadedModel:
    """Load the model of a package folder: its graph where it has one, else its weights.

    Args:
        folder: Folder of a verified package.
        threads: Threads within one run.
        device: Where a torch model goes.
        keep: Names of the heads to load; None: all. Heads over a vocabulary cost memory and time.
    """
    if (folder / ONNX_FILE).is_file():
        return OnnxModelAdapter(folder, threads)
    import torch

    from orchestrator.modeling.package import load_model

    torch.set_num_threads(threads)
    stored = read_config(folder).target
    heads = None if keep is None else [target for target in stored if target.name in keep]
    return TorchModel(load_model(folder, targets=heads, device=device), device)
