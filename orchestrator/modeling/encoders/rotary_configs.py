"""Options of rotary positions. Imports without torch."""

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from orchestrator.config import StrictModel

Factor = Annotated[float, Field(ge=1.0)]
"""How many times longer sequences may be than those of the original model."""


class LinearScaling(StrictModel):
    """Divide every position by the factor (Chen et al. 2023)."""

    type: Literal["linear"] = "linear"
    factor: Factor
    """How many times longer sequences may be."""


class Llama3Scaling(StrictModel):
    """Slow down long waves only (LLaMA 3.1)."""

    type: Literal["llama3"] = "llama3"
    factor: Factor = 8.0
    """How many times slower waves are that do not fit the original length."""
    low_freq_factor: PositiveFloat = 1.0
    """Waves that fit fewer times than this into the original length are slowed down fully."""
    high_freq_factor: PositiveFloat = 4.0
    """Waves that fit more often than this stay as they are."""
    original_max_position_embeddings: PositiveInt = 8192
    """Length that the model was first trained on, in positions."""


class YarnScaling(StrictModel):
    """Slow down long waves, and sharpen attention (YaRN, Peng et al. 2023)."""

    type: Literal["yarn"] = "yarn"
    factor: Factor
    """How many times longer sequences may be."""
    original_max_position_embeddings: PositiveInt
    """Length that the model was first trained on, in positions."""
    attention_factor: PositiveFloat | None = None
    """Factor on rotated queries and keys; null: 0.1 * ln(factor) + 1."""
    mscale: PositiveFloat | None = None
    """With `mscale_all_dim`: attention_factor is the ratio of two such terms (DeepSeek)."""
    mscale_all_dim: PositiveFloat | None = None
    """See `mscale`."""
    beta_fast: PositiveFloat = 32.0
    """Waves that turn more often than this in the original length stay as they are."""
    beta_slow: PositiveFloat = 1.0
    """Waves that turn less often than this are slowed down fully."""
    truncate: bool = True
    """Round the channels between which the two blend."""


Scaling = Annotated[LinearScaling | Llama3Scaling | YarnScaling, Field(discriminator="type")]
"""How waves change for sequences that are longer than those of the original model."""


class RotaryConfig(StrictModel):
    """Rotary position embedding (Su et al. 2021)."""

    theta: PositiveFloat = 10000.0
    """Base of the wavelengths."""
    layout: Literal["halves", "pairs"] = "halves"
    """Channel i turns together with i + d/2 (LLaMA in transformers, GPT-NeoX), or with its
    neighbour (the original, LLaMA as released by Meta)."""
    scaling: Scaling | None = None
    """Waves for longer sequences: `{type: linear, ...}`, `{type: llama3, ...}`, `{type: yarn,
    ...}`; null: as they are."""
