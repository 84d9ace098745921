"""Contracts of the components of a model; that of an embedding part is in `embeddings.stack`.

A component module is built as ``Component(config, dimensions)``; see ``config.registry`` for how
it gets its name. Modules take and return tensors, tuples (named ones too) and dicts of them: hooks
of sharded training find tensors in nothing else. A dual model reads two streams from one batch;
keys of the second begin with ``second.``.

Legend: B batch, S length, T target length, D model width, V vocabulary, K classes.
"""

from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from orchestrator.errors import InputError

IGNORED_LABEL = -100
"""A label at which nothing is predicted."""

LABELS = "labels."
"""Labels of target ``name`` are in ``batch["labels.<name>"]``."""

PLACES = "places."
"""Places of its labels, where the host knows them, are in ``batch["places.<name>"]``."""

Batch = dict[str, Tensor]
"""Named tensors: ``input_ids``, ``attention_mask``, ``token_type_ids`` [B, S], optional
``position_ids``, ``document_ids`` (which document of a packed row) and ``prefix_mask`` (1 where
every position may read) [B, S]; ``pixel_values`` [B, C, height, width]; ``input_features``
[B, frames, mel bins], ``input_values`` [B, samples], whose ``attention_mask`` has their length;
``decoder_input_ids``, ``decoder_attention_mask`` [B, T]; ``labels.<target name>``, and
``places.<target name>`` [N], indices of what is not -100 in the flattened labels."""

SECOND = "second."
"""Prefix of what the second stream reads: ``second.input_ids``, ``second.pixel_values``."""


def all_real(rows: int, length: int, device: torch.device) -> Tensor:
    """Return a mask without padding, bool [rows, length].

    It is one value seen everywhere, which attention recognizes without reading it from the device
    (``attention.known_full``), so that it can use its fastest kernels.
    """
    return torch.ones((), dtype=torch.bool, device=device).expand(rows, length)


def first_frames(lengths: Tensor, count: int) -> Tensor:
    """Return True at the first ``lengths`` [B] of ``count`` frames, [B, S]."""
    return torch.arange(count, device=lengths.device) < lengths[:, None]


class Streams(NamedTuple):
    """Vectors, or masks, of the two streams of a dual model."""

    first: Tensor
    second: Tensor


class TargetOutput(NamedTuple):
    """The loss of one target, not yet normalized.

    Attributes:
        loss: SUM over the loss terms, 0-dim.
        terms: Number of loss terms, 0-dim int64.
        correct: Number of terms whose most probable answer is the label, 0-dim int64, detached.
    """

    loss: Tensor
    terms: Tensor
    correct: Tensor


class Encoder(nn.Module, ABC):
    """Reads the whole sequence.

    Attributes:
        keeps_layers: Whether the outputs of its layers are wanted.
        layer_outputs: Those of the last pass, the embedded input first, each [B, S, D]; only of an
            encoder that supports it.
    """

    keeps_layers: bool = False
    layer_outputs: list[Tensor] | None = None

    @abstractmethod
    def forward(self, hidden: Tensor, mask: Tensor, batch: Batch) -> Tensor:
        """Encode.

        Args:
            hidden: Embedded input, [B, S, D].
            mask: True at real positions, [B, S]. Values at other positions must not influence real
                ones.
            batch: The inputs, for encoders that need more (``position_ids``).

        Returns:
            [B, S, D], finite everywhere.
        """


class Decoder(nn.Module, ABC):
    """Writes a sequence while it reads another one."""

    @abstractmethod
    def forward(self, hidden: Tensor, mask: Tensor, memory: Tensor, memory_mask: Tensor) -> Tensor:
        """Decode.

        Args:
            hidden: Embedded target-side input, [B, T, D].
            mask: True at real target positions, [B, T].
            memory: The encoder's output, [B, S, D].
            memory_mask: True at real source positions, [B, S].

        Returns:
            [B, T, D]; position t depends on target positions up to t.
        """


class Target(nn.Module, ABC):
    """A head with its loss. ``labels`` come from ``batch["labels.<name>"]``."""

    reads_router: ClassVar[bool] = False
    """Whether the labels are the answers of the encoder's routers, [layers, B * S, E]."""
    reads_layers: ClassVar[bool] = False
    """Whether it reads the outputs of all encoder layers, [B, S, layers, D]."""
    reads_token: int | None = None
    """Token whose first place is all that it reads, [B, 1, D]; None: it reads all positions."""
    skips_token: int | None = None
    """Token whose positions it does not read even where the mask has them; None: the mask decides.
    """
    takes_places: ClassVar[bool] = False
    """Whether ``forward`` also takes the places of the labels."""

    def tied_output(self) -> nn.Linear | None:
        """Return the output layer whose weight is the word table, if the config ties them."""
        return None

    @abstractmethod
    def count(self, labels: Tensor) -> Tensor:
        """Return the number of loss terms in ``labels``, 0-dim int64."""

    @abstractmethod
    def forward(self, hidden: Tensor, mask: Tensor, labels: Tensor) -> TargetOutput:
        """Return the summed loss.

        Args:
            hidden: Output of the encoder, or of the decoder if there is one, [B, S, D].
            mask: True at real positions, [B, S].
            labels: See the subclass.
        """

    @abstractmethod
    def predict(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Return logits for every position or sequence; see the subclass for the shape."""


def first_stream(batch: Batch) -> Batch:
    """Return what the first stream reads."""
    return {key: value for key, value in batch.items() if not key.startswith(SECOND)}


def second_stream(batch: Batch) -> Batch:
    """Return what the second stream reads, without the prefix.

    Raises:
        InputError: There is nothing for it.
    """
    own = {
        key.removeprefix(SECOND): value for key, value in batch.items() if key.startswith(SECOND)
    }
    if not own:
        raise InputError(
            f"The model reads two streams; the batch has {', '.join(batch)}. Give the second one's "
            f"inputs with the prefix {SECOND!r}, for example second.input_ids."
        )
    return own
