"""Fixtures of all tests: clusters and an S3 server, each started once and stopped by pid."""

import gc
from pathlib import Path

import pytest

from tests.support.ray import local_ray, ray_head
from tests.support.s3 import s3_server

__all__ = ["local_ray", "ray_head"]

QUICK = ("unit", "parity")
"""Run before anything starts a Ray in their process."""
LONG = (
    "test_jobs_through_ray.py",
    "test_demo.py",
    "test_serving.py",
    "test_two_hosts.py",
    "test_pretrain.py",
    "test_engines.py",
)
"""Run first among the others: two processes that take files in turn then end together."""


gc.disable()  # until all tests are collected: what is imported and collected stays to the end


def pytest_collection_finish():
    """Exclude what stays to the end from all later collections; a full one took a second."""
    gc.collect()
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session")
def s3_port():
    """Port of an S3 server in a process of its own; see `tests.support.s3`."""
    with s3_server() as port:
        yield port


def pytest_collection_modifyitems(items):
    """Put the files in order; tests keep theirs."""
    items.sort(key=lambda item: _place(Path(item.path)))


def _place(path: Path) -> int:
    if path.relative_to(Path(__file__).parent).parts[0] in QUICK:
        return -1
    return LONG.index(path.name) if path.name in LONG else len(LONG)
