"""Settings of a fine-tuning job that do not go together."""

import pytest

from orchestrator.config import load_config
from orchestrator.errors import ConfigError
from orchestrator.finetuning.config import FinetuneConfig

BASE = ("package=minilm", "output=spam", "data.source=files:mails.csv")


def test_the_command_line_alone_is_enough():
    config = load_config(FinetuneConfig, None, BASE)
    assert (config.run.name, config.lessons[0].head) == ("finetune-spam", "spam")
    named = load_config(FinetuneConfig, None, [*BASE, "run.name=mine"])
    assert named.run.name == "mine"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["package=a", "output=b"], r"data\.source: is missing"),
        ([*BASE, "task=sentiment"], "not a registered task"),
        ([*BASE, "promotion.max_drop={default: 0.1}"], "no effect without keep_heads"),
        ([*BASE, "train.micro_batch_size=7"], r"train\.micro_batch_size: 7 does not divide"),
        ([*BASE, "cluster.workers=3"], r"train\.global_batch_size: 32 does not divide over 3"),
        ([*BASE, "engine.type=single", "cluster.workers=2"], "runs on one worker"),
        ([*BASE, "tasks=[{data: {source: 'files:a.csv'}}]"], "given beside tasks"),
        ([*BASE, "train.learning_rate=fast"], r"train\.learning_rate"),
        ([*BASE, "train.optimizer.type=muon"], r"train\.optimizer"),
    ],
)
def test_problems(overrides, message):
    with pytest.raises(ConfigError, match=message):
        load_config(FinetuneConfig, None, overrides)
