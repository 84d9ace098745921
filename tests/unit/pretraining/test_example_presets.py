"""Presets that read pictures and sounds learn more than how often answers occur, soon."""

from pathlib import Path

import pytest

from orchestrator.config import load_config
from orchestrator.pretraining.baselines import pair_baselines
from orchestrator.pretraining.config import PretrainConfig
from orchestrator.pretraining.inputs import prepare_inputs
from orchestrator.pretraining.worker import pretrain

pytestmark = pytest.mark.slow

CONFIGS = Path(__file__).resolve().parents[3] / "jobs" / "configs"
ALONE = ["cluster.workers=1", "engine.type=single", "train.eval_every_steps=0"]
NOTHING_KEPT = ["train.checkpoint_every_steps=0"]


def shortened(name, *overrides):
    path = CONFIGS / f"pretrain_{name}_nano.yaml"
    return load_config(PretrainConfig, path, [*ALONE, *NOTHING_KEPT, *overrides])


@pytest.mark.parametrize(
    ("name", "target", "steps", "rows", "share"),
    [
        ("beit", "mim", 80, 1200, 0.92),
        ("clip", "clr", 60, 1500, 0.8),
        ("s2t", "lm", 50, 500, 0.93),
    ],
)
def test_a_preset_beats_its_trivial_baseline(alone, tmp_path, name, target, steps, rows, share):
    sizes = [f"train.max_steps={steps}", f"data.data.max_rows={rows}"]
    config = shortened(name, *sizes, "train.micro_batch_size=32", "train.eval_blocks=128")
    job = prepare_inputs(config, tmp_path / "corpora").job(tmp_path)
    summary = pretrain(alone.within(tmp_path), job)
    found, guessed = summary.validation, summary.baselines
    assert found[f"loss.{target}"] < share * guessed[f"loss.{target}"]
    assert found[f"accuracy.{target}"] > guessed[f"accuracy.{target}"]
    assert (summary.unigram_entropy is None) is (name == "clip")


def test_a_partner_is_guessed_among_those_of_the_batch():
    config = shortened("clip", "train.eval_batch_size=4")
    guessed = pair_baselines(config, 10, 2)  # batches of 4 and 4, then of 1 and 1
    assert guessed["loss.clr"] == pytest.approx(8 * 1.3862943611 / 10)
    assert guessed["accuracy.clr"] == pytest.approx(4 / 10)
    sigmoid = shortened("clip", "train.eval_batch_size=2", "model.target.loss=sigmoid")
    # each of two rows: one yes and one no, both with probability 1/2
    assert pair_baselines(sigmoid, 2, 1)["loss.clr"] == pytest.approx(2 * 0.6931471806)
