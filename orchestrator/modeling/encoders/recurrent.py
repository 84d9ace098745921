"""Recurrent encoders on torch's own RNN, LSTM and GRU.

Legend: B batch, S length, D model width.

Real positions are moved to the front before the recurrence and back after it, so that padding
anywhere (left, right or between) changes nothing; outputs at padding are zero. State dicts are
those of ``torch.nn.RNN / LSTM / GRU``.
"""

import math
from typing import ClassVar, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from orchestrator.modeling.component import Dimensions
from orchestrator.modeling.encoders.recurrent_configs import (
    BiGruConfig,
    BiLstmConfig,
    BiRnnConfig,
    GruConfig,
    LstmConfig,
    OneStackConfig,
    RnnConfig,
    TwoStackConfig,
)
from orchestrator.modeling.initialization import Draws, Uniform
from orchestrator.modeling.interfaces import Batch, Encoder

Cell = type[nn.RNN] | type[nn.LSTM] | type[nn.GRU]
"""A recurrent layer of torch."""


Sequence = TypeVar("Sequence", Tensor, PackedSequence)


def reading_order(mask: Tensor, *, backward: bool = False) -> Tensor:
    """Return the order in which to read: real positions, then padding.

    Args:
        mask: True at real positions, [B, S].
        backward: Read the last real position first.

    Returns:
        Positions, int64, [B, S].
    """
    length = mask.shape[1]
    step = torch.arange(length, device=mask.device)
    key = torch.where(mask, -step if backward else step, length)
    return key.argsort(dim=1)


def reorder(x: Tensor, order: Tensor) -> Tensor:
    """Return ``x[b, order[b, s]]`` for x [B, S, D] and order [B, S]."""
    return x.gather(1, order[..., None].expand_as(x))


def run(stack: nn.RNNBase, x: Sequence) -> Sequence:
    """Return the outputs of a stack of layers for x [B, S, D] or a packed sequence.

    On CPUs it stays out of autocast: without the right instructions there is no bf16 kernel.
    """
    weight = stack.all_weights[0][0]
    if weight.device.type == "cpu":
        with torch.autocast("cpu", enabled=False):
            output: Sequence = stack(x.to(weight.dtype))[0]
    else:
        output = stack(x)[0]
    return output


class OneStackEncoder(Encoder):
    """One stack of recurrent layers, ``stack.*``; bidirectional layers read packed sequences."""

    cell: ClassVar[Cell]

    def __init__(self, config: OneStackConfig, dimensions: Dimensions) -> None:
        super().__init__()
        width = dimensions.hidden_size
        self.packed = config.bidirectional
        self.stack = self.cell(
            config.input_size or width,
            width // 2 if config.bidirectional else width,
            num_layers=config.num_layers,
            dropout=config.dropout if config.num_layers > 1 else 0.0,
            bidirectional=config.bidirectional,
            batch_first=True,
        )

    def forward(self, hidden: Tensor, mask: Tensor, batch: Batch) -> Tensor:
        """Encode [B, S, D] to [B, S, D]."""
        order = reading_order(mask)
        read = self._read(reorder(hidden, order), mask)
        return reorder(read, order.argsort(dim=1)) * mask[..., None]

    def _read(self, x: Tensor, mask: Tensor) -> Tensor:
        if not self.packed:
            return run(self.stack, x)
        lengths = mask.sum(1).clamp(min=1).cpu()
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        output = run(self.stack, packed)
        return pad_packed_sequence(output, batch_first=True, total_length=x.shape[1])[0]

    def first_values(self, std: float) -> Draws:
        """Use torch's own values: uniform within 1/sqrt(hidden size)."""
        del std
        return _as_in_torch(self)


def _as_in_torch(encoder: nn.Module) -> Draws:
    return {
        f"{name}.{key}": Uniform(1 / math.sqrt(stack.hidden_size))
        for name, stack in encoder.named_children()
        if isinstance(stack, nn.RNNBase)
        for key, _ in stack.named_parameters()
    }


class TwoStackEncoder(Encoder):
    """Stacks ``forward_stack.*`` and ``backward_stack.*`` of half the width each (ELMo).

    The output is the forward half, then the backward half. Forward outputs at position s know the
    positions up to s, backward outputs those from s on, in every layer: a language model on each
    half never sees its answer.
    """

    cell: ClassVar[Cell]

    def __init__(self, config: TwoStackConfig, dimensions: Dimensions) -> None:
        super().__init__()
        self.forward_stack = self._stack(config, dimensions.hidden_size)
        self.backward_stack = self._stack(config, dimensions.hidden_size)

    def _stack(self, config: TwoStackConfig, width: int) -> nn.RNNBase:
        return self.cell(
            config.input_size or width,
            width // 2,
            num_layers=config.num_layers,
            dropout=config.dropout if config.num_layers > 1 else 0.0,
            batch_first=True,
        )

    def forward(self, hidden: Tensor, mask: Tensor, batch: Batch) -> Tensor:
        """Encode [B, S, D] to [B, S, D]."""
        halves = []
        for stack, backward in ((self.forward_stack, False), (self.backward_stack, True)):
            order = reading_order(mask, backward=backward)
            read = run(stack, reorder(hidden, order))
            halves.append(reorder(read, order.argsort(dim=1)))
        return torch.cat(halves, dim=-1) * mask[..., None]

    def first_values(self, std: float) -> Draws:
        """Use torch's own values: uniform within 1/sqrt(hidden size)."""
        del std
        return _as_in_torch(self)


class RnnEncoder(OneStackEncoder):
    """Elman recurrence."""

    Config = RnnConfig
    cell = nn.RNN


class LstmEncoder(OneStackEncoder):
    """Long short-term memory."""

    Config = LstmConfig
    cell = nn.LSTM


class GruEncoder(OneStackEncoder):
    """Gated recurrent units."""

    Config = GruConfig
    cell = nn.GRU


class BiRnnEncoder(TwoStackEncoder):
    """Two Elman stacks."""

    Config = BiRnnConfig
    cell = nn.RNN


class BiLstmEncoder(TwoStackEncoder):
    """Two LSTM stacks."""

    Config = BiLstmConfig
    cell = nn.LSTM


class BiGruEncoder(TwoStackEncoder):
    """Two GRU stacks."""

    Config = BiGruConfig
    cell = nn.GRU
