"""Even use of experts as a target of its own, so that it is weighted and measured like any other.

Legend: B batch, S length, E experts.
"""

from typing import ClassVar

from torch import Tensor

from orchestrator.modeling.component import Dimensions
from orchestrator.modeling.interfaces import Target, TargetOutput
from orchestrator.modeling.layers.experts import balance_loss
from orchestrator.modeling.targets.configs import BalanceConfig


class BalanceTarget(Target):
    """The balance loss of the encoder's routers, times the number of real tokens.

    ``labels`` are the routers' answers, [layers, B * S, E]. The loss of a batch is not a sum over
    tokens (it is a product of two means), so that cutting a batch differently changes it a little,
    here as in every implementation. No parameters, no answers to be right about.
    """

    Config = BalanceConfig
    reads_router: ClassVar[bool] = True

    def __init__(self, config: BalanceConfig, dimensions: Dimensions) -> None:
        super().__init__()
        del dimensions
        self.top_k = config.top_k

    def count(self, labels: Tensor) -> Tensor:
        """Return the number of real tokens of a mask [B, S], 0-dim int64."""
        return labels.bool().sum()

    def forward(self, hidden: Tensor, mask: Tensor, labels: Tensor) -> TargetOutput:
        """Return the balance loss times the number of real tokens."""
        terms = self.count(mask)
        loss = balance_loss(labels, mask.flatten(), self.top_k) * terms
        return TargetOutput(loss, terms, terms.new_zeros(()))

    def predict(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Return the mask: there is nothing to predict."""
        return mask
