"""Options of the embedding parts. Imports without torch."""

from collections.abc import Iterator
from typing import ClassVar, Literal

from pydantic import Field

from orchestrator.errors import Problem
from orchestrator.modeling.component import Dimensions, EmbeddingConfig
from orchestrator.modeling.registry import embeddings

_PACKAGE = "orchestrator.modeling.embeddings"


@embeddings.register(f"{_PACKAGE}.word:WordEmbedding")
class WordConfig(EmbeddingConfig):
    """Look up a learned vector for each token id."""

    reads_content: ClassVar[bool] = True
    type: Literal["word"] = "word"
    scale: bool = False
    """Multiply by the square root of the hidden size (the original Transformer, PEGASUS, Marian).
    """

    @property
    def reads_words(self) -> bool:
        """Tokens are looked up."""
        return True

    @property
    def word_table(self) -> str:
        """The part itself."""
        return ""


@embeddings.register(f"{_PACKAGE}.pos:PositionEmbedding")
class PosConfig(EmbeddingConfig):
    """Look up a learned vector for each position."""

    type: Literal["pos"] = "pos"
    offset: int = Field(default=0, ge=0)
    """Rows of the table before position 0 (BART, RoBERTa: 2); they exist besides
    max_position_embeddings."""
    pad_aware: bool = False
    """Count real tokens only, so that padding on the left moves nothing (RoBERTa)."""

    def check(self, dimensions: Dimensions) -> Iterator[Problem]:
        """Patches are never padding."""
        if self.pad_aware and dimensions.grid is not None:
            yield Problem("pad_aware", "counts tokens, but these are patches. Set it false.")


@embeddings.register(f"{_PACKAGE}.seg:SegmentEmbedding")
class SegConfig(EmbeddingConfig):
    """Look up a learned vector for each segment (`token_type_ids`)."""

    type: Literal["seg"] = "seg"


@embeddings.register(f"{_PACKAGE}.sinusoidalpos:SinusoidalPositionEmbedding")
class SinusoidalPosConfig(EmbeddingConfig):
    """Add fixed sine and cosine waves of the position."""

    type: Literal["sinusoidalpos"] = "sinusoidalpos"
    layout: Literal["interleaved", "halves"] = "interleaved"
    """Sine and cosine alternate (Vaswani et al. 2017), or all sines come first (PEGASUS, Marian).
    """
    spacing: Literal["paper", "tensor2tensor"] = "paper"
    """Wavelength i of D/2 is 2 pi 10000^(2i/D), or the longest one is exactly 2 pi 10000 (Whisper,
    Speech2Text)."""
    offset: int = Field(default=0, ge=0)
    """Position number of the first element (Speech2Text: pad_token_id + 1)."""
    pad_aware: bool = False
    """Count real positions only; padding gets zeros (Speech2Text)."""
    stored: bool = False
    """Keep the waves as a table that is stored but not trained (PEGASUS, the encoder of Whisper:
    their files hold it); otherwise they are computed in every pass."""

    def check(self, dimensions: Dimensions) -> Iterator[Problem]:
        """The width must split into sine and cosine, and into two wavelengths at least."""
        width = dimensions.hidden_size
        if width % 2:
            yield Problem("type", f"hidden_size {width} is odd. Use an even one.")
        if width < 4 and self.spacing == "tensor2tensor":
            yield Problem("spacing", f"needs two wavelengths; hidden_size {width} has one.")
