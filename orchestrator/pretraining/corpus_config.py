"""Settings of a corpus job. Imports neither torch nor ray."""

from collections.abc import Iterable

from orchestrator.config import JobConfig
from orchestrator.data.spec import CorpusConfig
from orchestrator.errors import Problem


class CorpusJobConfig(JobConfig):
    """Make a corpus ready for pre-training: tokenized, packed, in shards, on many workers.

    A pre-training job with the same ``run.dir`` and ``data`` finds it; any other one names its
    folder as ``data.prepared``.
    """

    data: CorpusConfig = CorpusConfig()
    """Documents, tokenizer, block size, size of a shard."""

    def problems(self) -> Iterable[Problem]:
        """The source must be documents that are not prepared yet."""
        if self.data.prepared is not None:
            yield Problem("data.prepared", "is a corpus already. Leave it out, or name a source.")
        elif self.data.data.labelled and not self.data.mixture:
            source = self.data.data.source
            yield Problem("data.data.source", f"{source!r} is not a corpus. Use builtin:pydoc.")
