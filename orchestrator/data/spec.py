"""Configs of data: source, tokenizer, corpus. Imports neither torch, Ray nor NumPy.

Sources: ``builtin:pydoc`` (a corpus), ``builtin:pydoc/<task>`` (labelled), ``builtin:digits``,
``builtin:digit_scenes``, ``builtin:morse``, ``builtin:pydoc_pairs`` (examples), ``files:<path>``,
``hf:<data set id>``.
"""

import re
from collections.abc import Iterable
from typing import Any, Literal

from pydantic import Field, PositiveFloat, model_validator

from orchestrator.config import StrictModel, did_you_mean
from orchestrator.data.corpora.prepared import complete, contradictions
from orchestrator.errors import Problem

BUILTIN_EXAMPLES: dict[str, tuple[str, ...]] = {
    "digits": ("picture",),
    "digit_scenes": ("picture", "text"),
    "morse": ("sound", "text"),
    "pydoc_pairs": ("text", "pair"),
}
"""Columns of the examples of each builtin, made by ``sources/<name>.py``. Digits are labelled rows
as well."""

OVERLAP = 64
"""Tokens that neighboring windows of a long context share; at most half a window."""

PYDOC_TASKS: dict[str, str] = {
    "library": "Which of eight libraries a docstring belongs to.",
    "kind": "Whether it describes a module, a class, a function or a method.",
    "torch_area": "Which part of PyTorch it belongs to.",
    "sklearn_area": "Which part of scikit-learn it belongs to.",
    "scipy_area": "Which part of SciPy it belongs to.",
    "pandas_area": "Which part of pandas it belongs to.",
    "numpy_area": "Which part of NumPy it belongs to.",
    "transformers_area": "Which part of Transformers it belongs to.",
    "transformers_role": "What a model file of Transformers does: modeling, configuration, ...",
    "ray_area": "Which part of Ray it belongs to.",
    "sympy_area": "Which part of SymPy it belongs to.",
    "stdlib_area": "Which part of the standard library it belongs to.",
    "style": "In which docstring style it is written: NumPy, Google, Sphinx or plain.",
    "returns_value": "From its description alone: does the function return a value?",
    "raises_error": "From its description alone: does the function raise an error itself?",
    "is_property": "Whether a method is read like an attribute.",
    "is_private": "From its description alone: does the name begin with an underscore?",
    "arguments": "From its description alone: how many arguments the function takes.",
    "documents_parameters": "From its description alone: does a list of parameters follow?",
    "has_example": "From its description alone: does an example follow?",
}
"""Labelled tasks of ``builtin:pydoc``, which ``sources/pydoc_tasks.py`` cuts from docstrings."""


SCHEMES = ("builtin", "files", "hf")
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
PAD, UNK, CLS, SEP, MASK = range(5)
MIN_VOCABULARY = 300


