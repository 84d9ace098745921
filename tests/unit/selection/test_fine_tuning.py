import numpy as np
import pytest
import torch

from orchestrator.data.sources.opening import load_task
from orchestrator.data.spec import DatasetSpec
from orchestrator.errors import IntegrityError
from orchestrator.modeling.model import Model
from orchestrator.modeling.package import load_model
from orchestrator.selection.scores.features import (
    ProxyPayload,
    extract,
    sample_rows,
    score_package,
    try_package,
)
from orchestrator.selection.ties.row_scores import read_row_scores
from orchestrator.selection.trials import fine_tuning, loading, threads
from orchestrator.selection.trials.fine_tuning import (
    FineTuneTrial,
    TrialPayload,
    committed_rows,
)
from orchestrator.selection.trials.single import FinishTrial
from orchestrator.training.finetune.finetuner import FineTuner
from orchestrator.zoo import Zoo
from tests.support.candidates import (
    FINE_TUNE,
    TARGET,
    commit_broken,
    make_processor,
    make_world,
    spec,
)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("world"), encoders=("bert",))


def payload(world, state, **changes):
    settings = {
        "trial": "bert/v0001",
        "package": "bert/v0001",
        "zoo": str(world / "zoo"),
        "task": spec(world, TARGET),
        "fine_tune": FINE_TUNE,
        "seed": 3,
        "state": str(state),
        "start": 0,
        "keep_package": True,
    }
    return TrialPayload.model_validate(settings | changes)


def values(rows):
    return [(row.rung, row.validation, row.test, row.steps) for row in rows]


@pytest.mark.parametrize("moved", [False, True])
def test_a_trial_paused_here_or_moved_equals_one_that_was_not(moved, world, tmp_path):
    whole = FineTuneTrial(payload(world, tmp_path / "whole"))
    straight, done = zip(*((whole.step(), whole.done) for _ in range(3)), strict=True)
    assert done == (False, False, True)
    assert straight[0].test is None
    assert 0 <= straight[2].test <= 1
    first = FineTuneTrial(payload(world, tmp_path / "parts"))
    rows = [first.step()]
    first.save(tmp_path)
    if moved:  # another process holds no training
        loading._held.clear()
    second = FineTuneTrial(payload(world, tmp_path / "parts"))
    second.load(tmp_path)
    rows += [second.step(), second.step()]
    assert values(rows) == values(straight)


def test_a_large_model_uses_the_cpus_of_idle_slots(world, tmp_path, monkeypatch):
    seen, before, train = [], torch.get_num_threads(), FineTuner.train_epoch

    def counted(tuner, steps):
        seen.append(torch.get_num_threads())
        train(tuner, steps)

    monkeypatch.setattr(FineTuner, "train_epoch", counted)
    rows = [FineTuneTrial(payload(world, tmp_path / "small", slots=2)).step()]
    monkeypatch.setattr(threads, "MIN_WEIGHTS", 1)
    rows.append(FineTuneTrial(payload(world, tmp_path / "large", slots=2)).step())
    assert [row.slots for row in rows] == [1, 2]
    assert seen == [before, 2 * before]
    assert torch.get_num_threads() == before


def test_slots_are_lent_to_a_trial_that_trains_until_its_rung_ends(world, tmp_path, monkeypatch):
    seen, before, evaluate = [], torch.get_num_threads(), FineTuner.evaluate

    def counted(tuner, split):
        seen.append(torch.get_num_threads())
        return evaluate(tuner, split)

    monkeypatch.setattr(FineTuner, "evaluate", counted)
    monkeypatch.setattr(threads, "LOOK_EVERY_S", 0.0)
    state = str(tmp_path / "state")
    threads.lend(state, rung=1, slots=3)
    small = FineTuneTrial(payload(world, state)).step()
    monkeypatch.setattr(threads, "MIN_WEIGHTS", 1)
    large = tmp_path / "large"
    threads.lend(str(large), rung=1, slots=3)
    trial = FineTuneTrial(payload(world, large))
    rows = [trial.step(), trial.step()]
    assert small.slots == 1
    assert 1 < rows[0].slots <= 3
    assert rows[1].slots == 1
    assert seen == [before, 3 * before, before]
    assert torch.get_num_threads() == before


