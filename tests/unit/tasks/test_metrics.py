"""Metrics of task kinds against scikit-learn, SciPy and seqeval."""

import numpy as np
import pytest
from scipy import stats
from seqeval.metrics import classification_report, f1_score, precision_score, recall_score
from seqeval.metrics.sequence_labeling import get_entities
from sklearn import metrics as sk

from orchestrator.data.processors.readings import Reading
from orchestrator.data.rows.rows import Rows
from orchestrator.tasks.base import build_task
from orchestrator.tasks.kinds.tags import entities
from orchestrator.tasks.measure import measure
from orchestrator.zoo.suite import TaskSpec

LABELS = ("ham", "offer", "spam")


def values(task, rows, outputs, readings=None):
    measured = measure(task, rows, task.answers(outputs, readings))
    return {name: figure.value for name, figure in measured.metrics.items()}


def texts(count):
    return [f"text {i}" for i in range(count)]


@pytest.mark.parametrize("seed", range(5))
def test_classification_agrees_with_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(80, 3)).astype(np.float32)
    truth = np.where(rng.random(80) < 0.6, logits.argmax(1), rng.integers(0, 2, 80))
    task = build_task(TaskSpec(kind="classification", head="mail", labels=LABELS))
    found = values(task, Rows(texts(80), None, truth), list(logits))
    chosen = logits.argmax(1)
    probabilities = np.exp(logits.astype(np.float64))
    probabilities /= probabilities.sum(1, keepdims=True)
    assert found["accuracy"] == pytest.approx(sk.accuracy_score(truth, chosen))
    assert found["macro_f1"] == pytest.approx(sk.f1_score(truth, chosen, average="macro"))
    assert found["mcc"] == pytest.approx(sk.matthews_corrcoef(truth, chosen))
    per_class = sk.precision_recall_fscore_support(truth, chosen, labels=[0, 1, 2], zero_division=0)
    for index, label in enumerate(LABELS):
        expected = {
            name: per_class[i][index] for i, name in enumerate(("precision", "recall", "f1"))
        }
        assert {name: found[f"{name}.{label}"] for name in expected} == pytest.approx(expected)
    present = [k for k in range(3) if 0 < (truth == k).sum() < len(truth)]
    areas = [sk.roc_auc_score(truth == k, probabilities[:, k]) for k in present]
    assert found["auc"] == pytest.approx(np.mean(areas))
    assert found["ece"] == pytest.approx(published_ece(probabilities, truth))


def published_ece(probabilities, truth, bins=15):
    """Guo et al. 2017, equation 3, bin by bin."""
    confidence, chosen = probabilities.max(1), probabilities.argmax(1)
    total = 0.0
    for lower in np.arange(bins) / bins:
        inside = (confidence > lower) & (confidence <= lower + 1 / bins)
        if inside.any():
            gap = abs((chosen == truth)[inside].mean() - confidence[inside].mean())
            total += inside.mean() * gap
    return total


@pytest.mark.parametrize("seed", range(5))
def test_multilabel_agrees_with_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(60, 3))
    truth = ((logits + rng.normal(size=logits.shape)) > 0.5).astype(np.int64)
    task = build_task(
        TaskSpec(kind="multilabel", head="topics", labels=LABELS, options={"threshold": 0.6})
    )
    found = values(task, Rows(texts(60), None, truth), list(logits))
    given = (1 / (1 + np.exp(-logits)) >= 0.6).astype(int)
    assert found["micro_f1"] == pytest.approx(sk.f1_score(truth, given, average="micro"))
    assert found["subset_accuracy"] == pytest.approx(sk.accuracy_score(truth, given))
    assert found["macro_f1"] == pytest.approx(sk.f1_score(truth, given, average="macro"))
    recalls = sk.recall_score(truth, given, average=None, zero_division=0)
    for label, recall in zip(LABELS, recalls, strict=True):
        assert found[f"recall.{label}"] == pytest.approx(recall)


