"""Provenance of a package: source revision and library versions, without importing them."""

import functools
import shutil
import subprocess
from importlib import metadata
from pathlib import Path

from orchestrator.zoo.manifest import Producer

LIBRARIES = (
    "ray-model-orchestrator",
    "ray",
    "torch",
    "deepspeed",
    "transformers",
    "tokenizers",
    "safetensors",
    "onnx",
    "onnxruntime",
    "numpy",
    "pandas",
    "scikit-learn",
)
GIT_TIMEOUT_S = 5.0


def complete_producer(given: dict[str, object]) -> Producer:
    """Return a producer with what the stage gave, the git revision and the library versions."""
    known: dict[str, object] = {"git_revision": git_revision(), "libraries": library_versions()}
    producer: Producer = Producer.model_validate({**known, **given})
    return producer


@functools.cache
def library_versions() -> dict[str, str]:
    """Return the installed versions of `LIBRARIES`."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue  # an optional library
    return found


@functools.cache
def git_revision() -> str | None:
    """Return the revision of this library's checkout, with ``-dirty`` after local changes.

    None when it is installed without its repository, or without git.
    """
    source = Path(__file__).resolve().parents[2]
    git = shutil.which("git")
    if git is None or not (source / ".git").exists():
        return None
    command = [git, "-C", str(source), "describe", "--always", "--abbrev=40", "--dirty"]
    try:
        done = subprocess.run(  # noqa: S603  (fixed arguments, no shell)
            command, capture_output=True, text=True, timeout=GIT_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None
