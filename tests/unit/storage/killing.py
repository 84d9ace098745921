"""Run something in a process of its own that ends, without any clean-up, at its n-th operation."""

import os
import signal
import sys
import traceback
from pathlib import Path

from orchestrator.storage.operations import fault_hook

KILLED = 77
DEADLINE_S = 30


def run_killed(action, stop):
    """Return True when ``action`` was killed just before its operation number ``stop``."""
    child = os.fork()
    if child == 0:
        _in_child(action, stop)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code in (0, KILLED), f"the writer ended with {code}"
    return code == KILLED


def _in_child(action, stop):
    signal.alarm(DEADLINE_S)
    operations = iter(range(sys.maxsize))

    def hook(_operation, _path):
        if next(operations) == stop:
            os._exit(KILLED)

    try:
        with fault_hook(hook):
            action()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def kill_everywhere(prepare, action, check, at_least):
    """Kill ``action`` before each of its operations in turn; ``check`` what a reader finds then.

    Args:
        prepare: Called with the number of the kill; returns the state ``action`` starts from.
        action: Called with that state in a process of its own.
        check: Called with the state and whether the writer was killed.
        at_least: Number of operations there must be, so that the test cannot become empty.
    """
    for stop in range(10_000):
        state = prepare(stop)
        killed = run_killed(lambda state=state: action(state), stop)
        check(state, killed)
        if not killed:
            assert stop >= at_least
            return
    raise AssertionError("the writer never finished")


def stage(folder: Path, text: str) -> Path:
    """Fill a folder with a small file, a nested one and an empty one."""
    (folder / "sub" / "deep").mkdir(parents=True)
    (folder / "a.txt").write_text(text)
    (folder / "sub" / "deep" / "b.json").write_text(f'{{"text": "{text}"}}')
    (folder / "empty.txt").write_bytes(b"")
    return folder
