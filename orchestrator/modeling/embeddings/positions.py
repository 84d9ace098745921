"""Positions without a learned table: sine waves, and a convolution over frames.

Sine waves are those of Vaswani et al. 2017, section 3.5. The paper's wavelengths grow by
10000^(2/D) from one to the next, so that the longest is a little shorter than 2 pi 10000;
tensor2tensor's grow by 10000^(1/(D/2 - 1)) and reach it. Models were trained with either. Angles of
the paper's spacing are computed in fp64 and those of tensor2tensor's in fp32, as their references
do: at position 1000 the two precisions differ by 1e-4. The convolution is that of wav2vec 2.0
(Baevski et al. 2020; Mohamed et al. 2019).

Legend: B batch, S length or frames, D model width, K kernel, G groups.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from orchestrator.errors import InputError
from orchestrator.modeling.component import Dimensions
from orchestrator.modeling.embeddings.configs import ConvPosConfig, SinusoidalPosConfig
from orchestrator.modeling.embeddings.stack import EmbeddingPart
from orchestrator.modeling.embeddings.tables import position_ids
from orchestrator.modeling.initialization import Computed, Constant, Draws, Normal
from orchestrator.modeling.interfaces import Batch

BASE = 10000.0
"""Ratio of the longest to the shortest wavelength."""


class SinusoidalPositionEmbedding(EmbeddingPart):
    """Sines and cosines of the position, interleaved or all sines first.

    Computed in every forward pass: S x D values, negligible beside the encoder. With ``stored``
    they are rows of ``weight`` [max_position_embeddings + offset, D], which is not trained.
    """

    Config = SinusoidalPosConfig

    def __init__(self, config: SinusoidalPosConfig, dimensions: Dimensions) -> None:
        super().__init__()
        self.config = config
        self.limit = dimensions.max_position_embeddings
        self.width = dimensions.hidden_size
        rows = self.limit + config.offset
        self.weight = (
            nn.Parameter(torch.empty(rows, self.width), requires_grad=False)
            if config.stored
            else None
        )

    def first_values(self, std: float) -> Draws:
        """The table, if there is one, holds the waves."""
        del std
        if self.weight is None:
            return {}
        rows, width, config = len(self.weight), self.width, self.config
        return {"weight": Computed(lambda _: waves(torch.arange(rows), width, config))}

    def forward(self, batch: Batch, total: Tensor | None) -> Tensor:
        """Return [B, S, D] or [1, S, D].

        Raises:
            InputError: The sequence is longer than max_position_embeddings.
        """
        positions = position_ids(batch, total, self.limit, pad_aware=self.config.pad_aware)
        numbers = positions.clamp(min=0) + self.config.offset
        if self.weight is None:
            rows = waves(numbers, self.width, self.config)
        else:
            rows = F.embedding(numbers, self.weight)
        rows = rows if total is None else rows.to(total.dtype)
        return rows.masked_fill((positions < 0)[..., None], 0.0) if self.config.pad_aware else rows


def waves(positions: Tensor, width: int, config: SinusoidalPosConfig) -> Tensor:
    """Return the waves at each position, fp32 [..., D].

    Args:
        positions: Position numbers, int64 [...].
        width: Even D.
        config: Layout and spacing.
    """
    half = torch.arange(width // 2, device=positions.device)
    if config.spacing == "paper":
        angles = positions[..., None].double() * BASE ** -(2 * half.double() / width)
    else:
        step = math.log(BASE) / (width // 2 - 1)
        angles = positions[..., None].float() * torch.exp(half.float() * -step)
    both = [angles.sin().float(), angles.cos().float()]
    if config.layout == "interleaved":
        return torch.stack(both, dim=-1).flatten(-2)
    return torch.cat(both, dim=-1)


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

    def first_values(self, std: float) -> Draws:
        """Draw the kernel with standard deviation 2 / sqrt(K D), as wav2vec 2.0 does."""
        del std
        width, _, kernel = self.direction.shape
        return {
            "direction": Normal(2.0 / (kernel * width) ** 0.5),
            "gain": Computed(lambda whole: whole("direction").flatten(0, 1).norm(dim=0)),
            "bias": Constant(0.0),
        }

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
