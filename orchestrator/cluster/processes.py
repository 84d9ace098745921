"""Processes that Ray starts for us: how they begin, and how values of a class reach them."""

import importlib
import logging
import os
import threading
import time
from typing import Any

ORPHAN_POLL_S = 1.0
ACCELERATED_BACKEND = "cpu:gloo,cuda:nccl"
"""Backend of a group with accelerators; hosts add what they know without their devices
(``training/engines/reductions.py``)."""
COLLECTIVE_TIMEOUT_S = 300  # a rank that waits longer than this for the others gives up


def prepare_process(*, accelerated: bool) -> None:
    """Quieten the libraries and pin what they read from the environment at import."""
    if not accelerated:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    logging.getLogger("orchestrator").setLevel(logging.INFO)
    _end_with_parent()


def _end_with_parent() -> None:
    """End this process as soon as the node process that started it is gone.

    Ray looks whether that process id still exists, which it does for ever where nobody reaps the
    dead: in a container without an init process. The workers of a killed driver would go on
    training beside those of the driver that continues the run.
    """
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(ORPHAN_POLL_S)
        os._exit(1)  # not sys.exit: that would end this thread alone

    threading.Thread(target=watch, name="parent", daemon=True).start()


def class_path(value: object) -> str:
    """Return ``module:Class`` of a value; `load_named` finds the class again."""
    return f"{type(value).__module__}:{type(value).__name__}"


def load_named(path: str) -> Any:
    """Return the object that ``module:name`` names."""
    module, name = path.split(":")
    return getattr(importlib.import_module(module), name)
