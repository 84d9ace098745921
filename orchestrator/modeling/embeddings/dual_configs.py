"""Options of the embedding of two streams. Imports without torch."""

from collections.abc import Iterator
from typing import ClassVar, Literal

from orchestrator.errors import Problem
from orchestrator.modeling.component import Dimensions, EmbeddingConfig, inside, tie_problems
from orchestrator.modeling.embeddings.stack_config import EmbeddingStackConfig
from orchestrator.modeling.registry import embeddings


@embeddings.register("orchestrator.modeling.embeddings.dual:DualEmbedding")
class DualEmbeddingConfig(EmbeddingConfig):
    """Embed two inputs, each by its own stack; stands alone (CLIP, SBERT)."""

    reads_content: ClassVar[bool] = True
    two_streams: ClassVar[bool] = True
    type: Literal["dual"] = "dual"
    first: EmbeddingStackConfig = EmbeddingStackConfig()
    """Embedding of the first stream."""
    second: EmbeddingStackConfig | None = None
    """Embedding of the second stream, which reads the keys with the prefix `second.`; null: like
    the first."""
    tie: bool = False
    """Use the first stream's embedding for both (SBERT)."""

    @property
    def of_second(self) -> EmbeddingStackConfig:
        """The second stream's options."""
        return self.first if self.second is None else self.second

    @property
    def reads_words(self) -> bool:
        """Whether a stream looks up tokens."""
        return self.first.reads_words or self.of_second.reads_words

    def check(self, dimensions: Dimensions) -> Iterator[Problem]:
        """Each stream must fit its sizes; tied ones are one."""
        yield from inside("first", self.first.check(dimensions))
        if self.second is not None:
            yield from inside("second", self.second.check(dimensions.of_second))
        if self.tie:
            yield from tie_problems(dimensions, alike=self.second is None)
        for name, stack in (("first", self.first), ("second", self.of_second)):
            if stack.two_streams:
                yield Problem(f"{name}.parts", "is a single stream. Take `dual` out of it.")