class DatasetSpec(StrictModel):
    """One data set: where it is, which columns, how much of it, how it is split."""

    source: str = Field("builtin:pydoc", min_length=1)
    """builtin:pydoc, builtin:pydoc/<task>, builtin:digits, builtin:digit_scenes, builtin:morse,
    builtin:pydoc_pairs, files:<path> or hf:<id>."""
    text_column: str | None = None
    """Column of the text; null takes text, text_a, sentence, content or document. Of a target tags,
    of the words (a list, or a text with blanks between them); null takes tokens or words first."""
    pair_column: str | None = None
    """Column of the second text; null takes text_b where it exists."""
    label_column: str | None = None
    """Column of the label; null takes label, labels or class. Of a target tags, a list of as many
    tags as words, or a text with blanks between them; null takes tags or ner_tags first. Of
    multilabel, a list of names, or a text with | between them. Of regression, a number or several
    in these two ways; null takes score if there is no other."""
    media_column: str | None = None
    """Column of the picture's or sound's file; null takes path, image, audio or file."""
    slice_column: str | None = None
    """Column that names the slice of a labelled row (a language, a customer). Exams have the
    primary metric of each slice as ``accuracy@<slice>``, and gates may bound it; null: none."""
    name_pattern: str | None = None
    """Regular expression for a folder of pictures or sounds without a table: its first group in
    the name of a file is the text."""
    document: Literal["line", "paragraph", "file"] = "line"
    """Document of a plain text file: a line, lines up to a blank one, or the file."""
    max_documents: int | None = Field(None, ge=2)
    """Read at most this many documents of a corpus; null reads all."""
    max_rows: int | None = Field(None, ge=6)
    """Keep at most this many rows or examples over all splits; of classes, the same share each."""
    max_bad_share: float = Field(0.01, ge=0, le=1)
    """Share of labelled rows that may be left out because they have no text or no label, or cannot
    be read; more are one error."""
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
        """Name of the builtin:pydoc task, or None for other sources."""
        name, slash, task = self.location.partition("/")
        return task if self.scheme == "builtin" and name == "pydoc" and slash else None

    @property
    def labelled(self) -> bool:
        """Whether this builtin yields labelled rows rather than documents."""
        return self.pydoc_task is not None or self.source == "builtin:digits"

    @property
    def examples(self) -> tuple[str, ...] | None:
        """Columns of the examples of this builtin; None for other sources."""
        return BUILTIN_EXAMPLES.get(self.location) if self.scheme == "builtin" else None

    def problems(self) -> Iterable[Problem]:
        """Check the source's name and that its options belong to it."""
        yield from self._source_problems()
        if self.scheme == "hf" and self.revision is None:
            yield Problem("revision", "is required for hf: sources. Give a commit of the data set.")
        for name in ("revision", "subset"):
            if self.scheme != "hf" and getattr(self, name) is not None:
                yield Problem(name, f"only hf: sources have a {name}, not {self.source!r}.")
        if self.name_pattern is not None and (wrong := _not_a_pattern(self.name_pattern)):
            yield Problem("name_pattern", wrong)
        if self.libraries is not None and self.source != "builtin:pydoc":
            yield Problem("libraries", f"only builtin:pydoc has libraries, not {self.source!r}.")
        columns = ("text_column", "pair_column", "label_column", "media_column", "slice_column")
        for name in (*columns, "name_pattern"):
            if self.scheme == "builtin" and getattr(self, name) is not None:
                yield Problem(name, f"{self.source!r} has no columns to name. Leave it out.")

    def _source_problems(self) -> Iterable[Problem]:
        if self.scheme not in SCHEMES or not self.location:
            yield Problem(
                "source",
                f"{self.source!r} is not a data source.{self._guess()} Use builtin:pydoc, "
                f"builtin:pydoc/<task>, builtin:{', builtin:'.join(BUILTIN_EXAMPLES)}, "
                "files:<path> or hf:<id>.",
            )
        elif self.scheme == "builtin":
            known = ["pydoc", *BUILTIN_EXAMPLES, *(f"pydoc/{task}" for task in PYDOC_TASKS)]
            if self.location not in known:
                yield Problem("source", _unknown_builtin(self.location, known))

    def _guess(self) -> str:
        """Return what a path without its scheme was meant to be."""
        looks = re.search(r"[/\\*]|\.\w+$", self.source) and self.scheme not in SCHEMES
        return f" Did you mean 'files:{self.source}'?" if looks else ""


def _not_a_pattern(pattern: str) -> str | None:
    """Return what is wrong with a regular expression that must have a group."""
    try:
        groups = re.compile(pattern).groups
    except re.error as error:
        return f"{pattern!r} is not a regular expression: {error}."
    return None if groups else f"{pattern!r} has no group. Put brackets around the text."


def _unknown_builtin(name: str, known: list[str]) -> str:
    return f"{name!r} is not a builtin data set. {did_you_mean(name, known)}"


