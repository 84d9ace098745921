"""Arguments of ``orchestrator``: settings in any place, and places that are not there."""

from orchestrator.cli import main

PRESET = "jobs/configs/pretrain_bert_nano.yaml"


def test_settings_may_stand_on_both_sides_of_an_option(capsys):
    command = ["pretrain", "train.max_steps=123", "--config", PRESET, "--print-config", "seed=9"]
    assert main(command) == 0
    shown = capsys.readouterr().out
    assert "max_steps: 123" in shown
    assert "seed: 9" in shown


def test_a_report_on_a_missing_folder_says_what_may_be_given(capsys):
    assert main(["report", "runs/never"]) == 2
    assert "runs/never is no folder. Give the folder of a finished run" in capsys.readouterr().err
