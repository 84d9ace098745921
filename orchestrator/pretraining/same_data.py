"""A run goes on with the data that it began with.

Its config only names them. Files that were added, or other versions of the libraries whose docs are
read, make another corpus with another tokenizer: the same ids would mean other words, and the same
step other samples, while shapes still fit.
"""

from orchestrator.errors import InputError
from orchestrator.pretraining.inputs import AnyCorpus
from orchestrator.pretraining.starting import vocabulary_id
from orchestrator.storage import RunFolder, sha256_bytes
from orchestrator.storage.json_files import json_bytes

STEP = "data"
DECIDES = ("block_size", "documents", "tokens", "blocks", "shards", "rows", "label_names")
"""Of a manifest, what tells data apart and does not depend on where or with what they were made."""


def require_same_data(run: RunFolder, corpus: AnyCorpus) -> None:
    """Note a run's data when it begins, and refuse others when it goes on.

    Raises:
        InputError: They are others; says how many there were.
    """
    seen = {name: corpus.manifest[name] for name in DECIDES if name in corpus.manifest}
    content = json_bytes({**seen, "tokenizer": vocabulary_id(corpus.processor)})
    size = f"{corpus.documents:,} documents, {corpus.tokens:,} tokens"
    now = {"sha256": sha256_bytes(content), "size": size}
    before = run.done(STEP)
    if before is None:
        run.mark(STEP, now)
    elif before["sha256"] != now["sha256"]:
        raise InputError(
            f"run {run.config.run.name!r} began with other data ({before['size']}; now {size}): "
            "tokens and samples have other numbers now. Put back what the section data names "
            "(builtin:pydoc: the versions of the libraries), or choose another run.name."
        )
