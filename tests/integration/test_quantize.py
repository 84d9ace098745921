"""The quantization job on a real Ray: a trained classifier in, a verified INT8 package out."""

import json

import numpy as np
import pytest
import torch

from orchestrator.cluster.tasks import TaskPool
from orchestrator.config import ClusterSection, load_config
from orchestrator.data.processors.text import TextProcessor
from orchestrator.data.sources.opening import load_task
from orchestrator.data.spec import DatasetSpec
from orchestrator.errors import InputError, StageError
from orchestrator.inference.dispatch import RunTimes
from orchestrator.inference.predictor import Predictor
from orchestrator.modeling.builder import build_model
from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.package import load_model, write_model
from orchestrator.quantization import runner
from orchestrator.quantization.backends.onnxruntime_cpu.audit import audit, verify
from orchestrator.quantization.backends.onnxruntime_cpu.session import OnnxModel
from orchestrator.quantization.config import QuantizeConfig
from orchestrator.quantization.plans import Plan, PlanFile
from orchestrator.storage import sha256_file
from orchestrator.zoo import Zoo
from orchestrator.zoo.suite import read_suite
from serving.model.engine import load_engine
from serving.model.probe import warm_up

CLASSES = {
    "array": ["axis", "shape", "sum", "mean"],
    "error": ["raised", "failed", "missing", "invalid"],
    "task": ["worker", "queue", "start", "wait"],
}
FILLER = ["the", "of", "a", "when", "one", "it", "returns", "value", "given", "with", "each", "is"]
ENCODERS = {
    "bert": {"type": "transformer", "num_layers": 2, "num_heads": 4},
    "elmo": {"type": "bilstm", "num_layers": 1},
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("quantize")
    write_rows(folder)
    for name in ENCODERS:
        commit_trained(folder, name)
    return folder


def write_rows(folder):
    rng = np.random.default_rng(0)
    with (folder / "rows.jsonl").open("w") as file:
        for index in range(480):
            label = list(CLASSES)[index % 3]
            signal = rng.choice(CLASSES[label], rng.integers(1, 3))
            noise = rng.choice([word for words in CLASSES.values() for word in words], 1)
            words = rng.permutation([*rng.choice(FILLER, rng.integers(4, 20)), *signal, *noise])
            file.write(json.dumps({"text": f"{' '.join(words)} {index}", "label": label}) + "\n")


def commit_trained(folder, name):
    task = load_task(DatasetSpec(source=f"files:{folder / 'rows.jsonl'}"))
    processor = TextProcessor.train(task.train.texts, vocab_size=300, max_length=32)
    config = ModelConfig.model_validate(
        {
            "hidden_size": 64,
            "vocab_size": processor.vocab_size,
            "max_position_embeddings": 40,
            "encoder": ENCODERS[name],
            "target": {"type": "cls", "name": "topic", "num_labels": 3},
        }
    )
    torch.manual_seed(0)
    model = build_model(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    rng = np.random.default_rng(0)
    for _ in range(40):
        rows = task.train.take(rng.integers(0, len(task.train), 32))
        batch = processor(rows.texts) | {"labels.topic": torch.from_numpy(rows.labels)}
        optimizer.zero_grad()
        (model(batch)["loss.topic"] / 32).backward()
        optimizer.step()
    description = {
        "kind": "classification",
        "labels": {"topic": list(task.label_names)},
        "max_length": 32,
    }
    with Zoo(str(folder / "zoo")).draft(
        name, kind="finetuned", producer={"stage": "test"}, parents=[], task=description, metrics={}
    ) as draft:
        write_model(draft.path, model.eval(), config)
        processor.save(draft.path)
        draft.commit()


def job(folder, name="bert", run="first", **changes) -> QuantizeConfig:
    settings = {
        "run": {"name": run, "dir": str(folder / "runs"), "zoo": str(folder / "zoo")},
        "package": name,
        "output": f"{name}-int8",
        "data": {"source": f"files:{folder / 'rows.jsonl'}"},
        "goal": {"max_accuracy_drop": 0.05, "statistic": "mean"},
        "kinds": ["static_s7", "row_s7", "row_u8"],
        "promotion": {"max_drop": {"default": 1.0}},  # 48 test rows prove no smaller bound
        "calibration_rows": 16,
        "mixed_plans": 2,
        "latency": {"rounds": 3, "calls": 1, "length": 16},
        **changes,
    }
    path = folder / f"{run}.yaml"
    path.write_text(json.dumps(settings))
    return load_config(QuantizeConfig, path)


@pytest.fixture(scope="module")
def finished(place, local_ray):
    config = job(place)
    result = runner.run(config)
    return config, result, Zoo(config.run.zoo).get(result.package)


def split_answers(model, package, rows):
    batch = TextProcessor.load(package.path).arrays(rows.texts, None, 32)
    return model.predict(batch)["topic"].argmax(axis=1)


def test_the_committed_file_executes_the_plan(finished):
    _, result, package = finished
    assert package.kind == "quantized"
    plan = Plan(PlanFile.of(package.read_json("plan.json")).units)
    found = audit((package.path / "model.onnx").read_bytes())
    verify(found, plan)
    assert found.integer_units == len(plan.integer) == result.metrics["integer_units"] > 0
    assert dict(plan.kinds) == result.metrics["plan"]
    report = package.read_json("evaluation/quantization.json")
    assert report["artefact_sha256"] == sha256_file(package.path / "model.onnx")
    assert report["audit"]["integer_units"] == found.integer_units
    times = Predictor.open(package).dispatch.times  # of this host, so it is not measured again
    assert times == RunTimes.model_validate(package.read_json("dispatch.json"))


def test_the_reported_accuracies_are_those_of_the_committed_file(finished, place):
    """Computed again, from the package and the data alone; float by torch."""
    config, result, package = finished
    task = load_task(config.data)
    float_package = Zoo(config.run.zoo).get("bert")
    reference = load_model(float_package.path).eval()
    report = package.read_json("evaluation/quantization.json")["accuracy"]
    for split in ("validation", "test"):
        rows = task.split(split)
        answers = split_answers(OnnxModel.load(package.path), package, rows)
        with torch.no_grad():
            batch = TextProcessor.load(package.path)(rows.texts, None, 32)
            expected = reference.predict(batch)["topic"].numpy().argmax(axis=1)
        assert report[split]["texts"] == len(rows)
        assert report[split]["accuracy"] == (answers == rows.labels).mean()
        assert report[split]["reference"] == (expected == rows.labels).mean()
        assert report[split]["drop"] <= 0.05
    assert result.metrics["accuracy"] == report["test"]["accuracy"]
    assert result.metrics["accuracy_float"] > 1.5 / 3


def test_the_suite_holds_what_the_committed_file_answers(finished, place):
    """Both figures and their difference, computed again with onnxruntime and torch alone."""
    config, _, package = finished
    exam = read_suite(package).exams["topic"]
    rows = load_task(config.data).split("test")
    right = split_answers(OnnxModel.load(package.path), package, rows) == rows.labels
    reference = load_model(Zoo(config.run.zoo).get("bert").path).eval()
    with torch.no_grad():
        batch = TextProcessor.load(package.path)(rows.texts, None, 32)
        expected = reference.predict(batch)["topic"].numpy().argmax(axis=1) == rows.labels
    assert (exam.status, exam.rows) == ("measured", len(rows))
    assert exam.metrics["accuracy"].value == right.mean()
    difference = exam.differences["accuracy"]
    assert difference.parent == expected.mean()
    assert difference.drop == pytest.approx(expected.mean() - right.mean())
    assert (package.path / exam.rows_file).is_file()


def test_the_front_contains_the_choice_and_the_modes_of_samp(finished):
    _, result, package = finished
    points = package.read_json("evaluation/pareto.json")["points"]
    names = [point["name"] for point in points]
    assert {"float", "fully_quant.row_s7", "ffn_only.row_s7", "fully_quant.static_s7"} <= set(names)
    (chosen,) = [point for point in points if point["chosen"]]
    assert chosen["name"] == result.metrics["plan_name"] == package.manifest.metrics["plan_name"]
    assert any(point["on_front"] for point in points)
    within = [p for p in points if p["accuracy_drop"] <= 0.05 and p["integer_units"]]
    fastest = min(p["latency"]["ratio"] for p in within)
    assert chosen["latency"]["ratio"] <= fastest + 0.03


def test_the_package_can_be_served_from_its_files_alone(finished):
    _, _, package = finished
    probe = package.read_json("evaluation/probe.json")
    batch = TextProcessor.load(package.path).arrays(probe["texts"])
    answers = OnnxModel.load(package.path).predict(batch)
    assert set(answers) == set(probe["outputs"]) == {"topic", "embedding"}
    for name, values in probe["outputs"].items():
        np.testing.assert_allclose(answers[name], values, atol=1e-6)
    assert package.manifest.task.labels == {"topic": list(CLASSES)}
    assert [parent.ref for parent in package.manifest.parents] == ["bert/v0001"]
    assert {"config.json", "tokenizer.json", "preprocessor_config.json", "job.yaml"} <= set(
        package.manifest.files
    )
    small, large = (package.manifest.metrics[name] for name in ("bytes", "bytes_float"))
    assert small < large


def test_the_same_run_is_not_run_twice(finished, place, monkeypatch):
    config, result, _ = finished
    monkeypatch.setattr(runner, "prepare", lambda config: pytest.fail("started again"))
    assert runner.run(config) == result
    assert len(Zoo(config.run.zoo).packages()) == 3


def test_a_run_killed_right_after_its_commit_does_not_commit_again(finished, place, local_ray):
    config, result, _ = finished
    (place / "runs" / "first" / "result.json").unlink()
    assert runner.run(config) == result
    assert len(Zoo(config.run.zoo).packages()) == 3


@pytest.mark.parametrize(
    ("name", "change"), [("lengths", {"lengths": [6]}), ("whole", {"max_length": 6})]
)
def test_a_package_reads_as_many_tokens_as_it_was_measured_with(place, local_ray, name, change):
    timed = {"rounds": 5, "calls": 3, "length": 32 if name == "lengths" else 6}
    goal = {"max_accuracy_drop": 1.0}  # the fastest plan: the one that reads least
    config = job(place, run=name, output=name, goal=goal, latency=timed, **change)
    package = Zoo(config.run.zoo).get(runner.run(config).package)
    assert package.manifest.task.max_length == 6
    assert Predictor.open(package).max_length == 6
    warm_up(load_engine(package), package.path, 1)  # a server starts: its probe is cut there too
    rows = load_task(config.data).split("test")
    batch = TextProcessor.load(package.path).arrays(rows.texts, None, 6)
    answers = OnnxModel.load(package.path).predict(batch)["topic"].argmax(axis=1)
    right = (answers == rows.labels).mean()
    whole = (split_answers(OnnxModel.load(package.path), package, rows) == rows.labels).mean()
    assert right < whole  # the limit matters
    assert read_suite(package).exams["topic"].metrics["accuracy"].value == right
    report = package.read_json("evaluation/quantization.json")
    assert report["accuracy"]["test"]["accuracy"] == right


def test_a_bilstm_interrupted_before_its_commit_continues_without_measuring_again(
    place, local_ray, monkeypatch
):
    config = job(place, "elmo", run="elmo")
    with monkeypatch.context() as patched:
        patched.setattr(
            runner, "write_package", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)
        )
        with pytest.raises(KeyboardInterrupt):
            runner.run(config)
    journal = place / "runs" / "elmo" / "journal"
    before = {path.name: path.stat().st_mtime_ns for path in journal.iterdir()}
    assert any(name.startswith("error-") for name in before)
    assert any(name.startswith("point-") for name in before)
    result = runner.run(config)
    after = {path.name: path.stat().st_mtime_ns for path in journal.iterdir()}
    assert {name: after[name] for name in before} == before
    assert result.package == "elmo-int8/v0001"
    assert set(result.metrics["plan"].values()) <= {"s7", "fp32"}
    assert result.metrics["integer_units"] > 0


def test_an_unreachable_goal_commits_nothing_and_shows_the_measured_plans(place, local_ray):
    config = job(place, run="hopeless", output="never", goal={"max_latency_ms": 1e-6})
    with pytest.raises(StageError, match=r"max_latency_ms 1e-06[\s\S]*fully_quant\.row_s7"):
        runner.run(config)
    assert all(package.name != "never" for package in Zoo(config.run.zoo).packages())


def test_inputs_that_do_not_fit_are_refused_before_any_cluster_work(place, finished, monkeypatch):
    monkeypatch.setattr(runner, "session_for", lambda *_: pytest.fail("the cluster was asked"))
    with pytest.raises(InputError, match=r"'genre'; the package has topic"):
        runner.run(job(place, run="target", target="genre"))
    with pytest.raises(InputError, match="quantized already"):
        runner.run(job(place, "bert-int8", run="again"))
    with pytest.raises(InputError, match="40 positions"):
        runner.run(job(place, run="long", max_length=50))
    other = place / "other.jsonl"
    rows = [
        json.dumps({"text": f"text {i} of {i % 2}", "label": f"class {i % 2}"}) for i in range(40)
    ]
    other.write_text("\n".join(rows))
    with pytest.raises(InputError, match="was trained on"):
        runner.run(job(place, run="data", data={"source": f"files:{other}"}))
    left = {path.name for path in (place / "runs").iterdir()}
    assert not left & {"target", "again", "long", "data"}


def test_errors_of_a_task_arrive_unchanged_and_a_dead_worker_is_named(local_ray):
    def refuse(name):
        raise InputError(f"{name} is refused")

    def die():
        import os

        os._exit(9)

    pool = TaskPool(ClusterSection(max_failures=0))
    with pytest.raises(InputError, match=r"^this is refused$"):
        pool.call(refuse, "this")
    with pytest.raises(StageError, match="process died"):
        pool.call(die)


def test_check_names_the_units_without_a_cluster(place, monkeypatch):
    monkeypatch.setattr(runner, "session_for", lambda *_: pytest.fail("the cluster was asked"))
    text = runner.check(job(place, run="checked"))
    assert "encoder.layers.*.feed_forward.down: 2 x 256x64" in text
    assert "max_accuracy_drop 0.05" in text
    assert not (place / "runs" / "checked").exists()
