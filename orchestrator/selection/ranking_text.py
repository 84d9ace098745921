"""The ranking of a selection or a replay: its rows, and their text table."""

from collections.abc import Callable, Collection, Iterable, Sequence

from orchestrator.config.tables import table
from orchestrator.selection.results import RankedModel, Recalled
from orchestrator.selection.rungs import whole

MAX_LINES = 40
"""Candidates shown, the best; the files have all."""


def ranked_models(
    found: Iterable[tuple[tuple[float, ...], Recalled, str, str, Sequence[float]]],
    tagged: Collection[str],
    epochs: Callable[[int], float] = float,
) -> tuple[RankedModel, ...]:
    """Return candidates in order, with their places.

    Args:
        found: Order (smallest first), recall, status, reason, and validation score per rung.
        tagged: Models that declare, or are named after, the target.
        epochs: Returns the epochs that a model has trained after a rung.
    """
    return tuple(
        RankedModel.model_validate(
            {
                "place": place,
                "model": item.model,
                "status": status,
                "reason": reason,
                "epochs": whole(epochs(len(curve))),
                "validation": tuple(curve),
                "recall_score": item.score,
                "trained_on_target": item.model in tagged,
            }
        )
        for place, (_, item, status, reason, curve) in enumerate(
            sorted(found, key=lambda entry: entry[0]), start=1
        )
    )


def ranking_lines(ranking: Sequence[RankedModel], tied: Collection[str] = ()) -> list[str]:
    """Return one line per candidate, best first: place, outcome, scores, ties and reason.

    Args:
        ranking: All candidates, best first.
        tied: Models tied with the winner.
    """
    rows = [
        (
            *(row.place, row.model, outcome_in_words(row, tied), row.epochs),
            f"{row.validation[-1]:.4f}" if row.validation else "",
            "" if row.recall_score is None else f"{row.recall_score:.4f}",
            row.reason,
        )
        for row in ranking[:MAX_LINES]
    ]
    header = ("place", "model", "outcome", "epochs", "validation", "recall", "why")
    lines = table(rows, header, "><<>>>").splitlines()
    more = len(ranking) - MAX_LINES
    return [*lines, f"and {more} more candidates"] if more > 0 else lines


def outcome_in_words(row: RankedModel, tied: Collection[str]) -> str:
    """Return the outcome of a candidate, and whether it is tied with the winner."""
    if row.model in tied:
        return f"{row.status}, tied with the winner"
    return f"winner, tied with {len(tied)}" if row.status == "winner" and tied else row.status
