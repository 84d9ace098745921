"""Jobs on a cluster that grows, and on one that others use: they wait, and say for what."""

import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.cluster.room import Ask
from tests.support.ray import started_head

ROOT = Path(__file__).resolve().parents[2]
PRESET = ROOT / "jobs" / "configs" / "pretrain_bert_nano.yaml"
TINY = [
    "data.max_documents=100",
    "data.tokenizer.vocab_size=400",
    "model.hidden_size=32",
    "model.encoder.num_layers=1",
    "model.encoder.intermediate_size=64",
    "train.eval_blocks=16",
    "train.max_steps=4",
    "train.eval_every_steps=4",
    "train.schedule.warmup_steps=1",
]
LISTS = (
    "initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands",
    "head_start_ray_commands", "worker_start_ray_commands", "cluster_synced_files",
    "rsync_exclude", "rsync_filter",
)  # fmt: skip
GROWING = {
    "cluster_name": "growing",
    "max_workers": 1,
    "idle_timeout_minutes": 5,
    "upscaling_speed": 1.0,
    "provider": {"type": "fake_multinode"},
    "head_node_type": "ray.head.default",
    "available_node_types": {
        "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
        "worker": {"resources": {"CPU": 2}, "node_config": {}, "min_workers": 0, "max_workers": 1},
    },
    "auth": {},
    "docker": {},
    "file_mounts": {},
    "file_mounts_sync_continuously": False,
    **{name: [] for name in LISTS},
}
"""As cluster.yaml has it: a head without CPUs, workers from zero. Ray's wheel lacks its example."""
HOLD = """
import sys
import ray
from orchestrator.cluster.session import session_for
from orchestrator.config import ClusterSection
with session_for(ClusterSection(workers=int(sys.argv[1]), wait_s=float(sys.argv[2]))):
    group = ray.util.placement_group([{"CPU": 1}] * int(sys.argv[1]))
    assert group.wait(60)
    print("working", flush=True)
    sys.stdin.readline()
"""


def hold(head, workers, wait_s=300.0, stdin=subprocess.DEVNULL):
    """Run a job that does nothing on some workers, until its input has a line or ends."""
    arguments = [sys.executable, "-c", HOLD, str(workers), str(wait_s)]
    return subprocess.Popen(
        arguments, env=head.env, text=True, cwd=ROOT,
        stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


@pytest.mark.slow
def test_a_job_starts_the_nodes_that_it_needs(tmp_path):
    """A head without CPUs and workers from zero: `orchestrator pretrain` waits and trains."""
    with started_head(0, GROWING) as head:
        # python -c, not the script: the checkout that is tested is the one that runs
        command = (sys.executable, "-c", "import sys; from orchestrator.cli import main; main()")
        folders = (f"run.dir={tmp_path}/runs", f"run.zoo={tmp_path}/zoo")
        done = head.run(*command, "pretrain", "--config", str(PRESET), *folders, *TINY)
        assert done.returncode == 0, done.stderr[-4000:]
        assert "waiting for cluster.workers: 2 × 1 CPU" in done.stderr
        assert "0 CPUs in the cluster, 0 free" in done.stderr
        late = hold(head, workers=3, wait_s=8)
        _, said = late.communicate(timeout=300)
        assert late.returncode == 1
        assert "3 × 1 CPU asked, 2 CPUs in the cluster, 2 free after 8 s" in said
        assert "`ray status`" in said


@pytest.mark.slow
def test_a_job_waits_for_its_turn_and_not_for_what_never_fits():
    with started_head(2) as head:
        first = hold(head, workers=2, stdin=subprocess.PIPE)
        assert first.stdout.readline() == "working\n"
        never = hold(head, workers=3)
        _, said = never.communicate(timeout=300)
        assert "3 × 1 CPU asked, 2 CPUs in the cluster, 0 free. Lower cluster.workers" in said
        second = hold(head, workers=1)
        waiting = (line for line in second.stderr if "waiting for cluster.workers: 1 × 1" in line)
        assert next(waiting, None), "it ended without a line, and did not wait"
        assert second.poll() is None
        first.communicate("\n", timeout=120)
        shown, said = second.communicate(timeout=300)
        assert (second.returncode, shown) == (0, "working\n"), said
        assert first.returncode == 0


@pytest.mark.parametrize(
    ("nodes", "places"),
    [
        ({"a": {"CPU": 4, "GPU": 1}, "b": {"CPU": 4}}, 1),
        ({"a": {"CPU": 3, "GPU": 8}, "b": {"CPU": 2, "GPU": 1}}, 2),
        ({"a": {"CPU": 1, "GPU": 4}, "b": {"CPU": 1, "GPU": 4}}, 0),
        ({}, 0),
    ],
)
def test_workers_fit_on_whole_nodes(nodes, places):
    ask = Ask("x", 2, {"CPU": 2, "GPU": 1}, {}, 0)
    assert ask.places(nodes) == places


def test_parts_of_a_cpu_are_counted_without_rounding():
    assert Ask("x", 3, {"CPU": 0.2}, {}, 0).places({"a": {"CPU": 0.6}}) == 3
    assert Ask("x", 3, {"CPU": 0.2}, {}, 0).places({"a": {"CPU": 0.5999}}) == 2
