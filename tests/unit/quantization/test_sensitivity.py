"""First-order errors of units, against whole sessions with the one unit in INT8."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from orchestrator.config import validate_config
from orchestrator.quantization import worker
from orchestrator.quantization.config import QuantizeConfig
from orchestrator.quantization.inputs import prepare
from orchestrator.quantization.plans import Plan, single_plan
from orchestrator.quantization.prices.sensitivity import measure_sensitivities
from orchestrator.zoo import Zoo
from tests.support.packages import SENTENCES
from tests.unit.quantization.test_planted import LAYERS, commit

KINDS = ("row_s7", "row_u8")


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Errors of all units of a model with planted outliers: estimated, and of whole sessions."""
    root, rng = tmp_path_factory.mktemp("sensitivity"), np.random.default_rng(0)
    words = " ".join(SENTENCES).split()
    texts = [" ".join(rng.choice(words, rng.integers(5, 20))) for _ in range(200)]
    (root / "texts.txt").write_text("\n".join(texts) + "\n")
    commit(Zoo(root / "zoo"), texts)
    config = validate_config(
        QuantizeConfig,
        {
            "run": {"dir": str(root / "runs"), "zoo": str(root / "zoo")},
            "package": "deep",
            "data": {"source": f"files:{root / 'texts.txt'}"},
            "goal": {"max_kl": 0.01},
            "calibration_rows": 64,
        },
        "test",
    )
    prepared = prepare(config)
    units, inputs = prepared.subject.units, prepared.inputs
    estimated = measure_sensitivities(inputs, {unit.name: KINDS for unit in units})
    reference = worker.float_outputs(inputs)
    whole = {
        unit.name: dict(
            zip(
                KINDS,
                worker.measure_errors(
                    inputs, reference, [single_plan(units, unit.name, kind) for kind in KINDS]
                ),
                strict=True,
            )
        )
        for unit in units
    }
    return estimated, whole


@pytest.mark.parametrize("measure", ["kl", "cosine", "margin"])
def test_the_order_of_units_is_that_of_whole_sessions(measured, measure):
    estimated, whole = measured
    assert estimated.keys() == whole.keys()
    assert len(whole) == 4 * LAYERS
    pairs = np.asarray(
        [
            [getattr(each[unit][kind], measure) for each in (estimated, whole)]
            for unit in whole
            for kind in KINDS
        ]
    )
    assert spearmanr(pairs[:, 0], pairs[:, 1]).statistic > 0.9
    small = pairs[pairs[:, 1] < 0.01]
    assert len(small) > 30
    assert np.median(small[:, 0] / small[:, 1]) == pytest.approx(1, abs=0.3)


def test_per_call_scales_and_unknown_layers_have_no_estimate(measured, tmp_path):
    del measured
    from tests.support.packages import commit_tiny

    commit_tiny(Zoo(tmp_path / "zoo"))
    (tmp_path / "texts.txt").write_text("\n".join(f"{SENTENCES[i % 6]} {i}" for i in range(60)))
    config = validate_config(
        QuantizeConfig,
        {
            "run": {"dir": str(tmp_path / "runs"), "zoo": str(tmp_path / "zoo")},
            "package": "tiny",
            "data": {"source": f"files:{tmp_path / 'texts.txt'}"},
            "goal": {"max_kl": 0.1},
            "calibration_rows": 8,
        },
        "test",
    )
    inputs = prepare(config).inputs
    down = "encoder.layers.0.feed_forward.down"
    wanted = {down: ("row_s7",), "encoder.layers.0.feed_forward.up": ("s7",), "absent": ("row_s7",)}
    found = measure_sensitivities(inputs, wanted)
    assert found.keys() == {down}
    assert found[down].keys() == {"row_s7"}
    assert found == measure_sensitivities(inputs, wanted)
    assert measure_sensitivities(inputs, {"absent": ("row_s7",)}) == {}
    assert inputs.source.emit(Plan({})).products == {}


def test_graphs_of_shared_parts_are_those_made_alone(tmp_path, monkeypatch):
    from dataclasses import replace

    from orchestrator.quantization.emission import graph
    from orchestrator.quantization.emission.equalization import equalizable
    from orchestrator.quantization.plans import fully_quant
    from tests.support.packages import commit_tiny

    commit_tiny(Zoo(tmp_path / "zoo"))
    (tmp_path / "texts.txt").write_text("\n".join(f"{SENTENCES[i % 6]} {i}" for i in range(60)))
    config = validate_config(
        QuantizeConfig,
        {
            "run": {"dir": str(tmp_path / "runs"), "zoo": str(tmp_path / "zoo")},
            "package": "tiny",
            "data": {"source": f"files:{tmp_path / 'texts.txt'}"},
            "goal": {"max_kl": 0.1},
            "calibration_rows": 8,
        },
        "test",
    )
    prepared = prepare(config)
    inputs, units = prepared.inputs, prepared.subject.units
    source = replace(
        inputs.calibrated(worker.calibrate(inputs)).source, channels=worker.measure_channels(inputs)
    )
    norms = tuple(each.norm for each in equalizable(source.model_config))
    assert norms
    kinds = ("static_s7", "row_s7", "row_u8")
    plans = [replace(fully_quant(units, kind), equalized=norms) for kind in kinds]
    plans += [fully_quant(units, "row_s7"), Plan({})]
    alone = [source.emit(plan).to_bytes() for plan in plans]
    shared = replace(source, folded=source.fold({u.name: kinds for u in units}, norms))
    assert len(shared.folded.weights) == 2 * len(units)  # both s7 kinds share a weight
    asked = []
    original = graph.quantize_weight
    monkeypatch.setattr(graph, "quantize_weight", lambda *a: asked.append(a[1]) or original(*a))
    assert [shared.emit(plan).to_bytes() for plan in plans] == alone
    assert asked == ["row_s7"] * len(units)  # of the plan with other norms
