"""Gated convolutional encoder.

Dauphin et al. 2017, "Language Modeling with Gated Convolutional Networks".
Equation 1: h(X) = (X * W + b) ⊗ σ(X * V + c), one convolution for W and V here. Residual
connections span ``block_size`` layers, counted from the input or from the first layer's output.
Deviations: no weight normalization; a bidirectional form that reads both sides.
"""

import math

import torch.nn.functional as F
from torch import Tensor, nn

from orchestrator.modeling.component import Dimensions
from orchestrator.modeling.encoders.configs import GatedCnnConfig
from orchestrator.modeling.initialization import Constant, Draws, Normal
from orchestrator.modeling.interfaces import Batch, Encoder


class GatedCnnEncoder(Encoder):
    """A stack of gated convolutions; ``layers.N`` is Conv1d(D, 2D): values, then gates.

    Padding enters each convolution as zeros, exactly like what lies outside the sequence.
    """

    Config = GatedCnnConfig

    def __init__(self, config: GatedCnnConfig, dimensions: Dimensions) -> None:
        super().__init__()
        width, kernel = dimensions.hidden_size, config.kernel_size
        inputs = [config.input_size or width] + [width] * (config.num_layers - 1)
        self.layers = nn.ModuleList(nn.Conv1d(size, 2 * width, kernel) for size in inputs)
        self.late = config.residual_from == "first_layer"
        left = kernel - 1 if config.mask == "causal" else (kernel - 1) // 2
        self.margins = (left, kernel - 1 - left)
        self.block_size = config.block_size
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, hidden: Tensor, mask: Tensor, batch: Batch) -> Tensor:
        """Encode [B, S, D] to [B, S, D]; outputs at padding are zero."""
        real = mask[:, None].to(hidden.dtype)
        x = hidden.transpose(1, 2) * real
        residual = x
        for index, convolution in enumerate(self.layers):
            gated = F.glu(convolution(F.pad(x, self.margins)), dim=1)
            x = self.dropout(gated) * real
            if self.late and index == 0:
                residual = x
            elif (index + (not self.late)) % self.block_size == 0:
                x = residual = x + residual
        return x.transpose(1, 2)

    def first_values(self, std: float) -> Draws:
        """Draw weights that keep the variance of values through the gate (gain 2, no bias)."""
        del std
        draws: Draws = {}
        for number, layer in enumerate(self.layers):
            for key, parameter in layer.named_parameters():
                fan_in = math.prod(parameter.shape[1:])
                draw = Constant(0.0) if key == "bias" else Normal(2.0 / math.sqrt(fan_in))
                draws[f"layers.{number}.{key}"] = draw
        return draws
