"""Packages with ``model.safetensors``: every model that `orchestrator.modeling` builds."""

from pathlib import Path
from typing import Final

import numpy as np
import torch

from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.package import load_model, read_config
from orchestrator.modeling.targets.configs import ClsConfig, PairConfig
from orchestrator.modeling.targets.sequence import SENTENCE_PAIR_LABELS
from serving.model.batching import Operation, Outputs

EMBEDDING: Final = "embedding"


class TorchBackend:
    """A torch model in evaluation mode.

    Args:
        folder: package folder.
        threads: threads within one run, for the whole process.
        device: where the model lives.

    Raises:
        IntegrityError: weights and config do not fit.
    """

    name = "torch"

    def __init__(self, folder: Path, threads: int, device: str = "cpu") -> None:
        torch.set_num_threads(threads)
        self._device = device
        stored = read_config(folder)
        # Heads over the vocabulary would cost [B, S, V] logits nobody asks for; a decoder needs
        # more than a text.
        heads = [] if stored.decoder is not None else _classifiers(stored)
        self._model = load_model(folder, targets=heads, device=device).eval()
        config = self._model.config
        self.targets = {
            head.name: head.num_labels if isinstance(head, ClsConfig) else SENTENCE_PAIR_LABELS
            for head in heads
        }
        self.embedding_size = config.hidden_size
        self.max_length = config.max_position_embeddings
        self.dtype = str(next(self._model.parameters()).dtype).removeprefix("torch.")

    def run(self, batch: dict[str, np.ndarray], operation: Operation) -> Outputs:
        """Run the encoder and, to predict, the classification heads."""
        tensors = {name: torch.from_numpy(array).to(self._device) for name, array in batch.items()}
        with torch.inference_mode():
            if operation == "embed":
                pooled = self._model.pool(self._model.encode(tensors), tensors)
                return {EMBEDDING: _array(pooled)}
            logits = self._model.predict(tensors)
            return {name: _array(logits[name]) for name in self.targets}


def _classifiers(config: ModelConfig) -> list[ClsConfig | PairConfig]:
    return [target for target in config.target if isinstance(target, ClsConfig | PairConfig)]


def _array(tensor: torch.Tensor) -> np.ndarray:
    return tensor.float().cpu().numpy()
