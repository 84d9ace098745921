"""A worker trains, checkpoints, stops, resumes bit for bit, and exports once."""

import errno
import math

import pandas as pd
import pytest
from safetensors.torch import load_file

from orchestrator.errors import InputError, StageError
from orchestrator.pretraining.inputs import open_inputs, prepare_inputs
from orchestrator.pretraining.results import Interrupted, LaunchResult, Summary
from orchestrator.pretraining.state import PretrainPayload
from orchestrator.pretraining.worker import EXPORT, pretrain, pretrain_all
from orchestrator.storage import read_model, verify_folder
from orchestrator.training.events import CheckpointDamaged, Status

DECODER = [
    "model.target=lm",
    "model.target_embedding={parts: [word, pos]}",
    "model.decoder={type: transformer, num_layers: 1, num_heads: 2}",
    "data.tokenizer.vocab_size=310",
]


def weights(folder):
    return {n: v.numpy().tobytes() for n, v in load_file(folder / "model.safetensors").items()}


def launched(worker, jobs):
    """Train jobs as a launch does, through the JSON that crosses the border of the process."""
    payload = PretrainPayload(jobs=jobs).model_dump_json()
    result = pretrain_all(worker, PretrainPayload.model_validate_json(payload))
    return LaunchResult.model_validate_json(result.model_dump_json())


def steps_of(event, split):
    return [e.step for e in event if getattr(e, "split", "") == split]


@pytest.fixture
def finished(alone, make_job, tmp_path):
    """An uninterrupted run: folder and summary."""
    folder = tmp_path / "whole"
    return folder / EXPORT, pretrain(alone.within(folder), make_job(run_dir=folder))


def test_a_run_measures_saves_and_exports(finished, alone):
    export, summary = finished
    verify_folder(export)
    assert summary.step == 6
    assert summary.stopped is False
    assert steps_of(alone.events, "train") == [1, 2, 3, 4, 5, 6]
    assert steps_of(alone.events, "validation") == [3, 6]
    assert read_model(export / "summary.json", Summary) == summary
    assert summary.unigram_entropy > 1
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
    assert pretrain(worker, job) == Interrupted(step=4)
    assert not (folder / EXPORT).exists()
    alone.events.clear()
    alone.stop_after.clear()
    summary = pretrain(worker, job)
    assert steps_of(alone.events, "train") == [5, 6]
    said = [each.message for each in alone.events if isinstance(each, Status)]
    assert said == ["building the model", "loading the checkpoint of step 4"]
    assert weights(folder / EXPORT) == weights(finished[0])
    assert summary.validation == finished[1].validation
    first, second = (
        pd.read_parquet(path / "history.parquet").query("metric == 'loss' and split == 'train'")
        for path in (finished[0], folder / EXPORT)
    )
    assert first[["step", "split", "value"]].values.tolist() == (
        second[["step", "split", "value"]].values.tolist()
    )


def test_a_damaged_part_of_the_curves_costs_one_checkpoint_and_no_step(
    finished, alone, make_job, tmp_path
):
    folder = tmp_path / "curves-damaged"
    job, worker = make_job(run_dir=folder), alone.within(folder)
    alone.events.clear()
    alone.stop_after.append(3)
    pretrain(worker, job)
    alone.events.clear()
    alone.stop_after.clear()
    last = sorted((folder / "curves").iterdir())[-1]
    last.write_bytes(last.read_bytes()[:-1])
    pretrain(worker, job)
    (damage,) = (each for each in alone.events if isinstance(each, CheckpointDamaged))
    assert last.name in damage.message
    assert steps_of(alone.events, "train") == [3, 4, 5, 6]
    assert weights(folder / EXPORT) == weights(finished[0])
    history = pd.read_parquet(folder / EXPORT / "history.parquet")
    losses = history[(history.metric == "loss") & (history.split == "train")]
    assert losses.step.tolist() == [1, 2, 3, 4, 5, 6]


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
    assert any(isinstance(each, CheckpointDamaged) for each in alone.events)
    assert steps_of(alone.events, "train") == []
    assert weights(export) == before
    assert again.validation == summary.validation


@pytest.mark.parametrize(
    "overrides",
    [
        ["model.target=lm", "model.encoder.mask=causal"],
        ["model.target=bilm", "model.encoder=bilstm"],
        ["model.target=mlm", "model.encoder={type: gatedcnn, mask: bidirectional}"],
        ["model.target=mlm", "samples={type: masked, masking: {units: spans, copies: 2}}"],
        ["model.target=[mlm, nsp]"],
        ["model.target=[mlm, {type: sop, weight: 0.1}]"],
        ["model.target=rtd"],
        ["model.target=lm", "model.encoder.mask=prefix"],
        ["model.target=lm", "model.encoder.mask=causal", "data.packing=documents"],
        [*DECODER, "samples={type: spans}", "data.tokenizer.sentinels=4"],
        [*DECODER, "samples={type: denoising}"],
        [*DECODER, "samples={type: gaps}"],
    ],
)
def test_every_objective_learns(alone, make_job, tmp_path, overrides):
    quick = ["train.max_steps=30", "train.optimizer.learning_rate=0.02"]
    rarely = ["train.eval_every_steps=0", "train.checkpoint_every_steps=0"]
    job = make_job(*overrides, *quick, *rarely, run_dir=tmp_path / "run")
    summary = pretrain(alone.within(tmp_path / "run"), job)
    first = next(e for e in alone.events if getattr(e, "split", "") == "train")
    assert summary.validation["loss"] < 0.8 * first.metrics["loss"]


