"""`ray job submit` of every stage to a real head with its dashboard on, each feeding the next."""

import json
from types import SimpleNamespace

import pytest

from orchestrator.zoo import Zoo
from tests.support.packages import write_tiny

JOB_TIMEOUT_S = 300

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Folder of the runs and packages of the jobs of this module."""
    folder = tmp_path_factory.mktemp("jobs")
    return SimpleNamespace(folder=folder, zoo=Zoo(folder / "zoo"))


def submit(head, place, verb: str, preset: str, *overrides: str) -> dict:
    """Submit a job script with its preset; return the JSON line it ended with."""
    shown = head.run(
        "ray",
        "job",
        "submit",
        "--working-dir",
        ".",
        "--runtime-env-json",
        json.dumps({"excludes": [".venv", ".git", "runs", "zoo"]}),
        "--",
        "python",
        f"jobs/{verb}.py",
        "--config",
        f"jobs/configs/{preset}.yaml",
        f"run.dir={place.folder / 'runs'}",
        f"run.zoo={place.folder / 'zoo'}",
        *overrides,
        timeout=JOB_TIMEOUT_S,
    )
    lines = [line for line in shown.stdout.splitlines() if line.startswith('{"status"')]
    assert shown.returncode == 0, shown.stdout[-6000:] + shown.stderr[-2000:]
    assert lines, shown.stdout[-6000:]
    return json.loads(lines[-1])


@pytest.fixture(scope="module")
def pretrained(ray_head, place):
    return submit(
        ray_head, place, "pretrain", "pretrain_bert_nano",
        "data.max_documents=500", "data.tokenizer.vocab_size=600", "train.max_steps=8",
        "train.schedule.warmup_steps=2", "train.eval_blocks=32",
    )  # fmt: skip


def test_pretrain_with_zero_on_two_workers(place, pretrained):
    assert pretrained["status"] == "done"
    assert pretrained["metrics"]["workers"] == 2
    package = place.zoo.get(pretrained["package"])
    assert package.kind == "pretrained"
    assert package.read_json("evaluation/pretraining.json")["loss"] > 0


def test_select_fine_tunes_a_winner(ray_head, place, pretrained):
    for seed in (1, 2):
        task = {"kind": "mlm", "modality": "text", "max_length": 48}
        draft = place.zoo.draft(f"tiny{seed}", kind="pretrained", task=task)
        with draft:
            write_tiny(draft.path, seed=seed, targets=({"type": "mlm"},))
            draft.commit()
    result = submit(
        ray_head, place, "select", "select_pydoc",
        "matrix=null", "target.max_rows=400", "fine_tune.epochs=2",
    )  # fmt: skip
    package = place.zoo.get(result["package"])
    assert package.kind == "finetuned"
    report = package.read_json("evaluation/selection.json")
    assert report["ledger"]["epochs"] < report["ledger"]["brute_force_epochs"]
    assert {row["model"] for row in report["ranking"]} == {
        pretrained["package"], "tiny1/v0001", "tiny2/v0001",
    }  # fmt: skip


def test_continual_learns_two_tasks(ray_head, place):
    result = submit(
        ray_head, place, "continual", "continual_pydoc",
        "cluster.workers=1", "package=classifier", "tasks.0.max_rows=240", "tasks.1.max_rows=240",
        "train.max_steps=6", "train.schedule.warmup_steps=2", "train.eval_every_steps=6",
        "promotion.max_drop.default=1.0",  # few rows prove no smaller bound
    )  # fmt: skip
    matrix = place.zoo.get(result["package"]).read_json("evaluation/accuracy_matrix.json")
    assert matrix["tasks"] == ["role", "sympy"]
    assert matrix["matrix"][0][0] is not None
    assert None not in matrix["matrix"][1]


def test_quantize_runs_integer_gemms(ray_head, place):
    result = submit(
        ray_head, place, "quantize", "quantize_pydoc",
        "package=continual-pydoc", "target=sympy", "data.max_rows=240",
        "calibration_rows=16", "evaluation_rows=48", "mixed_plans=2", "latency.rounds=3",
        "goal.max_accuracy_drop=0.2", "promotion.max_drop.default=1.0",
    )  # fmt: skip
    package = place.zoo.get(result["package"])
    report = package.read_json("evaluation/quantization.json")
    planned = [kind for kind in result["metrics"]["plan"].values() if kind != "fp32"]
    assert report["audit"]["integer_units"] == len(planned) > 0


def test_a_bad_config_is_one_message_and_exit_code_2(ray_head, place):
    shown = ray_head.run(
        "python", "jobs/pretrain.py", "--config", "jobs/configs/pretrain_bert_nano.yaml",
        "train.micro_batch_size=7", "model.encoder.type=transfomer", timeout=60,
    )  # fmt: skip
    assert shown.returncode == 2
    assert "2 problems" in shown.stderr
    assert "Did you mean 'transformer'?" in shown.stderr
    assert "Traceback" not in shown.stderr
    last = json.loads(shown.stdout.splitlines()[-1])
    assert (last["status"], last["exit_code"]) == ("failed", 2)
    assert not (place.folder / "runs" / "never").exists()


def test_finetune_learns_a_head(ray_head, place, pretrained):
    result = submit(
        ray_head, place, "finetune", "finetune_pydoc",
        f"package={pretrained['package']}", "data.max_rows=400", "train.epochs=1",
        "cluster.workers=2", "engine.type=zero",
    )  # fmt: skip
    assert (result["status"], result["metrics"]["workers"]) == ("done", 2)
    package = place.zoo.get(result["package"])
    assert package.manifest.task.default == "stdlib-area"
    assert set(package.manifest.task.labels) == {"stdlib-area"}
    assert package.read_json("evaluation/suite.json")["exams"]["stdlib-area"]["metrics"]
