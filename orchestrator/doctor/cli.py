"""``orchestrator doctor``: is this machine ready, and is it safe to start a cluster on it?"""

import argparse
import importlib.metadata
import json
import os
import platform
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from orchestrator.doctor.exposure import examine_ports
from orchestrator.doctor.findings import FAILURE, OK, WARNING, Finding

PACKAGES = ("torch", "ray", "deepspeed", "transformers", "onnxruntime", "pandas", "pydantic")
TOKEN_FILE = Path("~/.ray/auth_token")
MIN_FREE_BYTES = 5 * 2**30


def register(subparsers: Any) -> None:
    """Add the ``doctor`` verb."""
    parser = subparsers.add_parser("doctor", help="is this machine ready and safe?")
    parser.add_argument("--zoo", default="zoo", help="folder whose file system is checked")
    parser.add_argument("--json", action="store_true", help="machine-readable output")
    parser.set_defaults(func=_main)


def _main(options: argparse.Namespace) -> int:
    findings = examine(Path(options.zoo))
    if options.json:
        sys.stdout.write(json.dumps([asdict(finding) for finding in findings], indent=2) + "\n")
    else:
        for finding in findings:
            sys.stdout.write(f"{finding.state:8} {finding.subject:20} {finding.detail}\n")
    return int(any(finding.state == FAILURE for finding in findings))


def examine(zoo: Path) -> list[Finding]:
    """Return everything found; start nothing, change nothing that stays."""
    return [
        *_versions(),
        *_devices(),
        *examine_ports(),
        _token(),
        _disk(zoo),
        _atomic_replace(zoo),
    ]


def _versions() -> Iterator[Finding]:
    python = platform.python_version()
    supported = (3, 11) <= sys.version_info[:2] < (3, 13)
    state = OK if supported else FAILURE
    yield Finding("python", state, python if supported else f"{python}; use 3.11 or 3.12")
    for name in PACKAGES:
        try:
            yield Finding(name, OK, importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            yield Finding(name, FAILURE, "not installed; run `pip install -e .`")


def _devices() -> Iterator[Finding]:
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield Finding("cpu", OK, f"{affinity} usable cores, {platform.machine()}")
    import torch

    count = torch.cuda.device_count()
    names = ", ".join(torch.cuda.get_device_name(i) for i in range(count))
    yield Finding("gpu", OK, f"{count}: {names}" if count else "none; training runs on gloo")


def _token() -> Finding:
    path = TOKEN_FILE.expanduser()
    mode = os.environ.get("RAY_AUTH_MODE", "unset")
    if not path.exists():
        how = "`ray get-auth-token --generate`, then chmod 600"
        return Finding(
            "ray token", WARNING, f"none at {path} (RAY_AUTH_MODE {mode}); make one: {how}"
        )
    readable_by_others = stat.S_IMODE(path.stat().st_mode) & 0o077
    if readable_by_others:
        return Finding("ray token", FAILURE, f"{path} is readable by others; run chmod 600 {path}")
    return Finding("ray token", OK, f"{path}, RAY_AUTH_MODE {mode}")


def _disk(zoo: Path) -> Finding:
    free = shutil.disk_usage(_existing(zoo)).free
    state = OK if free >= MIN_FREE_BYTES else WARNING
    return Finding("disk", state, f"{free / 2**30:.1f} GiB free at {_existing(zoo)}")


def _atomic_replace(zoo: Path) -> Finding:
    """The commit protocol needs a folder rename that replaces nothing and never copies."""
    try:
        with tempfile.TemporaryDirectory(dir=_existing(zoo), prefix=".doctor-") as scratch:
            staged = Path(scratch) / "staged"
            staged.mkdir()
            (staged / "manifest.json").write_text("{}")
            staged.replace(Path(scratch) / "final")
    except OSError as error:
        return Finding("atomic commit", FAILURE, f"{error}; choose another folder for the zoo")
    return Finding("atomic commit", OK, f"folder rename works at {_existing(zoo)}")


def _existing(path: Path) -> Path:
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path
