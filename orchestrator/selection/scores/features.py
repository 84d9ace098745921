"""Frozen features of one package on the target, and their proxy scores.

One forward pass without training, on rows of the target's TRAINING split only: the validation split
later chooses between models and must not be read before. Runs on a worker; imports torch, not Ray.
"""

import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from orchestrator.arrays import AnyArray, FloatArray
from orchestrator.config import StrictModel
from orchestrator.data.spec import DatasetSpec
from orchestrator.selection.results import ProxyScore
from orchestrator.selection.scores.base import score_features
from orchestrator.selection.scores.feature_cache import cached_features, rows_digest
from orchestrator.selection.target_tasks import TargetTask
from orchestrator.selection.ties.tie_breaker import content_digest
from orchestrator.selection.trials.failures import reason_of, repeats
from orchestrator.selection.trials.loading import package_of, task_of

if TYPE_CHECKING:
    from orchestrator.arrays import IntArray
    from orchestrator.data.rows.rows import Rows
    from orchestrator.data.samples.base import SampleDataset

BATCH_ROWS = 128
CLASSES, TAGS = "classification", "tags"
LABEL_COLUMN = "proxy"
"""Label column of the samples; no head of the model has this name, so no loss is computed."""
logger = logging.getLogger(__name__)
KINDS_WITH_TRAINED_HEADS = ("finetuned", "continual", "imported")


class ProxyPayload(StrictModel):
    """One package to be scored by proxies."""

    package: str
    """Package reference with its version."""
    zoo: str
    """The zoo; a local path is absolute."""
    task: DatasetSpec
    """The rows; local paths are absolute."""
    proxies: tuple[str, ...]
    """Registered proxy scores."""
    rows: int
    """Training rows to read at most."""
    max_length: int
    """Tokens a text is truncated to."""
    seed: int
    """Seed of the run."""
    layers: Literal["last", "mean"] = "last"
    """Output that is pooled: of the last layer, or the mean over all layers."""
    asked: TargetTask | None = None
    """The task; null: classes."""
    cache: str = ""
    """Folder of `feature_cache`; empty: the model is always read."""


def try_package(payload: ProxyPayload) -> ProxyScore:
    """Score one package; an error that a retry would repeat becomes the result."""
    try:
        return score_package(payload)
    except Exception as error:
        if not repeats(error):
            raise
        return ProxyScore(values={}, floors={}, error=reason_of(error))


def score_package(payload: ProxyPayload) -> ProxyScore:
    """Score one package."""
    begun = time.perf_counter()
    from orchestrator.selection.scores.task_rows import drawn_words, proxy_labels

    kind = CLASSES if payload.asked is None else payload.asked.kind
    task, package = task_of(payload.task, kind), package_of(payload.zoo, payload.package)
    declared = set(package.manifest.task.labels) if package.manifest.task else set()
    heads = declared if package.kind in KINDS_WITH_TRAINED_HEADS and kind == CLASSES else set()
    rows = sample_rows(task.train, payload.rows, payload.seed)
    words = drawn_words(rows, payload.rows, payload.seed) if kind == TAGS else None
    labels = proxy_labels(kind, rows, words)
    if words is not None and len(np.unique(labels)) < 2:
        return ProxyScore(values={}, floors={}, rows=len(labels))  # a rare tag was not drawn
    started = time.perf_counter()
    (features, probabilities), cached = cached_features(
        Path(payload.cache) if payload.cache else None,
        (
            content_digest(package),
            rows_digest(rows),
            payload.max_length,
            payload.layers,
            sorted(heads),
            *(() if payload.asked is None else _read_key(payload.asked, words)),
        ),
        lambda: extract(
            package.path, rows, payload.max_length, heads, payload.layers, payload.asked, words
        ),
    )
    score = score_features(payload.proxies, features, labels, probabilities, payload.seed)
    times = {"seconds": time.perf_counter() - started, "startup_s": started - begun}
    return score.model_copy(update={"cached": cached, **times})


def _read_key(asked: TargetTask, words: "IntArray | None") -> tuple[object, ...]:
    """Further parts of the key: none for classes, so that earlier files are found."""
    if asked.kind == CLASSES:
        return ()
    return (asked.kind, None if words is None else words.tolist())