def test_bf16_rounds_the_passes_and_nothing_else(world, tmp_path, monkeypatch):
    seen = []
    forward = Model.forward

    def watch(model, batch, *rest):
        seen.append((torch.is_autocast_enabled("cpu"), next(model.parameters()).dtype))
        return forward(model, batch, *rest)

    monkeypatch.setattr(Model, "forward", watch)
    trial = FineTuneTrial(payload(world, tmp_path / "half", precision="bf16"))
    half = trial.step()
    assert (True, torch.float32) in seen
    assert {kind for _, kind in seen} == {torch.float32}
    seen.clear()
    full = FineTuneTrial(payload(world, tmp_path / "full")).step()
    assert {enabled for enabled, _ in seen} == {False}
    assert half.loss != full.loss
    assert half.loss == pytest.approx(full.loss, rel=0.05)


def test_a_committed_epoch_is_never_trained_again(world, tmp_path):
    trial = FineTuneTrial(payload(world, tmp_path / "state"))
    rows = [trial.step(), trial.step()]
    again = FineTuneTrial(payload(world, tmp_path / "state"))
    assert again.step().finished_at == rows[0].finished_at
    assert again.step().finished_at == rows[1].finished_at
    assert again.step().rung == 3
    assert [row.rung for row in committed_rows(tmp_path / "state")] == [1, 2, 3]
    assert (tmp_path / "state" / "package" / "model.safetensors").is_file()


def test_a_trial_that_ends_early_becomes_a_package(world, tmp_path):
    trial = FineTuneTrial(payload(world, tmp_path / "state"))
    first = trial.step()
    assert first.startup_s > 0
    last = FinishTrial(payload(world, tmp_path / "state", start=1)).step()
    assert (last.rung, last.validation, last.phase) == (1, first.validation, "completion")
    assert 0 <= last.test <= 1
    assert set(load_model(tmp_path / "state" / "package").targets) == {TARGET}
    assert FinishTrial(payload(world, tmp_path / "state", start=1)).step() == last


def test_a_damaged_state_is_refused(world, tmp_path):
    FineTuneTrial(payload(world, tmp_path / "state")).step()
    victim = next((tmp_path / "state" / "trainer").glob("*.safetensors"))
    victim.write_bytes(victim.read_bytes()[:-8])
    with pytest.raises(IntegrityError, match="train this trial again"):
        FineTuneTrial(payload(world, tmp_path / "state")).step()


def test_errors_that_a_retry_would_repeat_are_results(world, tmp_path, monkeypatch):
    commit_broken(Zoo(world / "zoo"), make_processor())
    trial = FineTuneTrial(payload(world, tmp_path / "nan", package="nan/v0002"))
    row = trial.step()
    assert trial.done
    assert row.validation is None
    assert "weights that are not finite: embedding" in row.error
    assert not (tmp_path / "nan").exists()
    score = try_package(
        ProxyPayload(
            package="nan/v0002",
            zoo=str(world / "zoo"),
            task=DatasetSpec(**spec(world, TARGET)),
            proxies=("knn",),
            rows=40,
            max_length=12,
            seed=3,
        )
    )
    assert "not finite" in score.error
    monkeypatch.setattr(fine_tuning, "package_of", failing(OSError("the disk is gone")))
    with pytest.raises(OSError, match="disk is gone"):  # may pass: Tune starts it again
        FineTuneTrial(payload(world, tmp_path / "disk")).step()


def failing(error):
    def fail(*_):
        raise error

    return fail


def test_proxies_read_training_rows_of_one_package(world):
    score = score_package(
        ProxyPayload(
            package="bert/v0001",
            zoo=str(world / "zoo"),
            task=DatasetSpec(**spec(world, TARGET)),
            proxies=("h_score", "knn", "logme", "leep"),
            rows=40,
            max_length=12,
            seed=3,
        )
    )
    assert set(score.values) == {"h_score", "knn", "logme"}  # headless: no LEEP
    assert score.rows == 40
    task = load_task(DatasetSpec(**spec(world, TARGET)))
    rows = sample_rows(task.train, 40, 3)
    assert set(rows.texts) <= set(task.train.texts)
    features, probabilities = extract(Zoo(world / "zoo").get("bert").path, rows, 12, set())
    assert features.shape == (40, 16)
    assert probabilities is None


