"""What a worker does: train, checkpoint, stop, resume bit for bit, export once."""

import json

import pandas as pd
import pytest
from safetensors.torch import load_file

from orchestrator.pretraining.worker import EXPORT, pretrain, pretrain_all
from orchestrator.storage import verify_folder


def weights(folder):
    return {n: v.numpy().tobytes() for n, v in load_file(folder / "model.safetensors").items()}


def steps_of(event, split):
    return [e["step"] for e in event if e.get("split") == split]


@pytest.fixture
def finished(alone, make_job, tmp_path):
    """An uninterrupted run: folder and summary."""
    folder = tmp_path / "whole"
    return folder / EXPORT, pretrain(alone.within(folder), make_job(run_dir=folder))


def test_a_run_measures_saves_and_exports(finished, alone):
    export, summary = finished
    verify_folder(export)
    assert summary["step"] == 6
    assert summary["stopped"] is False
    assert steps_of(alone.events, "train") == [1, 2, 3, 4, 5, 6]
    assert steps_of(alone.events, "validation") == [3, 6]
    assert json.loads((export / "summary.json").read_text()) == summary
    assert summary["unigram_entropy"] > 1
    history = pd.read_parquet(export / "history.parquet")
    assert set(history.metric) >= {"loss", "tokens", "tokens_per_second", "accuracy.mlm"}
    assert history.seconds.is_monotonic_increasing


def test_tokens_are_counted_without_padding(finished):
    history = pd.read_parquet(finished[0] / "history.parquet")
    tokens = history[history.metric == "tokens"].value
    assert tokens.max() <= 8 * 16
    assert tokens.sum() > 5 * 8 * 16  # only the last block is padded


def test_a_stopped_and_continued_run_is_the_run_that_was_never_stopped(
    finished, alone, make_job, tmp_path
):
    folder = tmp_path / "stopped"
    job, worker = make_job(run_dir=folder), alone.within(folder)
    alone.events.clear()
    alone.stop_after.append(3)
    assert pretrain(worker, job) == {"stopped": True, "step": 4}
    assert not (folder / EXPORT).exists()
    alone.events.clear()
    alone.stop_after.clear()
    summary = pretrain(worker, job)
    assert steps_of(alone.events, "train") == [5, 6]
    assert weights(folder / EXPORT) == weights(finished[0])
    assert summary["validation"] == finished[1]["validation"]
    first, second = (
        pd.read_parquet(path / "history.parquet").query("metric == 'loss' and split == 'train'")
        for path in (finished[0], folder / EXPORT)
    )
    assert first[["step", "split", "value"]].values.tolist() == (
        second[["step", "split", "value"]].values.tolist()
    )


def test_a_finished_run_is_not_trained_again(finished, alone, make_job, tmp_path):
    folder = tmp_path / "whole"
    alone.events.clear()
    assert pretrain(alone.within(folder), make_job(run_dir=folder)) == finished[1]
    assert alone.events == []


def test_a_damaged_export_is_made_again_from_the_last_checkpoint(
    finished, alone, make_job, tmp_path
):
    export, summary = finished
    before = weights(export)
    (export / "model.safetensors").write_bytes(b"damaged")
    alone.events.clear()
    again = pretrain(alone.within(tmp_path / "whole"), make_job(run_dir=tmp_path / "whole"))
    assert alone.events[0]["event"] == "damaged_export"
    assert steps_of(alone.events, "train") == []
    assert weights(export) == before
    assert again["validation"] == summary["validation"]


@pytest.mark.parametrize(
    "overrides",
    [
        ["model.target=lm", "model.encoder.mask=causal"],
        ["model.target=bilm", "model.encoder=bilstm"],
        ["model.target=mlm", "model.encoder={type: gatedcnn, mask: bidirectional}"],
    ],
)
def test_every_objective_learns(alone, make_job, tmp_path, overrides):
    quick = ["train.max_steps=30", "train.optimizer.learning_rate=0.02"]
    rarely = ["train.eval_every_steps=0", "train.checkpoint_every_steps=0"]
    job = make_job(*overrides, *quick, *rarely, run_dir=tmp_path / "run")
    summary = pretrain(alone.within(tmp_path / "run"), job)
    first = next(e for e in alone.events if e.get("split") == "train")
    assert summary["validation"]["loss"] < 0.8 * first["metrics"]["loss"]


def test_a_group_trains_one_model_after_the_other_and_stops_in_between(alone, make_job, tmp_path):
    jobs = [
        make_job(f"run.name=r{n}", "train.max_steps=2", run_dir=tmp_path / f"r{n}")
        for n in range(3)
    ]
    assert [s["step"] for s in pretrain_all(alone, {"jobs": jobs})["summaries"]] == [2, 2, 2]
    later = [make_job(f"run.name=s{n}", run_dir=tmp_path / f"s{n}") for n in range(2)]
    alone.events.clear()
    alone.stop_after.append(1)
    outcome = pretrain_all(alone, {"jobs": later})
    assert outcome["stopped"]
    assert len(outcome["summaries"]) == 1