def test_a_group_trains_one_model_after_the_other_and_stops_in_between(alone, make_job, tmp_path):
    jobs = [
        make_job(f"run.name=r{n}", "train.max_steps=2", run_dir=tmp_path / f"r{n}")
        for n in range(3)
    ]
    assert [each.step for each in launched(alone, jobs).summaries] == [2, 2, 2]
    later = [make_job(f"run.name=s{n}", run_dir=tmp_path / f"s{n}") for n in range(2)]
    alone.events.clear()
    alone.stop_after.append(1)
    outcome = launched(alone, later)
    assert outcome.stopped
    assert len(outcome.summaries) == 1


def test_digits_are_learnt_from_their_pixels(alone, make_job, tmp_path):
    job = make_job(
        "data={data: {source: builtin:digits, max_rows: 400}}",
        "model.embedding={parts: [{type: patch, image_size: 8, patch_size: 4, channels: 1}, pos]}",
        "model.target={type: cls, num_labels: 10}",
        "train.max_steps=40",
        "train.global_batch_size=32",
        "train.micro_batch_size=32",
        "train.optimizer.learning_rate=0.02",
        "train.eval_every_steps=0",
        "train.checkpoint_every_steps=0",
        "train.eval_blocks=null",
        run_dir=tmp_path / "run",
    )
    summary = pretrain(alone.within(tmp_path / "run"), job)
    assert summary.validation["accuracy.cls"] > 3 * summary.baselines["accuracy.cls"]
    assert summary.baselines["loss.cls"] == pytest.approx(math.log(10), abs=0.15)


def test_every_target_of_several_is_measured_and_compared(alone, make_job, tmp_path):
    job = make_job("model.target=[mlm, nsp]", "train.max_steps=2", run_dir=tmp_path / "run")
    summary = pretrain(alone.within(tmp_path / "run"), job)
    assert set(summary.validation) >= {"loss.mlm", "loss.nsp", "accuracy.nsp"}
    assert summary.baselines["loss.nsp"] == pytest.approx(math.log(2), abs=0.05)
    assert summary.baselines["accuracy.nsp"] == pytest.approx(0.5, abs=0.2)


def test_a_mixture_is_trained_and_measured_on_all_its_sources(alone, make_job, documents, tmp_path):
    (tmp_path / "other").mkdir()
    for index in range(40):
        (tmp_path / "other" / f"{index}.txt").write_text(
            f"one two three {index} four five six " * 4
        )
    sources = (
        f"[{{data: {{source: 'files:{documents}'}}}}, "
        f"{{data: {{source: 'files:{tmp_path}/other'}}, weight: 2}}]"
    )
    tokenizer = "tokenizer: {vocab_size: 300}"
    job = make_job(
        f"data={{mixture: {sources}, {tokenizer}, block_size: 16}}", run_dir=tmp_path / "run"
    )
    summary = pretrain(alone.within(tmp_path / "run"), job)
    assert summary.step == 6
    inputs = open_inputs(job)
    assert len(inputs.corpus.train.parts) == 2
    border = inputs.corpus.validation.parts[0]
    assert {index >= border for index in inputs.held_out._indices.tolist()} == {False, True}


def test_what_samples_lack_is_said_before_workers_start(make_config, tmp_path):
    (tmp_path / "few.txt").write_text("first document here\nsecond document there\n")
    config = make_config(f"data.data.source=files:{tmp_path}/few.txt", "model.target=[mlm, nsp]")
    with pytest.raises(InputError, match="at least two documents"):
        prepare_inputs(config, tmp_path / "cache")


def test_an_export_that_finds_no_space_says_so_and_leaves_nothing(
    alone, make_job, tmp_path, monkeypatch
):
    def full(folder, *_):
        (folder / "model.safetensors").write_bytes(b"half of it")
        raise OSError(errno.ENOSPC, "No space left on device")

    folder = tmp_path / "run"
    job = make_job("train.max_steps=2", run_dir=folder)
    with monkeypatch.context() as patched:
        patched.setattr("orchestrator.pretraining.worker.stream_model", full)
        with pytest.raises(StageError, match="No space left"):
            pretrain(alone.within(folder), job)
    assert not list(folder.glob(f"{EXPORT}*"))
    assert pretrain(alone.within(folder), job).step == 2


def test_held_out_documents_in_which_nothing_is_asked_for_are_refused(make_config, tmp_path):
    (tmp_path / "short.txt").write_text("\n".join(f"word{n}" for n in range(60)))
    source = f"data.data.source=files:{tmp_path}/short.txt"
    config = make_config(source, *DECODER, "samples={type: gaps}")
    with pytest.raises(InputError, match="no held-out sample has a label"):
        prepare_inputs(config, tmp_path / "cache")
