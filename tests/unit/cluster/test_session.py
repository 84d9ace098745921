"""Decisions of a session before Ray starts: resources, address, environment, folders."""

import fcntl
import os
import socket
import subprocess
import sys

import pytest

from orchestrator.cluster import environment, session
from orchestrator.config import ClusterSection
from orchestrator.errors import InputError

FRESH = """
import sys, time
from orchestrator.config import ClusterSection
from orchestrator.cluster.session import session_for
from orchestrator.errors import InputError
began = time.monotonic()
try:
    with session_for(ClusterSection(workers=1000)):
        print("started")
except InputError as error:
    print(error)
print("ray" in sys.modules, time.monotonic() - began < 5)
"""


def test_too_many_workers_are_refused_before_ray_is_even_imported():
    kept = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    shown = subprocess.run(
        [sys.executable, "-c", FRESH],
        capture_output=True,
        text=True,
        timeout=60,
        env=kept,
        check=False,
    )
    message, verdict = shown.stdout.strip().splitlines()
    cpus = len(os.sched_getaffinity(0))
    assert message.startswith(
        f"cluster.workers: 1000 × 1 CPU asked, {cpus} CPUs in the cluster, {cpus} free. "
        "Lower cluster.workers"
    )
    assert verdict == "False True"


def test_labels_are_for_clusters(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    cluster = ClusterSection(labels={"ray.io/accelerator-type": "H100"})
    with (
        pytest.raises(InputError, match=r"cluster\.labels: .*H100.*private Ray"),
        session.session_for(cluster),
    ):
        pass


def test_the_dashboards_address_is_not_a_clusters():
    with (
        pytest.raises(InputError, match=r"cluster\.address: 'http://head:8265'.*dashboard"),
        session.session_for(ClusterSection(address="http://head:8265")),
    ):
        pass


def test_an_address_where_nobody_listens_is_refused_at_once(monkeypatch):
    with socket.socket() as taken:  # bound but not listening
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        monkeypatch.setenv("RAY_ADDRESS", address)
        with (
            pytest.raises(InputError, match=f"no Ray cluster answers at '{address}'.*refused"),
            session.session_for(ClusterSection()),
        ):
            pass


class TestEnvironment:
    """Variables are set where they are missing, and only for the length of a session."""

    def test_defaults_come_and_go(self, monkeypatch):
        monkeypatch.setenv("ORCH_TEST_A", "mine")
        monkeypatch.delenv("ORCH_TEST_B", raising=False)
        with environment.temporary_defaults({"ORCH_TEST_A": "theirs", "ORCH_TEST_B": "theirs"}):
            assert os.environ["ORCH_TEST_A"] == "mine"
            assert os.environ["ORCH_TEST_B"] == "theirs"
        assert os.environ["ORCH_TEST_A"] == "mine"
        assert "ORCH_TEST_B" not in os.environ

    def test_a_private_cluster_is_quick_private_and_quiet(self):
        values = environment.local_cluster_environment(accelerated=False)
        assert values["RAY_worker_niceness"] == "0"
        assert values["RAY_USAGE_STATS_ENABLED"] == "0"
        assert values["DS_ACCELERATOR"] == "cpu"
        assert "DS_ACCELERATOR" not in environment.local_cluster_environment(accelerated=True)

    def test_a_missing_token_is_made_for_this_user_alone(self, monkeypatch, tmp_path):
        monkeypatch.setenv("HOME", str(tmp_path))
        for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
            monkeypatch.delenv(name, raising=False)
        environment.ensure_token()
        token = tmp_path / ".ray" / "auth_token"
        assert token.stat().st_mode & 0o777 == 0o600
        before = token.read_text()
        assert len(before) >= 32
        environment.ensure_token()
        assert token.read_text() == before

    @pytest.mark.parametrize(
        ("name", "value"), [("RAY_AUTH_MODE", "disabled"), ("RAY_AUTH_TOKEN", "x")]
    )
    def test_no_token_is_made_when_none_is_needed(self, monkeypatch, tmp_path, name, value):
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv(name, value)
        environment.ensure_token()
        assert not (tmp_path / ".ray").exists()


class TestTemporaryFolders:
    """Short names, locked while in use, swept once their owner is dead."""

    def test_a_folder_lives_as_long_as_its_session(self):
        with session._temporary_folder() as folder:
            assert folder.is_dir()
            assert len(str(folder)) < 30
        assert not folder.exists()

    def test_abandoned_ones_are_swept_and_used_ones_stay(self, tmp_path):
        used, abandoned, young = (tmp_path / f"{session.TEMP_PREFIX}{n}" for n in "abc")
        for folder in (used, abandoned, young):
            folder.mkdir()
            (folder / "lock").touch()
        for folder in (used, abandoned):
            os.utime(folder, (0, 0))
        with (used / "lock").open("r+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            session._sweep(tmp_path)
        assert used.exists()
        assert young.exists()
        assert not abandoned.exists()
