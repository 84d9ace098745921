"""Convolutions over sound: log-mel spectrograms, and raw waveforms.

Spectrograms: Speech2Text (Wang et al. 2020), Whisper (Radford et al. 2022). Raw sound: wav2vec 2.0
(Baevski et al. 2020, section 2), HuBERT.

Legend: B batch, F frames of the spectrogram, M mel bins, N samples, S positions, C channels, D
model width.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from orchestrator.errors import InputError
from orchestrator.modeling.component import Dimensions
from orchestrator.modeling.embeddings.configs import SpeechConfig, WaveformConfig
from orchestrator.modeling.embeddings.stack import EmbeddingPart
from orchestrator.modeling.initialization import Constant, Draws, Normal
from orchestrator.modeling.interfaces import Batch, first_frames


class SpeechEmbedding(EmbeddingPart):
    """Strided convolutions, each followed by GLU or GELU.

    ``attention_mask`` is of the spectrogram's frames; padding is on the right and is read as
    silence (zeros), as in the families that have this part. Parameters: ``convolutions.N``.
    """

    Config = SpeechConfig

    def __init__(self, config: SpeechConfig, dimensions: Dimensions) -> None:
        super().__init__()
        self.config = config
        self.factor = dimensions.hidden_size**0.5 if config.scale else 1.0
        gated = config.activation == "glu"
        outputs = config.outputs(dimensions)
        inputs = [config.mel_bins, *(size // 2 if gated else size for size in outputs[:-1])]
        sizes = zip(inputs, outputs, config.kernels, config.strides, strict=True)
        self.convolutions = nn.ModuleList(
            nn.Conv1d(before, after, kernel, stride=stride, padding=kernel // 2)
            for before, after, kernel, stride in sizes
        )

    def forward(self, batch: Batch, total: Tensor | None) -> Tensor:
        """Return [B, S, D]; reads ``input_features`` [B, F, M].

        Raises:
            InputError: The batch has no spectrogram, or one with another number of mel bins.
        """
        features = self._features(batch)
        mask = batch.get("attention_mask")
        if mask is not None:
            features = features.masked_fill(~self._checked(mask, features), 0.0)
        hidden = features.transpose(1, 2)
        for convolution in self.convolutions:
            hidden = convolution(hidden)
            glu = self.config.activation == "glu"
            hidden = F.glu(hidden, dim=1) if glu else F.gelu(hidden)
        hidden = hidden.transpose(1, 2)
        return hidden if self.factor == 1.0 else hidden * self.factor

    def mask(self, batch: Batch, hidden: Tensor, past: int = 0) -> Tensor:
        """Return which positions are real, bool [B, S]; see ``subsampled``."""
        mask = batch.get("attention_mask")
        if mask is None or not any(mask.stride()):  # nothing is padding, see ``all_real``
            return super().mask({}, hidden, past)
        kernels, strides = self.config.kernels, self.config.strides
        lengths = subsampled(mask.long().sum(1), kernels, strides, centered=True)
        return first_frames(lengths, hidden.shape[1])

    def _features(self, batch: Batch) -> Tensor:
        features = batch.get("input_features")
        bins = self.config.mel_bins
        if features is None or features.dim() != 3 or features.shape[2] != bins:
            found = "none" if features is None else list(features.shape)
            raise InputError(
                f"The model reads input_features of [batch, frames, {bins}]; found {found}. "
                "Compute them with the model's processor."
            )
        return features

    def _checked(self, mask: Tensor, features: Tensor) -> Tensor:
        if mask.shape != features.shape[:2]:
            raise InputError(
                f"attention_mask is {list(mask.shape)}, the spectrograms are [batch, frames] "
                f"{list(features.shape[:2])}. They must be equal."
            )
        return mask.bool()[..., None]


class WaveformLayer(nn.Module):
    """Convolution, optional norm, exact GELU. Parameters: ``conv``, ``norm``.

    Args:
        sizes: Channels before and after, kernel, stride.
        bias: Give the convolution a bias.
        norm: ``group``: each channel over time; ``layer``: each frame over channels; None: neither.
    """

    def __init__(self, sizes: tuple[int, int, int, int], *, bias: bool, norm: str | None) -> None:
        super().__init__()
        before, after, kernel, stride = sizes
        self.conv = nn.Conv1d(before, after, kernel, stride=stride, bias=bias)
        self.norm: nn.Module | None = None
        if norm is not None:
            self.norm = nn.GroupNorm(after, after) if norm == "group" else nn.LayerNorm(after)

    def first_values(self, std: float) -> Draws:
        """Draw the kernel so that GELU keeps the variance (He et al. 2015), as wav2vec 2.0 does."""
        del std
        fan_in = math.prod(self.conv.weight.shape[1:])
        draws: Draws = {"conv.weight": Normal(math.sqrt(2.0 / fan_in))}
        if self.conv.bias is not None:
            draws["conv.bias"] = Constant(0.0)
        if self.norm is not None:
            draws |= {"norm.weight": Constant(1.0), "norm.bias": Constant(0.0)}
        return draws

    def forward(self, x: Tensor) -> Tensor:
        """Transform [B, C, S] to [B, C', S']."""
        x = self.conv(x)
        if isinstance(self.norm, nn.LayerNorm):
            x = self.norm(x.transpose(1, 2)).transpose(1, 2)
        elif self.norm is not None:
            x = self.norm(x)
        return F.gelu(x)


class WaveformEmbedding(EmbeddingPart):
    """Strided convolutions over samples, LayerNorm, and a linear layer to the model's width.

    ``attention_mask`` is of the samples; padding is on the right and is read as silence (zeros).
    With the norm ``group`` the statistics cover the padding too, as in wav2vec 2.0 base.
    Parameters: ``layers.N``, ``norm``, ``projection``, and ``mask_vector`` [D] if there is one.
    """

    Config = WaveformConfig

    def __init__(self, config: WaveformConfig, dimensions: Dimensions) -> None:
        super().__init__()
        self.config = config
        inputs = (1, *config.channels[:-1])
        sizes = zip(inputs, config.channels, config.kernels, config.strides, strict=True)
        everywhere = config.norm == "layer"
        self.layers = nn.ModuleList(
            WaveformLayer(
                each, bias=config.bias, norm=config.norm if everywhere or index == 0 else None
            )
            for index, each in enumerate(sizes)
        )
        self.norm = nn.LayerNorm(config.channels[-1], eps=config.norm_eps)
        self.projection = nn.Linear(config.channels[-1], dimensions.hidden_size)
        self.dropout = nn.Dropout(config.dropout)
        vector = torch.empty(dimensions.hidden_size) if config.mask_vector else None
        self.mask_vector = None if vector is None else nn.Parameter(vector)

    def forward(self, batch: Batch, total: Tensor | None) -> Tensor:
        """Return [B, S, D]; reads ``input_values`` [B, N] and, if given, ``masked_frames`` [B, S].

        Raises:
            InputError: The batch has no sound, its mask does not fit, or it hides frames and the
                model has no vector for them.
        """
        sound = batch.get("input_values")
        if sound is None or sound.dim() != 2:
            found = "none" if sound is None else list(sound.shape)
            raise InputError(f"The model reads input_values of [batch, samples]; found {found}.")
        mask = batch.get("attention_mask")
        if mask is not None and mask.shape != sound.shape:
            raise InputError(
                f"attention_mask is {list(mask.shape)}, input_values {list(sound.shape)}. "
                "They must be equal."
            )
        hidden = (sound if mask is None else sound.masked_fill(~mask.bool(), 0.0))[:, None]
        for layer in self.layers:
            hidden = layer(hidden)
        hidden = self.dropout(self.projection(self.norm(hidden.transpose(1, 2))))
        return self._hide(hidden, batch)

    def mask(self, batch: Batch, hidden: Tensor, past: int = 0) -> Tensor:
        """Return which frames are real, bool [B, S]; see ``subsampled``."""
        mask = batch.get("attention_mask")
        if mask is None or not any(mask.stride()):  # nothing is padding, see ``all_real``
            return super().mask({}, hidden, past)
        kernels, strides = self.config.kernels, self.config.strides
        lengths = subsampled(mask.long().sum(1), kernels, strides, centered=False)
        return first_frames(lengths, hidden.shape[1])

    def _hide(self, hidden: Tensor, batch: Batch) -> Tensor:
        masked = batch.get("masked_frames")
        if masked is None:
            return hidden
        if self.mask_vector is None:
            raise InputError("The batch has masked_frames: set `mask_vector` of the part waveform.")
        return torch.where(masked.bool()[..., None], self.mask_vector, hidden)


def subsampled(
    lengths: Tensor, kernels: Sequence[int], strides: Sequence[int], *, centered: bool
) -> Tensor:
    """Return the lengths after a stack of convolutions, int64 [B].

    Args:
        lengths: Lengths before, int64 [B].
        kernels: Of each convolution.
        strides: Of each convolution.
        centered: Padded by half a kernel on both sides, so that only the stride shortens:
            floor((L - 1) / stride) + 1 for odd kernels; otherwise floor((L - kernel) / stride) + 1.
    """
    for kernel, stride in zip(kernels, strides, strict=True):
        around = 2 * (kernel // 2) if centered else 0
        lengths = torch.div(lengths + around - kernel, stride, rounding_mode="floor") + 1
    return lengths
