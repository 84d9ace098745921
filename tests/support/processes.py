"""Processes of a test that may end while they are looked at."""

import psutil


def command_of(process: psutil.Process) -> str:
    """Return its command line; "" once it has ended, reaped or not, or belongs to somebody else."""
    try:
        return " ".join(process.cmdline())
    except (psutil.NoSuchProcess, psutil.AccessDenied):  # a zombie's error is a NoSuchProcess
        return ""
