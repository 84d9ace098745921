"""Positions told by a convolution (wav2vec 2.0: Baevski et al. 2020; Mohamed et al. 2019).

Legend: B batch, S frames, D model width, K kernel, G groups.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from orchestrator.errors import InputError
from orchestrator.modeling.component import Dimensions
from orchestrator.modeling.embeddings.speech_configs import ConvPosConfig
from orchestrator.modeling.interfaces import Batch, EmbeddingPart


class ConvolutionalPositionEmbedding(EmbeddingPart):
    """GELU of a grouped convolution whose kernel is stored as direction and length.

    Its column at each of the K offsets is ``gain[k]`` times the direction there, divided by its
    norm (Salimans and Kingma 2016). Parameters: ``direction`` [D, D/G, K], ``gain`` [K], ``bias``
    [D].
    """

    Config = ConvPosConfig

    def __init__(self, config: ConvPosConfig, dimensions: Dimensions) -> None:
        super().__init__()
        width, kernel = dimensions.hidden_size, config.kernel_size
        self.groups, self.kernel_size = config.groups, kernel
        self.direction = nn.Parameter(torch.empty(width, width // config.groups, kernel))
        self.gain = nn.Parameter(torch.empty(kernel))
        self.bias = nn.Parameter(torch.empty(width))

    @torch.no_grad()
    def initialize(self, std: float) -> None:
        """Draw the kernel with standard deviation 2 / sqrt(K D), as wav2vec 2.0 does."""
        del std
        width, _, kernel = self.direction.shape
        self.direction.normal_(0.0, 2.0 / (kernel * width) ** 0.5)
        self.gain.copy_(self.direction.flatten(0, 1).norm(dim=0))
        self.bias.zero_()

    def forward(self, batch: Batch, total: Tensor | None) -> Tensor:
        """Return [B, S, D], computed from the real positions of ``total``.

        Raises:
            InputError: There is no earlier part.
        """
        if total is None:
            raise InputError("A position part cannot come first. Put `waveform` before it.")
        mask = batch.get("attention_mask")
        if mask is not None:
            total = total.masked_fill(~mask.bool()[..., None], 0.0)
        length = total.shape[1]
        kernel = self.direction * (self.gain / self.direction.flatten(0, 1).norm(dim=0))
        around = self.kernel_size // 2
        hidden = F.conv1d(
            total.transpose(1, 2), kernel, self.bias, padding=around, groups=self.groups
        )
        return F.gelu(hidden[..., :length]).transpose(1, 2)
