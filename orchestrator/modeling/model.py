"""A model assembled from components.

Legend: B batch, S length, T target length, D model width.
"""

from typing import Any, cast

import torch
from torch import Tensor, nn

from orchestrator.errors import InputError
from orchestrator.modeling.component import ComponentConfig, Dimensions
from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.embeddings.stack import EmbeddingStack
from orchestrator.modeling.interfaces import Batch, Decoder, Encoder, Target
from orchestrator.modeling.layers.pooling import pool
from orchestrator.modeling.registry import Registry, decoders, encoders, targets
from orchestrator.modeling.targets.configs import Pooling

LABELS = "labels."
"""Labels of target ``name`` are in ``batch["labels.<name>"]``."""

WORD_TABLE = "word"
"""The embedding part whose table output layers are tied to."""


class TargetHeads(nn.ModuleDict):
    """Heads by name, also by one that ``ModuleDict`` refuses (``type``, ``train``)."""

    def add_module(self, name: str, module: nn.Module | None) -> None:
        """Add a head. Heads are reached by key only, so none can hide a method."""
        if module is not None:
            self._modules[name] = module


class Model(nn.Module):
    """Embedding, encoder, optional target embedding and decoder, and heads.

    Parameters are named ``embedding.*``, ``encoder.*``, ``target_embedding.*``, ``decoder.*`` and
    ``targets.<name>.*``. Build one with ``builder.build_model``.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        sizes = config.dimensions
        self.config = config
        self.embedding = EmbeddingStack(config.embedding, sizes)
        self.encoder: Encoder = _build(encoders, config.encoder, sizes)
        self.target_embedding: EmbeddingStack | None = None
        self.decoder: Decoder | None = None
        if config.decoder is not None and config.target_embedding is not None:
            self.target_embedding = EmbeddingStack(config.target_embedding, sizes)
            self.decoder = _build(decoders, config.decoder, sizes)
        self.targets = TargetHeads()
        for target in config.target:
            self.targets[target.name] = _build(targets, target, sizes)
        self.tie_weights()

    def tie_weights(self) -> None:
        """Make tied output layers share the word table; again after parameters were replaced."""
        output_side = self.embedding if self.target_embedding is None else self.target_embedding
        for head in self.targets.values():
            tied = cast(Target, head).tied_output()
            if tied is not None:
                tied.weight = cast(nn.Parameter, getattr(output_side, WORD_TABLE).weight)

    def tied_names(self) -> dict[str, str]:
        """Return every second name of a tied parameter → the name under which it is stored."""
        first: dict[int, str] = {}
        named = self.named_parameters(remove_duplicate=False)
        pairs = [(name, first.setdefault(id(parameter), name)) for name, parameter in named]
        return {name: stored for name, stored in pairs if name != stored}

    def encode(self, batch: Batch) -> Tensor:
        """Return the encoder's output, [B, S, D]; no labels are read.

        Raises:
            InputError: The batch lacks an input, or is longer than the model allows.
        """
        return self._encode(batch)[0]

    def pool(self, hidden: Tensor, batch: Batch, how: Pooling = "mean") -> Tensor:
        """Return one vector per sequence, [B, D], from ``encode``'s result [B, S, D]."""
        mask = batch.get("attention_mask")
        real = torch.ones_like(hidden[..., 0]) if mask is None else mask
        return pool(hidden, real.bool(), how)

    def count_labels(self, batch: Batch) -> dict[str, Tensor]:
        """Return the number of loss terms (0-dim int64) of each target with labels in the batch."""
        return {
            name: cast(Target, head).count(batch[LABELS + name])
            for name, head in self.targets.items()
            if LABELS + name in batch
        }

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return losses of the targets that have labels in the batch.

        Returns:
            For each such target: ``loss.<name>`` (SUM over loss terms, 0-dim), ``count.<name>`` and
            ``correct.<name>`` (0-dim int64). A plain dict of tensors: hooks of training engines
            walk it.

        Raises:
            InputError: The batch lacks an input, or is longer than the model allows.
        """
        hidden, mask = self._hidden(batch)
        result: dict[str, Tensor] = {}
        for name, head in self.targets.items():
            if LABELS + name not in batch:
                continue
            output = head(hidden, mask, batch[LABELS + name])
            result[f"loss.{name}"] = output.loss
            result[f"count.{name}"] = output.terms
            result[f"correct.{name}"] = output.correct
        return result

    def predict(self, batch: Batch) -> dict[str, Tensor]:
        """Return target name → logits: [B, K] per sequence, or [B, S, V] per position.

        Raises:
            InputError: The batch lacks an input, or is longer than the model allows.
        """
        hidden, mask = self._hidden(batch)
        heads = self.targets.items()
        return {name: cast(Target, head).predict(hidden, mask) for name, head in heads}

    def _encode(self, batch: Batch) -> tuple[Tensor, Tensor]:
        embedded, mask = self.embedding(batch)
        hidden: Tensor = self.encoder(embedded, mask, batch)
        return hidden, mask

    def _hidden(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return what the heads read, and its mask: the decoder's output if there is one."""
        memory, memory_mask = self._encode(batch)
        if self.decoder is None or self.target_embedding is None:
            return memory, memory_mask
        if "decoder_input_ids" not in batch:
            raise InputError(
                f"The decoder reads decoder_input_ids; the batch has {', '.join(batch)}."
            )
        target_side = {"input_ids": batch["decoder_input_ids"]}
        if "decoder_attention_mask" in batch:
            target_side["attention_mask"] = batch["decoder_attention_mask"]
        embedded, mask = self.target_embedding(target_side)
        hidden: Tensor = self.decoder(embedded, mask, memory, memory_mask)
        return hidden, mask


def _build(registry: Registry, config: ComponentConfig, dimensions: Dimensions) -> Any:
    return registry.component_class(config.type_name())(config, dimensions)
