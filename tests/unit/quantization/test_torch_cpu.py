"""The back end that runs module by module in torch, for packages without a graph."""

import json
import shutil

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from orchestrator.config import load_config
from orchestrator.errors import InputError, IntegrityError, StageError
from orchestrator.inference.inputs import Item
from orchestrator.inference.models import TorchModel
from orchestrator.inference.predictor import Predictor
from orchestrator.quantization.artifact import write_package
from orchestrator.quantization.backends.backend import backend_of, named_backend
from orchestrator.quantization.backends.torch_cpu.layers import Int8Linear, sums_exactly
from orchestrator.quantization.config import QuantizeConfig
from orchestrator.quantization.describing import plan_text
from orchestrator.quantization.inputs import prepare, read_subject
from orchestrator.quantization.kinds import quantize_signed
from orchestrator.quantization.plans import Plan, PlanFile, float_plan, fully_quant
from orchestrator.quantization.results import PARETO_FILE, REPORT_FILE, QuantizationReport
from orchestrator.quantization.search import Search
from orchestrator.quantization.source import Source, read_source
from orchestrator.storage import RunFolder
from orchestrator.zoo import Zoo
from serving.model.engine import load_engine
from serving.model.probe import Probe
from tests.support.packages import LABELS, SENTENCES, commit_tiny
from tests.support.pools import InProcess
from tests.unit.quantization.models import model_config, random_model, state_of

BLOCKS = {"type": "transformer", "num_layers": 2, "num_heads": 4}
FORMS = {
    "experts": {**BLOCKS, "experts": {"num_experts": 4}},
    "gated experts": {
        **BLOCKS,
        "feed_forward": "gated",
        "activation": "silu",
        "experts": {"num_experts": 3},
    },
    "prefix": {**BLOCKS, "mask": "prefix"},
    "blocks": BLOCKS,
}
TORCH = named_backend("torch_cpu")


def source_of(encoder, **options):
    model = random_model(model_config(encoder, **options), 0.1)
    return model, Source(model.config.model_dump(mode="json"), state_of(model))


def ragged():
    ids = np.random.default_rng(0).integers(5, 50, (4, 9)).astype(np.int32)
    mask = np.arange(9)[None, :] < np.array([[9], [4], [7], [1]])
    return {"input_ids": ids, "attention_mask": mask.astype(np.int32), "token_type_ids": ids * 0}


def eager(model, batch, names):
    wide = {name: values.astype(np.int64) for name, values in batch.items()}
    return TorchModel(model).run(wide, names)


@pytest.mark.parametrize("limit", [63, 127])
def test_a_layer_is_the_integer_arithmetic_of_its_kind(limit):
    rng = np.random.default_rng(1)
    x, w = (rng.normal(size=s).astype(np.float32) for s in ((7, 96), (40, 96)))
    bias = rng.normal(size=40).astype(np.float32)
    x[3] = 0
    found = quantize_signed(np.ascontiguousarray(w.T), limit)
    values = np.ascontiguousarray(found.values.T)
    layer = Int8Linear(*map(torch.from_numpy, (values, found.scale, bias)))
    step = np.maximum(np.abs(x).max(-1, keepdims=True), 1e-12) / np.float32(127)
    rows = np.rint(x / step).astype(np.int64)
    expected = (rows @ values.T.astype(np.int64)) * step.astype(np.float64) * found.scale + bias
    answers = layer(torch.from_numpy(x))
    np.testing.assert_allclose(answers.numpy(), expected, rtol=1e-5, atol=1e-6)
    for row in range(7):  # a row alone has the bits that it has among others
        assert torch.equal(layer(torch.from_numpy(x[row : row + 1]))[0], answers[row])
    assert (
        F.cosine_similarity(answers.flatten(), torch.from_numpy(x @ w.T + bias).flatten(), dim=0)
        > 0.999
    )


