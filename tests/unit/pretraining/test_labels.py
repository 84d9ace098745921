"""Rows with tags, several labels and numbers: checked, measured against guessing, packaged."""

import json
from pathlib import Path

import numpy as np
import pytest

from orchestrator.errors import InputError
from orchestrator.pretraining import runner
from orchestrator.pretraining.baselines import baselines
from orchestrator.pretraining.inputs import prepare_inputs
from orchestrator.pretraining.worker import pretrain
from orchestrator.storage import RunFolder
from orchestrator.zoo import Zoo

CONLL = Path(__file__).parents[4] / "shared" / "data" / "conll03_cf" / "train_0.tsv"
SOURCE = "data.data.source=files:{}"
COLUMNS = {"tags": "tags", "multilabel": "names", "regression": "numbers"}


@pytest.fixture
def rows(tmp_path):
    """Return rows with labels of every form."""
    found = [
        {
            "text": f"there are {n} foxes",
            "tags": ["O", "O", "N", "N"] if n % 2 else ["O", "O", "N", "O"],
            "names": ["odd"] * (n % 2) + ["big"] * (n > 50),
            "numbers": [n / 10, n % 3],
            "label": "ab"[n % 2],
        }
        for n in range(60)
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, found)))
    return tmp_path / "rows.jsonl"


def overrides(rows, form, size):
    return [
        SOURCE.format(rows),
        f"data.data.label_column={COLUMNS.get(form, 'label')}",
        f"model.target={{type: {form}, num_labels: {size}, dropout: 0.0}}",
    ]


@pytest.mark.parametrize(
    ("form", "size", "found"),
    [
        ("tags", 3, "2 tags"),
        ("multilabel", 1, "2 labels"),
        ("regression", 1, "2 numbers per row"),
        ("cls", 5, "2 classes"),
    ],
)
def test_a_target_with_another_number_of_answers_is_refused_before_anything_starts(
    make_config, rows, tmp_path, form, size, found
):
    config = make_config(*overrides(rows, form, size))
    expected = f"the rows have {found}, the target has num_labels {size}. Set num_labels to 2"
    with pytest.raises(InputError, match=expected):
        runner.check(config)
    with pytest.raises(InputError, match=expected):
        prepare_inputs(config, tmp_path / "cache")
    assert f"labelled for {form}" in runner.check(make_config(*overrides(rows, form, 2)))


def test_guessing_is_per_label_and_per_number(make_config, rows, tmp_path):
    found = {}
    for form in ("multilabel", "regression"):
        config = make_config(*overrides(rows, form, 2))
        inputs = prepare_inputs(config, tmp_path / "cache")
        corpus = inputs.corpus
        found |= baselines(config, inputs.train, inputs.held_out, most=500)
        assert found[f"loss.{form}"] == pytest.approx(corpus.unigram_entropy())
        found[form] = corpus.train.labels, corpus.validation.labels
    seen, asked = found["multilabel"]
    majority = seen.mean(axis=0) > 0.5
    assert found["accuracy.multilabel"] == pytest.approx((asked == majority).mean())
    seen, asked = found["regression"]
    near = np.abs(asked - seen.mean(axis=0)) <= 0.5  # the target's tolerance
    assert found["accuracy.regression"] == pytest.approx(near.mean())


def test_the_package_names_the_tags(alone, make_config, rows):
    target = "model.target=[mlm, {type: tags, num_labels: 2, name: ner}]"
    config = make_config(*overrides(rows, "tags", 2), target, "train.max_steps=2")
    with RunFolder.open(config, runner.STAGE) as run:
        work = runner._Work(config, run)
        job = work.prepare()
        work.commit(pretrain(alone.within(run.path), job))
        metrics = work.result().metrics
    assert Zoo(config.run.zoo).get("tiny-model").manifest.task.labels == {"ner": ["N", "O"]}
    assert {"loss.ner", "accuracy.ner", "baseline_loss.ner", "unigram_entropy"} <= set(metrics)


@pytest.mark.skipif(not CONLL.is_file(), reason=f"no data at {CONLL}")
def test_names_are_found_better_than_by_the_most_frequent_tag(alone, make_job, tmp_path):
    job = make_job(
        SOURCE.format(CONLL),
        "data.data.max_rows=800",
        "data.block_size=40",
        "data.tokenizer={vocab_size: 2000, lowercase: false}",
        "model.max_position_embeddings=40",
        "model.hidden_size=48",
        "model.target={type: tags, num_labels: 9}",
        "train.max_steps=60",
        "train.global_batch_size=16",
        "train.micro_batch_size=16",
        "train.optimizer.learning_rate=0.01",
        "train.eval_every_steps=0",
        "train.checkpoint_every_steps=0",
        "train.eval_blocks=null",
        run_dir=tmp_path / "run",
    )
    summary = pretrain(alone.within(tmp_path / "run"), job)
    guessed = summary.baselines
    assert summary.validation["loss.tags"] < 0.75 * guessed["loss.tags"]
    assert summary.validation["accuracy.tags"] > guessed["accuracy.tags"]
    assert guessed["loss.tags"] == pytest.approx(summary.unigram_entropy, rel=0.15)
