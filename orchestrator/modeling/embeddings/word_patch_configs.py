"""Options of the embedding of a text and an image in one sequence. Imports without torch."""

from collections.abc import Iterator
from typing import ClassVar, Literal

from orchestrator.errors import Problem
from orchestrator.modeling.component import Dimensions, EmbeddingConfig, inside
from orchestrator.modeling.embeddings.configs import PosConfig
from orchestrator.modeling.embeddings.stack_config import EmbeddingStackConfig
from orchestrator.modeling.embeddings.vision_configs import ImageConfig, PatchConfig
from orchestrator.modeling.registry import embeddings


@embeddings.register("orchestrator.modeling.embeddings.word_patch:WordPatchEmbedding")
class WordPatchConfig(EmbeddingConfig):
    """Embed a text and an image, one after the other in a single sequence (ViLT)."""

    reads_content: ClassVar[bool] = True
    type: Literal["word_patch"] = "word_patch"
    text: EmbeddingStackConfig = EmbeddingStackConfig()
    """Embedding of the text, which comes first."""
    image: EmbeddingStackConfig = EmbeddingStackConfig(
        parts=(PatchConfig(), PosConfig()), layernorm=False
    )
    """Embedding of the image, which reads `pixel_values`."""
    modalities: bool = True
    """Add a learned vector to every position of the text, and another one to those of the image."""

    @property
    def reads_words(self) -> bool:
        """Whether the text's part looks up tokens."""
        return self.text.reads_words

    @property
    def word_table(self) -> str | None:
        """Where the word table is, below this part."""
        return None if self.text.word_table is None else f"text.{self.text.word_table}"

    def check(self, dimensions: Dimensions) -> Iterator[Problem]:
        """Both must fit their sizes, be what they are called, and have the model's width."""
        yield from inside("text", self.text.check(dimensions))
        yield from inside("image", self.image.check(dimensions))
        if self.text.word_table is None:
            yield Problem("text.parts", "reads no tokens. Put `word` first.")
        if not (self.image.parts and isinstance(self.image.parts[0], ImageConfig)):
            yield Problem("image.parts", "reads no image. Put `patch` or `masked_patch` first.")
        for name, stack in (("text", self.text), ("image", self.image)):
            if stack.size is not None:
                yield Problem(f"{name}.size", "must be null: both are as wide as the model.")
