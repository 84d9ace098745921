"""Linear layer, activation and norm that a head puts before its output layer.

Legend: D width of the vectors, E width that is read next.
"""

from torch import Tensor, nn

from orchestrator.modeling.layers.feed_forward import ACTIVATIONS
from orchestrator.modeling.targets.configs import TransformConfig


class Transform(nn.Module):
    """``norm(activation(dense(x)))``; parameters: ``dense`` [E, D], ``norm`` [E] if there is one.

    BERT's prediction head (Devlin et al. 2019) and ModernBERT's heads (Warner et al. 2024).
    """

    def __init__(
        self,
        width: int,
        inner: int,
        *,
        activation: str,
        norm_eps: float | None,
        bias: bool = True,
        norm_bias: bool = True,
    ) -> None:
        super().__init__()
        self.dense = nn.Linear(width, inner, bias=bias)
        self.activation = ACTIVATIONS[activation]
        self.norm: nn.Module | None = None
        if norm_eps is not None:
            self.norm = nn.LayerNorm(inner, eps=norm_eps, bias=norm_bias)

    def forward(self, x: Tensor) -> Tensor:
        """Transform [..., D] to [..., E]."""
        output: Tensor = self.activation(self.dense(x))
        return output if self.norm is None else self.norm(output)


def build_transform(config: TransformConfig | None, width: int) -> Transform | None:
    """Return the layers that a head's options name, of width ``width``, or None."""
    if config is None:
        return None
    return Transform(
        width,
        width,
        activation=config.activation,
        norm_eps=config.norm_eps,
        bias=config.bias,
        norm_bias=config.norm_bias,
    )