def test_a_row_that_is_not_finite_is_not_hidden():
    layer = Int8Linear(torch.ones(3, 8, dtype=torch.int8), torch.ones(3), None)
    x = torch.ones(2, 8)
    x[1, 2] = torch.nan
    assert torch.isnan(layer(x)[1]).all()
    assert torch.isfinite(layer(x)[0]).all()
    assert layer(torch.empty(0, 8)).shape == (0, 3)


def test_seven_bits_never_saturate():
    assert sums_exactly(63)


@pytest.mark.parametrize("form", FORMS)
def test_plans_execute_as_the_audit_says(form):
    model, source = source_of(FORMS[form])
    written, batch = TORCH.emit(source), ragged()
    plain = TORCH.open(written.to_bytes(), batch_invariant=True)
    expected = eager(model, batch, plain.outputs)
    for name, values in plain.predict(batch).items():
        np.testing.assert_allclose(values, expected[name], rtol=0, atol=1e-6)
    full = fully_quant(written.units, "row_s7")
    mixed = Plan({**full.kinds, written.units[1].name: "fp32", written.units[-1].name: "fp32"})
    for plan in (full, mixed, float_plan(written.units)):
        content = TORCH.emit(source, plan).to_bytes()
        found = TORCH.audit(content, plan, batch)
        assert found.integer_units == len(plan.integer)
        assert found.float_units == len(plan.kinds) - len(plan.integer)
        answers = TORCH.open(content, batch_invariant=True).predict(batch)["embedding"]
        distance = np.linalg.norm(answers - expected["embedding"]) / np.linalg.norm(answers)
        assert (distance > 1e-4) == bool(plan.integer)
        assert distance < 0.05
    assert len(TORCH.emit(source, full).to_bytes()) < 0.5 * len(written.to_bytes())
    with pytest.raises(StageError, match="planned fp32, ran row_s7 as onednn"):
        TORCH.audit(TORCH.emit(source, full).to_bytes(), float_plan(written.units), batch)


def test_routers_and_heads_stay_in_float():
    _, source = source_of(FORMS["experts"])
    names = [unit.name for unit in TORCH.emit(source).units]
    assert len(names) == 2 * 6
    assert not [name for name in names if "router" in name or name.startswith("targets")]


def test_what_torch_does_not_quantize_is_refused():
    _, source = source_of(FORMS["experts"])
    with pytest.raises(InputError, match="the plan does not fit torch_cpu: nothing, row_u8"):
        TORCH.emit(source, Plan({"nothing": "row_u8"}))
    state = {**source.state, "encoder.layers.0.feed_forward.up": np.full((4, 192, 48), np.nan)}
    with pytest.raises(InputError, match="NaN or infinite"):
        TORCH.emit(Source(source.config, state))
    with pytest.raises(IntegrityError, match="is damaged"):
        TORCH.open(b"12345678 nothing", batch_invariant=True)
    other = TORCH.emit(source).to_bytes().replace(b"orchestrator-int8 1", b"orchestrator-int8 9")
    with pytest.raises(IntegrityError, match="this release reads"):
        TORCH.open(other, batch_invariant=True)


@pytest.fixture
def make_config(tmp_path):
    rows = [
        {"text": f"{SENTENCES[index % 6]} {index}", "label": LABELS[index % 3]}
        for index in range(90)
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))

    def make(mask="prefix", **changes):
        commit_tiny(Zoo(tmp_path / "zoo"), mask=mask)
        settings = {
            "run": {"name": "q", "dir": str(tmp_path / "runs"), "zoo": str(tmp_path / "zoo")},
            "package": "tiny",
            "data": {"source": f"files:{tmp_path / 'rows.jsonl'}"},
            "goal": {"max_accuracy_drop": 1.0},
            "calibration_rows": 8,
            "mixed_plans": 1,
            "latency": {"rounds": 3, "calls": 1, "length": 8},
            **changes,
        }
        (tmp_path / "job.yaml").write_text(json.dumps(settings))
        return load_config(QuantizeConfig, tmp_path / "job.yaml")

    return make


