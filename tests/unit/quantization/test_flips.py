"""Predicted flips: those of drawn noise, and those of real INT8 plans on texts without labels."""

import json

import numpy as np
import pytest

from orchestrator.config import load_config
from orchestrator.quantization.artifact import pareto_report
from orchestrator.quantization.config import QuantizeConfig
from orchestrator.quantization.flips import margins, noise, predicted_flips
from orchestrator.quantization.inputs import prepare
from orchestrator.quantization.measured_results import Divergence
from orchestrator.quantization.plans import Plan
from orchestrator.quantization.search import Search
from orchestrator.storage import RunFolder
from orchestrator.zoo import Zoo
from tests.support.packages import SENTENCES, commit_tiny
from tests.support.pools import InProcess

TEXTS = 1200


@pytest.mark.parametrize("spread", [0.05, 0.3, 1.0])
def test_flips_are_those_of_drawn_noise(spread):
    """Two classes, noise of one size: the share that really changes, by counting."""
    rng = np.random.default_rng(0)
    before = rng.normal(0, 1, (20_000, 2))
    after = before + rng.normal(0, spread, before.shape)
    found = margins("classification", list(before))
    variance = noise("classification", list(before), list(after))
    assert variance == pytest.approx(2 * spread**2, rel=0.05)
    counted = (before.argmax(1) != after.argmax(1)).mean()
    assert found.flips(variance) == pytest.approx(counted, rel=0.1)
    assert found.flips(0) == 0


def test_the_noise_of_units_adds_up():
    found = margins("classification", [np.asarray([1.0, 0.0]), np.asarray([0.0, 0.5])])
    errors = {
        "a@row_s7": Divergence(cosine=0.0, margin=0.3),
        "b@row_s7": Divergence(cosine=0.0, margin=0.7),
        "c@row_s7": Divergence(cosine=0.0),
    }
    both = predicted_flips(Plan({"a": "row_s7", "b": "row_s7"}), errors, found)
    assert both == pytest.approx(found.flips(1.0))
    assert both == pytest.approx((0.15866 + 0.30854) / 2, abs=1e-5)  # of the normal distribution
    assert predicted_flips(Plan({"a": "fp32"}), errors, found) == 0
    assert predicted_flips(Plan({"c": "row_s7"}), errors, found) is None
    assert predicted_flips(Plan({"a": "row_s7"}), errors, None) is None


def test_tags_count_each_token_and_rows_count_the_same():
    rows = [np.asarray([[1.0, 0.0], [0.0, 2.0]]), np.asarray([[0.0, 3.0]])]
    found = margins("tags", rows)
    assert found.values == (1.0, 2.0, 3.0)
    assert found.weights == (0.25, 0.25, 0.5)
    (choice,) = margins("multiple_choice", [np.asarray([[0.0], [3.0], [2.0]])]).values
    assert choice == 1.0
    assert margins("regression", rows) is None
    assert noise("regression", rows, rows) is None


@pytest.fixture
def config(tmp_path):
    rng = np.random.default_rng(0)
    words = " ".join(SENTENCES).replace(",", "").replace(".", "").split()
    texts = {" ".join(rng.choice(words, rng.integers(4, 12))) for _ in range(TEXTS)}
    (tmp_path / "texts.txt").write_text("\n".join(sorted(texts)))
    commit_tiny(Zoo(tmp_path / "zoo"))
    settings = {
        "run": {"name": "q", "dir": str(tmp_path / "runs"), "zoo": str(tmp_path / "zoo")},
        "package": "tiny",
        "data": {"source": f"files:{tmp_path / 'texts.txt'}"},
        "goal": {"min_agreement": 0.5},
        "kinds": ["row_s7"],
        "calibration_rows": 96,
        "evaluation_rows": 512,
        "batch_size": 128,
        "mixed_plans": 0,
        "latency": {"rounds": 3, "calls": 1, "length": 8},
    }
    (tmp_path / "job.yaml").write_text(json.dumps(settings))
    return load_config(QuantizeConfig, tmp_path / "job.yaml")


def test_predicted_flips_are_those_that_plans_make(config):
    prepared = prepare(config)
    with RunFolder.open(config, "quantize") as folder:
        choice = Search(config, prepared, folder, InProcess()).run()
    points = [point for point in pareto_report(config, choice).points if point.integer_units]
    assert len(points) >= 2
    for point in points:
        measured = 1 - point.closeness.agreement.value
        error = 3 * np.sqrt(measured / point.closeness.texts)  # standard errors of the count
        assert 0 < point.predicted_flips == pytest.approx(measured, abs=error)
    flips = {point.name: point.predicted_flips for point in points}
    assert flips["ffn_only.row_s7"] < flips["fully_quant.row_s7"]