class TokenizerConfig(StrictModel):
    """The tokenizer of a corpus: trained on it, or taken from a folder."""

    type: Literal["wordpiece", "bpe", "unigram", "characters"] = "wordpiece"
    """Kind of subword model that is trained; characters: single letters (speech)."""
    vocab_size: int = Field(4096, ge=MIN_VOCABULARY, le=1_000_000)
    """Number of tokens, special ones included; a small corpus may yield fewer."""
    path: str | None = None
    """Folder with a tokenizer.json to use instead of training one."""
    lowercase: bool = True
    """Fold case and strip accents before tokenizing (wordpiece and characters only)."""
    sentinels: int = Field(0, ge=0, le=1000)
    """Tokens <extra_id_0>, ... of the vocabulary that stand for removed spans (T5: 100)."""

    def problems(self) -> Iterable[Problem]:
        """Sentinels are part of a vocabulary that is trained."""
        if self.path is not None and self.sentinels:
            yield Problem("sentinels", "are what tokenizer.path has. Leave this out.")
        elif self.vocab_size - self.sentinels < MIN_VOCABULARY:
            yield Problem(
                "sentinels",
                f"{self.sentinels} of {self.vocab_size} tokens leave fewer than {MIN_VOCABULARY} "
                "for words. Raise vocab_size.",
            )


class WeightedSource(StrictModel):
    """One data set of a mixture."""

    data: DatasetSpec
    """Source of the documents."""
    weight: PositiveFloat = 1.0
    """Its share of the training samples, relative to the others'."""


class CorpusConfig(StrictModel):
    """A corpus made ready for pre-training: tokenized and packed into blocks."""

    data: DatasetSpec = DatasetSpec()
    """Source of the documents."""
    mixture: tuple[WeightedSource, ...] = ()
    """Several sources with weights, in place of data."""
    tokenizer: TokenizerConfig = TokenizerConfig()
    """Tokenizer of the documents."""
    block_size: int = Field(64, ge=8)
    """Tokens of a block, which is one training sample."""
    packing: Literal["stream", "documents"] = "stream"
    """Read the documents of a block as one text, or each for itself, from position 0 on."""
    sentences: Literal["punctuation", "lines"] = "punctuation"
    """Ends of sentences: punctuation marks and blank lines, or every end of a line."""
    max_documents: int | None = Field(None, ge=2)
    """Read at most this many documents of each source; null takes data.max_documents."""
    shard_bytes: int = Field(64 * 2**20, ge=1024)
    """Text that becomes one shard, about; a document is never cut."""
    prepared: str | None = None
    """Folder of an existing corpus; it determines everything except packing and weights."""

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, data: Any) -> Any:
        """Fill in the settings of a prepared corpus."""
        folder = data.get("prepared") if isinstance(data, dict) else None
        return complete(folder, data) if isinstance(folder, str) else data

    @property
    def specs(self) -> tuple[DatasetSpec, ...]:
        """The data sets, with this corpus's cap; the first says how documents are held out."""
        given = tuple(part.data for part in self.mixture) or (self.data,)
        if self.max_documents is None:
            return given
        cap = {"max_documents": self.max_documents}
        return tuple(spec.model_copy(update=cap) for spec in given)

    @property
    def weights(self) -> tuple[float, ...] | None:
        """Weight of each data set of a mixture; None where there is one."""
        return tuple(part.weight for part in self.mixture) or None

    @property
    def title(self) -> str:
        """The sources in words."""
        return " + ".join(spec.source for spec in self.specs)

    def problems(self) -> Iterable[Problem]:
        """Caps are given once; a mixture takes the place of data; a prepared corpus is as it is."""
        if self.prepared is not None:
            yield from contradictions(self.prepared, self.model_dump(mode="json"))
            return
        if self.mixture and "data" in self.model_fields_set and self.data != DatasetSpec():
            yield Problem("data", "and mixture are both given. Use one of them.")
        for index, part in enumerate(self.mixture):
            if part.data.labelled or part.data.examples:
                yield Problem(
                    f"mixture.{index}.data.source",
                    f"{part.data.source!r} is not a corpus. Use builtin:pydoc, files: or hf:.",
                )
        given = [part.data.max_documents for part in self.mixture] or [self.data.max_documents]
        if self.max_documents is not None and any(cap is not None for cap in given):
            yield Problem("max_documents", "is given twice. Leave data.max_documents out.")
