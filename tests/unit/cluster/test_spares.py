"""Spare worker processes, as far as they need no cluster."""

import json
import logging
import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest

from orchestrator.cluster.observe.mailbox import Mailbox
from orchestrator.cluster.preload import (
    NAMESPACE,
    TASK,
    Preload,
    cuda_is_initialized,
    early,
    import_modules,
    imported_modules,
    preload,
)
from orchestrator.cluster.spares import forget_ended_jobs, preload_for, wanted
from orchestrator.config import ElasticClusterSection
from orchestrator.errors import InputError

MODULES = ["json", "os"]
ENVIRONMENT = '{"env_vars":{}}'
LAUNCH = Preload(launch="a1", threads=2, accelerated=False)


@pytest.mark.parametrize(
    ("team", "free", "workers", "expected"),
    [
        ({"a": 1}, {"a": 0, "b": 0}, 1, {"a": 1}),
        ({"a": 1}, {"a": 0, "b": 1, "c": 1}, 1, {"a": 1, "b": 1}),
        ({"a": 2, "b": 1}, {"c": 4}, 3, {"a": 2, "b": 1, "c": 3}),  # one more group, no more
        ({"a": 2}, {"b": 1, "c": 3}, 2, {"a": 2, "c": 2}),  # on few nodes
        ({"a": 2}, {"a": 6, "b": 0}, 2, {"a": 2}),  # room beside the group is not another place
        ({}, {"a": 1}, 2, {"a": 1}),
    ],
)
def test_a_restart_finds_a_process_wherever_its_workers_may_start(team, free, workers, expected):
    assert wanted(team, free, workers) == expected


def test_a_group_is_known_while_it_does_steps():
    box = Mailbox()
    box.begin(["x"])
    box.joined("x")
    box.joined("x")
    assert box.team() is None
    box.trains(ENVIRONMENT, MODULES)
    team = box.team()
    assert (team.environment, list(team.modules), team.nodes) == (ENVIRONMENT, MODULES, {"x": 2})
    box.group_failed(["x"])
    assert box.team() is None  # a restart has the cores for itself
    box.begin(["x"])
    box.trains(ENVIRONMENT, MODULES)
    assert box.team().nodes == {}
    box.leave()
    assert box.team() is None


def test_modules_are_imported_in_order_and_a_broken_one_ends_nothing(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "early_a.py").write_text("ready = True\n")
    (tmp_path / "early_b.py").write_text("raise RuntimeError('not here')\n")
    (tmp_path / "early_c.py").write_text("import early_a\nassert early_a.ready\n")
    assert import_modules(["early_a", "early_b", "early_c"]) == ["early_b"]
    assert {"early_a", "early_c"} <= sys.modules.keys()
    for name in ("early_a", "early_c"):
        del sys.modules[name]


def test_what_may_look_for_gpus_on_import_is_left_to_the_worker():
    """CUDA reads the visible devices once, and Ray names them with the work."""
    safe = ["torch", "torch.distributed", "orchestrator.cluster.context", "numpy"]
    unsafe = ["deepspeed", "deepspeed.ops", "bitsandbytes", "torch._inductor.config"]
    unsafe += ["orchestrator.cluster.engines", "orchestrator.cluster.engines.deepspeed_zero"]
    assert early([*safe, *unsafe], accelerated=True) == safe
    assert early([*safe, *unsafe], accelerated=False) == [*safe, *unsafe]


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
@pytest.mark.parametrize(("answer", "initialized"), [(3, False), (0, True), (100, True)])
def test_a_process_that_has_looked_for_gpus_is_noticed(tmp_path, answer, initialized):
    (tmp_path / "driver.c").write_text(f"int cuDeviceGetCount(int *n) {{ return {answer}; }}\n")
    library = tmp_path / "libcuda.so"
    command = ["cc", "-shared", "-fPIC", "-o", str(library), str(tmp_path / "driver.c")]
    subprocess.run(command, check=True, timeout=60)
    assert cuda_is_initialized(str(library)) == initialized
    assert not cuda_is_initialized(str(tmp_path / "none.so"))


