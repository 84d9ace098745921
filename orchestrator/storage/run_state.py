"""Files of a run folder: their names, their reader, and whether a run has finished anything."""

import logging
from pathlib import Path
from typing import Any

from orchestrator.errors import IntegrityError
from orchestrator.storage.files import sha256_bytes
from orchestrator.storage.json_files import json_bytes, read_json
from orchestrator.storage.remote.mirrored_run import LOGS
from orchestrator.storage.stores import Store

CONFIG_NAME = "job.yaml"
STAGE_NAME = "stage.json"
RESULT_NAME = "result.json"
JOURNAL_NAME = "journal"
LOCK_NAME = ".lock"
IDENTITY = "identity"
"""Step under which the id of the run is recorded."""
STATE_FILES = (CONFIG_NAME, STAGE_NAME, RESULT_NAME)
PINNED = "pinned"
"""Key of a step that records what the run begins with: names of the files that belong to it."""

logger = logging.getLogger(__name__)


def read_state(path: Path) -> dict[str, Any] | None:
    """Return a file of a run's state; damaged content is logged and counts as not there."""
    try:
        stored = read_json(path)
    except FileNotFoundError:
        return None
    except IntegrityError as error:
        logger.warning("event=damaged_run_state path=%s reason=%r", path, str(error))
        return None
    digest = stored.pop("sha256", None) if isinstance(stored, dict) else None
    if digest is None or digest != sha256_bytes(json_bytes(stored)):
        logger.warning("event=damaged_run_state path=%s reason='its hash differs'", path)
        return None
    return dict(stored)


def has_only_begun(folder: Path, store: Store) -> bool:
    """Return whether nothing is finished: the run has pins only, and no other files.

    Args:
        folder: The run folder on this machine.
        store: Where the run is.
    """
    known = {CONFIG_NAME, STAGE_NAME, JOURNAL_NAME, LOGS}
    for path in (folder / JOURNAL_NAME).iterdir():
        files = (read_state(path) or {}).get(PINNED)
        if files is None:
            return False
        known.update(files)
    others = {*store.files(), *store.folders()} - known
    return all(name.startswith(".") for name in others)
