"""Masked-word classification: the words of each class compete for the masked position.

Legend: B sequences, S length, D model width, E width of the word table, K classes, W words.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from orchestrator.modeling.component import Dimensions
from orchestrator.modeling.interfaces import IGNORED_LABEL, Target, TargetOutput
from orchestrator.modeling.targets.token_configs import PromptConfig
from orchestrator.modeling.targets.vocabulary import MlmTransform


class PromptTarget(Target):
    """The rows of a masked-word head that belong to the words of classes (Schick & Schütze 2021).

    The logit of a class is the mean of those of its words at the masked position, and the loss is
    the cross entropy over classes. ``labels`` are [B] int64, or -100. A new head has the values of
    the package's own masked-word head, and is trained apart from the word table.
    Parameters: ``output`` [W, E] and, with a transform, ``transform_layer.dense`` and
    ``transform_layer.norm``.
    """

    Config = PromptConfig

    def __init__(self, config: PromptConfig, dimensions: Dimensions) -> None:
        super().__init__()
        self.reads_token = config.mask_token
        self.sizes = [len(words) for words in config.words]
        width = dimensions.word_size if config.transform else dimensions.hidden_size
        self.transform_layer = MlmTransform(config, dimensions) if config.transform else None
        self.output = nn.Linear(width, sum(self.sizes), bias=config.bias)

    def count(self, labels: Tensor) -> Tensor:
        """Return the number of labelled sequences, 0-dim int64."""
        return (labels != IGNORED_LABEL).sum()

    def forward(self, hidden: Tensor, mask: Tensor, labels: Tensor) -> TargetOutput:
        """Return the cross entropy summed over sequences."""
        logits = self.predict(hidden, mask).float()
        loss = F.cross_entropy(logits, labels, reduction="sum", ignore_index=IGNORED_LABEL)
        correct = (logits.detach().argmax(-1) == labels).sum()
        return TargetOutput(loss, self.count(labels), correct)

    def predict(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Return the logits of the classes, [B, K], from the masked position, [B, 1, D]."""
        vector = hidden[:, 0]
        if self.transform_layer is not None:
            vector = self.transform_layer(vector)
        words = self.output(vector).split(self.sizes, dim=-1)
        return torch.stack([each.mean(-1) for each in words], dim=-1)
