"""A model with some layers in INT8, executed by torch. Legend: B batch, S length, K answers."""

from collections.abc import Mapping
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from orchestrator.arrays import AnyArray, Float32Array
from orchestrator.errors import IntegrityError
from orchestrator.inference.models import EMBEDDING, TorchModel
from orchestrator.modeling.builder import build_on_meta
from orchestrator.modeling.layers.feed_forward import Experts
from orchestrator.modeling.model import Model
from orchestrator.modeling.sentence.embedder import SentenceEmbedder
from orchestrator.quantization.backends.torch_cpu.files import SCALES, Content, content_of
from orchestrator.quantization.backends.torch_cpu.layers import (
    Int8Linear,
    Int8Stack,
    PlannedExperts,
    Stack,
    require_exact,
)
from orchestrator.quantization.backends.torch_cpu.writing import EXPERT_PARTS
from orchestrator.quantization.emission.outputs.heads import answering
from orchestrator.quantization.emission.outputs.vectors import SENTENCE
from orchestrator.quantization.kinds import FLOAT


class PlannedModel:
    """The content of a model file, opened.

    Args:
        model: The content.
        threads: Threads of torch in this process.

    Raises:
        IntegrityError: The content is damaged, or of another model than it says.
        InputError: This host does not execute one of its kinds exactly.
    """

    def __init__(self, model: bytes, *, threads: int = 1) -> None:
        from safetensors.torch import load

        torch.set_num_threads(threads)
        self.content = content_of(model)
        tensors = load(model)
        for kind in sorted(set(self.content.kinds.values()) - {FLOAT}):
            require_exact(kind)
        self.module = build_planned(self.content, tensors)
        embedder = _embedder(self.content, tensors)
        self._model = TorchModel(self.module, embedder=embedder)
        config = self.content.config
        self.max_length, self.vocab_size = self._model.max_length, config.vocab_size
        parts = {part.type_name() for part in config.embedding.parts}
        self.reads_tokens = config.embedding.reads_words and not parts & {"dual", "word_patch"}
        self.batch_invariant = True
        self.targets = tuple(head.name for head in answering(config))
        self.outputs = (EMBEDDING, *self.targets)

    def predict(self, batch: Mapping[str, AnyArray]) -> dict[str, Float32Array]:
        """Compute the answers of each target, [B, K] or [B, S, K], and ``embedding`` [B, D].

        Args:
            batch: What the float package reads; whole numbers of any size.

        Raises:
            InputError: An input is missing, or a text is too long.
        """
        wide = {
            name: values.astype(np.int64) if np.issubdtype(values.dtype, np.integer) else values
            for name, values in batch.items()
        }
        return self._model.run(wide, self.outputs)


def build_planned(content: Content, tensors: Mapping[str, Tensor]) -> Model:
    """Return a model whose units are layers of their kind.

    Raises:
        IntegrityError: The tensors are not those of the config and the plan.
    """
    model = build_on_meta(content.config)
    integer = {name for name, kind in content.kinds.items() if kind != FLOAT}
    try:
        for name, module in list(model.named_modules()):
            if isinstance(module, Experts):
                _replace(model, name, _experts(name, module, integer, tensors))
            elif name in integer and isinstance(module, nn.Linear):
                bias = tensors[f"{name}.bias"] if module.bias is not None else None
                scale = tensors[f"{SCALES}{name}"]
                _replace(model, name, Int8Linear(tensors[f"{name}.weight"], scale, bias))
        state = {n: tensors[n] for n in model.state_dict() if n in tensors}
        model.load_state_dict(state, strict=False, assign=True)
        model.tie_weights()
        left = [n for n, each in model.state_dict().items() if each.is_meta]
    except (KeyError, RuntimeError, ValueError) as error:
        raise IntegrityError(f"the model file does not fit its config: {error}") from error
    if left:
        raise IntegrityError(f"the model file has no {', '.join(left)}")
    return model


def _experts(
    name: str, experts: Experts, integer: set[str], tensors: Mapping[str, Tensor]
) -> PlannedExperts:
    stacks: dict[str, nn.Module] = {}
    for part in EXPERT_PARTS:
        if getattr(experts, part) is None:
            continue
        unit = f"{name}.{part}"
        values = tensors[unit]
        if unit in integer:
            stacks[part] = Int8Stack(values, tensors[f"{SCALES}{unit}"])
        else:
            stacks[part] = Stack(values)
    return PlannedExperts(experts, stacks)


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    owner, _, last = name.rpartition(".")
    parent = model.get_submodule(owner)
    if isinstance(parent, nn.ModuleList | nn.Sequential):
        cast(nn.ModuleList, parent)[int(last)] = module
    else:
        setattr(parent, last, module)


def _embedder(content: Content, tensors: Mapping[str, Tensor]) -> SentenceEmbedder | None:
    """Return the layers that make the embedding, where the package states them."""
    if content.statement is None:
        return None
    embedder = SentenceEmbedder(content.statement).eval()
    embedder.load_state_dict({name: tensors[f"{SENTENCE}{name}"] for name in embedder.state_dict()})
    return embedder