def test_a_trained_head_gives_source_probabilities(world, tmp_path):
    trial = FineTuneTrial(payload(world, tmp_path / "state", fine_tune={**FINE_TUNE, "epochs": 1}))
    trial.step()
    task = load_task(DatasetSpec(**spec(world, TARGET)))
    folder = tmp_path / "state" / "package"
    features, probabilities = extract(folder, task.validation, 12, {TARGET})
    assert probabilities.shape == (len(task.validation), 3)
    assert probabilities.sum(axis=1) == pytest.approx(1.0)
    assert len(features) == len(task.validation)


def test_scores_per_row_are_the_validation_score(world, tmp_path):
    trial = FineTuneTrial(payload(world, tmp_path / "state", row_scores=str(tmp_path / "correct")))
    results = [trial.step(), trial.step()]
    task = load_task(DatasetSpec(**spec(world, TARGET)))
    for row in results:
        right = read_row_scores(tmp_path / "correct", "bert/v0001", row.rung)
        assert len(right) == len(task.validation)
        assert right.mean() == pytest.approx(row.validation, abs=1e-6)


def proxy_payload(world, tmp_path, **changes):
    settings = {
        "package": "bert/v0001",
        "zoo": str(world / "zoo"),
        "task": spec(world, TARGET),
        "proxies": ["knn"],
        "rows": 40,
        "max_length": 12,
        "seed": 3,
        "cache": str(tmp_path / "features"),
    }
    return ProxyPayload.model_validate(settings | changes)


def test_another_proxy_does_not_read_the_model_again(world, tmp_path, monkeypatch):
    first = score_package(proxy_payload(world, tmp_path))
    others = {"rows": 30}, {"seed": 4}, {"max_length": 8}, {"layers": "mean"}
    assert not any(score_package(proxy_payload(world, tmp_path, **o)).cached for o in others)
    assert len(list((tmp_path / "features").iterdir())) == 5
    monkeypatch.setattr("orchestrator.modeling.package.load_model", lambda _: pytest.fail("read"))
    again = score_package(proxy_payload(world, tmp_path, proxies=["knn", "h_score"]))
    assert (first.cached, again.cached) == (False, True)
    assert again.values["knn"] == first.values["knn"]
    assert again.nulls["knn"] == first.nulls["knn"]


def test_damaged_features_are_made_anew_and_old_ones_go(world, tmp_path, monkeypatch):
    score_package(proxy_payload(world, tmp_path))
    (file,) = (tmp_path / "features").iterdir()
    file.write_bytes(b"PK\x03\x04")
    assert not score_package(proxy_payload(world, tmp_path)).cached
    assert score_package(proxy_payload(world, tmp_path)).cached
    monkeypatch.setattr("orchestrator.selection.scores.feature_cache.MAX_BYTES", 1)
    score_package(proxy_payload(world, tmp_path, seed=9))
    assert list((tmp_path / "features").iterdir()) == []


def test_the_mean_over_layers_is_that_of_the_blocks(tmp_path, caplog):
    world = make_world(tmp_path, encoders=("bert", "bert-two", "conv"))
    rows = load_task(DatasetSpec(**spec(world, TARGET))).train
    zoo = Zoo(world / "zoo")
    last, mean = (
        extract(zoo.get("bert").path, rows, 12, set(), layers)[0] for layers in ("last", "mean")
    )
    np.testing.assert_allclose(last, mean, atol=1e-6)  # one layer is its own mean
    last, mean = (
        extract(zoo.get("bert-two").path, rows, 12, set(), layers)[0] for layers in ("last", "mean")
    )
    assert np.abs(last - mean).max() > 1e-3
    assert not caplog.records
    extract(zoo.get("conv").path, rows, 12, set(), "mean")
    assert "shows only the last layer" in caplog.text
