"""Statement of how a package makes the vector of a text from its token vectors. No torch.

``embedding.json`` holds it, and ``embedding.safetensors`` the weights of its projections, named
``layers.<place>.weight`` and ``.bias``. A package without the file takes the mean over the tokens.
"""

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import Field

from orchestrator.config import StrictModel, did_you_mean
from orchestrator.errors import InputError, Problem
from orchestrator.storage.json_files import read_model

STATEMENT: Final = "embedding.json"
STATEMENT_WEIGHTS: Final = "embedding.safetensors"

PoolingMode = Literal["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"]
"""Reductions of token vectors, by their names in sentence-transformers."""
Activation = Literal["identity", "tanh", "relu", "gelu", "sigmoid", "silu"]
"""Functions after a projection; ``gelu`` is the exact one."""


class DenseLayer(StrictModel):
    """A linear layer with an activation."""

    type: Literal["dense"] = "dense"
    """Kind of the layer."""
    in_features: int = Field(ge=1)
    """Width of its input."""
    out_features: int = Field(ge=1)
    """Width of its output."""
    bias: bool = True
    """Whether it adds a bias."""
    activation: Activation = "tanh"
    """Function of its output."""


class NormalizeLayer(StrictModel):
    """Scaling of each vector to length 1."""

    type: Literal["normalize"] = "normalize"
    """Kind of the layer."""


Layer = Annotated[DenseLayer | NormalizeLayer, Field(discriminator="type")]


class SentenceEmbedding(StrictModel):
    """Computation of the vector of a text; the content of ``embedding.json``."""

    schema_version: Literal[1] = 1
    """Version of this layout."""
    pooling: tuple[PoolingMode, ...] = Field(min_length=1)
    """Reductions of the token vectors; of several, the results side by side in this order."""
    include_prompt: bool = True
    """Whether the tokens of a prompt take part in the pooling."""
    layers: tuple[Layer, ...] = ()
    """Layers after the pooling, in their order."""
    max_length: int = Field(ge=1)
    """Longest text in tokens, special ones and the prompt included."""
    lowercase: bool = False
    """Whether texts are folded to lower case before they are tokenized."""
    prompts: dict[str, str] = Field(default_factory=dict)
    """Text that is put before the input, by its name."""
    default_prompt: str | None = None
    """Name of the prompt where none is named; null: no prompt."""
    similarity: Literal["cosine", "dot", "euclidean", "manhattan"] | None = None
    """Similarity that the vectors were trained for; it only travels along."""

    def problems(self) -> Iterable[Problem]:
        """Refuse projections that do not follow one another, and an unknown default prompt."""
        width: int | None = None
        for place, layer in enumerate(self.layers):
            if isinstance(layer, DenseLayer):
                if width not in (None, layer.in_features):
                    yield Problem(f"layers.{place}.in_features", f"the vector has {width} values.")
                width = layer.out_features
        if self.default_prompt is not None and self.default_prompt not in self.prompts:
            names = ", ".join(self.prompts) or "none"
            yield Problem("default_prompt", f"there is no such prompt. Prompts: {names}.")

    @property
    def normalized(self) -> bool:
        """Whether the vectors have length 1."""
        return bool(self.layers) and isinstance(self.layers[-1], NormalizeLayer)

    def prompt(self, name: str | None) -> str:
        """Return the text of a prompt.

        Args:
            name: Its name; None: the default one; an empty name: no prompt.

        Raises:
            InputError: There is no prompt of that name.
        """
        name = self.default_prompt if name is None else name
        if not name:
            return ""
        if name not in self.prompts:
            raise InputError(
                f"there is no prompt {name!r}. {did_you_mean(name, self.prompts, 'Prompts')}"
            )
        return self.prompts[name]

    def width(self, hidden_size: int) -> int:
        """Return the number of values of a vector, for token vectors of ``hidden_size``."""
        sizes = [each.out_features for each in self.layers if isinstance(each, DenseLayer)]
        return sizes[-1] if sizes else hidden_size * len(self.pooling)


def read_statement(folder: Path) -> SentenceEmbedding | None:
    """Return the statement of a package; None: it has none.

    Raises:
        IntegrityError: The file is damaged.
    """
    path = folder / STATEMENT
    return read_model(path, SentenceEmbedding) if path.is_file() else None


def copy_statement(parent: Path, child: Path) -> None:
    """Give a package made from another one the same statement, if that has one."""
    for name in (STATEMENT, STATEMENT_WEIGHTS):
        if (parent / name).is_file():
            shutil.copyfile(parent / name, child / name)
