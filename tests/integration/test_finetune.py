"""Fine-tuning on two workers, with every engine and number format, against one process."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from orchestrator.cluster.launcher import launch
from orchestrator.config import ClusterSection
from orchestrator.finetuning import runner
from orchestrator.finetuning.results import EVALUATION, FinetuneEvaluation
from orchestrator.inference.predictor import Predictor
from orchestrator.modeling.package import load_model
from orchestrator.training.config import EngineConfig
from orchestrator.training.history import History
from orchestrator.zoo import Zoo
from tests.support.finetune_worker import GROUP
from tests.support.lessons import commit_encoder, job, learn, make_lessons, planned
from tests.support.state import AnyState
from tests.support.streams import WORDS

pytestmark = pytest.mark.slow

TWO = ClusterSection(workers=2)
TRAIN = {
    "epochs": 2,
    "global_batch_size": 16,
    "max_length": 16,
    "dropout": 0.0,
    "patience": None,
    "log_every_steps": 1,
}
ENGINES = {
    "ddp": {},
    "ddp, accumulation": {},
    **{f"zero{stage}": {"type": "zero", "zero_stage": stage} for stage in (1, 2, 3)},
    "fsdp2": {"type": "fsdp2"},
}
HALF = {
    f"{engine}, {precision}": {**ENGINES[engine], "precision": precision}
    for engine in ("ddp", "zero1", "zero2", "zero3", "fsdp2")
    for precision in ("bf16", "fp16")
}
LORA = {"rank": 2}
ADAPTERS = {"lora, ddp": {}, "lora, zero2": ENGINES["zero2"], "lora, zero3": ENGINES["zero3"]}
TAUGHT = {f"taught, {name}": ENGINES[name] for name in ("ddp", "zero3", "fsdp2")}
TEACHER = {"package": "large", "hidden_weight": 0.5}
# With some seeds one first gradient is a sum that cancels to 1e-10. AdamW divides it by itself plus
# eps (1e-8), so that the order of the sum shows: in one process with other micro-batches, too.
CONDITIONED = {"seed": 4}
MOVED = {f"moved, {name}": ENGINES[name] for name in ("ddp", "zero3", "fsdp2")}
ADVERSARIAL = {"type": "pgd", "epsilon": 0.5, "steps": 2}
OTHERS = {"multilabel, zero3": ENGINES["zero3"], "poisoned": ENGINES["zero2"]}


@dataclass(frozen=True)
class Group:
    """What a group of two workers made of each job."""

    place: Path
    found: dict

    def summary(self, name):
        assert "error" not in self.found[name], self.found[name]
        return self.found[name]

    def export(self, name):
        return self.place / "group" / name / "export"

    def weights(self, name):
        return load_model(self.export(name)).state_dict()


def settings(place, name, engine):
    micro = {"micro_batch_size": 2} if "accumulation" in name else {}
    more = {"lora": LORA} if name.startswith("lora") else {}
    more |= {"adversarial": ADVERSARIAL} if name.startswith("moved") else {}
    return job(
        place,
        "multilabel" if name.startswith("multilabel") else "task2",
        **({"teacher": TEACHER} if name.startswith("taught") else {}),
        **(CONDITIONED if name.startswith("moved") else {}),
        train={**TRAIN, **micro, **more},
        engine=engine,
        cluster={"workers": 2},
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = make_lessons(tmp_path_factory.mktemp("lessons"))
    classes = ({"type": "cls", "name": "child", "num_labels": 3},)
    commit_encoder(place, "large", layers=2, width=24, heads=classes, labels=sorted(WORDS))
    return place


@pytest.fixture(scope="module")
def group(local_ray, place):
    jobs = {}
    for name, engine in {**ENGINES, **HALF, **ADAPTERS, **TAUGHT, **MOVED, **OTHERS}.items():
        folder = place / "group" / name
        folder.mkdir(parents=True)
        jobs[name] = planned(settings(place, name, engine), folder).model_dump(mode="json")
    result = launch(
        GROUP,
        AnyState(jobs=jobs),
        AnyState,
        cluster=TWO,
        engine=EngineConfig(),
        run_dir=place / "group",
        name="finetune",
    )
    return Group(place, result.found)


@pytest.fixture(scope="module")
def alone(place):
    """Summary, weights and curve of one process that reads the same samples."""
    summary, folder = learn(job(place, train=TRAIN), place / "alone")
    return summary.model_dump(), load_model(folder).state_dict(), losses(folder)


@pytest.fixture(scope="module")
def alone_with_adapters(place):
    _, folder = learn(job(place, train={**TRAIN, "lora": LORA}), place / "adapters")
    return load_model(folder).state_dict()


def losses(folder):
    rows = History.from_parquet(folder / "history.parquet").rows
    return [row.value for row in rows if (row.split, row.metric) == ("train", "loss")]


def assert_same(weights, expected, atol):
    assert weights.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(weights[name], value, atol=atol, rtol=0, msg=name)


@pytest.mark.parametrize("name", ENGINES)
def test_weights_and_figures_are_those_of_one_process(group, alone, name):
    expected, weights, curve = alone
    found = group.summary(name)
    assert (found["world"], expected["world"]) == (2, 1)
    assert losses(group.export(name)) == pytest.approx(curve, abs=1e-5)
    assert_same(group.weights(name), weights, 1e-5)
    assert found["validation"] == pytest.approx(expected["validation"], abs=1e-5)
    (here,), (there,) = expected["tasks"], found["tasks"]
    assert here["test"].keys() == there["test"].keys()
    for metric, figure in here["test"].items():
        assert there["test"][metric] == pytest.approx(figure, abs=1e-4, nan_ok=True), metric


@pytest.mark.parametrize("name", HALF)
def test_half_precision_learns_the_same(group, alone, name):
    expected, _, curve = alone
    found = group.summary(name)
    assert found["skipped_steps"] == 0
    assert losses(group.export(name))[-1] == pytest.approx(curve[-1], abs=0.05)
    primary = found["watched"]
    assert found["validation"][primary] == pytest.approx(expected["validation"][primary], abs=0.15)
    rows = History.from_parquet(group.export(name) / "history.parquet").rows
    scales = [row.value for row in rows if row.metric == "loss_scale"]
    assert bool(scales) == name.endswith("fp16")


@pytest.mark.parametrize("name", ADAPTERS)
def test_adapters_learn_the_same_under_every_engine(group, alone_with_adapters, name):
    group.summary(name)
    assert_same(group.weights(name), alone_with_adapters, 1e-5)


@pytest.mark.parametrize("name", MOVED)
def test_adversarial_steps_are_the_same_under_every_engine(group, place, name):
    group.summary(name)
    alone = place / "moved"  # whole from the second time on
    given = job(place, train={**TRAIN, "adversarial": ADVERSARIAL}, **CONDITIONED)
    _, folder = learn(given, alone)
    assert losses(group.export(name)) == pytest.approx(losses(folder), abs=1e-5)
    assert_same(group.weights(name), load_model(folder).state_dict(), 1e-5)


@pytest.fixture(scope="module")
def alone_with_teacher(place):
    _, folder = learn(job(place, train=TRAIN, teacher=TEACHER), place / "taught")
    return load_model(folder).state_dict(), losses(folder)


@pytest.mark.parametrize("name", TAUGHT)
def test_a_student_learns_the_same_under_every_engine(group, alone, alone_with_teacher, name):
    group.summary(name)
    weights, curve = alone_with_teacher
    assert losses(group.export(name)) == pytest.approx(curve, abs=1e-5)
    assert_same(group.weights(name), weights, 1e-5)
    assert curve[0] > alone[2][0] + 0.1  # the teacher's terms are in it


def test_a_metric_of_answers_is_measured_where_weights_are_cut(group, place):
    found = group.summary("multilabel, zero3")
    config = settings(place, "multilabel", {})
    alone, _ = learn(job(place, "multilabel", train=config.train.model_dump()), place / "names")
    assert found["watched"] == "micro_f1"
    assert found["validation"] == pytest.approx(alone.validation, abs=1e-5)


def test_losses_that_are_no_numbers_end_the_run_on_every_rank(group):
    found = group.found["poisoned"]
    assert found["error"] == "StageError"
    assert "steps in a row were not finite" in found["message"]
    assert "Lower train.learning_rate" in found["message"]
    assert not group.export("poisoned").exists()


def test_the_job_commits_what_two_workers_learned(local_ray, place, alone):
    config = settings(place, "zero2", ENGINES["zero2"])
    result = runner.run(config)
    assert runner.run(config) == result  # nothing finished runs twice
    package = Zoo(place / "zoo").get(result.package)
    evaluation = package.read_model(EVALUATION, FinetuneEvaluation)
    assert evaluation.world == result.metrics["workers"] == 2
    predictor = Predictor.open(package)
    assert predictor.task().head == "child"
    assert predictor.tasks["child"].labels == ("animal", "fruit", "tool")
