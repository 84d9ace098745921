"""The corpus job: documents to a folder of shards that pre-training reads."""

import logging
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.config import JobResult
from orchestrator.pretraining.config import CorpusJobConfig
from orchestrator.storage import RunFolder

if TYPE_CHECKING:
    from orchestrator.data.corpora.corpus import Corpus
    from orchestrator.data.sharded.contracts import BuiltShard, PieceCounts

logger = logging.getLogger(__name__)

STAGE = "corpus"
CORPORA = "corpora"


def check(config: CorpusJobConfig) -> str:
    """Return what the job would do: documents, bytes, shards, about. Starts nothing.

    Raises:
        InputError: The source or the tokenizer is not there.
    """
    from orchestrator.data.sharded.survey import describe

    cluster = config.cluster
    rows = {
        "run": f"{config.run.name} → corpus in {Path(config.run.dir) / CORPORA}",
        **describe(config.data),
        "workers": f"{cluster.workers} × {cluster.cpus_per_worker:g} CPU",
    }
    return "\n".join(f"{name:12} {text}" for name, text in rows.items())


def run(config: CorpusJobConfig) -> JobResult:
    """Make a corpus, or what is missing of it.

    Raises:
        InputError: Not enough CPUs, no source, the run is in use.
        StageError: The folder cannot be written, or workers failed more often than allowed.
    """
    from orchestrator.data.corpora.corpus import find_corpus

    with RunFolder.open(config, STAGE) as folder:
        cache = Path(config.run.dir).resolve() / CORPORA
        made: Counter[str] = Counter()
        corpus = find_corpus(config.data, cache) or _make(config, cache, made)
        result = JobResult(metrics=_figures(corpus, made), run_dir=str(folder.path))
        folder.finish(result)
    return result


def _make(config: CorpusJobConfig, cache: Path, made: "Counter[str]") -> "Corpus":
    """Make the corpus through Ray Data, and show how far it is."""
    from orchestrator.cluster.observe.progress import Progress
    from orchestrator.cluster.session import session_for
    from orchestrator.data.corpora.corpus import prepare_corpus

    cluster = config.cluster
    with session_for(cluster):
        from orchestrator.data.sharded.contracts import PieceCounts
        from orchestrator.data.sharded.ray_data import through_ray

        bars: dict[str, Progress] = {}

        def watch(step: str, done: int, total: int, result: "PieceCounts | BuiltShard") -> None:
            for earlier in [name for name in bars if name != step]:
                bars.pop(earlier).close()
            bar = bars.setdefault(step, Progress(f"{config.run.name} {step}", total, "piece"))
            if isinstance(result, PieceCounts):
                bar.update(done, "")
                return
            made["documents"] += sum(result.sidecar.documents.values())
            made["shards"] += result.built
            bar.update(done, f"{made['documents']:,} documents")

        mapper = through_ray(
            cluster.workers, cluster.cpus_per_worker, cluster.max_failures, cluster.labels
        )
        try:
            return prepare_corpus(config.data, cache, mapper, watch)
        finally:
            for bar in bars.values():
                bar.close()


def _figures(corpus: "Corpus", made: "Counter[str]") -> dict[str, Any]:
    size = sum(entry.bytes for entry in corpus.manifest.files.values())
    return {
        "corpus": str(corpus.path),
        "documents": corpus.documents,
        "tokens": corpus.tokens,
        "shards": corpus.shards,
        "shards_made": made["shards"],
        "rejected": corpus.rejected,
        "unknown_share": corpus.unknown_share,
        "vocab_size": corpus.processor.vocab_size,
        "bytes": size,
    }
