"""The position-wise feed-forward of transformer blocks."""

from torch import Tensor, nn

from orchestrator.modeling.layers.activations import ACTIVATIONS


class FeedForward(nn.Module):
    """``down(act(up(x)))``; gated: ``down(act(gate(x)) * up(x))`` (Shazeer 2020).

    Dropout acts on what ``down`` reads. Parameters: ``up``, ``down`` and, if gated, ``gate``.
    """

    def __init__(
        self,
        width: int,
        inner: int,
        *,
        activation: str,
        gated: bool,
        bias: bool,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.up = nn.Linear(width, inner, bias=bias)
        self.gate = nn.Linear(width, inner, bias=bias) if gated else None
        self.down = nn.Linear(inner, width, bias=bias)
        self.activation = ACTIVATIONS[activation]
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Transform each position; [B, S, D] to [B, S, D]."""
        if self.gate is None:
            inner = self.activation(self.up(x))
        else:
            inner = self.activation(self.gate(x)) * self.up(x)
        output: Tensor = self.down(self.dropout(inner))
        return output