def test_the_threshold_is_the_best_one_on_validation_rows():
    rng = np.random.default_rng(3)
    logits = rng.normal(size=(200, 3)) - 1.5
    truth = ((logits + 1.2 + 0.7 * rng.normal(size=logits.shape)) > 0).astype(np.int64)
    rows = Rows(texts(200), None, truth)
    task = build_task(TaskSpec(kind="multilabel", head="topics", labels=LABELS))
    tuned = task.adapted(rows, task.answers(list(logits)))
    best = max(
        sk.f1_score(truth, 1 / (1 + np.exp(-logits)) >= threshold, average="micro")
        for threshold in np.linspace(0.01, 0.99, 981)
    )
    reached = values(tuned, rows, list(logits))["micro_f1"]
    assert reached >= best - 1e-12
    assert reached > values(task, rows, list(logits))["micro_f1"]


def test_regression_agrees_with_scipy():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(50, 1)).astype(np.float32)
    outputs = truth + 0.5 * rng.normal(size=truth.shape)
    outputs[:5] = outputs[5:10]  # ties
    task = build_task(TaskSpec(kind="regression", head="score"))
    found = values(task, Rows(texts(50), None, truth), list(outputs))
    x, y = truth[:, 0].astype(np.float64), outputs[:, 0]
    assert found["spearman"] == pytest.approx(stats.spearmanr(x, y).statistic)
    assert found["pearson"] == pytest.approx(stats.pearsonr(x, y).statistic)
    assert found["mae"] == pytest.approx(sk.mean_absolute_error(x, y))


TAGS = ("B-LOC", "B-PER", "I-LOC", "I-PER", "O")


@pytest.mark.parametrize("seed", range(20))
def test_spans_agree_with_seqeval(seed):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 12, size=30)
    truth = [rng.integers(0, 5, size=n) for n in lengths]
    given = [np.where(rng.random(len(t)) < 0.7, t, rng.integers(0, 5, len(t))) for t in truth]
    labels = np.empty(30, dtype=object)
    labels[:] = truth
    task = build_task(TaskSpec(kind="tags", head="ner", labels=TAGS))
    readings = [reading_of_words(n) for n in lengths]
    rows = Rows(["\n".join(["w"] * n) for n in lengths], None, labels)
    found = values(task, rows, [10.0 * np.eye(5)[g] for g in given], readings)
    actual = [[TAGS[i] for i in row] for row in truth]
    answered = [[TAGS[i] for i in row] for row in given]
    assert found["span_f1"] == pytest.approx(f1_score(actual, answered))
    assert found["span_precision"] == pytest.approx(precision_score(actual, answered))
    assert found["span_recall"] == pytest.approx(recall_score(actual, answered))
    report = classification_report(actual, answered, output_dict=True, zero_division=0)
    for kind in ("LOC", "PER"):
        if kind in report:
            assert found[f"f1.{kind}"] == pytest.approx(report[kind]["f1-score"])


def reading_of_words(count):
    offsets = np.asarray([(2 * i, 2 * i + 1) for i in range(count)], dtype=np.int64)
    return Reading(" ".join(["w"] * count), offsets, np.arange(count))


@pytest.mark.parametrize("scheme", ["BIO", "BIOES"])
def test_entities_are_those_of_seqeval(scheme):
    rng = np.random.default_rng(1)
    tags = [f"{p}-{t}" for p in scheme.replace("O", "") for t in ("A", "B")] + ["O"]
    for _ in range(2000):
        row = list(rng.choice(tags, size=rng.integers(1, 9)))
        assert entities(row) == get_entities(row), row


def test_tags_without_spans_are_measured_by_word():
    labels = np.empty(2, dtype=object)
    labels[:] = [np.asarray([0, 1]), np.asarray([1])]
    task = build_task(TaskSpec(kind="tags", head="pos", labels=("NOUN", "VERB")))
    rows = Rows(["a\nb", "c"], None, labels)
    outputs = [np.eye(2)[[0, 0]], np.eye(2)[[1]]]
    found = values(task, rows, outputs, [reading_of_words(2), reading_of_words(1)])
    assert found == {"token_accuracy": pytest.approx(2 / 3)}
