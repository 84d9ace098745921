"""Row 14: NaN, infinity and an exploding gradient on one of two workers of a whole run."""

import math
from pathlib import Path

import pytest

from orchestrator.config import load_config
from orchestrator.modeling.package import load_model
from orchestrator.pretraining.config import PretrainConfig
from orchestrator.pretraining.runner import run
from orchestrator.zoo import Zoo
from tests.support.poisoned import POISON, WORKER

PRESET = Path(__file__).resolve().parents[2] / "jobs" / "configs" / "pretrain_bert_nano.yaml"
STEPS, EVERY = 14, 2

pytestmark = pytest.mark.chaos


@pytest.mark.parametrize("stage", [2, 3])
def test_poisoned_samples_are_skipped_gone_around_and_reported(
    local_ray, tmp_path, monkeypatch, caplog, stage
):
    monkeypatch.setattr("orchestrator.pretraining.runner.WORKER", WORKER)
    config = load_config(
        PretrainConfig,
        PRESET,
        [
            *("data.max_documents=200", "data.tokenizer.vocab_size=600", "train.eval_blocks=16"),
            *(f"engine.zero_stage={stage}", "cluster.workers=2", f"train.max_steps={STEPS}"),
            *(f"train.checkpoint_every_steps={EVERY}", "train.log_every_steps=1"),
            *("train.eval_every_steps=0", "train.schedule.warmup_steps=2"),
            *("train.max_skipped_steps=1", "train.max_rollbacks=2", "train.prefetch_steps=0"),
            *(f"run.dir={tmp_path}/runs", f"run.zoo={tmp_path}/zoo"),
        ],
    )
    result = run(config)
    package = Zoo(tmp_path / "zoo").get(result.package)
    package.verify()
    assert all(p.isfinite().all() for p in load_model(package.path).parameters())
    assert math.isfinite(result.metrics["loss"])
    history = package.history()
    train = history[history.split == "train"]
    assert train[train.metric == "loss"].step.is_unique
    skipped = train[(train.metric == "skipped") & (train.value > 0)].step.tolist()
    assert skipped == [3, 6]  # steps 2 and 5; step 6 was given up, and its samples gone around
    assert "around samples [" in caplog.text  # the event, with the samples
    assert len(POISON) == 4
