"""Gates per slice: of the rows of one language or customer, held as any other bound."""

import json

import numpy as np
import pytest

from orchestrator.config import load_config
from orchestrator.errors import ConfigError, InputError
from orchestrator.quantization.config import GoalConfig, QuantizeConfig
from orchestrator.quantization.describing import plan_text
from orchestrator.quantization.goals import NoPlanError, missed_quality
from orchestrator.quantization.inputs import prepare, read_subject
from orchestrator.quantization.measured_results import Divergence, PlanFigures
from orchestrator.quantization.measures import paired_by_name
from orchestrator.quantization.search import Search
from orchestrator.storage import RunFolder
from orchestrator.zoo import Zoo
from tests.support.packages import LABELS, SENTENCES, commit_tiny
from tests.support.pools import InProcess

LANGUAGES = ("german", "english", "french")


@pytest.fixture
def make(tmp_path):
    """Return a job on rows with a language each, every fourth of them French."""
    rows = [
        {
            "text": f"{SENTENCES[index % 6]} {index}",
            "label": LABELS[index % 3],
            "language": LANGUAGES[min(index % 7, 2)],
        }
        for index in range(240)
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))

    def make(goal, column="language"):
        commit_tiny(Zoo(tmp_path / "zoo"))
        data = {"source": f"files:{tmp_path / 'rows.jsonl'}", "slice_column": column}
        settings = {
            "run": {"name": "q", "dir": str(tmp_path / "runs"), "zoo": str(tmp_path / "zoo")},
            "package": "tiny",
            "data": data,
            "goal": goal,
            "kinds": ["row_s7"],
            "calibration_rows": 8,
            "mixed_plans": 0,
            "latency": {"rounds": 3, "calls": 1, "length": 8},
        }
        (tmp_path / "job.yaml").write_text(json.dumps(settings))
        return load_config(QuantizeConfig, tmp_path / "job.yaml")

    return make


def test_a_slice_is_compared_on_its_own_rows(make):
    """Every row of the slice is lost, none of the others: what all rows together would hide."""
    prepared = prepare(make({"gates": {"accuracy@german": 0.01}}))
    task, rows = prepared.inputs.task, prepared.inputs.texts.validation.rows
    german = np.asarray(rows.slices) == "german"
    assert 0 < german.sum() < len(rows)
    right = np.ones((len(rows), 2))
    wrong = right.copy()
    wrong[german, 0] = 0
    both = [{"accuracy": right}, {"accuracy": wrong}]
    found = paired_by_name(task, rows, both, "accuracy@german")
    assert (found.texts, found.lost, found.drop) == (german.sum(), german.sum(), 1.0)
    assert paired_by_name(task, rows, both, "accuracy@french").drop == 0
    everything = paired_by_name(task, rows, both, "accuracy")
    assert everything.drop == pytest.approx(german.mean())
    empty = paired_by_name(task, rows, both, "accuracy@none")  # before it is seen: undecided
    assert (empty.texts, empty.interval, empty.bound) == (0, (-1.0, 1.0), 1.0)
    goal = GoalConfig(gates={"accuracy@german": 0.9}, statistic="mean")
    figures = PlanFigures(
        gates={"accuracy@german": found}, divergence=Divergence(kl=0.0, cosine=0.0)
    )
    (missed,) = missed_quality(figures, goal, "validation")
    assert (missed.limit, missed.value) == ("gates.accuracy@german", 1.0)


def test_a_job_measures_and_holds_the_gate_of_a_slice(make):
    config = make({"gates": {"accuracy@french": 1.0, "recall.error@german": 1.0}})
    with RunFolder.open(config, "quantize") as folder:
        choice = Search(config, prepare(config), folder, InProcess()).run()
    for figures in (choice.measured.validation, choice.measured.test):
        texts = {name: gate.texts for name, gate in figures.gates.items()}
        assert texts.keys() == {"accuracy@french", "recall.error@german"}
        assert 0 < texts["recall.error@german"] < texts["accuracy@french"] < figures.paired.texts


def test_a_slice_with_too_few_rows_for_its_bound_keeps_no_plan(make):
    config = make({"max_accuracy_drop": 1.0, "gates": {"accuracy@german": 0.02}})
    with (
        RunFolder.open(config, "quantize") as folder,
        pytest.raises(NoPlanError, match=r"gates\.accuracy@german") as caught,
    ):
        Search(config, prepare(config), folder, InProcess()).run()
    missed = caught.value.result["nearest_miss"]["missed"]
    assert {miss["limit"] for miss in missed} == {"gates.accuracy@german"}
    text = plan_text(config, read_subject(config))
    assert "gates.accuracy@german needs 149 validation rows of slice 'german'" in text


@pytest.mark.parametrize(
    ("gate", "column", "message"),
    [
        ("accuracy@germn", "language", r"no validation row is of slice 'germn'\. Did you mean 'ge"),
        ("accurcy@german", "language", r"accurcy@german: 'topic' has no such metric\. Did you"),
        ("accuracy@german", None, "name their column with data.slice_column"),
        ("accuracy@german", "langage", r"nothing in 'langage'\. Did you mean 'language'"),
    ],
)
def test_unknown_slices_are_refused_with_what_is_allowed(make, gate, column, message):
    with pytest.raises(InputError, match=message):
        prepare(make({"gates": {gate: 0.1}}, column))


def test_a_builtin_has_no_column_of_slices(tmp_path):
    (tmp_path / "job.yaml").write_text(
        '{"data": {"source": "builtin:pydoc/style", "slice_column": "x"}}'
    )
    with pytest.raises(ConfigError, match=r"data\.slice_column: .* has no columns to name"):
        load_config(QuantizeConfig, tmp_path / "job.yaml")
