"""The probe: another host's last bit passes, the file of another plan does not."""

import numpy as np
import pytest

from orchestrator.quantization.backends.onnxruntime_cpu.session import OnnxModel
from orchestrator.quantization.emission.model import emit
from orchestrator.quantization.plans import Plan, fully_quant
from orchestrator.quantization.probing import FLOOR, make_probe, perturbed_sources
from orchestrator.quantization.source import Source

from .models import VOCABULARY, model_config, random_model, state_of

CONFIG = model_config({"type": "transformer", "num_layers": 3, "num_heads": 4})
TEXTS = [f"text {index}" for index in range(16)]


@pytest.fixture(scope="module")
def source():
    return Source(CONFIG.model_dump(mode="json"), state_of(random_model(CONFIG, spread=0.2)))


@pytest.fixture(scope="module")
def arrays():
    rng = np.random.default_rng(0)
    return {"input_ids": rng.integers(5, VOCABULARY, (len(TEXTS), 20))}


def opened(source, kind):
    plan = fully_quant(emit(CONFIG, source.state).units, kind) if kind else Plan({})
    return OnnxModel.from_bytes(source.emit(plan).to_bytes(), batch_invariant=True)


def largest_movement(probe, answers):
    """As a server computes it, on the texts of the probe."""
    rows = [TEXTS.index(text) for text in probe.texts]
    expected = {name: np.asarray(values) for name, values in probe.outputs.items()}
    return max(
        float((np.abs(answers[name][rows] - values) / (1 + np.abs(values))).max())
        for name, values in expected.items()
    )


@pytest.mark.parametrize("kind", ["row_s7", "row_u8"])
def test_last_bits_stay_within_the_tolerance_and_other_plans_do_not(source, arrays, kind):
    perturbed = [opened(each, kind) for each in perturbed_sources(source, seed=0)]
    probe = make_probe(opened(source, kind), perturbed, TEXTS, arrays, 4)
    assert len(set(probe.texts)) == 4
    assert FLOOR <= probe.tolerance < 0.05
    for other in perturbed_sources(source, seed=1, draws=12):
        assert largest_movement(probe, opened(other, kind).predict(arrays)) <= probe.tolerance
    for wrong in {"row_s7", "row_u8", None} - {kind}:
        moved = largest_movement(probe, opened(source, wrong).predict(arrays))
        assert moved > 2 * probe.tolerance


def test_texts_that_move_are_left_out_and_what_is_left_sets_the_tolerance():
    class Answers:
        def __init__(self, *values):
            self.values = np.asarray(values, np.float32)[:, None]

        def predict(self, batch):
            return {"embedding": self.values}

    model, texts = Answers(0.0, 1.0, 0.0, 0.0), ["a", "b", "c", "d"]
    probe = make_probe(model, [Answers(0.2, 1.0, 0.0, 0.001), Answers(0, 1.1, 0, 0)], texts, {}, 2)
    assert probe.texts == ("c", "d")
    assert probe.outputs == {"embedding": [[0.0], [0.0]]}
    assert probe.tolerance == pytest.approx(0.004)
    assert make_probe(model, [model], texts, {}, 2).tolerance == FLOOR


def test_answers_for_tokens_are_stored_without_padding():
    class Tags:
        def predict(self, batch):
            return {"tags": np.arange(12, dtype=np.float32).reshape(2, 3, 2)}

    batch = {"attention_mask": np.asarray([[1, 1, 0], [1, 1, 1]])}
    probe = make_probe(Tags(), [], ["a", "b"], batch, 2)
    assert [len(rows) for rows in probe.outputs["tags"]] == [2, 3]
    assert probe.outputs["tags"][0] == [[0.0, 1.0], [2.0, 3.0]]
