"""``iter_documents``: the documents of any corpus, and what identifies them."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.data.spec import DatasetSpec
from orchestrator.errors import InputError

Reader = Callable[[Counter[str]], Iterator[str]]


@dataclass
class Documents:
    """Documents that can be read more than once.

    Attributes:
        identity: JSON-able; equal when and only when the documents are equal.
        reader: yields the documents and counts what it leaves out.
        rejected: what the last reading left out, by reason.
    """

    identity: dict[str, object]
    reader: Reader
    rejected: Counter[str] = field(default_factory=Counter)

    def __iter__(self) -> Iterator[str]:
        self.rejected.clear()
        return self.reader(self.rejected)


def open_documents(spec: DatasetSpec, cache: Path | None = None) -> Documents:
    """Find the documents of a corpus.

    Args:
        spec: what to read.
        cache: folder for parsed docstrings; None takes the user's cache.

    Raises:
        InputError: the source is missing or is no corpus.
    """
    if spec.source == "builtin:pydoc":
        return _pydoc(spec, cache)
    if spec.scheme == "files":
        from orchestrator.data.sources.files import file_documents

        return Documents(*file_documents(spec))
    if spec.scheme == "hf":
        from orchestrator.data.sources.hub import hub_documents

        return Documents(*hub_documents(spec))
    raise InputError(f"{spec.source!r} is no corpus. Use builtin:pydoc, files:<path> or hf:<id>.")


def iter_documents(spec: DatasetSpec, cache: Path | None = None) -> Iterator[str]:
    """Yield the raw text documents of a corpus.

    Raises:
        InputError: the source is missing, is no corpus, or a file cannot be read.
    """
    return iter(open_documents(spec, cache))


def _pydoc(spec: DatasetSpec, cache: Path | None) -> Documents:
    from orchestrator.data.sources.pydoc import corpus_identity, corpus_records

    def read(rejected: Counter[str]) -> Iterator[str]:
        frame = corpus_records(spec.max_documents, spec.libraries, cache)
        rejected.update(frame.attrs["rejected"])
        yield from frame.text

    return Documents(corpus_identity(spec.max_documents, spec.libraries), read)