def test_a_package_without_a_graph_is_quantized_predicts_and_serves(make_config, tmp_path, caplog):
    config = make_config(goal={"max_bytes": 30_000})
    with caplog.at_level("WARNING"):
        text = plan_text(config, read_subject(config))
    assert "back end: torch_cpu (torch " in text
    assert "because encoder.mask: prefix cannot be a graph: a graph has no input" in text
    assert "event=backend_chosen backend=torch_cpu" in caplog.text
    prepared = prepare(config)
    with RunFolder.open(config, "quantize") as folder:
        choice = Search(config, prepared, folder, InProcess()).run()
    zoo, parent = Zoo(tmp_path / "zoo"), prepared.subject.package
    stated = parent.manifest.task.model_dump(mode="json")
    with zoo.draft(
        "tiny-int8", kind="quantized", producer={"stage": "q"}, parents=[parent.ref], task=stated
    ) as draft:
        write_package(draft.path, config, prepared, choice)
        package = draft.commit()
    plan = PlanFile.read(package.path)
    assert (plan.backend, plan.batch_invariant) == ("torch_cpu", False)
    assert plan.host.runtime.startswith("torch ")
    report = package.read_model(REPORT_FILE, QuantizationReport)
    integer = [name for name, kind in plan.units.items() if kind != "fp32"]
    assert integer
    assert report.audit.integer_units == len(integer)
    assert report.runtime.name == "torch"
    assert package.has(PARETO_FILE)
    assert not package.has("model.onnx")
    assert (package.path / "model-int8.safetensors").stat().st_size <= 30_000

    engine, predictor = load_engine(package), Predictor.open(package)
    assert (engine.card.backend, engine.card.dtype) == ("torch", "int8")
    Probe.read(package.path).check(engine)
    served = engine.outputs(SENTENCES, ["topic", "embedding"])
    loaded = backend_of(package.path).load(package.path)
    for place, text in enumerate(SENTENCES):
        (sequence,) = predictor.reader.encode([Item(text)])[0].sequences
        alone = loaded.predict({"input_ids": np.array([sequence.input_ids])})
        for name, rows in served.items():
            np.testing.assert_allclose(rows[place], alone[name][0], rtol=0, atol=2e-2)
    answers = predictor.answers(prepared.data.test)
    named = engine.predictor.answers(prepared.data.test)
    assert answers == named
    assert len(answers) == len(prepared.data.test)


def test_settings_that_do_not_act_in_torch_are_refused(make_config):
    with pytest.raises(InputError, match=r"kinds: row_u8 has no kernel in torch_cpu\. Use row_s7"):
        read_subject(make_config(kinds=["row_u8"]))
    with pytest.raises(InputError, match="tables: has no effect with the back end torch_cpu"):
        read_subject(make_config(tables="int8"))
    with pytest.raises(InputError, match="calibrator: has no effect with the back end torch_cpu"):
        read_subject(make_config(calibrator="mse"))
    with pytest.raises(InputError, match="cannot be a graph"):
        read_subject(make_config(backend="onnxruntime_cpu"))


def test_a_back_end_that_is_named_is_used_where_a_graph_exists(make_config):
    subject = read_subject(make_config(mask=None, backend="torch_cpu"))
    assert subject.backend.name == "torch"
    assert subject.reason is None
    assert read_subject(make_config(mask=None)).backend.name == "onnxruntime"


def test_a_back_end_that_is_not_installed_is_named(tmp_path):
    source = read_source(commit_tiny(Zoo(tmp_path / "zoo")).path)
    plan = TORCH.plan_file(Plan({})).model_copy(update={"backend": "elsewhere"})
    folder = tmp_path / "package"
    folder.mkdir()
    (folder / "plan.json").write_text(plan.model_dump_json())
    with pytest.raises(InputError, match="the back end 'elsewhere', which is not installed"):
        backend_of(folder)
    shutil.rmtree(folder)
    folder.mkdir()
    with pytest.raises(InputError, match=r"has no model-int8\.safetensors"):
        TORCH.load(folder)
    assert source.config
