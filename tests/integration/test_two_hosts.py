"""ZeRO-3 across two hosts; one is lost, and the run finishes on the other."""

import json
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from orchestrator.modeling.package import load_model
from orchestrator.zoo import Zoo
from tests.support.hosts import BIN, hosts, start_ray, why_not

ROOT = Path(__file__).resolve().parents[2]
PRESET = ROOT / "jobs" / "configs" / "pretrain_bert_nano.yaml"
DEADLINE_S = 300
STEPS, EVERY = 80, 10


@pytest.fixture
def two_hosts():
    """A head and two hosts with a CPU each; the address of Ray."""
    reason = why_not()
    if reason:
        pytest.skip(reason)
    with ExitStack() as stack:
        made = stack.enter_context(hosts(3))
        yield made, start_ray(made, stack)


def worlds(run: Path) -> dict[int, int]:
    """Return steps done -> workers of the committed checkpoints."""
    manifests = run.glob("checkpoints/step-*/manifest.json")
    found = [json.loads(path.read_text()) for path in manifests if "tmp" not in path.parent.name]
    return {each["step"]: each["world"] for each in found}


def wait_until(condition, process, log):
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        if process.poll() is not None or time.monotonic() > deadline:
            pytest.fail(f"exit {process.poll()}:\n{log.read_text()[-6000:]}")
        time.sleep(0.1)


@pytest.mark.chaos
@pytest.mark.root
def test_a_lost_host_costs_at_most_one_checkpoint_interval(two_hosts, tmp_path):
    (head, _, lost), address = two_hosts
    run = tmp_path / "runs" / "pretrain-bert-nano"
    log, output = tmp_path / "driver.log", tmp_path / "driver.out"
    with output.open("w") as stdout:
        driver = head.start(
            str(BIN / "orchestrator"),
            "pretrain",
            f"--config={PRESET}",
            f"cluster.address={address}",
            "cluster.workers={min: 1, max: 2}",
            "engine.zero_stage=3",
            "data.max_documents=200",
            "data.tokenizer.vocab_size=600",
            f"train.max_steps={STEPS}",
            "train.schedule.warmup_steps=4",
            f"train.checkpoint_every_steps={EVERY}",
            "train.log_every_steps=1",
            "train.eval_every_steps=0",
            "train.eval_blocks=16",
            f"run.dir={tmp_path}/runs",
            f"run.zoo={tmp_path}/zoo",
            log=log,
            stdout=stdout,
            cwd=ROOT,
        )
    wait_until(lambda: any(w == 2 for w in worlds(run).values()), driver, log)
    lost.kill()
    committed = max(worlds(run))
    assert committed < STEPS
    wait_until(lambda: driver.poll() is not None or "package" in output.read_text(), driver, log)
    assert driver.wait(timeout=60) == 0, log.read_text()[-6000:]

    package = Zoo(str(tmp_path / "zoo")).get("bert-nano")
    package.verify()
    load_model(package.path)
    assert package.manifest.metrics["steps"] == STEPS
    assert package.manifest.metrics["workers"] == 1
    history = package.history()
    losses = history[(history.split == "train") & (history.metric == "loss")]
    assert list(losses.step) == list(range(1, STEPS + 1))  # each step counts once
    after = losses[losses.step > committed].value
    assert after.iloc[-5:].mean() < losses.value.iloc[:5].mean()
