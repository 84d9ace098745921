"""Computation of sentence vectors from token vectors, as a package states it.

The oracle is ``SentenceTransformer.encode``; tests compare with it. It is not used here because
that library builds the encoder and the tokenizer itself.

Legend: B batch, S length, D width of token vectors, E width of the vector.
"""

from pathlib import Path
from typing import Final

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from orchestrator.errors import IntegrityError
from orchestrator.modeling.sentence.statement import (
    STATEMENT,
    STATEMENT_WEIGHTS,
    DenseLayer,
    PoolingMode,
    SentenceEmbedding,
    read_statement,
)
from orchestrator.modeling.targets.sequence import pool

ACTIVATIONS: Final = {
    "identity": nn.Identity,
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "sigmoid": nn.Sigmoid,
    "silu": nn.SiLU,
}
NORM_FLOOR: Final = 1e-12
"""Smallest length that a vector is divided by."""


class SentenceEmbedder(nn.Module):
    """Pooling and layers of a statement.

    Attributes:
        statement: What is computed.
        layers: A ``Linear`` for each projection, an empty module for each normalization.
    """

    def __init__(self, statement: SentenceEmbedding) -> None:
        super().__init__()
        self.statement = statement
        self.layers = nn.ModuleList(
            nn.Linear(layer.in_features, layer.out_features, bias=layer.bias)
            if isinstance(layer, DenseLayer)
            else nn.Identity()
            for layer in statement.layers
        )

    @classmethod
    def load(cls, folder: Path) -> "SentenceEmbedder | None":
        """Read the statement of a package and its weights; None: it has none.

        Raises:
            IntegrityError: A file is missing, damaged, or not that of the statement.
        """
        statement = read_statement(folder)
        if statement is None:
            return None
        embedder = cls(statement)
        path = folder / STATEMENT_WEIGHTS
        try:
            tensors = load_file(path) if embedder.state_dict() else {}
            embedder.load_state_dict({name: each.float() for name, each in tensors.items()})
        except Exception as error:  # a missing file, and safetensors' and torch's own types
            raise IntegrityError(f"{path} does not fit {STATEMENT}: {error}") from error
        return embedder.eval().requires_grad_(False)

    def save(self, folder: Path) -> None:
        """Write both files into an existing folder; without projections there are no weights."""
        text = self.statement.model_dump_json(indent=2)
        (folder / STATEMENT).write_text(text + "\n", encoding="utf-8")
        if state := self.state_dict():
            tensors = {name: tensor.contiguous() for name, tensor in state.items()}
            save_file(tensors, folder / STATEMENT_WEIGHTS)

    def forward(self, hidden: Tensor, mask: Tensor, pooled: Tensor | None = None) -> Tensor:
        """Return the vectors [B, E].

        Args:
            hidden: Token vectors [B, S, D].
            mask: True at real tokens, [B, S].
            pooled: True at the tokens that take part, [B, S]; None: all real ones.
        """
        mask = mask.bool()
        chosen = mask if pooled is None or self.statement.include_prompt else mask & pooled.bool()
        hidden = hidden.float()
        parts = [_pooled(hidden, mask, chosen, mode) for mode in self.statement.pooling]
        vector = torch.cat(parts, dim=-1)
        for layer, module in zip(self.statement.layers, self.layers, strict=True):
            if isinstance(layer, DenseLayer):
                vector = ACTIVATIONS[layer.activation]()(module(vector))
            else:
                vector = F.normalize(vector, dim=-1, eps=NORM_FLOOR)
        return vector


def _pooled(hidden: Tensor, mask: Tensor, chosen: Tensor, mode: PoolingMode) -> Tensor:
    """Reduce the chosen tokens of hidden [B, S, D] to [B, D]."""
    if mode == "weightedmean":
        # The weight of a token is its place among all real tokens, 1 for the first.
        weights = mask.cumsum(1) * chosen
        total = torch.einsum("bsd,bs->bd", hidden, weights.to(hidden.dtype))
        return total / weights.sum(1, keepdim=True).clamp(min=1)
    if mode == "mean_sqrt_len_tokens":
        count = chosen.sum(1, keepdim=True).to(hidden.dtype)
        return pool(hidden, chosen, "mean") * count.sqrt()
    names = {"cls": "first", "lasttoken": "last"}
    return pool(hidden, chosen, names.get(mode, mode))
