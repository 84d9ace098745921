"""Arguments of ``orchestrator``: settings in any place, and places that are not there."""

import signal
import subprocess
import sys

import pytest

from orchestrator.cli import guarded, main
from orchestrator.cluster.launcher import _caught_signals

PRESET = "jobs/configs/pretrain_bert_nano.yaml"


def test_settings_may_stand_on_both_sides_of_an_option(capsys):
    command = ["pretrain", "train.max_steps=123", "--config", PRESET, "--print-config", "seed=9"]
    assert main(command) == 0
    shown = capsys.readouterr().out
    assert "max_steps: 123" in shown
    assert "seed: 9" in shown


def test_a_report_on_a_missing_folder_says_what_may_be_given(capsys):
    assert main(["report", "runs/never"]) == 2
    assert (
        "runs/never is not a folder. Give the folder of a finished run" in capsys.readouterr().err
    )


def test_a_command_ends_without_looking_for_cycles():
    code = """
import atexit, gc
from orchestrator.cli import main
atexit.register(lambda: print("frozen", gc.get_freeze_count() > 0))  # runs after what main asks for
main(["report", "runs/never"])
"""
    command = [sys.executable, "-c", code]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert ended.stdout.split() == ["frozen", "True"]


@pytest.mark.parametrize(("before", "code"), [(signal.SIG_DFL, 3), (signal.SIG_IGN, 0)])
def test_a_terminal_that_is_gone_interrupts_unless_it_is_ignored(before, code):
    old = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    signal.signal(signal.SIGHUP, before)

    def work():
        received = []
        with _caught_signals(received):
            signal.raise_signal(signal.SIGHUP)
        assert received == ([signal.SIGHUP] if code else [])
        signal.raise_signal(signal.SIGHUP)
        return 0

    try:
        assert guarded(work) == code
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
