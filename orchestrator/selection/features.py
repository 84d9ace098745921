"""Frozen features of one package on a task's training rows, and their proxy scores.

One forward pass, no training: rows are the target's TRAINING rows only, so that a later choice on
the validation split stays honest. Runs on a worker; imports torch, not Ray.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from orchestrator.arrays import FloatArray
from orchestrator.selection.proxy import ProxyScore, score_features

if TYPE_CHECKING:
    from orchestrator.data.rows.rows import Rows
    from orchestrator.data.samples.labelled_samples import ClsSamples
    from orchestrator.modeling.model import Model

BATCH_ROWS = 128
HEAD = "proxy"
TRAINED_HEADS = ("finetuned", "continual", "imported")


def score_package(payload: dict[str, Any]) -> dict[str, Any]:
    """Score one package; JSON in and out, so that it can run as a Ray task.

    Args:
        payload: ``package`` (reference), ``zoo``, ``task`` (a `DatasetSpec`), ``cache``,
            ``proxies`` (names), ``rows`` (at most), ``max_length``, ``seed``.

    Returns:
        ``values``, ``floors`` and ``rows`` of a `ProxyScore`.
    """
    from orchestrator.data.rows.tasks import load_task
    from orchestrator.data.spec import DatasetSpec
    from orchestrator.zoo import Zoo

    cache = Path(payload["cache"]) if payload["cache"] else None
    task = load_task(DatasetSpec.model_validate(payload["task"]), cache)
    package = Zoo(payload["zoo"]).get(payload["package"])
    declared = set(package.manifest.task.labels) if package.manifest.task else set()
    heads = declared if package.kind in TRAINED_HEADS else set()
    rows = sample_rows(task.train, payload["rows"], payload["seed"])
    features, probabilities = extract(package.path, rows, payload["max_length"], heads)
    score = score_features(
        payload["proxies"], features, rows.labels, probabilities, payload["seed"]
    )
    return {"values": dict(score.values), "floors": dict(score.floors), "rows": score.rows}


def as_score(stored: dict[str, Any]) -> ProxyScore:
    """The score that `score_package` returned."""
    return ProxyScore(stored["values"], stored["floors"], stored["rows"])


def sample_rows(rows: "Rows", limit: int, seed: int) -> "Rows":
    """At most ``limit`` rows, the same ones for every package."""
    if len(rows) <= limit:
        return rows
    chosen = np.random.default_rng(seed).permutation(len(rows))[:limit]
    return rows.take(np.sort(chosen))


def extract(
    folder: Path, rows: "Rows", max_length: int, trained_heads: set[str]
) -> tuple[FloatArray, FloatArray | None]:
    """Mean-pooled features, and the class probabilities of a trained source head.

    Args:
        folder: The package.
        rows: n rows.
        max_length: Tokens a text is cut to.
        trained_heads: Names of classification heads that were trained; others are not used, since
            a random head scores every model at its floor.

    Returns:
        ``[n, D]`` and ``[n, Z]`` (None without a trained head).
    """
    import torch

    from orchestrator.modeling.package import load_model

    model = load_model(folder).eval()
    limit = min(max_length, model.config.max_position_embeddings)
    samples = _samples(folder, rows, limit)
    head = next((name for name in sorted(trained_heads) if name in model.targets), None)
    features, probabilities = [], []
    with torch.inference_mode():
        for start in range(0, len(samples), BATCH_ROWS):
            index = np.arange(start, min(start + BATCH_ROWS, len(samples)))
            vectors, logits = _forward(model, samples.collate(index, 0), head)
            features.append(vectors)
            if logits is not None:
                probabilities.append(logits.softmax(dim=-1))
    stacked = torch.cat(features).double().numpy()
    return stacked, torch.cat(probabilities).double().numpy() if probabilities else None


def _samples(folder: Path, rows: "Rows", max_length: int) -> "ClsSamples":
    from orchestrator.data.processors.text import TextProcessor
    from orchestrator.data.samples.labelled_samples import ClsSamples

    processor = None if rows.images is not None else TextProcessor.load(folder)
    return ClsSamples(rows, processor, HEAD, max_length)


def _forward(model: "Model", batch: dict[str, Any], head: str | None) -> tuple[Any, Any]:
    """Pooled features ``[B, D]``, and logits ``[B, Z]`` where there is a head."""
    vectors = model.pool(model.encode(batch), batch)
    return vectors, model.predict(batch)[head] if head else None
