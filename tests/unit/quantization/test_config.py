"""Settings: presets, contradictions, entries of registries, and all problems at once."""

from pathlib import Path

import pytest
import yaml

from orchestrator.config import load_config
from orchestrator.errors import ConfigError
from orchestrator.quantization.config import QuantizeConfig

PRESETS = sorted((Path(__file__).parents[3] / "jobs" / "configs").glob("quantize_*.yaml"))


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_presets_are_valid_and_bound_the_accuracy(path):
    config = load_config(QuantizeConfig, path)
    assert 0 < config.goal.max_accuracy_drop < 0.1
    assert config.goal.max_latency_ms is None


def test_the_preset_quantizes_on_rows_the_head_never_learned_from():
    """Splits depend on source and cap: they must be those of the job that trained the head."""
    continual = yaml.safe_load((PRESETS[0].parent / "continual_pydoc.yaml").read_text())
    config = load_config(QuantizeConfig, PRESETS[0].parent / "quantize_pydoc.yaml")
    (task,) = [task for task in continual["tasks"] if task["name"] == config.target]
    assert config.package == continual["output"]
    assert (config.data.source, config.data.max_rows) == (task["source"], task["max_rows"])


def test_all_problems_are_reported_at_once(tmp_path):
    path = tmp_path / "job.yaml"
    path.write_text(
        yaml.safe_dump(
            {
                "run": {"name": "q"},
                "goal": {"max_accuracy_dorp": 0.1, "max_latency_ms": -1},
                "kinds": ["row_s7", "s8"],
                "latency": {"length": 64, "rounds": 1},
                "max_length": 32,
                "cluster": {"gpus_per_worker": 1},
            }
        )
    )
    with pytest.raises(ConfigError) as caught:
        load_config(QuantizeConfig, path)
    text = str(caught.value)
    for expected in (
        "goal.max_accuracy_dorp",
        "max_accuracy_drop",
        "goal.max_latency_ms",
        "kinds.1",
        "latency.rounds",
    ):
        assert expected in text


def test_values_that_do_not_fit_together_are_named(tmp_path):
    path = tmp_path / "job.yaml"
    path.write_text("run: {name: q}\nmax_length: 32\nlatency: {length: 64}\nkinds: [s7, s7]\n")
    with pytest.raises(ConfigError, match=r"3 problems[\s\S]*64 is more than max_length"):
        load_config(QuantizeConfig, path, ["cluster.gpus_per_worker=1"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["method=samp", "mixed_plans=3"], "mixed_plans: 3 has no effect with method samp"),
        (["front_of=q8", "mixed_plans=3"], "mixed_plans: 3 has no effect with front_of"),
        (["front_of=q8", "method=samp"], "method: samp has no effect with front_of"),
        (["kinds=[row_s7]", "calibrator=entropy"], "calibrator: entropy has no effect on row_s7"),
    ],
)
def test_settings_without_effect_are_refused(tmp_path, settings, message):
    path = tmp_path / "job.yaml"
    path.write_text("run: {name: q}\n")
    with pytest.raises(ConfigError, match=message):
        load_config(QuantizeConfig, path, settings)


@pytest.mark.parametrize(
    ("field", "kind", "known"),
    [("backend", "backend", "onnxruntime_cpu"), ("calibrator", "calibrator", "max")],
)
def test_back_ends_and_calibrators_are_entries_of_the_registry(tmp_path, field, kind, known):
    path = tmp_path / "job.yaml"
    path.write_text(f"run: {{name: q}}\n{field}: {known}\n")
    assert getattr(load_config(QuantizeConfig, path), field).type_name() == known
    path.write_text(f"run: {{name: q}}\n{field}: {known}x\n")
    with pytest.raises(ConfigError, match=f"not a registered {kind}. Did you mean '{known}'"):
        load_config(QuantizeConfig, path)
