"""Every preset of the fine-tuning stage is resolved, described and trained for an epoch."""

from pathlib import Path

import pytest

from orchestrator.config import load_config
from orchestrator.finetuning.config import FinetuneConfig
from orchestrator.finetuning.inputs import resolve
from orchestrator.finetuning.plan import describe
from orchestrator.zoo import Zoo
from tests.support.lessons import learn
from tests.support.streams import make_place

ROOT = Path(__file__).resolve().parents[3]
PRESETS = sorted((ROOT / "jobs/configs").glob("finetune_*.yaml"))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return make_place(tmp_path_factory.mktemp("place"))


@pytest.mark.parametrize("preset", PRESETS, ids=lambda path: path.stem)
def test_a_preset_is_described_and_trains(preset, place, tmp_path):
    smaller = ["train.epochs=1", "train.max_train_rows=64", "train.max_eval_rows=64"]
    config = load_config(FinetuneConfig, preset, [f"run.zoo={place}/zoo", *smaller])
    assert config.run.name == f"finetune-{config.output}"
    text = describe(resolve(config, Zoo(config.run.zoo).get(config.package)))
    for lesson in config.lessons:
        assert f"task {lesson.head}" in text
    for said in ("classification", "train 64", "classes (", "steps of"):
        assert said in text
    summary, _ = learn(config, tmp_path)
    assert summary.steps == summary.steps_per_epoch
    assert len(summary.trials) == (4 if config.train.learning_rate == "auto" else 0)
