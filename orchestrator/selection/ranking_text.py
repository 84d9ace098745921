"""The ranking of a selection or a replay as a text table."""

from collections.abc import Collection, Sequence

from orchestrator.config.tables import table
from orchestrator.selection.results import RankedModel

MAX_LINES = 40
"""Candidates shown, the best; the files have all."""


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
