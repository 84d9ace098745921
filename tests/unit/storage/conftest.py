import os

import pytest


@pytest.fixture(autouse=True)
def _no_disk_waits(monkeypatch):
    """Killing a process loses nothing the kernel has, so these tests need not wait for the disk.

    That everything is brought to the disk, and in which order, is tested in test_durability.py.
    """
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
