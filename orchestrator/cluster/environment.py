"""Environment variables that Ray, DeepSpeed and torch read, in one table.

A setting that the user already made always wins. Nothing here imports Ray: most of them are read
while it is being imported or by the processes it starts.
"""

import os
import secrets
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

TOKEN_FILE = Path("~/.ray/auth_token")

# Read by every process of a cluster that we start, and by the driver.
LOCAL_CLUSTER = {
    "RAY_worker_niceness": "0",  # Ray's default of 15 starves workers on a shared host
    "RAY_USAGE_STATS_ENABLED": "0",
    "OMP_NUM_THREADS": "1",  # one core per worker: more threads compete for it
    "PYTHONWARNINGS": "ignore::FutureWarning,ignore::DeprecationWarning",
}

# Read by the driver, forwarded to the Train controller and workers by Ray Train.
TRAIN = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.3",  # how soon the controller sees the end (default 2)
    "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "1",  # a spot instance gives 30 s (default 5)
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative paths keep meaning what they meant on the driver
}

# The same for a private cluster. No node comes up later, so nothing is worth Ray's own minute.
PRIVATE_TRAIN = {"RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "10"}


def extensions_dir() -> Path:
    """Return where torch compiles C++ extensions: one folder per user, shared by all runs."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser()
    return cache / "orchestrator" / "torch_extensions"


def local_cluster_environment(accelerated: bool) -> dict[str, str]:
    """Return the variables for a cluster that this process starts.

    Args:
        accelerated: Whether workers ask for GPUs; without them DeepSpeed need not look for one.
    """
    values = {
        **LOCAL_CLUSTER,
        **TRAIN,
        **PRIVATE_TRAIN,
        "TORCH_EXTENSIONS_DIR": str(extensions_dir()),
    }
    # One private machine: no spot instance can be reclaimed, so nothing needs to watch for it.
    values["RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"] = "0"
    if not accelerated:
        values["DS_ACCELERATOR"] = "cpu"
    if "ray" not in sys.modules:  # Ray reads the mode on import and turns it on by itself later
        values["RAY_AUTH_MODE"] = "token"
    return values


@contextmanager
def temporary_defaults(values: Mapping[str, str]) -> Iterator[None]:
    """Set missing environment variables for the duration of the block."""
    added = [name for name in values if name not in os.environ]
    os.environ.update({name: values[name] for name in added})
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


def ensure_token() -> None:
    """Make sure that an authentication token exists and that only this user can read it.

    Ray writes its own with the default permissions, so it is written here first. Where the home
    folder cannot be written the token lives in a private temporary file.
    """
    if os.environ.get("RAY_AUTH_MODE", "token").lower() != "token":
        return
    if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH"):
        return
    path = TOKEN_FILE.expanduser()
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return
    except OSError:
        descriptor, name = tempfile.mkstemp(prefix="orchestrator-token-")
        os.environ["RAY_AUTH_TOKEN_PATH"] = name
    with os.fdopen(descriptor, "w") as file:
        file.write(secrets.token_hex(32))
