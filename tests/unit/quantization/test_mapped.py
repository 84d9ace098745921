"""Mapped weights: the same bits, aligned places, and damaged files."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from orchestrator.errors import IntegrityError
from orchestrator.quantization.backends.onnxruntime_cpu import mapped
from orchestrator.quantization.backends.onnxruntime_cpu.session import OnnxModel, open_session
from orchestrator.quantization.emission.model import emit
from orchestrator.quantization.plans import fully_quant

from .models import model_config, ragged_batch, random_model, state_of

CONFIG = model_config({"type": "transformer", "num_layers": 2, "num_heads": 4})


@pytest.fixture(scope="module", params=["fp32", "row_s7"])
def emission(request):
    state = state_of(random_model(CONFIG))
    plan = fully_quant(emit(CONFIG, state).units, "row_s7") if request.param != "fp32" else None
    return emit(CONFIG, state, plan)


@pytest.fixture
def small(monkeypatch):
    """Map every weight of at least 256 bytes."""
    monkeypatch.setattr(mapped, "SMALLEST", 256)


@pytest.mark.usefixtures("small")
def test_mapped_weights_answer_with_the_same_bits(emission, tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(emission.to_bytes())
    weights = onnx.load_from_string(mapped.graph_of(path)).graph.initializer
    assert sum(each.data_location == onnx.TensorProto.EXTERNAL for each in weights) > 8
    in_memory = OnnxModel.from_bytes(emission.to_bytes(), batch_invariant=True)
    (tmp_path / "link").symlink_to(tmp_path)
    for folder in (tmp_path, tmp_path / "link"):
        found = OnnxModel.load(folder).predict(ragged_batch())
        for name, values in in_memory.predict(ragged_batch()).items():
            assert np.array_equal(found[name], values)


@pytest.mark.usefixtures("small")
def test_alignment_changes_no_value(emission):
    written = emission.to_bytes()
    model = onnx.load_from_string(written)
    for ours, theirs in zip(model.graph.initializer, emission.model.graph.initializer, strict=True):
        assert ours.name == theirs.name
        assert np.array_equal(numpy_helper.to_array(ours), numpy_helper.to_array(theirs))
        if len(theirs.raw_data) >= 256:
            assert written.index(theirs.raw_data) % mapped.ALIGNMENT == 0


def test_other_files_are_read_as_they_are(emission, tmp_path):
    """Weights at any place, as other tools write them."""
    path = tmp_path / "model.onnx"
    path.write_bytes(b"\x12\x01x" + emission.model.SerializeToString())
    expected = OnnxModel.from_bytes(path.read_bytes(), batch_invariant=True)
    found = OnnxModel(open_session(path), batch_invariant=True).predict(ragged_batch())
    for name, values in expected.predict(ragged_batch()).items():
        assert np.array_equal(found[name], values)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("damage", ["empty", "cut", "cut in a weight", "noise"])
def test_a_damaged_file_is_refused(emission, tmp_path, damage):
    content = emission.to_bytes()
    kept = {"empty": 0, "cut": 10, "cut in a weight": len(content) // 2, "noise": 0}[damage]
    noise = bytes(range(255, 0, -1)) if damage == "noise" else b""
    (tmp_path / "model.onnx").write_bytes(content[:kept] + noise)
    with pytest.raises(IntegrityError, match="not executable"):
        OnnxModel.load(Path(tmp_path))
