"""The card of a finalist."""

from orchestrator.selection.card_rows import card_rows
from orchestrator.selection.results import SelectionReport
from orchestrator.zoo import Zoo
from tests.support import results

FINALISTS = [
    {"model": model, "package": "chosen", "validation": 0.9, "test": 0.875}
    for model in ("one/v0001", "two/v0001")
]


def report(**changes) -> SelectionReport:
    return results.selection_report(finalists=FINALISTS, **changes)


def test_the_card_says_what_it_was_selected_from_ties_and_cost():
    found = report(tied_with_winner=("two/v0001",), warnings=("the matrix is small",))
    priced = found.ledger.model_copy(
        update={"wall_s": 12.5, "slots": 2.0, "money": 0.0125, "currency": "EUR"}
    )
    rows = card_rows(found.model_copy(update={"ledger": priced}), 1)
    assert rows == [
        ("target", "topics, 9 training rows"),
        ("fine-tuned from", "one/v0001"),
        ("place", "1 of 2 candidates: 1 winner, 1 dropped"),
        ("history", "2 data sets"),
        ("policy", "convergence"),
        ("tied with it on validation rows", "two/v0001"),
        (
            "cost",
            "3 epochs with proxies (75% of the 4 of brute force), 12 s on 2 slots, 0.0125 EUR",
        ),
        ("warning", "the matrix is small"),
    ]


def test_ties_are_named_where_there_are_none_and_for_other_finalists():
    assert ("tied with it on validation rows", "none") in card_rows(report(matrix={}), 1)
    assert ("history", "none") in card_rows(report(matrix={}), 1)
    second = card_rows(report(tied_with_winner=("two/v0001",)), 2)
    assert ("tied with the winner", "one/v0001") in second


def test_the_section_is_in_the_generated_part_of_the_card(tmp_path):
    with Zoo(tmp_path).draft(
        "chosen", kind="finetuned", producer={}, parents=(), task=None, licence="mit"
    ) as draft:
        (draft.path / "config.json").write_text("{}")
        draft.card["Selection"] = card_rows(report(), 1)
        package = draft.commit()
    generated = (package.path / "README.md").read_text().partition("generated: end")[0]
    assert "## Selection\n\n| | |\n| --- | --- |\n| target | topics, 9 training rows |" in generated
    assert "| licence | mit |" in generated
