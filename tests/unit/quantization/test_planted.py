"""Planted outlier channels between V and O: the search keeps those units in float, and no others.

Three value channels of a layer are scaled by c and the columns of its output projection divided by
c, which changes no float answer; their INT8 activations lose all other channels. Times are those
of a cost model (weights per unit), so that the outcome does not depend on the machine.
"""

import numpy as np
import pytest

from orchestrator.config import validate_config
from orchestrator.data.processors.text import TextProcessor
from orchestrator.modeling.builder import build_model
from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.package import write_model
from orchestrator.quantization import worker
from orchestrator.quantization.config import QuantizeConfig
from orchestrator.quantization.inputs import prepare
from orchestrator.quantization.plans import named_plans
from orchestrator.quantization.results import Latency
from orchestrator.quantization.search import Search
from orchestrator.storage import RunFolder
from orchestrator.zoo import Zoo
from tests.support.packages import SENTENCES
from tests.support.pools import InProcess

PLANTED, SCALE, CHANNELS, WIDTH, LAYERS = (0, 2, 5), 400.0, 3, 32, 6
SAVED = {"static_s7": 0.6, "row_s7": 0.5, "row_u8": 0.4}
"""Share of a unit's time that each kind saves."""


def modelled(inputs, plans, lengths=None, shape=None):
    """Return times by the number of weights in each kind, in place of measured ones."""
    units = inputs.source.emit().units
    total = sum(u.shape[0] * u.shape[1] for u in units)
    found = {}
    for name, plan in {"float": plans.get("float"), **plans}.items():
        kinds = {} if plan is None else plan.integer
        saved = sum(
            u.shape[0] * u.shape[1] * SAVED[kinds[u.name]] for u in units if u.name in kinds
        )
        ratio = 1 - saved / total
        found[name] = Latency(
            cpu_ms=ratio, wall_ms=ratio, ratio=ratio, spread=(ratio, ratio), interval=(ratio, ratio)
        )
    return found


def commit(zoo, texts):
    """Commit a 6-layer classifier with outliers in three of its layers."""
    processor = TextProcessor.train(texts, vocab_size=200, max_length=24)
    config = ModelConfig.model_validate(
        {
            "hidden_size": WIDTH,
            "vocab_size": processor.vocab_size,
            "max_position_embeddings": 32,
            "encoder": {"type": "transformer", "num_layers": LAYERS, "num_heads": 4},
            "target": {"type": "cls", "name": "topic", "num_labels": 3},
        }
    )
    model = build_model(config)
    state = {name: tensor.numpy().copy() for name, tensor in model.state_dict().items()}
    rng = np.random.default_rng(0)
    for name, values in state.items():
        if values.ndim == 2:
            state[name] = (rng.standard_normal(values.shape) * 0.15).astype(np.float32)
    state["targets.topic.output.weight"] *= 10
    for layer in PLANTED:
        part = f"encoder.layers.{layer}.attention"
        for name in (f"{part}.value.weight", f"{part}.value.bias"):
            state[name][:CHANNELS] *= SCALE
        state[f"{part}.output.weight"][:, :CHANNELS] /= SCALE
    import torch

    model.load_state_dict({name: torch.from_numpy(values) for name, values in state.items()})
    producer = {"stage": "test", "job": "test"}
    task = {"kind": "classification", "labels": {"topic": ["a", "b", "c"]}, "max_length": 24}
    with zoo.draft("deep", kind="finetuned", producer=producer, task=task) as draft:
        write_model(draft.path, model, config)
        processor.save(draft.path)
        return draft.commit()


@pytest.mark.slow
def test_the_planted_units_stay_in_float_and_hardly_any_other(tmp_path, monkeypatch):
    words = " ".join(SENTENCES).split()
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(words, rng.integers(5, 20))) for _ in range(420)]
    (tmp_path / "texts.txt").write_text("\n".join(texts) + "\n")
    commit(Zoo(tmp_path / "zoo"), texts)
    monkeypatch.setattr(worker, "measure_latencies", modelled)
    config = validate_config(
        QuantizeConfig,
        {
            "run": {"dir": str(tmp_path / "runs"), "zoo": str(tmp_path / "zoo")},
            "package": "deep",
            "data": {"source": f"files:{tmp_path / 'texts.txt'}"},
            "goal": {"max_kl": 0.01},
            "kinds": list(SAVED),
            "calibration_rows": 32,
            "latency": {"rounds": 3, "calls": 1, "length": 8},
        },
        "test",
    )
    prepared, pool = prepare(config), InProcess()
    with RunFolder.open(config, "quantize") as folder:
        choice = Search(config, prepared, folder, pool).run()
    plan, units = choice.point.plan, prepared.subject.units
    outliers = {f"encoder.layers.{layer}.attention.output" for layer in PLANTED}
    assert {unit for unit, kind in plan.kinds.items() if kind == "fp32"} == outliers
    assert len(plan.integer) >= 20
    evaluations = [each for each in choice.points if each.plan.integer]
    assert len(evaluations) <= 15
    pure = named_plans(units, config.kinds)
    kept = [p for p in choice.points if p.name in pure and p.figures.divergence.kl <= 0.01]
    best = min((p.latency.ratio for p in kept), default=1.0)
    assert choice.point.latency.ratio <= 0.85 * best
    assert all(
        p.figures.stopped or p.figures.divergence.kl > 0.01
        for p in choice.points
        if "fully" in p.name
    )
