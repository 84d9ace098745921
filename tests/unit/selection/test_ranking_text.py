"""The ranking as a text table."""

from orchestrator.selection.ranking_text import MAX_LINES, ranking_lines
from orchestrator.selection.results import RankedModel
from tests.support import results


def rows(count):
    models = [f"m{place}/v0001" for place in range(count)]
    found = [results.ranked(1, models[0], "winner", "best of the last rung", (0.5, 0.75))]
    found += [
        results.ranked(n, m, "dropped", "behind", (0.5,)) for n, m in enumerate(models[1:], 2)
    ]
    last = results.ranked(count + 1, "broken/v0001", "failed", "failed: no weights", ())
    return [RankedModel.model_validate(row) for row in [*found, {**last, "recall_score": None}]]


def test_the_table_has_places_scores_ties_and_reasons():
    assert ranking_lines(rows(3), ("m1/v0001",)) == [
        "place  model         outcome                        epochs  validation  recall  why",
        "    1  m0/v0001      winner, tied with 1                 2      0.7500  0.5000  "
        "best of the last rung",
        "    2  m1/v0001      dropped, tied with the winner       1      0.5000  0.5000  behind",
        "    3  m2/v0001      dropped                             1      0.5000  0.5000  behind",
        "    4  broken/v0001  failed                              0                      "
        "failed: no weights",
    ]


def test_a_long_ranking_ends_with_a_count():
    lines = ranking_lines(rows(100))
    assert len(lines) == 1 + MAX_LINES + 1
    assert lines[-1] == f"and {101 - MAX_LINES} more candidates"
