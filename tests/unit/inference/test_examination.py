"""A promise once made is kept: a child repeats its parent's exam, and the gate fails closed."""

import numpy as np
import pytest
import torch

from orchestrator.data.processors.text import TextProcessor
from orchestrator.data.rows.storage import fingerprint, read_rows
from orchestrator.data.sources.opening import load_task
from orchestrator.data.spec import DatasetSpec
from orchestrator.errors import RefusedError
from orchestrator.inference.examination import examine_draft, promises
from orchestrator.inference.models import TorchModel
from orchestrator.inference.predictor import Predictor
from orchestrator.modeling.package import load_model, write_model
from orchestrator.tasks.base import HeadOptions
from orchestrator.tasks.suite import Learned
from orchestrator.zoo import Zoo
from orchestrator.zoo.gate import Promotion
from orchestrator.zoo.suite import EXEMPLARS_FOLDER, ROWS_FOLDER, SuiteConfig, read_suite
from tests.support.promises import (
    FILLER,
    MAX_LENGTH,
    commit_classifier,
    commit_encoder,
    lesson,
    topic_data,
    topic_task,
)

LESSON = lesson("place", wrong=0.2)


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    return Zoo(tmp_path_factory.mktemp("zoo"))


@pytest.fixture(scope="module")
def encoder(zoo):
    return commit_encoder(zoo)


@pytest.fixture(scope="module")
def parent(zoo, encoder):
    return commit_classifier(zoo, {"place": LESSON}, encoder)


def child_of(zoo, parent, change=None, *, tokenizer=None, task=None, **examination):
    """Commit a changed copy of a package, as a stage that keeps every head does."""
    stated = parent.manifest.task.model_dump(mode="json") if task is None else task
    with zoo.draft("child", kind="continual", parents=[parent], task=stated) as draft:
        model = load_model(parent.path)
        if change is not None:
            with torch.no_grad():
                change(model)
        write_model(draft.path, model, model.config)
        (tokenizer or TextProcessor.load(parent.path)).save(draft.path)
        examine_draft(draft, parent=parent, **examination)
        return draft.commit()


def test_a_package_carries_its_exam(parent):
    suite = read_suite(parent)
    exam = suite.exams["place"]
    assert suite.default == parent.manifest.task.default == "place"
    assert 0.7 < exam.metrics["accuracy"].value < 0.9  # a fifth of the labels is wrong
    assert exam.metrics["accuracy"].low < exam.metrics["accuracy"].value
    assert exam.data.rows == {"train": 240, "validation": 60, "test": 300}
    assert exam.data.fingerprints["test"] == fingerprint(LESSON.data.test)
    kept = read_rows(parent.path / ROWS_FOLDER / "place.parquet")
    assert fingerprint(kept) == fingerprint(LESSON.data.test)
    exemplars = read_rows(parent.path / EXEMPLARS_FOLDER / "place.parquet")
    assert set(exemplars.texts) <= set(LESSON.data.train.texts)


def test_an_equal_child_is_accepted(zoo, parent):
    child = child_of(zoo, parent)
    assert not child.rejected
    exam = read_suite(child).exams["place"]
    before = read_suite(parent).exams["place"]
    assert exam.metrics == before.metrics
    assert exam.parent == parent.ref
    change = exam.differences["accuracy"]
    assert (change.drop, change.lost, change.gained) == (0.0, 0, 0)
    assert change.bound == pytest.approx(1 - 0.05 ** (1 / 300))
    assert Predictor.open(child).default == "place"


def test_the_exam_is_repeated_over_generations_without_the_data(zoo, parent):
    grandchild = child_of(zoo, child_of(zoo, parent))
    exam = read_suite(grandchild).exams["place"]
    assert not grandchild.rejected
    assert exam.rows == 300
    assert exam.data == read_suite(parent).exams["place"].data
    assert (grandchild.path / EXEMPLARS_FOLDER / "place.parquet").is_file()


def to_zero(model):
    for parameter in model.parameters():
        parameter.zero_()


def test_a_fallen_child_is_rejected_with_figures(zoo, parent):
    child = child_of(zoo, parent, to_zero)
    assert child.rejected
    (reason,) = child.manifest.reasons
    assert reason.startswith("place accuracy: fell by 0.")
    with pytest.raises(RefusedError):
        zoo.promote(child.ref)
    allowed = child_of(zoo, parent, to_zero, promotion=Promotion(max_drop={"default": 1.0}))
    assert not allowed.rejected


def test_rows_that_are_missing_are_refused_as_unverified(zoo, encoder):
    bare = commit_classifier(
        zoo, {"place": LESSON}, encoder, "bare", config=SuiteConfig(keep_rows=0, exemplars=0)
    )
    assert not [name for name in bare.manifest.files if name.endswith(".parquet")]
    child = child_of(zoo, bare)
    assert child.rejected
    assert child.manifest.reasons == [
        "place: unverified: the package keeps no test rows, and its suite names no data set"
    ]
    assert read_suite(child).exams["place"].status == "unverified"
    by_name = child_of(zoo, bare, promotion=Promotion(allow_unverified=("place",)))
    assert not by_name.rejected
    assert "allowed by name" in read_suite(by_name).notes[0]
    again = child_of(zoo, bare, learned={"place": LESSON})
    assert not again.rejected


def test_other_rows_under_the_same_name_are_not_the_exam(zoo, encoder):
    bare = commit_classifier(
        zoo, {"place": LESSON}, encoder, "bare", config=SuiteConfig(keep_rows=0)
    )
    other = Learned(topic_task("place"), topic_data("place", seed=5))
    child = child_of(zoo, bare, learned={"place": other})
    assert "the data of this job have other rows" in child.manifest.reasons[0]


