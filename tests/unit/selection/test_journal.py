import pytest

from orchestrator.errors import IntegrityError
from orchestrator.selection.journal import Journal, Row, row_of


def test_rows_come_back_and_are_written_once(tmp_path):
    journal = Journal(tmp_path / "run" / "trials.jsonl")
    assert journal.append(Row("a/v0001", 1, 0.5, steps=3))
    assert not journal.append(Row("a/v0001", 1, 0.9))
    journal.append(Row("b", 1, None, error="lost"))
    again = Journal(journal.path)
    assert again.rows == [Row("a/v0001", 1, 0.5, steps=3), Row("b", 1, None, error="lost")]
    assert again.of("b")[0].error == "lost"
    assert not again.append(Row("b", 1, 0.5))


def test_a_torn_last_line_is_cut_off_and_the_epoch_may_be_written_again(tmp_path):
    path = tmp_path / "trials.jsonl"
    journal = Journal(path)
    journal.append(Row("a", 1, 0.5))
    journal.append(Row("a", 2, 0.6))
    path.write_bytes(path.read_bytes()[:-7])
    again = Journal(path)
    assert [row.rung for row in again.rows] == [1]
    again.append(Row("a", 2, 0.6))
    assert [row.rung for row in Journal(path).rows] == [1, 2]


def test_a_damaged_line_is_an_integrity_error(tmp_path):
    path = tmp_path / "trials.jsonl"
    path.write_text('{"trial": "a"}\n')
    with pytest.raises(IntegrityError, match="line 1"):
        Journal(path)


def test_a_result_with_other_keys_becomes_a_row():
    row = row_of({"trial": "a", "rung": 1, "validation": 0.5, "pid": 7, "done": False})
    assert row == Row("a", 1, 0.5)
