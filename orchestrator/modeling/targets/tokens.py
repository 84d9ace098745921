"""Targets with one answer, or two, per position.

Tags, replaced tokens, transcripts, codes of patches, words in both directions.

Logits of tags and replaced tokens are computed only where there is a label. Transcripts are
connectionist temporal classification (Graves et al. 2006).

Legend: B batch, S positions or frames, N labelled positions, T label tokens, D model width, K
classes, V vocabulary.
"""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from orchestrator.modeling.component import Dimensions
from orchestrator.modeling.interfaces import IGNORED_LABEL, Target, TargetOutput, first_frames
from orchestrator.modeling.layers.feed_forward import ACTIVATIONS
from orchestrator.modeling.targets.token_configs import (
    BilmConfig,
    CtcConfig,
    MimConfig,
    RtdConfig,
    TagsConfig,
)
from orchestrator.modeling.targets.transform import build_transform
from orchestrator.modeling.targets.vocabulary import (
    TokenTarget,
    VocabularyLayer,
    labelled,
    token_loss,
)


class TagsTarget(Target):
    """Dropout and a linear classifier at every position (transformers' ForTokenClassification).

    ``labels`` are [B, S] int64, -100 where there is none. Parameters: ``output`` [K, D];
    ``transform.*`` if there is one.
    """

    Config = TagsConfig

    def __init__(self, config: TagsConfig, dimensions: Dimensions) -> None:
        super().__init__()
        self.transform = build_transform(config.transform, dimensions.hidden_size)
        self.dropout = nn.Dropout(config.dropout)
        self.output = nn.Linear(dimensions.hidden_size, config.num_labels)

    def count(self, labels: Tensor) -> Tensor:
        """Return the number of labelled positions, 0-dim int64."""
        return (labels != IGNORED_LABEL).sum()

    def forward(self, hidden: Tensor, mask: Tensor, labels: Tensor) -> TargetOutput:
        """Return the cross entropy summed over labelled positions of ``hidden`` [B, S, D]."""
        chosen = labels != IGNORED_LABEL
        logits, answers = self.predict(hidden[chosen], mask), labels[chosen]
        loss = F.cross_entropy(logits.float(), answers, reduction="sum")
        correct = (logits.detach().argmax(-1) == answers).sum()
        return TargetOutput(loss, chosen.sum(), correct)

    def predict(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Return logits of every position, [..., K] for ``hidden`` [..., D]."""
        if self.transform is not None:
            hidden = self.transform(hidden)
        logits: Tensor = self.output(self.dropout(hidden))
        return logits


class RtdTarget(Target):
    """Replaced token detection (Clark et al. 2020, section 2): linear, activation, one logit.

    ``labels`` are [B, S] int64: 1 where the generator replaced the token, 0 where it is the
    original, -100 where nothing is asked. Parameters: ``dense`` [D, D], ``output`` [1, D].
    """

    Config = RtdConfig

    def __init__(self, config: RtdConfig, dimensions: Dimensions) -> None:
        super().__init__()
        width = dimensions.hidden_size
        self.dense = nn.Linear(width, width)
        self.activation = ACTIVATIONS[config.activation]
        self.output = nn.Linear(width, 1)

    def count(self, labels: Tensor) -> Tensor:
        """Return the number of labelled positions, 0-dim int64."""
        return (labels != IGNORED_LABEL).sum()

    def forward(self, hidden: Tensor, mask: Tensor, labels: Tensor) -> TargetOutput:
        """Return the binary cross entropy summed over labelled positions of [B, S, D]."""
        chosen = labels != IGNORED_LABEL
        logits, answers = self.predict(hidden[chosen], mask).float(), labels[chosen]
        loss = F.binary_cross_entropy_with_logits(logits, answers.float(), reduction="sum")
        correct = ((logits.detach() > 0) == answers.bool()).sum()
        return TargetOutput(loss, chosen.sum(), correct)

    def predict(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Return the logit of "replaced" at every position, [...] for ``hidden`` [..., D]."""
        logits: Tensor = self.output(self.activation(self.dense(hidden)))
        return logits.squeeze(-1)


class CtcTarget(Target):
    """Dropout, linear layer, and the probability of the labels over all their alignments.

    ``labels`` are [B, T] int64, -100 after the last token. The blank is the padding token. The loss
    is the SUM over sequences of -log p(labels), its terms are label tokens: divided by them it is a
    mean per token in which long and short sequences weigh the same, whatever the batch. Parameters:
    ``output`` [V, D].
    """

    Config = CtcConfig

    def __init__(self, config: CtcConfig, dimensions: Dimensions) -> None:
        super().__init__()
        self.blank = dimensions.pad_token_id
        self.zero_infinity = config.zero_infinity
        self.dropout = nn.Dropout(config.dropout)
        self.output = nn.Linear(dimensions.hidden_size, dimensions.vocab_size)

    def count(self, labels: Tensor) -> Tensor:
        """Return the number of label tokens, 0-dim int64."""
        return (labels != IGNORED_LABEL).sum()

    def forward(self, hidden: Tensor, mask: Tensor, labels: Tensor) -> TargetOutput:
        """Return -log p(labels) summed over the sequences of ``hidden`` [B, S, D].

        ``correct`` counts label tokens that the transcription has at the same place. A sequence
        with fewer frames than its labels need has no alignment: its loss is infinite, or left out
        with ``zero_infinity``.
        """
        order = mask.int().argsort(dim=1, descending=True, stable=True)  # real frames first
        hidden = hidden.gather(1, order[..., None].expand_as(hidden))
        lengths = mask.long().sum(1)
        logits = self.predict(hidden, mask)
        real = labels != IGNORED_LABEL
        loss = F.ctc_loss(
            logits.float().log_softmax(dim=-1).transpose(0, 1),
            labels[real],
            lengths,
            real.long().sum(1),
            blank=self.blank,
            reduction="sum",
            zero_infinity=self.zero_infinity,
        )
        found = transcribe(logits.detach(), lengths, self.blank, labels.shape[1])
        return TargetOutput(loss, self.count(labels), (real & (found == labels)).sum())

    def predict(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Return logits of every frame, [B, S, V]."""
        logits: Tensor = self.output(self.dropout(hidden))
        return logits


def transcribe(logits: Tensor, lengths: Tensor, blank: int, length: int) -> Tensor:
    """Return the most probable token of each frame, without repetitions and blanks.

    Args:
        logits: [B, S, V].
        lengths: Number of real frames, which come first, [B].
        blank: Token that stands for none.
        length: T, tokens wanted of each sequence.

    Returns:
        int64 [B, T], -100 after the last token.
    """
    path = logits.argmax(dim=-1)
    before = F.pad(path[:, :-1], (1, 0), value=-1)
    new = (path != before) & (path != blank) & first_frames(lengths, path.shape[1])
    place = torch.where(new, new.long().cumsum(1) - 1, length).clamp(max=length)
    found = torch.full((len(path), length + 1), IGNORED_LABEL, device=path.device)
    return found.scatter(1, place, path)[:, :length]


class MimTarget(TokenTarget):
    """Masked image modeling (Bao et al. 2022, equation 2).

    ``labels`` are [B, S] int64 over all positions, tokens before the patches included: the code of
    a masked patch, -100 elsewhere. Parameters: ``output.weight`` [V, D], ``output.bias`` [V].
    """

    Config = MimConfig

    def __init__(self, config: MimConfig, dimensions: Dimensions) -> None:
        super().__init__(dimensions.hidden_size, config.num_codes, tie=False, bias=True)


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