def test_data_that_can_be_read_again_verify_only_if_they_are_the_same(zoo, encoder, tmp_path):
    path = tmp_path / "mails.tsv"
    data = topic_data("place", train=900)
    lines = [
        f"{text}\t{data.label_names[label]}"
        for text, label in zip(data.train.texts, data.train.labels, strict=True)
    ]
    path.write_text("\n".join(["text\tlabel", *lines]) + "\n")
    spec = DatasetSpec(source=f"files:{path}", test_fraction=0.4)
    learned = {"place": Learned(topic_task("place"), load_task(spec), spec)}
    bare = commit_classifier(zoo, learned, encoder, "bare", config=SuiteConfig(keep_rows=0))
    assert not child_of(zoo, bare).rejected
    path.write_text("\n".join(["text\tlabel", *lines[:-9]]) + "\n")
    assert "have another fingerprint now" in child_of(zoo, bare).manifest.reasons[0]
    path.unlink()
    assert "its data cannot be read" in child_of(zoo, bare).manifest.reasons[0]


def test_too_few_rows_refuse_and_say_how_many_would_do(zoo, encoder):
    few = commit_classifier(zoo, {"place": lesson("place", test=100)}, encoder, "few")
    (reason,) = child_of(zoo, few).manifest.reasons
    assert "100 rows are too few to tell; 149 rows with none lost would be enough" in reason
    mean = child_of(zoo, few, promotion=Promotion(statistic="mean"))
    assert not mean.rejected
    assert read_suite(mean).notes == ("judged by the mean drop, not by its bound",)


def test_a_head_that_made_no_suite_promises_something_unknown(zoo, encoder):
    task = {"kind": "classification", "labels": {"place": ["city", "land", "water"]}}
    head = topic_task("place").target
    with zoo.draft("old", kind="finetuned", task=task) as draft:
        model = load_model(encoder.path, targets=[head(HeadOptions())])
        write_model(draft.path, model, model.config)
        TextProcessor.load(encoder.path).save(draft.path)
        old = draft.commit()
    assert promises(old).exams["place"].status == "unverified"
    assert "was made without an evaluation suite" in child_of(zoo, old).manifest.reasons[0]
    measured = child_of(zoo, old, learned={"place": LESSON})
    assert not measured.rejected
    assert "accuracy" in read_suite(measured).exams["place"].differences


def test_a_dropped_head_is_refused(zoo, parent, encoder):
    with zoo.draft("child", kind="continual", parents=[parent]) as draft:
        model = load_model(encoder.path)
        write_model(draft.path, model, model.config)
        TextProcessor.load(encoder.path).save(draft.path)
        examine_draft(draft, parent=parent)
        child = draft.commit()
    assert child.manifest.reasons == ["place: the package does not answer this task any more"]


def shuffled_head(seed):
    def change(model):
        head = model.state_dict()["targets.place.output.weight"]
        order = torch.from_numpy(np.random.default_rng(seed).permutation(3))
        order = order if order.tolist() != [0, 1, 2] else order.roll(1)
        head.copy_(head[order])

    return change


def noisy(package, seed):
    """Noise in the weights, so much that 5 of 100 answers that were right are wrong."""
    rows = LESSON.data.test
    before = read_suite(package).exams["place"].metrics["accuracy"].value

    def change(model):
        clean = {name: value.clone() for name, value in model.state_dict().items()}
        for step in range(200):
            torch.manual_seed(seed)
            for name, value in model.state_dict().items():
                value.copy_(clean[name] + 0.05 * step * clean[name].std() * torch.randn_like(value))
            if before - accuracy(model, package, rows) >= 0.05:
                return
        raise AssertionError("no noise is large enough")

    return change


def accuracy(model, package, rows):
    tokenizer = TextProcessor.load(package.path)
    predictor = Predictor(TorchModel(model), tokenizer, {"place": topic_task("place")})
    names = [LESSON.data.label_names[label] for label in rows.labels]
    pairs = zip(predictor.answers(rows, "place"), names, strict=True)
    return np.mean([answer.label == name for answer, name in pairs])


def other_tokenizer(seed):
    words = np.random.default_rng(seed).permutation([*FILLER, "street", "hill", "lake", "0", "1"])
    return TextProcessor.train([" ".join(words[:8])] * 3, 300, max_length=MAX_LENGTH)


def relabelled(package, seed):
    task = package.manifest.task.model_dump(mode="json")
    names = task["labels"]["place"]
    order = [names[1:] + names[:1], names[2:] + names[:2], names[::-1]][seed % 3]
    return {**task, "labels": {"place": order}}


@pytest.mark.parametrize(
    ("heads", "noises", "tokenizers"),
    [(2, 2, 1), pytest.param(16, 16, 15, marks=pytest.mark.slow, id="fifty")],
)
def test_planted_regressions_promote_none(zoo, parent, heads, noises, tokenizers):
    plants = [{"task": relabelled(parent, seed)} for seed in range(3)]
    plants += [{"change": shuffled_head(seed)} for seed in range(heads)]
    plants += [{"change": noisy(parent, seed)} for seed in range(noises)]
    plants += [{"tokenizer": other_tokenizer(seed)} for seed in range(tokenizers)]
    assert len(plants) in (8, 50)
    promoted = []
    for plant in plants:
        child = child_of(zoo, parent, **plant)
        if not child.rejected:
            promoted.append((plant, child.ref))
    assert promoted == []
