"""Manifests of prepared data: ``manifest.json`` of a corpus, of labelled rows, of examples.

A field is never renamed: these are the keys on disk. ``files`` is added by the commit of a folder.
"""

from typing import Final, Literal, TypeVar

from pydantic import Field, ValidationError

from orchestrator.config import StrictModel
from orchestrator.data.corpora.prepared import KIND
from orchestrator.data.media.inputs import ModelInputs
from orchestrator.data.spec import CorpusConfig, TokenizerConfig
from orchestrator.errors import IntegrityError

ManifestT = TypeVar("ManifestT", bound=StrictModel)

CORPUS_FORMAT: Final = 3
ROWS: Final = "labelled rows"
ROWS_FORMAT: Final = 2
EXAMPLES: Final = "examples"
EXAMPLES_FORMAT: Final = 1


class FileEntry(StrictModel):
    """A file in a manifest or sidecar."""

    sha256: str
    bytes: int


class ShardCounts(StrictModel):
    """Counts of one shard."""

    source: int
    documents: dict[str, int]
    tokens: dict[str, int]
    blocks: dict[str, int]


class CorpusManifest(StrictModel):
    """A corpus in shards."""

    kind: Literal["corpus"] = KIND
    format: Literal[3] = CORPUS_FORMAT
    builder: str
    config: CorpusConfig
    source: tuple[dict[str, object], ...]
    """Identity of each source."""
    tokenizer_sha256: str
    vocab_size: int
    block_size: int
    documents: dict[str, int]
    tokens: dict[str, int]
    blocks: dict[str, tuple[int, ...]]
    """Number of blocks of each source, by split."""
    rejected: dict[str, int]
    repaired: int = 0
    """Documents with half of a character, which became U+FFFD."""
    unknown: int = 0
    """Tokens of both splits that the tokenizer does not know."""
    shards: tuple[ShardCounts, ...]
    files: dict[str, FileEntry]


class CutTags(StrictModel):
    """Words whose tags are lost, and the rows that they are in."""

    rows: int
    words: int


class RowsManifest(StrictModel):
    """Labelled rows."""

    kind: Literal["labelled rows"] = ROWS
    format: Literal[2] = ROWS_FORMAT
    builder: str
    config: CorpusConfig
    modality: Literal["text", "vision"]
    labels: str
    """Name of the form of the labels."""
    label_names: tuple[str, ...]
    rows: dict[str, int]
    rejected: dict[str, int]
    cut: CutTags | None = None
    """Lost tags; only for rows with a tag per word."""
    notes: tuple[str, ...] = ()
    """Sentences about what was read in another way than it is written."""
    unknown_share: float | None = None
    """Share of tokens that the tokenizer does not know; null: the rows have no texts."""
    files: dict[str, FileEntry] = Field(default_factory=dict)


class TokenizerFile(StrictModel):
    """A given tokenizer, by its content."""

    sha256: str


class ExamplesContent(StrictModel):
    """Everything that determines the content of a folder of examples; its hash names the folder."""

    kind: Literal["examples"] = EXAMPLES
    format: Literal[1] = EXAMPLES_FORMAT
    source: dict[str, object]
    """Identity of the source."""
    samples: dict[str, str | int | float]
    """Options of the sample kind that change the stored examples."""
    inputs: ModelInputs
    tokenizer: TokenizerConfig | TokenizerFile
    block_size: int
    seed: int
    max_rows: int | None
    validation_fraction: float
    modality: Literal["text", "vision", "audio"]


class ExamplesManifest(ExamplesContent):
    """Examples: pictures, sounds and texts that belong together."""

    builder: str
    rows: dict[str, int]
    tokens: int
    vocab_size: int
    rejected: dict[str, int]
    repaired: int = 0
    """Examples with half of a character, which became U+FFFD."""
    unknown: int = 0
    """Tokens that the tokenizer does not know."""
    shortened: int
    files: dict[str, FileEntry] = Field(default_factory=dict)


def read_as(kind: type[ManifestT], stored: object, where: object) -> ManifestT:
    """Return a stored manifest as a model.

    Raises:
        IntegrityError: It has other fields.
    """
    try:
        return kind.model_validate(stored)
    except ValidationError as error:
        raise IntegrityError(f"{where}: the manifest is damaged: {error}") from error
