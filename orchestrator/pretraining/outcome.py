"""What a finished run says of itself: in its result, its package and its page."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from orchestrator.modeling.targets.configs import AnswersConfig

if TYPE_CHECKING:
    from orchestrator.modeling.config import ModelConfig
    from orchestrator.pretraining.inputs import AnyCorpus

MOST_NATS = 50.0
"""Of a loss whose exponential is shown."""


def outcome(
    model: "ModelConfig", corpus: "AnyCorpus", summary: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the figures of a run.

    Args:
        model: Its targets; the first one's figures have plain names.
        corpus: What it learnt from.
        summary: What the workers returned.
    """
    validation, guessed = summary["validation"], summary["baselines"]
    trained = [target for target in model.target if f"loss.{target.name}" in validation]
    first = trained[0].name
    figures = {
        "loss": validation["loss"],
        "accuracy": validation[f"accuracy.{first}"],
        "perplexity": math.exp(min(validation[f"loss.{first}"], MOST_NATS)),
        "baseline_loss": guessed[f"loss.{first}"],
        "baseline_accuracy": guessed[f"accuracy.{first}"],
    }
    if isinstance(trained[0], AnswersConfig):  # neither a class nor a token is chosen
        del figures["perplexity"]
    if summary["unigram_entropy"] is not None:  # pairs are found, not written
        figures["unigram_entropy"] = summary["unigram_entropy"]
    for target in trained[1:]:
        for figure in ("loss", "accuracy"):
            key = f"{figure}.{target.name}"
            figures[key] = validation[key]
            if key in guessed:
                figures[f"baseline_{key}"] = guessed[key]
    return figures | {
        "steps": summary["step"],
        "skipped_steps": summary["skipped_steps"],
        "rollbacks": summary["rollbacks"],
        "seconds": round(summary["seconds"], 1),
        "workers": summary["world"],
        "documents": corpus.documents,
        "tokens": corpus.tokens,
    }


def skipped_steps(rows: Sequence[Mapping[str, Any]]) -> int:
    """Return how many steps the loss guard skipped, over all parts of a run.

    Args:
        rows: Those of its history; each interval has its number.
    """
    train = (row for row in rows if row["split"] == "train" and row["metric"] == "skipped")
    return int(sum(row["value"] for row in train))
