"""What data a job reads, as config. Imports neither torch nor Ray.

Sources: ``builtin:pydoc`` (a corpus), ``builtin:pydoc/<task>`` (labelled), ``builtin:digits``,
``files:<path>``, ``hf:<data set id>``.
"""

from collections.abc import Iterable
from typing import Literal

from pydantic import Field

from orchestrator.config import StrictModel, did_you_mean
from orchestrator.data.catalogue import PYDOC_TASKS
from orchestrator.errors import Problem

SCHEMES = ("builtin", "files", "hf")
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
PAD, UNK, CLS, SEP, MASK = range(5)


class DatasetSpec(StrictModel):
    """One data set: where it is, which columns, how much of it, how it is split."""

    source: str = Field("builtin:pydoc", min_length=1)
    """builtin:pydoc, builtin:pydoc/<task>, builtin:digits, files:<path> or hf:<id>."""
    text_column: str | None = None
    """Column of the text; null takes text, text_a, sentence, content or document."""
    pair_column: str | None = None
    """Column of the second text; null takes text_b where it exists."""
    label_column: str | None = None
    """Column of the label; null takes label, labels or class."""
    document: Literal["line", "paragraph", "file"] = "line"
    """What a document of a plain text file is: a line, lines up to a blank one, or the file."""
    max_documents: int | None = Field(None, ge=2)
    """Read at most this many documents of a corpus; null reads all."""
    max_rows: int | None = Field(None, ge=6)
    """Keep at most this many labelled rows over all splits, the same share of each class."""
    validation_fraction: float = Field(0.1, gt=0, lt=0.5)
    """Share of the rows held out for validation where the source has no validation split."""
    test_fraction: float = Field(0.2, gt=0, lt=0.5)
    """Share of the rows held out for the test where the source has no test split."""
    seed: int = Field(7, ge=0, lt=2**32)
    """Decides which rows a cap keeps and how they are split."""
    libraries: tuple[str, ...] | None = None
    """builtin:pydoc: import names of the libraries to read; null reads the usual ones."""
    revision: str | None = None
    """hf: commit of the data set repository; required, so that a job can be run again."""
    subset: str | None = None
    """hf: configuration of the data set."""

    @property
    def scheme(self) -> str:
        """The part of the source before the colon."""
        return self.source.partition(":")[0]

    @property
    def location(self) -> str:
        """The part of the source after the colon: a path, an id, or a builtin's name."""
        return self.source.partition(":")[2]

    @property
    def pydoc_task(self) -> str | None:
        """Name of the builtin:pydoc task, or None where the source is something else."""
        name, slash, task = self.location.partition("/")
        return task if self.scheme == "builtin" and name == "pydoc" and slash else None

    def problems(self) -> Iterable[Problem]:
        """Check the source's name and that its options belong to it."""
        yield from self._source_problems()
        if self.scheme == "hf" and self.revision is None:
            yield Problem("revision", "is required for hf: sources. Give a commit of the data set.")
        for name in ("revision", "subset"):
            if self.scheme != "hf" and getattr(self, name) is not None:
                yield Problem(name, f"only hf: sources have a {name}, not {self.source!r}.")
        if self.libraries is not None and self.source != "builtin:pydoc":
            yield Problem("libraries", f"only builtin:pydoc has libraries, not {self.source!r}.")
        for name in ("text_column", "pair_column", "label_column"):
            if self.scheme == "builtin" and getattr(self, name) is not None:
                yield Problem(name, f"{self.source!r} has no columns to name. Leave it out.")

    def _source_problems(self) -> Iterable[Problem]:
        if self.scheme not in SCHEMES or not self.location:
            yield Problem(
                "source",
                f"{self.source!r} is no data source. Use builtin:pydoc, builtin:pydoc/<task>, "
                "builtin:digits, files:<path> or hf:<id>.",
            )
        elif self.scheme == "builtin":
            known = ["pydoc", "digits", *(f"pydoc/{task}" for task in PYDOC_TASKS)]
            if self.location not in known:
                yield Problem("source", _unknown_builtin(self.location, known))


def _unknown_builtin(name: str, known: list[str]) -> str:
    return f"{name!r} is not a builtin data set. {did_you_mean(name, known)}"


class TokenizerConfig(StrictModel):
    """The tokenizer of a corpus: trained on it, or taken from a folder."""

    type: Literal["wordpiece", "bpe", "unigram"] = "wordpiece"
    """Kind of subword model that is trained."""
    vocab_size: int = Field(4096, ge=300, le=1_000_000)
    """Number of tokens, special ones included; a small corpus may yield fewer."""
    path: str | None = None
    """Folder with a tokenizer.json to use instead of training one."""
    lowercase: bool = True
    """Fold case and strip accents before tokenizing (wordpiece only)."""


class CorpusConfig(StrictModel):
    """A corpus made ready for pre-training: tokenized and packed into blocks."""

    data: DatasetSpec = DatasetSpec()
    """Where the documents come from."""
    tokenizer: TokenizerConfig = TokenizerConfig()
    """How they are tokenized."""
    block_size: int = Field(64, ge=8)
    """Tokens of a block, which is one training sample."""
    max_documents: int | None = Field(None, ge=2)
    """Read at most this many documents; null takes data.max_documents."""

    @property
    def spec(self) -> DatasetSpec:
        """The data set with this corpus's cap."""
        if self.max_documents is None:
            return self.data
        return self.data.model_copy(update={"max_documents": self.max_documents})

    def problems(self) -> Iterable[Problem]:
        """A corpus has documents, not labelled rows."""
        if self.data.pydoc_task is not None or self.data.source == "builtin:digits":
            yield Problem("data.source", f"{self.data.source!r} is no corpus. Use builtin:pydoc.")
        if self.max_documents is not None and self.data.max_documents is not None:
            yield Problem("max_documents", "is given twice. Leave data.max_documents out.")
