"""The package's own model in torch, eager, beside its graphs."""

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch

from orchestrator.arrays import AnyArray, Float32Array
from orchestrator.inference.models import EMBEDDING, TorchModel
from orchestrator.modeling.builder import build_on_meta
from orchestrator.modeling.sentence.embedder import SentenceEmbedder
from orchestrator.quantization.emission.outputs.vectors import SENTENCE

if TYPE_CHECKING:
    from orchestrator.quantization.source import Source


class EagerModel:
    """The float model in torch, one thread, with the interface of ``Predictor``.

    Args:
        source: The float model.
        heads: Targets that are compared; empty: its embedding is.
    """

    def __init__(self, source: "Source", heads: Collection[str]) -> None:
        torch.set_num_threads(1)
        config = source.model_config
        self.module = build_on_meta(
            config.with_targets([t for t in config.target if t.name in heads])
        )
        state = {
            name: torch.from_numpy(np.array(source.state[name]))
            for name in self.module.state_dict()
        }
        self.module.load_state_dict(state, assign=True)
        self.module.requires_grad_(False)
        embedder = None
        if source.statement is not None and not heads:
            embedder = SentenceEmbedder(source.statement).eval().requires_grad_(False)
            layers = {
                name: torch.from_numpy(np.array(source.state[f"{SENTENCE}{name}"]))
                for name in embedder.state_dict()
            }
            embedder.load_state_dict(layers)
        self.wanted = tuple(heads) or (EMBEDDING,)
        self._model = TorchModel(self.module, embedder=embedder)

    def predict(self, batch: Mapping[str, AnyArray]) -> dict[str, Float32Array]:
        """Return what is wanted: logits [B, K] or [B, S, K] by target, or ``embedding`` [B, D]."""
        return self._model.run(_wide(batch), self.wanted)

    def answers(
        self, batch: Mapping[str, AnyArray], wanted: Collection[str]
    ) -> dict[str, torch.Tensor]:
        """Return outputs that can be differentiated with respect to what a hook made a leaf."""
        return self._model.answers(_wide(batch), wanted)


def _wide(batch: Mapping[str, AnyArray]) -> dict[str, AnyArray]:
    return {
        name: values.astype(np.int64) if values.dtype == np.int32 else values
        for name, values in batch.items()
    }
