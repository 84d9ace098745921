"""Targets that predict tokens.

Legend: B batch, S length, N labelled positions, D model width, V vocabulary.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn

from orchestrator.modeling.component import Dimensions
from orchestrator.modeling.interfaces import IGNORED_LABEL, Target, TargetOutput
from orchestrator.modeling.layers.output_layer import VocabularyLayer
from orchestrator.modeling.targets.token_configs import (
    BilmConfig,
    LmConfig,
    MlmConfig,
    PromptConfig,
)
from orchestrator.modeling.targets.transform import Transform


def token_loss(layer: VocabularyLayer, vectors: Tensor, labels: Tensor) -> TargetOutput:
    """Return the summed cross entropy of ``layer(vectors)``.

    Args:
        layer: The output layer.
        vectors: One per label, [N, D]; N may be 0.
        labels: [N].
    """
    loss, correct = layer(vectors, labels)
    # Not `torch.tensor`: that would copy from the host, and wait for the device.
    return TargetOutput(loss, torch.full((), len(labels), device=labels.device), correct)


def labelled(hidden: Tensor, labels: Tensor, places: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the vectors that have a label, [N, D], and their labels, [N].

    Args:
        hidden: [..., D].
        labels: [...], -100 where nothing is predicted.
        places: Indices of labels in the flattened labels, [N], if the host has counted them; they
            spare a device the wait for their number.
    """
    vectors, answers = hidden.flatten(0, -2), labels.flatten()
    if places is None:
        places = (answers != IGNORED_LABEL).nonzero()[:, 0]
    if len(places) == len(answers):
        return vectors, answers
    return vectors.index_select(0, places), answers.index_select(0, places)


class MlmTransform(Transform):
    """Linear layer ``dense``, activation, LayerNorm ``norm`` (BERT's prediction head transform)."""

    def __init__(self, config: MlmConfig | PromptConfig, dimensions: Dimensions) -> None:
        super().__init__(
            dimensions.hidden_size,
            dimensions.word_size,
            activation=config.activation,
            norm_eps=config.norm_eps,
            bias=config.transform_bias,
            norm_bias=config.norm_bias,
        )


class TokenTarget(Target):
    """Predict one token per labelled position.

    ``labels`` are [B, S] int64, -100 where nothing is predicted; smoothed in training mode only.
    Parameters: ``output.weight`` [V, D] (the word table if tied), ``output.bias`` [V].
    """

    takes_places: ClassVar[bool] = True

    def __init__(
        self,
        width: int,
        vocab_size: int,
        *,
        tie: bool,
        bias: bool,
        smoothing: float = 0.0,
        softcap: float | None = None,
    ) -> None:
        super().__init__()
        self.output = VocabularyLayer(
            width, vocab_size, bias=bias, smoothing=smoothing, softcap=softcap
        )
        self.tie = tie

    def tied_output(self) -> nn.Linear | None:
        """Return the output layer if its weight is the word table."""
        return self.output if self.tie else None

    def transform(self, hidden: Tensor) -> Tensor:
        """Return what the output layer reads, [..., D]."""
        return hidden

    def count(self, labels: Tensor) -> Tensor:
        """Return the number of labelled positions, 0-dim int64."""
        return (labels != IGNORED_LABEL).sum()

    def forward(
        self, hidden: Tensor, mask: Tensor, labels: Tensor, places: Tensor | None = None
    ) -> TargetOutput:
        """Return the cross entropy summed over labelled positions of ``hidden`` [B, S, D]."""
        vectors, answers = labelled(hidden, labels, places)
        return token_loss(self.output, self.transform(vectors), answers)

    def predict(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Return logits of every position, [B, S, V]."""
        logits: Tensor = self.output(self.transform(hidden))
        return logits


class MlmTarget(TokenTarget):
    """Masked language modeling (Devlin et al. 2019).

    Parameters: also ``transform_layer.dense`` and ``transform_layer.norm``.
    """

    Config = MlmConfig

    def __init__(self, config: MlmConfig, dimensions: Dimensions) -> None:
        super().__init__(
            dimensions.word_size if config.transform else dimensions.hidden_size,
            dimensions.vocab_size,
            tie=config.tie,
            bias=config.bias,
            smoothing=config.label_smoothing,
        )
        self.transform_layer = MlmTransform(config, dimensions) if config.transform else None

    def transform(self, hidden: Tensor) -> Tensor:
        """Return the transformed vectors, [..., D]."""
        if self.transform_layer is None:
            return hidden
        transformed: Tensor = self.transform_layer(hidden)
        return transformed


class LmTarget(TokenTarget):
    """Language modeling: ``labels[b, s]`` is what follows position s (already shifted)."""

    Config = LmConfig

    def __init__(self, config: LmConfig, dimensions: Dimensions) -> None:
        width = dimensions.hidden_size
        super().__init__(
            width,
            dimensions.vocab_size,
            tie=config.tie,
            bias=config.bias,
            smoothing=config.label_smoothing,
            softcap=config.softcap,
        )
        self.factor = width**-0.5 if config.scale else 1.0

    def transform(self, hidden: Tensor) -> Tensor:
        """Return the vectors, scaled if the config says so, [..., D]."""
        return hidden if self.factor == 1.0 else hidden * self.factor


class BilmTarget(Target):
    """Two language models on the two halves of the width (Peters et al. 2018).

    ``labels`` are [B, S, 2] int64: the token that the first half must predict (the next one) and
    the one that the second half must predict (the previous one); -100 where nothing is predicted.
    One output layer serves both directions, as in ELMo. Parameters: ``output.weight`` [V, D/2],
    ``output.bias`` [V].
    """

    Config = BilmConfig
    takes_places: ClassVar[bool] = True

    def __init__(self, config: BilmConfig, dimensions: Dimensions) -> None:
        super().__init__()
        self.output = VocabularyLayer(
            dimensions.hidden_size // 2, dimensions.vocab_size, bias=config.bias
        )

    def count(self, labels: Tensor) -> Tensor:
        """Return the number of labelled (position, direction) pairs, 0-dim int64."""
        return (labels != IGNORED_LABEL).sum()

    def forward(
        self, hidden: Tensor, mask: Tensor, labels: Tensor, places: Tensor | None = None
    ) -> TargetOutput:
        """Return the cross entropy summed over positions and directions of ``hidden`` [B, S, D]."""
        return token_loss(self.output, *labelled(_halves(hidden), labels, places))

    def predict(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Return logits of every position and direction, [B, S, 2, V]."""
        logits: Tensor = self.output(_halves(hidden))
        return logits


def _halves(hidden: Tensor) -> Tensor:
    return hidden.view(*hidden.shape[:2], 2, -1)
