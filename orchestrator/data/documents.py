"""``open_documents``: the documents of any corpus, their identity and their spans."""

from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np

from orchestrator.data.sources.contents import Documents, Span
from orchestrator.data.spec import DatasetSpec
from orchestrator.errors import InputError


def open_documents(spec: DatasetSpec, cache: Path | None = None) -> Documents:
    """Return the documents of a corpus; reads none of them yet.

    Args:
        spec: What to read.
        cache: Folder for parsed docstrings; None takes the user's cache.

    Raises:
        InputError: The source is missing or not a corpus.
    """
    if spec.source == "builtin:pydoc":
        return _pydoc(spec, cache)
    if spec.scheme == "files":
        from orchestrator.data.sources.files import file_documents

        return file_documents(spec)
    if spec.scheme == "hf":
        from orchestrator.data.sources.hub import hub_documents

        return hub_documents(spec)
    raise InputError(
        f"{spec.source!r} is not a corpus. Use builtin:pydoc, files:<path> or hf:<id>."
    )


def _pydoc(spec: DatasetSpec, cache: Path | None) -> Documents:
    from orchestrator.data.sources.pydoc import corpus_identity, corpus_records

    def divide(size: int) -> list[Span]:
        text = corpus_records(spec.max_documents, spec.libraries, cache).text
        ends = np.cumsum([0, *text.str.len()])
        owner = ends[:-1] // size
        cuts = [0, *(np.flatnonzero(np.diff(owner)) + 1).tolist(), len(text)]
        return [Span("", a, b, int(ends[b] - ends[a])) for a, b in pairwise(cuts)]

    def read(span: Span, rejected: Counter[str]) -> Iterator[str]:
        frame = corpus_records(spec.max_documents, spec.libraries, cache)
        if span.start == 0:
            rejected.update(frame.attrs["rejected"])
        yield from frame.text.iloc[span.start : span.stop]

    return Documents(lambda: corpus_identity(spec.max_documents, spec.libraries), divide, read)
