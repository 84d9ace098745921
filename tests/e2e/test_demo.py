"""`orchestrator demo` with every preset, made small: real steps, relations instead of figures."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from orchestrator.zoo import Zoo

ROOT = Path(__file__).resolve().parents[2]
COMMAND = [str(Path(sys.executable).with_name("orchestrator")), "demo"]
DEADLINE_S = 540

SMALL = {
    "pretrain": [
        "data.max_documents=700", "data.tokenizer.vocab_size=800", "train.max_steps=24",
        "train.schedule.warmup_steps=4", "train.eval_every_steps=12", "train.eval_blocks=64",
    ],
    "benchmark": [
        "datasets.0.max_rows=240", "datasets.1.max_rows=240", "datasets.2.max_rows=240",
        "fine_tune.epochs=2",
    ],
    "select": ["target.max_rows=600", "fine_tune.epochs=2"],
    "continual": [
        "tasks.0.max_rows=240", "tasks.1.max_rows=400", "train.max_steps=8",
        "train.schedule.warmup_steps=2", "train.eval_every_steps=8",
        "promotion.max_drop.default=1.0",
    ],
    "quantize": [
        "promotion.max_drop.default=1.0",
        "calibration_rows=16", "evaluation_rows=48", "mixed_plans=2",
        "latency.rounds=3", "goal.max_accuracy_drop=0.15",
    ],
}  # fmt: skip


MODELS = ["pretrain_bert_nano", "pretrain_gpt_nano", "pretrain_gatedcnn_nano"]


def run_demo(folder: Path) -> subprocess.CompletedProcess:
    command = [
        *COMMAND,
        f"pretrain={json.dumps(MODELS)}",
        f"run.dir={folder}",
        f"run.zoo={folder}/demo/zoo",
        "requests=40",
    ]
    command += [f"overrides.{stage}={json.dumps(changes)}" for stage, changes in SMALL.items()]
    env = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    return subprocess.run(
        command, capture_output=True, text=True, timeout=DEADLINE_S, env=env, cwd=ROOT, check=False
    )


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    shown = run_demo(folder)
    assert shown.returncode == 0, shown.stdout[-4000:] + shown.stderr[-6000:]
    return folder, shown, json.loads((folder / "demo" / "summary.json").read_text())


def test_different_models_are_pretrained_two_workers_share_one(demo):
    _, _, summary = demo
    models = summary["pretrain"]["models"]
    assert len({(model["encoder"], model["target"]) for model in models}) == len(MODELS)
    assert any(
        "2 workers" in model["engine"] and model["engine"].startswith(("ZeRO-2", "ZeRO-3"))
        for model in models
    )
    # 24 steps on 700 documents: far from the unigram entropy, but well below the start (ln V).
    assert all(model["loss"] < 6.6 for model in models)


def test_selection_costs_less_than_brute_force(demo):
    _, _, summary = demo
    assert len(summary["benchmark"]["matrix"][0]) - 1 >= 3
    selected = summary["select"]
    assert selected["steps"] < selected["brute_force_steps"]
    assert selected["proxy_passes"] <= len(summary["pretrain"]["models"])


def test_the_quantized_package_executes_its_plan(demo):
    folder, _, summary = demo
    package = Zoo(folder / "demo" / "zoo").get(summary["quantize"]["package"])
    audit = package.read_json("evaluation/quantization.json")["audit"]
    planned = [unit["kind"] for unit in summary["quantize"]["plan"] if unit["kind"] != "fp32"]
    assert audit["integer_units"] == len(planned) == summary["quantize"]["integer_units"] > 0


def test_every_head_is_measured_after_every_stage(demo):
    folder, shown, summary = demo
    heads = summary["heads"]
    measured = {(score["stage"], score["head"]) for score in heads["scores"]}
    new = {"role", "sympy"}
    (selected,) = {head for stage, head in measured if stage == "select"}
    assert {head for stage, head in measured if stage == "continual"} == {selected, *new}
    assert {head for stage, head in measured if stage == "quantize"} == {selected, *new}
    page = (folder / "demo" / "report.html").read_text()
    for sentence in heads["verdicts"]:
        assert sentence in shown.stdout
        assert sentence in page


def test_every_request_is_answered_by_the_package(demo):
    _, shown, summary = demo
    assert summary["serve"]["failures"] == 0
    assert summary["serve"]["requests"] == 40
    assert summary["serve"]["p99_ms"] >= summary["serve"]["p50_ms"] > 0
    assert summary["serve"]["answers"][0]["text"] in shown.stdout


def test_lineage_leads_from_the_served_package_to_the_corpus(demo):
    folder, _, summary = demo
    kinds = [
        ancestor.kind
        for ancestor in Zoo(folder / "demo" / "zoo").lineage(summary["quantize"]["package"])
    ]
    assert kinds == ["quantized", "continual", "finetuned", "pretrained"]


def test_the_report_is_one_self_contained_page(demo):
    folder, _, _ = demo
    page = (folder / "demo" / "report.html").read_text()
    assert page.count("<svg") == 9
    for outside in ("<script", "<link", 'src="http', "@import"):
        assert outside not in page


@pytest.mark.slow
def test_the_second_run_trains_nothing(demo):
    folder, _, first = demo
    again = run_demo(folder)
    assert again.returncode == 0, again.stderr[-4000:]
    second = json.loads((folder / "demo" / "summary.json").read_text())
    assert second["quantize"]["package"] == first["quantize"]["package"]
    assert second["pretrain"]["models"] == first["pretrain"]["models"]
    assert len(Zoo(folder / "demo" / "zoo").packages()) == len(MODELS) + 3
    assert second["result"]["seconds"] < first["result"]["seconds"]


@pytest.mark.chaos
def test_ctrl_c_leaves_a_resumable_run(tmp_path):
    command = [*COMMAND, f"pretrain={json.dumps(MODELS)}"]
    command += [f"run.dir={tmp_path}", f"run.zoo={tmp_path}/demo/zoo"]
    command += [f"overrides.{stage}={json.dumps(changes)}" for stage, changes in SMALL.items()]
    env = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    log = tmp_path / "log"
    with log.open("w") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, env=env, cwd=ROOT, start_new_session=True
        )
        deadline = time.monotonic() + 200
        while time.monotonic() < deadline and not list(tmp_path.glob("demo/pretrain*/checkpoints")):
            assert process.poll() is None, log.read_text()[-4000:]
            time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        code = process.wait(90)
    assert code == 3, log.read_text()[-4000:]
    last = json.loads(log.read_text().splitlines()[-1])
    assert last["status"] == "interrupted"
