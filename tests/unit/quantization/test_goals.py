"""Goals: bounds with and without labels, for classifiers and for packages that only embed."""

import json

import pytest

from orchestrator.config import load_config
from orchestrator.errors import ConfigError, InputError
from orchestrator.quantization import worker
from orchestrator.quantization.artifact import summary, write_package
from orchestrator.quantization.config import GoalConfig, QuantizeConfig
from orchestrator.quantization.describing import plan_text
from orchestrator.quantization.goals import Criterion, Missed, NoPlanError, missed_quality
from orchestrator.quantization.inputs import prepare, read_subject
from orchestrator.quantization.measured_results import (
    Bounded,
    Closeness,
    Divergence,
    Paired,
    PlanFigures,
)
from orchestrator.quantization.plans import Plan
from orchestrator.quantization.results import REPORT_FILE, QuantizationReport
from orchestrator.quantization.search import Search
from orchestrator.storage import RunFolder
from orchestrator.zoo import Zoo
from tests.support.packages import SENTENCES, commit_tiny
from tests.support.pools import InProcess

STATEMENT = {"pooling": ["mean"], "max_length": 12, "layers": [{"type": "normalize"}]}
FREE = {"min_cosine": 0.5, "min_agreement": 0.5, "max_kl": 5.0}


@pytest.fixture
def make(tmp_path):
    """Return a job on unlabelled texts, given changes and the targets of its package."""
    texts = [f"{SENTENCES[index % 6]} {index}" for index in range(240)]
    (tmp_path / "texts.txt").write_text("\n".join(texts) + "\n")

    def make(targets=None, files=None, **changes):
        commit_tiny(Zoo(tmp_path / "zoo"), targets=targets, files=files)
        settings = {
            "run": {"name": "q", "dir": str(tmp_path / "runs"), "zoo": str(tmp_path / "zoo")},
            "package": "tiny",
            "data": {"source": f"files:{tmp_path / 'texts.txt'}"},
            "kinds": ["row_s7"],
            "calibration_rows": 8,
            "mixed_plans": 1,
            "latency": {"rounds": 3, "calls": 1, "length": 8},
            **changes,
        }
        (tmp_path / "job.yaml").write_text(json.dumps(settings))
        return load_config(QuantizeConfig, tmp_path / "job.yaml")

    return make


def search(config):
    prepared, pool = prepare(config), InProcess()
    with RunFolder.open(config, "quantize") as folder:
        return prepared, Search(config, prepared, folder, pool).run()


@pytest.mark.slow
def test_a_classifier_is_quantized_on_texts_without_labels(make, tmp_path):
    config = make(goal=FREE)
    prepared, choice = search(config)
    assert choice.point.figures.paired is None
    for figures in (choice.measured.validation, choice.measured.test):
        near = figures.closeness
        assert near.cosine_min <= near.cosine.value <= 1
        assert near.cosine.low <= near.cosine.value <= near.cosine.high
        assert 0.5 <= near.agreement.low <= near.agreement.value <= 1
        assert 0 <= near.kl.low <= near.kl.value <= near.kl.high <= 5
    folder = tmp_path / "package"
    folder.mkdir()
    write_package(folder, config, prepared, choice)
    report = QuantizationReport.model_validate_json((folder / REPORT_FILE).read_text())
    assert report.accuracy is None
    assert report.closeness["test"] == choice.measured.test.closeness
    found = summary(prepared, choice).model_dump(exclude_none=True)
    assert {"cosine", "agreement", "kl"} <= found.keys()
    assert "accuracy" not in found


def test_a_package_that_only_embeds_is_quantized_by_its_cosine(make):
    files = {"embedding.json": json.dumps(STATEMENT)}
    config = make(targets=({"type": "mlm"},), files=files, goal={"min_cosine": 0.9})
    prepared, choice = search(config)
    assert prepared.subject.target is None
    assert prepared.subject.limit == 12
    assert choice.measured.test.closeness.cosine.value >= 0.9
    assert choice.point.plan.integer
    assert {divergence.kl for divergence in choice.prices.errors.values()} == {None}


@pytest.mark.parametrize("goal", [{}, {"max_bytes": 10**9}])
def test_a_package_that_only_embeds_needs_no_bound_of_quality(make, goal):
    files = {"embedding.json": json.dumps(STATEMENT)}
    config = make(targets=({"type": "mlm"},), files=files, goal=goal, mixed_plans=0)
    _, choice = search(config)
    assert choice.point.plan.integer
    assert choice.measured.test.closeness.texts == 116
    smallest = min((p for p in choice.points if p.plan.integer),
                   key=lambda point: point.figures.divergence.cosine)  # fmt: skip
    assert not goal or choice.point is smallest  # the nearest to float that is small enough


def test_a_cosine_out_of_reach_names_the_nearest_plan(make):
    with pytest.raises(NoPlanError, match=r"min_cosine 0\.9999[\s\S]*The nearest is ") as caught:
        search(make(goal={"min_cosine": 0.999999}))
    (missed,) = caught.value.result["nearest_miss"]["missed"]
    assert missed["limit"] == "min_cosine"
    assert missed["value"] < missed["allowed"] == 0.999999


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"targets": ({"type": "mlm"},), "goal": {"max_accuracy_drop": 0.1}}, "Give goal.min_cos"),
        ({"targets": ({"type": "mlm"},), "goal": {"max_kl": 1.0}}, "Give goal.min_cosine"),
        ({"goal": {"gates": {"recall.spam": 0.1}}}, r"goal\.gates\.recall\.spam"),
        ({"goal": {"min_cosine": 0.9}, "data": None}, "Give data.source"),
    ],
)
def test_goals_without_a_meaning_are_refused_before_any_data_is_read(make, settings, message):
    files = {"embedding.json": json.dumps(STATEMENT)} if "targets" in settings else None
    with pytest.raises(InputError, match=message):
        prepare(make(files=files, **settings))


