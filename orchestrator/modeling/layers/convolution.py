"""Convolution beside the first block of an encoder (He et al. 2021, section 3.3 of DeBERTa-v2).

Legend: B batch, S length, D model width, G groups, K kernel.
"""

import torch
from torch import Tensor, nn

from orchestrator.modeling.component import Dimensions
from orchestrator.modeling.layers.block_options import BlockOptions, ConvolutionConfig
from orchestrator.modeling.layers.feed_forward import ACTIVATIONS


class Convolution(nn.Module):
    """Adds what a convolution sees of the embedded input to the first block's output, and norms it.

    Parameters: ``layer`` [D, D/G, K] and ``norm``.

    Args:
        config: Kernel, groups and activation.
        width: D.
        norm_eps: Added to the variance inside the norm.
        dropout: Dropout rate before the activation.
    """

    def __init__(
        self, config: ConvolutionConfig, width: int, norm_eps: float, dropout: float
    ) -> None:
        super().__init__()
        self.layer = nn.Conv1d(
            width, width, config.kernel_size, padding="same", groups=config.groups
        )
        activation = config.activation
        self.activation = torch.tanh if activation == "tanh" else ACTIVATIONS[activation]
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(width, eps=norm_eps)

    def forward(self, embedded: Tensor, hidden: Tensor, mask: Tensor) -> Tensor:
        """Return [B, S, D].

        Args:
            embedded: The embedded input, [B, S, D].
            hidden: Output of the first block, [B, S, D].
            mask: True at real positions, [B, S]; the kernel reads zeros elsewhere.
        """
        embedded = embedded.masked_fill(~mask[..., None], 0.0)
        local = self.layer(embedded.transpose(1, 2)).transpose(1, 2)
        result: Tensor = self.norm(hidden + self.activation(self.dropout(local)))
        return result


def build_convolution(
    options: BlockOptions, config: ConvolutionConfig | None, dimensions: Dimensions
) -> Convolution | None:
    """Return the convolution that a config names; None: there is none."""
    if config is None:
        return None
    return Convolution(config, dimensions.hidden_size, options.norm_eps, options.dropout)
