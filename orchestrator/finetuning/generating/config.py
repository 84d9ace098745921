"""Settings of ``orchestrator generate``. Imports neither torch nor Ray."""

from collections.abc import Iterator
from typing import ClassVar

from pydantic import Field

from orchestrator.config import ClusterSection
from orchestrator.config.job import CommandConfig
from orchestrator.errors import Problem
from orchestrator.modeling.generation.config import GenerationConfig


class GenerateConfig(CommandConfig, GenerationConfig):
    """Continue a prompt, or answer it with an encoder-decoder, in this process."""

    verb: ClassVar[str] = "generate"

    package: str = Field(min_length=1)
    """Package that writes: name, name@alias or name/v0001."""
    prompt: str | tuple[str, ...]
    """Text to continue, or several."""
    target: str = "lm"
    """Head that predicts the next token."""
    stream: bool = True
    """Show the text while it is written; beams show it at the end."""
    device: str = "cpu"
    """Device of the model."""
    threads: int = Field(1, ge=1)
    """Threads of the model."""

    def problems(self) -> Iterator[Problem]:
        """Refuse settings that have no effect."""
        yield from GenerationConfig.problems(self)
        if self.cluster != ClusterSection():
            yield Problem("cluster", "has no effect: generate runs in this process. Leave it out.")
        prompts = [self.prompt] if isinstance(self.prompt, str) else self.prompt
        if not prompts or not all(text.strip() for text in prompts):
            yield Problem("prompt", "is empty. Give a text.")

    @property
    def prompts(self) -> tuple[str, ...]:
        """The texts to continue."""
        return (self.prompt,) if isinstance(self.prompt, str) else self.prompt

    @property
    def options(self) -> GenerationConfig:
        """Options of the choice of tokens."""
        values = {name: getattr(self, name) for name in GenerationConfig.model_fields}
        if not self.sample:
            del values["seed"]  # a draw needs one, other searches have none
        return GenerationConfig(**values)
