import math

import pytest

from orchestrator.errors import IntegrityError
from orchestrator.selection.results import EpochResult, JournalRow
from orchestrator.selection.trials.journal import Journal


def test_rows_come_back_and_are_written_once(tmp_path):
    journal = Journal(tmp_path / "run" / "trials.jsonl")
    assert journal.append(JournalRow(trial="a/v0001", rung=1, validation=0.5, steps=3))
    assert not journal.append(JournalRow(trial="a/v0001", rung=1, validation=0.9))
    journal.append(JournalRow(trial="b", rung=1, validation=None, error="lost"))
    again = Journal(journal.path)
    assert again.rows == [
        JournalRow(trial="a/v0001", rung=1, validation=0.5, steps=3),
        JournalRow(trial="b", rung=1, validation=None, error="lost"),
    ]
    assert again.of("b")[0].error == "lost"
    assert not again.append(JournalRow(trial="b", rung=1, validation=0.5))


def test_an_incomplete_last_line_is_removed_and_may_be_written_again(tmp_path):
    path = tmp_path / "trials.jsonl"
    journal = Journal(path)
    journal.append(JournalRow(trial="a", rung=1, validation=0.5))
    journal.append(JournalRow(trial="a", rung=2, validation=0.6))
    path.write_bytes(path.read_bytes()[:-7])
    again = Journal(path)
    assert [row.rung for row in again.rows] == [1]
    again.append(JournalRow(trial="a", rung=2, validation=0.6))
    assert [row.rung for row in Journal(path).rows] == [1, 2]


def test_a_damaged_line_is_an_integrity_error(tmp_path):
    path = tmp_path / "trials.jsonl"
    path.write_text('{"trial": "a"}\n')
    with pytest.raises(IntegrityError, match="line 1"):
        Journal(path)


def test_lines_of_earlier_versions_are_read(tmp_path):
    path = tmp_path / "trials.jsonl"
    path.write_text('{"error": "", "rung": 1, "trial": "a", "validation": 0.5}\n')
    assert Journal(path).rows == [JournalRow(trial="a", rung=1, validation=0.5)]


def test_a_diverged_score_survives_the_file(tmp_path):
    journal = Journal(tmp_path / "trials.jsonl")
    journal.append(JournalRow(trial="a", rung=1, validation=float("nan")))
    assert math.isnan(Journal(journal.path).rows[0].validation)


def test_only_the_row_of_a_result_is_written():
    result = EpochResult(trial="a", rung=1, validation=0.5, loss=0.7)
    assert result.journal_row() == JournalRow(trial="a", rung=1, validation=0.5)
