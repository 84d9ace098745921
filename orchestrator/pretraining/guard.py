"""The guard of a continued run: the loss over text of the kind that the package knows.

It is measured before the first step, at every evaluation and at the end, over blocks that are not
trained on. Light: neither torch nor ray.
"""

from collections.abc import Iterable
from pathlib import Path

from orchestrator.data.corpora.corpus import Corpus, prepare_corpus
from orchestrator.data.spec import TokenizerConfig
from orchestrator.pretraining.config import PretrainConfig
from orchestrator.pretraining.results import GUARD, Summary
from orchestrator.training.history import HistoryRow


def prepare_guard(config: PretrainConfig, tokenizer: Path, cache: Path) -> Corpus:
    """Prepare the text of the guard with the run's tokenizer.

    Args:
        config: The job.
        tokenizer: Folder of the tokenizer.
        cache: Folder below which prepared data is kept.
    """
    assert config.guard is not None
    fields = {
        "data": config.guard.data,
        "mixture": (),
        "prepared": None,
        "max_documents": None,
        "tokenizer": TokenizerConfig(path=str(tokenizer)),
    }
    return prepare_corpus(config.data.model_copy(update=fields), cache)


def first_loss(rows: Iterable[HistoryRow]) -> float | None:
    """Return the loss before the first step; None: it has not been measured."""
    return next((row.value for row in rows if row.metric == GUARD), None)


def exceeded(config: PretrainConfig, rows: Iterable[HistoryRow]) -> bool:
    """Return whether the last loss of a run is too far above the first; NaN is too far."""
    losses = [row.value for row in rows if row.metric == GUARD]
    return config.guard is not None and bool(losses) and _too_far(config, losses[0], losses[-1])


def refusals(config: PretrainConfig, summary: Summary) -> list[str]:
    """Return why a trained model is refused."""
    before, after = summary.guard_before, summary.validation.get(GUARD)
    if config.guard is None or before is None or after is None:
        return []
    if not _too_far(config, before, after):
        return []
    return [
        f"guard: the loss over {config.guard.data.source} rose from {before:.4f} to {after:.4f} "
        f"nats, guard.max_rise is {config.guard.max_rise:g}"
    ]


def _too_far(config: PretrainConfig, before: float, after: float) -> bool:
    assert config.guard is not None
    return not after - before <= config.guard.max_rise
