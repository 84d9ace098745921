"""A finished export becomes one package; bad jobs are refused before anything starts."""

import json
import shutil

import pytest

from orchestrator.cluster import launcher, session
from orchestrator.data.processors.text import TextProcessor
from orchestrator.errors import InputError
from orchestrator.modeling.package import load_model
from orchestrator.pretraining import runner
from orchestrator.pretraining.worker import pretrain
from orchestrator.storage import RunFolder
from orchestrator.zoo import Zoo


@pytest.fixture
def work(alone, make_config):
    """A run that has trained and exported, but has no package yet."""
    config = make_config("train.max_steps=2", "package.licence=MIT")
    with RunFolder.open(config, runner.STAGE) as run:
        found = runner._Work(config, run)
        job = found.prepare()
        found.summary = pretrain(alone.within(run.path), job)
        yield found


def test_the_package_holds_everything_the_next_stage_needs(work):
    work.commit(work.summary)
    result = work.result()
    assert result.package == "tiny-model/v0001"
    package = Zoo(work.config.run.zoo).get("tiny-model")
    package.verify()
    assert package.kind == "pretrained"
    assert package.manifest.licence == "MIT"
    assert package.manifest.task.kind == "mlm"
    assert package.manifest.task.max_length == 16
    model = load_model(package.path)
    batch = TextProcessor.load(package.path)(["the red fox sees a dog"])
    assert model.encode(batch).shape[-1] == 16
    report = json.loads((package.path / "evaluation" / "pretraining.json").read_text())
    assert report["loss"] == pytest.approx(result.metrics["loss"])
    assert report["unigram_entropy"] > 0
    assert package.history() is not None
    assert (package.path / "job.yaml").exists()


def test_a_finished_run_answers_at_once_and_keeps_its_last_checkpoint(work, monkeypatch):
    (work.run.path / "best" / "checkpoints" / "step-00000002").mkdir(parents=True)
    work.commit(work.summary)
    work.run.close()
    for name in ("best", "export"):
        assert not (work.run.path / name).exists()
    assert [path.name for path in (work.run.path / "checkpoints").iterdir()] == ["step-00000002"]
    monkeypatch.setattr(runner, "_train", None)
    assert runner.run(work.config).package == "tiny-model/v0001"


def test_a_run_does_not_go_on_with_other_data(make_config, documents, tmp_path):
    """Its shapes are the same, its tokens are not: the weights would mean nothing."""
    own = shutil.copytree(documents, tmp_path / "own")
    config = make_config(f"data.data.source=files:{own}")
    with RunFolder.open(config, runner.STAGE) as run:
        for _ in range(2):
            runner._Work(config, run).prepare()
        (own / "later.txt").write_text("the fox likes something that is quite new")
        with pytest.raises(InputError, match=r"'tiny' began with other data \(120 documents"):
            runner._Work(config, run).prepare()


def test_jobs_of_one_group_must_agree_about_the_group(make_config):
    with pytest.raises(InputError, match="same cluster section"):
        runner.run_all([make_config(), make_config("cluster.max_failures=1")])


def test_a_missing_corpus_is_refused_before_ray_starts_and_leaves_nothing(
    make_config, documents, tmp_path, monkeypatch
):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(session, "_private_ray", None)
    place = tmp_path / "later"
    config = make_config(f"data.data.source=files:{place}")
    with pytest.raises(InputError, match="later"):
        runner.run(config)
    assert not (tmp_path / "runs" / "tiny").exists()
    shutil.copytree(documents, place)
    monkeypatch.setattr(launcher, "launch", None)
    with pytest.raises(TypeError, match="not callable"):  # it gets as far as the launch
        runner.run(make_config(f"data.data.source=files:{place}", "seed=8"))


def test_too_many_workers_are_refused_before_the_corpus_is_read(make_config, tmp_path):
    config = make_config("cluster.workers=8000", "train.global_batch_size=32000")
    with pytest.raises(InputError, match=r"cluster\.workers: 8000 × 1 CPU asked"):
        runner.run(config)
    assert not (tmp_path / "runs" / "corpora").exists()
