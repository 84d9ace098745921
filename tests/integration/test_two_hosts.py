"""ZeRO-3 across two hosts; one is lost, and the run finishes on the other. CI must not skip it."""

import json
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from orchestrator.modeling.package import load_model
from orchestrator.zoo import Zoo
from tests.support.hosts import (
    BIN,
    QUICK_DETECTION,
    hosts,
    require_hosts,
    start_ray,
)

ROOT = Path(__file__).resolve().parents[2]
PRESET = ROOT / "jobs" / "configs" / "pretrain_bert_nano.yaml"
DEADLINE_S = 300
STEPS, EVERY = 40, 4
START_TIMEOUT = "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"
TINY = [
    "data.max_documents=100",
    "data.tokenizer.vocab_size=400",
    "model.hidden_size=32",
    "model.encoder.num_layers=1",
    "model.encoder.num_heads=2",
    "model.encoder.intermediate_size=64",
    "train.eval_blocks=16",
]


@pytest.fixture
def two_hosts():
    """Two hosts with a CPU each; the first is Ray's head. Yields the address of Ray."""
    require_hosts()
    with ExitStack() as stack:
        made = stack.enter_context(hosts(2, QUICK_DETECTION | {START_TIMEOUT: "4"}))
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
        time.sleep(0.02)


@pytest.mark.root
def test_a_lost_host_costs_at_most_one_checkpoint_interval(two_hosts, tmp_path):
    (head, lost), address = two_hosts
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
            *TINY,
            f"train.max_steps={STEPS}",
            "train.schedule.warmup_steps=4",
            f"train.checkpoint_every_steps={EVERY}",
            "train.log_every_steps=1",
            "train.eval_every_steps=0",
            f"run.dir={tmp_path}/runs",
            f"run.zoo={tmp_path}/zoo",
            log=log,
            stdout=stdout,
            cwd=ROOT,
        )
    started = time.monotonic()
    wait_until(lambda: any(w == 2 for w in worlds(run).values()), driver, log)
    lost.kill()
    killed = time.monotonic()
    committed = max(worlds(run))
    assert committed < STEPS
    wait_until(lambda: 1 in worlds(run).values() or driver.poll() == 0, driver, log)
    again = time.monotonic()
    wait_until(lambda: driver.poll() is not None or "package" in output.read_text(), driver, log)
    assert driver.wait(timeout=60) == 0, log.read_text()[-6000:]

    print(
        f"first checkpoint after {killed - started:.0f} s, the next {again - killed:.0f} s after "
    )
    print(f"the loss, the end {time.monotonic() - again:.0f} s later")

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