def sample_rows(rows: "Rows", limit: int, seed: int) -> "Rows":
    """At most ``limit`` rows, the same rows for every package."""
    if len(rows) <= limit:
        return rows
    chosen = np.random.default_rng(seed).permutation(len(rows))[:limit]
    return rows.take(np.sort(chosen))


def read_samples(
    folder: Path, rows: "Rows", max_length: int, asked: TargetTask | None = None
) -> "SampleDataset":
    """Rows as a package reads them: texts up to ``max_length`` tokens, images or sounds.

    Args:
        folder: The package.
        rows: The rows.
        max_length: Tokens a text is truncated to.
        asked: The task; None: classes.

    Raises:
        InputError: The package does not read such rows.
    """
    from orchestrator.data.processors.example_processor import open_processor
    from orchestrator.data.processors.text import TextProcessor
    from orchestrator.data.samples.labelled_samples import ClsSamples
    from orchestrator.data.samples.media_samples import MediaSamples, media_processor

    if rows.media:
        return MediaSamples(rows, media_processor(open_processor(folder), rows), LABEL_COLUMN)
    if asked is not None and asked.kind != CLASSES:
        return asked.answering().samples(rows, open_processor(folder), max_length)
    processor = None if rows.images is not None else TextProcessor.load(folder)
    return ClsSamples(rows, processor, LABEL_COLUMN, max_length)


def extract(
    folder: Path,
    rows: "Rows",
    max_length: int,
    trained_heads: set[str],
    layers: str = "last",
    asked: TargetTask | None = None,
    words: "IntArray | None" = None,
) -> tuple[FloatArray, FloatArray | None]:
    """Features of rows (`task_rows`), and the class probabilities of a trained source head.

    Args:
        folder: The package.
        rows: N rows.
        max_length: Tokens a text is truncated to.
        trained_heads: Names of trained classification heads. Others are not used: a random head
            scores every model at its floor.
        layers: ``last``, or ``mean`` over the outputs of all layers, without the embeddings.
        asked: The task; None: classes.
        words: Drawn words, of tags.

    Returns:
        ``[n, D]`` and ``[n, Z]`` (None without a trained head).
    """
    import torch

    from orchestrator.modeling.package import load_model
    from orchestrator.selection.scores.task_rows import features_of, word_vectors

    model = load_model(folder).eval()
    kind = CLASSES if asked is None else asked.kind
    limit = min(max_length, model.config.max_position_embeddings)
    samples = read_samples(folder, rows, limit, asked)
    starts = None if words is None else _word_starts(folder, rows, limit)
    head = next((name for name in sorted(trained_heads) if name in model.targets), None)
    wants_layers = layers == "mean"
    model.encoder.keeps_layers |= wants_layers
    features, probabilities = [], []
    with torch.inference_mode():
        for start in range(0, len(samples), BATCH_ROWS):
            index = np.arange(start, min(start + BATCH_ROWS, len(samples)))
            batch = samples.collate(index, 0)
            hidden = model.encode(batch)
            shown = model.encoder.layer_outputs if wants_layers else None
            if shown:
                hidden = torch.stack(shown[1:]).mean(dim=0)
            if starts is not None and words is not None:
                here = words[(words[:, 0] >= start) & (words[:, 0] <= index[-1])]
                features.append(word_vectors(hidden, starts, here, start))
            else:
                features.append(features_of(kind, hidden, batch, model.pool, len(index)))
            if head is not None:
                probabilities.append(model.predict(batch)[head].softmax(dim=-1))
    if wants_layers and not shown:
        logger.warning("%s: its encoder shows only the last layer, which is read", folder.name)
    stacked = torch.cat(features).double().numpy()
    return stacked, torch.cat(probabilities).double().numpy() if head else None


def _word_starts(folder: Path, rows: "Rows", limit: int) -> AnyArray:
    from orchestrator.data.processors.text import TextProcessor

    return np.asarray(TextProcessor.load(folder).word_arrays(rows.words, limit)[1])
