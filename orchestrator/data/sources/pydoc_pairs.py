"""``builtin:pydoc_pairs``: the first paragraph of a docstring, and the one after it.

Two texts that belong together, for vectors of sentences.
"""

from pathlib import Path

from orchestrator.data.sources.contents import Entries, Entry, no_media
from orchestrator.data.spec import DatasetSpec

FORMAT = 1
DOCUMENTS = 20_000
USUAL_ROWS = 4000
LEAST_WORDS = 4


def pair_entries(spec: DatasetSpec, cache: Path | None) -> Entries:
    """Return as many pairs as the cap says (4,000 without one)."""
    from orchestrator.data.sources.pydoc import corpus_identity, corpus_records

    rows = spec.max_rows or USUAL_ROWS
    limit = min(DOCUMENTS, 4 * rows)
    pairs: dict[str, str] = {}
    for text in corpus_records(limit, None, cache).text:
        first, _, rest = str(text).partition("\n\n")
        second = rest.partition("\n\n")[0]
        if min(len(first.split()), len(second.split())) >= LEAST_WORDS:
            pairs.setdefault(first.strip(), second.strip())
    found = [Entry(key=first, text=first, pair=second) for first, second in pairs.items()][:rows]
    identity: dict[str, object] = {
        "builtin": "pydoc_pairs",
        "format": FORMAT,
        "rows": rows,
        "documents": corpus_identity(limit, None),
    }
    return Entries(lambda: identity, found, no_media)