def test_few_texts_are_refused(make, tmp_path):
    config = make(goal={"min_cosine": 0.9})
    (tmp_path / "texts.txt").write_text("one\ntwo\none\n")
    with pytest.raises(InputError, match="has 2 different texts; at least 24"):
        prepare(config)


def test_splits_of_texts_are_disjoint_and_do_not_depend_on_their_order(make, tmp_path):
    config = make(goal=FREE)
    first = prepare(config).data
    lines = (tmp_path / "texts.txt").read_text().splitlines()
    (tmp_path / "texts.txt").write_text("\n".join(reversed(lines)) + "\n")
    again = prepare(config).data
    splits = [(first.train, again.train), (first.validation, again.validation)]
    assert all(sorted(a.texts) == sorted(b.texts) for a, b in splits)
    parts = [set(rows.texts) for rows in (first.train, first.validation, first.test)]
    assert len(set.union(*parts)) == sum(map(len, parts)) == 240
    assert [len(part) for part in parts] == [8, 116, 116]


def test_a_bound_that_no_row_can_show_is_refused(make):
    with pytest.raises(ConfigError, match=r"goal\.max_accuracy_drop: 0 cannot be shown"):
        make(goal={"max_accuracy_drop": 0})
    make(goal={"max_accuracy_drop": 0, "statistic": "mean"})


def test_check_tells_the_rows_that_a_bound_needs(make):
    config = make(goal={"max_accuracy_drop": 0.01, "min_agreement": 0.9, "min_cosine": 0.9})
    text = plan_text(config, read_subject(config))
    assert "max_accuracy_drop needs 299 validation rows" in text
    assert "min_agreement needs 29 validation rows" in text
    assert "min_cosine needs 29 validation texts" in text


def paired(drop, bound):
    return Paired(
        texts=100, reference=0.9, accuracy=0.9 - drop, drop=drop, gained=0, lost=0, p_value=1.0,
        interval=(drop - 0.01, bound), bound=bound,
    )  # fmt: skip


def figures(**fields):
    return PlanFigures(divergence=Divergence(kl=0.0, cosine=0.0), **fields)


def test_validation_rows_hold_the_bound_and_test_rows_the_figure():
    found = figures(paired=paired(0.01, 0.04), gates={"recall.spam": paired(0.03, 0.05)})
    goal = GoalConfig(max_accuracy_drop=0.02, gates={"recall.spam": 0.04})
    missed = missed_quality(found, goal, "validation")
    assert [(m.limit, m.value) for m in missed] == [
        ("max_accuracy_drop", 0.04),
        ("gates.recall.spam", 0.05),
    ]
    assert missed_quality(found, goal, "test") == []
    mean = goal.model_copy(update={"statistic": "mean"})
    assert missed_quality(found, mean, "validation") == []


def test_bounds_without_labels_are_held_on_their_bad_side():
    near = Closeness(
        texts=100, cosine_mean=0.99, cosine_min=0.9,
        cosine=Bounded(value=0.97, low=0.95, high=0.98),
        agreement=Bounded(value=0.97, low=0.95, high=0.98),
        kl=Bounded(value=0.1, low=0.05, high=0.2),
    )  # fmt: skip
    goal = GoalConfig(min_cosine=0.96, min_agreement=0.96, max_kl=0.15)
    missed = missed_quality(figures(closeness=near), goal, "validation")
    assert [(m.limit, m.value) for m in missed] == [
        ("min_cosine", 0.95), ("min_agreement", 0.95), ("max_kl", 0.2)
    ]  # fmt: skip
    assert missed_quality(figures(closeness=near), goal, "test") == []
    assert all(m.excess > 0 for m in missed)


def test_a_plan_is_given_up_where_its_interval_excludes_the_bound(make, monkeypatch):
    assert not Criterion("max_kl", 0.2, 0.3, 0.1, 0.15).hopeless
    assert Criterion("max_kl", 0.2, 0.3, 0.16, 0.15).hopeless
    assert Criterion("min_cosine", 0.9, 0.8, 0.94, 0.95).hopeless
    config = make(goal={"max_kl": 1e-9})
    prepared = prepare(config)
    inputs = prepared.inputs
    asked = []

    def counting(model, texts, original=worker.predict_all):
        asked.append(len(texts))
        return original(model, texts)

    reference = worker.float_outputs(inputs)
    monkeypatch.setattr(worker, "predict_all", counting)
    unit = prepared.subject.units[0].name
    found = worker.measure_plan(inputs, reference, Plan({unit: "row_s7"}))
    assert found.stopped
    assert sum(asked) == found.closeness.texts < len(inputs.texts.validation)


def test_the_nearest_miss_is_relative_to_what_a_bound_allows():
    near = Missed(limit="min_cosine", value=0.98, allowed=0.99)
    far = Missed(limit="max_kl", value=0.3, allowed=0.1)
    assert near.excess == pytest.approx(1.0)
    assert far.excess == pytest.approx(2.0)
    assert "min_cosine is 0.98, 0.99 is allowed" in near.in_words()
