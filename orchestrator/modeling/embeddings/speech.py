"""Convolutions over log-mel spectrograms (Speech2Text: Wang et al. 2020; Whisper: Radford 2022).

Legend: B batch, F frames of the spectrogram, M mel bins, S positions, D model width.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from orchestrator.errors import InputError
from orchestrator.modeling.component import Dimensions
from orchestrator.modeling.embeddings.speech_configs import SpeechConfig
from orchestrator.modeling.interfaces import Batch, EmbeddingPart
from orchestrator.modeling.layers.subsampling import first_frames, subsampled


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
        if mask is None:
            return super().mask({}, hidden, past)
        kernels, strides = self.config.kernels, self.config.strides
        lengths = subsampled(mask.long().sum(1), kernels, strides, centred=True)
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
