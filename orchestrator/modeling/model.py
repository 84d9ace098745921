"""A model assembled from components.

Legend: B batch, S length, T target length, D model width.
"""

from collections.abc import Collection, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from orchestrator.config.registry import Registry
from orchestrator.errors import InputError
from orchestrator.modeling.component import ComponentConfig, Dimensions, decoders, encoders, targets
from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.embeddings.stack import EmbeddingStack
from orchestrator.modeling.interfaces import (
    LABELS,
    PLACES,
    Batch,
    Decoder,
    Encoder,
    Streams,
    Target,
)
from orchestrator.modeling.layers.cache import Cache
from orchestrator.modeling.layers.feed_forward import Block, Experts
from orchestrator.modeling.targets.configs import Pooling
from orchestrator.modeling.targets.sequence import pool
from orchestrator.modeling.targets.vocabulary import VocabularyLayer


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
        heads = (cast(Target, head) for head in self.targets.values())
        self.encoder.keeps_layers = any(head.reads_layers for head in heads)
        self.tie_weights()

    def tie_weights(self) -> None:
        """Make tied layers share the word table; again after parameters were replaced."""
        output_side = self.embedding if self.target_embedding is None else self.target_embedding
        if self.config.share_embedding:
            _word_table(output_side).weight = _word_table(self.embedding).weight
        for head in self.targets.values():
            tied = cast(Target, head).tied_output()
            if tied is not None:
                tied.weight = _word_table(output_side).weight

    def checkpoint_activations(self, on: bool = True) -> int:
        """Keep only the inputs of blocks for the backward pass and compute the rest again.

        Saves most of the memory of activations for about a third more computation.

        Returns:
            The number of stacks of blocks for which this was set; others keep everything.
        """
        stacks: list[Any] = [m for m in self.modules() if hasattr(m, "checkpointing")]
        for stack in stacks:
            stack.checkpointing = on
        return len(stacks)

    def compile_blocks(self) -> int:
        """Run the blocks, and the loss over a vocabulary, through torch.compile.

        Compilation happens at the first pass. A pass with a cache stays as it is. Dropout draws
        other noise than without.

        Returns:
            The number of blocks; other parts are not compiled.

        Raises:
            InputError: A block cannot be one graph.
        """
        blocks = [module for module in self.modules() if isinstance(module, Block)]
        if any(isinstance(inner, Experts) for block in blocks for inner in block.modules()):
            raise InputError(
                "engine.compile: true, but the blocks have experts, and the number of tokens of an "
                "expert depends on their values, which one graph cannot. Set compile to false"
            )
        for module in self.modules():
            if isinstance(module, Block | VocabularyLayer):
                module.compiled = True
        return len(blocks)

    def tied_names(self) -> dict[str, str]:
        """Return every second name of a tied parameter → the name under which it is stored."""
        first: dict[int, str] = {}
        named = self.named_parameters(remove_duplicate=False)
        pairs = [(name, first.setdefault(id(parameter), name)) for name, parameter in named]
        return {name: stored for name, stored in pairs if name != stored}

    def encode(self, batch: Batch) -> Tensor:
        """Return the encoder's output, [B, S, D]; no labels are read; ``Streams`` if it is dual.

        Raises:
            InputError: The batch lacks an input, or is longer than the model allows.
        """
        return self.read(batch)[0]

    def pool(self, hidden: Tensor, batch: Batch, how: Pooling = "mean") -> Tensor:
        """Return one vector per sequence, [B, D], from ``encode``'s result [B, S, D].

        ``Streams`` of both for a dual model.
        """
        mask = self.embedding.mask(batch, hidden)
        if isinstance(hidden, Streams) and isinstance(mask, Streams):
            return Streams(
                pool(hidden.first, mask.first, how), pool(hidden.second, mask.second, how)
            )
        return pool(hidden, mask, how)

    def count_labels(self, batch: Batch) -> dict[str, Tensor]:
        """Return the number of loss terms (0-dim int64) of each target with labels in the batch."""
        counts: dict[str, Tensor] = {}
        for name, head in self.targets.items():
            if cast(Target, head).reads_router:
                counts[name] = cast(Target, head).count(_real(batch))
            elif LABELS + name in batch:
                counts[name] = cast(Target, head).count(batch[LABELS + name])
        return counts

    def forward(self, batch: Batch, logits: Sequence[str] = ()) -> dict[str, Tensor]:
        """Return losses of the targets that have labels in the batch.

        Args:
            batch: Inputs and labels.
            logits: Targets whose logits are returned as well, labels or not.

        Returns:
            For each target with labels: ``loss.<name>`` (SUM over loss terms, 0-dim),
            ``count.<name>`` and ``correct.<name>`` (0-dim int64); for each of ``logits``:
            ``logits.<name>``, as ``predict`` returns it (drawn with its own dropout noise). A plain
            dict of tensors: hooks of training engines walk it.

        Raises:
            InputError: The batch lacks an input, or is longer than the model allows.
        """
        hidden, mask = self._hidden(batch)
        result: dict[str, Tensor] = {}
        for name, head in self.targets.items():
            reads_router = cast(Target, head).reads_router
            labels = self._router_logits() if reads_router else batch.get(LABELS + name)
            if labels is None:
                continue
            places = batch.get(PLACES + name) if cast(Target, head).takes_places else None
            given = (labels,) if places is None else (labels, places)
            output = head(*_seen(head, hidden, mask, batch), *given)
            result[f"loss.{name}"] = output.loss
            result[f"count.{name}"] = output.terms
            result[f"correct.{name}"] = output.correct
        for name in logits:
            result[f"logits.{name}"] = self._answer(name, hidden, mask, batch)
        return result

    def predict(
        self,
        batch: Batch,
        wanted: Collection[str] | None = None,
        memory: tuple[Tensor, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Return target name → logits: [B, K] per sequence, or [B, S, V] per position.

        Args:
            batch: Inputs.
            wanted: Targets whose logits are returned; None: all.
            memory: ``read``'s result, if it is known already.

        Raises:
            InputError: The batch lacks an input, or is longer than the model allows.
        """
        hidden, mask = self._hidden(batch, memory)
        return {
            name: self._answer(name, hidden, mask, batch)
            for name, head in self.targets.items()
            if not cast(Target, head).reads_router and (wanted is None or name in wanted)
        }

    def read(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return what a decoder reads: ``encode``'s result and its mask, True at real positions."""
        embedded, mask = self.embedding(batch)
        hidden: Tensor = self.encoder(embedded, mask, batch)
        return hidden, mask

    def advance(
        self, batch: Batch, cache: Cache, memory: tuple[Tensor, Tensor] | None = None
    ) -> Tensor:
        """Read new positions of a growing sequence; only causal models and decoders can.

        Args:
            batch: ``input_ids`` [B, S] of the new positions; ``attention_mask`` [B, T] of all
                positions so far and ``position_ids`` [B, S], if given.
            cache: What is kept of earlier positions; grows by S.
            memory: ``read``'s result, for a model with a decoder.

        Returns:
            What the heads read at the new positions, [B, S, D].
        """
        hidden: Tensor
        if "attention_mask" not in batch:
            rows, new = batch["input_ids"].shape
            real = batch["input_ids"].new_ones(rows, cache.length + new)
            batch = batch | {"attention_mask": real}
        if self.decoder is None or self.target_embedding is None:
            embedded, mask = self.embedding(batch, past=cache.length)
            hidden = self.encoder(embedded, mask, batch, cache)
        else:
            if memory is None:
                raise InputError("The decoder reads the encoder's output: give `memory`.")
            embedded, mask = self.target_embedding(batch, past=cache.length)
            hidden = self.decoder(embedded, mask, *memory, cache)
        return hidden

    def _hidden(
        self, batch: Batch, read: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return what the heads read, and its mask: the decoder's output if there is one."""
        memory, memory_mask = self.read(batch) if read is None else read
        if self.decoder is None or self.target_embedding is None:
            return memory, memory_mask
        if "decoder_input_ids" not in batch:
            raise InputError(
                f"The decoder reads decoder_input_ids; the batch has {', '.join(batch)}."
            )
        prefix = "decoder_"
        own = {k.removeprefix(prefix): v for k, v in batch.items() if k.startswith(prefix)}
        embedded, mask = self.target_embedding(own)
        hidden: Tensor = self.decoder(embedded, mask, memory, memory_mask)
        return hidden, mask

    def _answer(self, name: str, hidden: Tensor, mask: Tensor, batch: Batch) -> Tensor:
        """Return the logits of one head."""
        head = cast(Target, self.targets[name])
        if not head.reads_layers:
            return head.predict(*_seen(head, hidden, mask, batch))
        layers = self.encoder.layer_outputs
        if layers is None:
            kind = type(self.encoder).__name__
            raise InputError(f"The head {name!r} reads layers, and {kind} does not keep theirs.")
        self.encoder.layer_outputs = None  # else the graph lives until the next pass
        return head.predict(torch.stack(layers, dim=2), mask)

    def _router_logits(self) -> Tensor | None:
        """Return the answers of all routers in the last pass, [layers, B * S, E]."""
        routers = [m.router_logits for m in self.encoder.modules() if isinstance(m, Experts)]
        found = [logits for logits in routers if logits is not None]
        return torch.stack(found) if found else None


def _seen(head: nn.Module, hidden: Tensor, mask: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return what a head reads: all positions, or the first place of a token."""
    skipped = cast(Target, head).skips_token
    if skipped is not None:
        return hidden, mask & (batch["input_ids"] != skipped)
    token = cast(Target, head).reads_token
    if token is None:
        return hidden, mask
    first = (batch["input_ids"] == token).int().argmax(dim=1)
    place = first[:, None, None].expand(-1, 1, hidden.shape[-1])
    return hidden.gather(1, place), mask[:, :1]


def _word_table(stack: EmbeddingStack) -> Any:
    """Return the module that output layers are tied to; configs see to it that there is one."""
    return stack.get_submodule(cast(str, stack.word_table))


def _real(batch: Batch) -> Tensor:
    mask = batch.get("attention_mask")
    return torch.ones_like(batch["input_ids"]) if mask is None else mask


def _build(registry: Registry[Any], config: ComponentConfig, dimensions: Dimensions) -> Any:
    return registry.component_class(config.type_name())(config, dimensions)
