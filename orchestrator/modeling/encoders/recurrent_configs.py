"""Options of the recurrent encoders. Imports without torch."""

from collections.abc import Iterator
from typing import Literal

from pydantic import PositiveInt

from orchestrator.errors import Problem
from orchestrator.modeling.component import Dimensions, EncoderConfig, Visibility, encoders
from orchestrator.modeling.layers.block_options import Rate

_MODULE = "orchestrator.modeling.encoders.recurrent"


SAVED_BY_CELL = {"rnn": 2, "gru": 8, "lstm": 17}
"""Vectors of the hidden size that one layer of each kind keeps per position."""


class RecurrentConfig(EncoderConfig):
    """Options that all recurrent encoders share."""

    num_layers: PositiveInt = 2
    """Number of recurrent layers."""
    dropout: Rate = 0.0
    """Dropout rate between layers."""
    input_size: PositiveInt | None = None
    """Width of the vectors that the first layer reads, that of an embedding without projection;
    null: hidden_size."""

    @property
    def gate_vectors(self) -> int:
        """Vectors per layer and position that torch's kernel keeps (measured)."""
        return SAVED_BY_CELL[self.type_name().removeprefix("bi")]

    def saved_activations(self, dimensions: Dimensions, length: int) -> int:
        """Values per position that the backward pass keeps."""
        del length
        return (self.gate_vectors * self.num_layers + 4) * dimensions.hidden_size


class OneStackConfig(RecurrentConfig):
    """Options of the encoders with one stack of layers."""

    bidirectional: bool = False
    """Read in both directions in every layer; each direction has half the hidden size."""

    @property
    def visibility(self) -> Visibility:
        """Inputs that an output depends on."""
        return "everything" if self.bidirectional else "past"

    def check(self, dimensions: Dimensions) -> Iterator[Problem]:
        """Two directions share the width."""
        if self.bidirectional:
            yield from _odd(dimensions)


class TwoStackConfig(RecurrentConfig):
    """Options of the encoders with a forward and a backward stack that never meet (ELMo)."""

    @property
    def visibility(self) -> Visibility:
        """Inputs that an output depends on."""
        return "halves"

    def check(self, dimensions: Dimensions) -> Iterator[Problem]:
        """Two directions share the width."""
        yield from _odd(dimensions)


def _odd(dimensions: Dimensions) -> Iterator[Problem]:
    if dimensions.hidden_size % 2:
        width = dimensions.hidden_size
        yield Problem("type", f"two directions share hidden_size ({width}). Use an even one.")


@encoders.register(f"{_MODULE}:RnnEncoder")
class RnnConfig(OneStackConfig):
    """Elman recurrence with tanh."""

    type: Literal["rnn"] = "rnn"


@encoders.register(f"{_MODULE}:LstmEncoder")
class LstmConfig(OneStackConfig):
    """Long short-term memory."""

    type: Literal["lstm"] = "lstm"


@encoders.register(f"{_MODULE}:GruEncoder")
class GruConfig(OneStackConfig):
    """Gated recurrent units."""

    type: Literal["gru"] = "gru"


@encoders.register(f"{_MODULE}:BiRnnEncoder")
class BiRnnConfig(TwoStackConfig):
    """A forward and a backward Elman stack, side by side."""

    type: Literal["birnn"] = "birnn"


@encoders.register(f"{_MODULE}:BiLstmEncoder")
class BiLstmConfig(TwoStackConfig):
    """A forward and a backward LSTM stack, side by side (ELMo)."""

    type: Literal["bilstm"] = "bilstm"


@encoders.register(f"{_MODULE}:BiGruEncoder")
class BiGruConfig(TwoStackConfig):
    """A forward and a backward GRU stack, side by side."""

    type: Literal["bigru"] = "bigru"
