"""The ONNX Runtime session: bad input, batches of s7 plans, and light imports."""

import subprocess
import sys

import numpy as np
import pytest

from orchestrator.errors import InputError, IntegrityError
from orchestrator.quantization.backends.onnxruntime_cpu.session import OnnxModel
from orchestrator.quantization.emission.model import emit
from orchestrator.quantization.plans import fully_quant

from .models import POSITIONS, VOCABULARY, model_config, ragged_batch, random_model, state_of

CONFIG = model_config({"type": "transformer", "num_layers": 1, "num_heads": 4})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("package")
    state = state_of(random_model(CONFIG))
    plan = fully_quant(emit(CONFIG, state).units, "s7")
    (path / "model.onnx").write_bytes(emit(CONFIG, state, plan).to_bytes())
    (path / "plan.json").write_text(plan.to_file().model_dump_json())
    return path


def test_a_package_opens_with_its_limits_and_targets(folder):
    model = OnnxModel.load(folder)
    assert not model.batch_invariant
    assert (model.vocab_size, model.max_length) == (VOCABULARY, POSITIONS)
    assert model.targets == ("mean", "first", "last", "max", "sp")


def test_a_per_tensor_plan_answers_a_batch_as_it_answers_each_text(folder):
    batch = ragged_batch()
    model = OnnxModel.load(folder)
    together = model.predict(batch)
    for row in range(6):
        length = np.flatnonzero(batch["attention_mask"][row])[-1] + 1
        alone = model.predict({k: v[row : row + 1, :length] for k, v in batch.items()})
        for name, values in alone.items():
            assert np.array_equal(values[0], together[name][row])
    padded = OnnxModel(model.session, batch_invariant=True).predict(batch)
    assert not np.array_equal(padded["embedding"], together["embedding"])


def test_masks_and_segments_are_optional(folder):
    model = OnnxModel.load(folder)
    ids = np.asarray([[7, 8, 9]])
    full = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": ids * 0}
    expected = model.predict(full)
    for name, values in model.predict({"input_ids": ids}).items():
        assert np.array_equal(values, expected[name])


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({"input_ids": np.asarray([1, 2])}, r"\[batch, length\]"),
        ({"input_ids": np.zeros((0, 3), int)}, "not empty"),
        ({"input_ids": np.asarray([[1, VOCABULARY]])}, "vocabulary has 50"),
        ({"input_ids": np.asarray([[1, -1]])}, "from -1"),
        ({"input_ids": np.ones((1, POSITIONS + 1), int)}, "40 positions"),
        ({"input_ids": np.ones((1, 3), int), "attention_mask": np.ones((1, 2))}, "shape"),
        (
            {"input_ids": np.ones((2, 3), int), "attention_mask": np.eye(2, 3) * [[1], [0]]},
            r"\[1\]",
        ),
    ],
)
def test_bad_batches_are_refused_with_a_reason(folder, batch, message):
    with pytest.raises(InputError, match=message):
        OnnxModel.load(folder).predict(batch)


def test_a_missing_model_and_a_damaged_model_raise_different_errors(folder, tmp_path):
    with pytest.raises(InputError, match=r"model\.onnx"):
        OnnxModel.load(tmp_path)
    (tmp_path / "model.onnx").write_bytes((folder / "model.onnx").read_bytes()[:5000])
    with pytest.raises(IntegrityError, match="not executable"):
        OnnxModel.load(tmp_path)


def test_serving_a_package_needs_neither_torch_nor_ray_nor_onnx():
    code = (
        "import sys, orchestrator.quantization.backends.onnxruntime_cpu.session; "
        "print({'torch', 'ray', 'onnx', 'pandas', 'transformers'} & set(sys.modules))"
    )
    command = [sys.executable, "-c", code]
    shown = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert shown.stdout.strip() == "set()", shown.stderr