def test_the_list_of_modules_can_be_imported_by_another_process():
    names = imported_modules()
    assert "orchestrator.cluster.preload" in names
    assert not {"__main__", "torch.ops", "torch.classes"} & set(names)  # torch makes those itself
    code = (
        "import json, sys\n"
        "from orchestrator.cluster.preload import import_modules\n"
        "failed = import_modules(json.load(sys.stdin))\n"
        "assert 'pydantic' in sys.modules and not failed, failed\n"
    )
    light = [name for name in names if name.partition(".")[0] in ("pydantic", "orchestrator")]
    light = [name for name in light if "torch" not in name]
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps(light[:20]),
        text=True,
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_a_process_that_cannot_preload_still_works(monkeypatch, caplog):
    monkeypatch.setenv(TASK, "{}")
    with caplog.at_level(logging.WARNING):
        preload()
    assert "not everything was imported in advance" in caplog.text


def test_the_processes_are_told_what_to_do_by_their_environment():
    variables = LAUNCH.environment
    assert "orchestrator.cluster.preload.preload" in variables.values()
    assert Preload.model_validate_json(variables[TASK]) == LAUNCH
    assert LAUNCH.ready_key("node", os.getpid()).startswith(LAUNCH.ready_key("node"))
    assert LAUNCH.ready_key("node").startswith(LAUNCH.ready_key())


def test_spare_processes_need_workers_that_take_something():
    cluster = ElasticClusterSection(cpus_per_worker=0, spare_workers=True)
    assert [problem.path for problem in cluster.problems()] == ["spare_workers"]
    assert not list(ElasticClusterSection(spare_workers=True).problems())


def test_a_job_with_a_hook_of_its_own_gets_none_and_is_told(monkeypatch, caplog):
    import ray

    job = SimpleNamespace(runtime_env={"env_vars": dict.fromkeys(LAUNCH.environment, "its.own")})
    monkeypatch.setattr(ray, "get_runtime_context", lambda: job)
    session = SimpleNamespace(private=False)
    with pytest.raises(InputError, match=r"cluster\.spare_workers: true is not possible"):
        preload_for(ElasticClusterSection(spare_workers=True), "a1", session)
    assert preload_for(ElasticClusterSection(), "a1", session) is None
    assert "no spare worker processes: the job has its own" in caplog.text


def test_keys_of_jobs_that_ended_are_removed(monkeypatch):
    from ray._private import state
    from ray.experimental import internal_kv

    ended, lives = (LAUNCH.model_copy(update={"launch": f"{job}-a1"}) for job in ("02", "03"))
    mine = [lives.modules_key, lives.ready_key("node", 7)]
    keys = {*mine, ended.modules_key, ended.ready_key("node", 8), b"modules/of-another-version"}

    def delete(key, namespace):
        assert namespace == NAMESPACE
        keys.remove(key)

    monkeypatch.setattr(
        state, "jobs", lambda: [{"JobID": "02", "IsDead": True}, {"JobID": "03", "IsDead": False}]
    )
    monkeypatch.setattr(
        internal_kv, "_internal_kv_list", lambda prefix, **_: [k for k in keys if prefix in k]
    )
    monkeypatch.setattr(internal_kv, "_internal_kv_del", delete)
    forget_ended_jobs()
    assert keys == {*mine, b"modules/of-another-version"}


@pytest.mark.parametrize(("taken", "code"), [(False, 0), (True, 9)])
def test_a_spare_process_ends_with_its_launch_and_one_with_work_does_not(taken, code):
    code_of = (
        "import os, sys\n"
        "from ray.experimental import internal_kv\n"
        "from orchestrator.cluster import preload\n"
        "internal_kv._internal_kv_exists = lambda key, namespace: False\n"
        "preload.LOOK_EVERY_S = 0.01\n"
        f"if {taken}: preload.take()\n"
        "task = preload.Preload(launch='a1', threads=1, accelerated=False)\n"
        "preload._wait_for_work(task)\n"
        "sys.exit(9)\n"
    )
    done = subprocess.run([sys.executable, "-c", code_of], timeout=120, check=False)
    assert done.returncode == code
