"""The back end of OpenVINO, an optional extra."""

import sys
from dataclasses import replace

import numpy as np
import pytest

from orchestrator.errors import InputError, StageError
from orchestrator.quantization.artifact import write_package
from orchestrator.quantization.backends.backend import default_backend, named_backend
from orchestrator.quantization.inputs import prepare
from orchestrator.quantization.plans import Plan, float_plan, fully_quant
from orchestrator.quantization.search import Search
from orchestrator.quantization.source import Source
from orchestrator.storage import RunFolder
from orchestrator.zoo import Zoo
from serving.model.engine import load_engine
from serving.model.probe import Probe
from tests.support.packages import SENTENCES
from tests.support.pools import InProcess
from tests.unit.quantization.models import model_config, random_model, state_of
from tests.unit.quantization.test_torch_cpu import make_config

__all__ = ["make_config"]
OPENVINO = named_backend("openvino_cpu")


def test_a_missing_extra_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(InputError, match=r"needs OpenVINO: pip install .*\[openvino\]"):
        _ = OPENVINO.version


def test_plans_execute_as_the_audit_says():
    pytest.importorskip("openvino", reason="the extra openvino is not installed")
    config = model_config({"type": "transformer", "num_layers": 2, "num_heads": 4})
    model = random_model(config, 0.1)
    source = Source(config.model_dump(mode="json"), state_of(model))
    ids = np.random.default_rng(0).integers(5, 50, (4, 9)).astype(np.int32)
    mask = (np.arange(9)[None, :] < np.array([[9], [4], [7], [1]])).astype(np.int32)
    batch = {"input_ids": ids, "attention_mask": mask}
    usual = default_backend()
    content = usual.emit(source).to_bytes()
    expected = usual.open(content, batch_invariant=True).predict(batch)
    written = OPENVINO.emit(source)
    assert {unit.name for unit in written.units} <= {u.name for u in usual.emit(source).units}
    plain = OPENVINO.open(written.to_bytes(), batch_invariant=True).predict(batch)
    assert plain.keys() == expected.keys()
    for name, values in plain.items():
        np.testing.assert_allclose(values, expected[name], rtol=0, atol=1e-5)
    observed = OPENVINO.emit(source, observe=True).to_bytes()
    inputs = OPENVINO.open(observed, batch_invariant=True).predict(batch)
    ranges = {
        unit.name: (float(values.min()), float(values.max()))
        for unit in written.units
        for name, values in inputs.items()
        if name.endswith(unit.name)
    }
    source = replace(source, ranges=ranges)
    full = fully_quant(written.units, "static_s7")
    mixed = Plan({**full.kinds, written.units[0].name: "fp32"})
    for plan in (full, mixed, float_plan(written.units)):
        content = OPENVINO.emit(source, plan).to_bytes()
        found = OPENVINO.audit(content, plan, batch)
        assert found.integer_units == len(plan.integer)
        assert found.float_units == len(plan.kinds) - len(plan.integer)
        answers = OPENVINO.open(content, batch_invariant=True).predict(batch)["embedding"]
        distance = np.linalg.norm(answers - expected["embedding"]) / np.linalg.norm(answers)
        assert (distance > 1e-4) == bool(plan.integer)
        assert distance < 0.1
    with pytest.raises(StageError, match=r"planned fp32, ran static_s7"):
        OPENVINO.audit(OPENVINO.emit(source, full).to_bytes(), float_plan(written.units), batch)
    with pytest.raises(InputError, match="does not fit openvino_cpu: row_u8"):
        OPENVINO.emit(source, Plan({written.units[0].name: "row_u8"}))


def test_a_job_that_names_it_makes_a_package_that_serves(make_config, tmp_path):
    pytest.importorskip("openvino", reason="the extra openvino is not installed")
    config = make_config(mask=None, backend="openvino_cpu", goal={"max_accuracy_drop": 1.0})
    prepared = prepare(config)
    with RunFolder.open(config, "quantize") as folder:
        choice = Search(config, prepared, folder, InProcess()).run()
    parent = prepared.subject.package
    stated = parent.manifest.task.model_dump(mode="json")
    with Zoo(tmp_path / "zoo").draft(
        "tiny-int8", kind="quantized", producer={"stage": "q"}, parents=[parent.ref], task=stated
    ) as draft:
        write_package(draft.path, config, prepared, choice)
        package = draft.commit()
    engine = load_engine(package)
    assert (engine.card.backend, engine.card.dtype) == ("openvino", "int8")
    Probe.read(package.path).check(engine)
    assert len(engine.outputs(SENTENCES)["topic"]) == len(SENTENCES)
