"""Whole streams in one process on small real packages: matrix, resume, package, presets."""

import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from orchestrator.cluster.context import Worker
from orchestrator.config import load_config
from orchestrator.continual.config import ContinualConfig, ContinualInputs
from orchestrator.continual.metrics import forgetting
from orchestrator.continual.outcome import Outcome, write_package
from orchestrator.continual.parts import find
from orchestrator.continual.plan import describe, gradient_passes
from orchestrator.continual.results import WorkerResult
from orchestrator.continual.stages import Stages
from orchestrator.continual.stream import units_of
from orchestrator.continual.worker import Learner, run
from orchestrator.errors import ConfigError, InputError, IntegrityError
from orchestrator.modeling.package import load_model
from orchestrator.training.config import EngineConfig
from orchestrator.training.events import BUILDING
from orchestrator.training.watchdog import BETWEEN, STORING, Watchdog, _watching
from orchestrator.zoo import Zoo
from tests.support.streams import job, make_place


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return make_place(tmp_path_factory.mktemp("place"))


def learn(place, folder, config, package="encoder"):
    folder.mkdir(exist_ok=True)
    payload = ContinualInputs(config=config, zoo=config.run.zoo, package=package)
    return run(Worker.alone(folder), payload)


def stages(folder, config):
    return Stages(folder / "stream", units_of(config))


def losses(found, index):
    frame = found.history(index).frame()
    return frame[(frame.split == "train") & (frame.metric == "loss")]["value"].tolist()


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


@pytest.fixture(scope="module")
def finished(place):
    """One uninterrupted C&F stream with replay."""
    config = job(place, method={"preset": "c&f+replay", "replay": {"every_steps": 5}})
    folder = place / "finished"
    assert learn(place, folder, config) == WorkerResult(finished=2, stopped=False)
    return config, folder


def test_a_stream_is_learned_with_muon_and_cautious_decay(place):
    optimizer = {"type": "muon", "cautious": True, "learning_rate": 1e-3}
    sizes = {"max_steps": 8, "global_batch_size": 8, "micro_batch_size": 8, "log_every_steps": 1}
    config = job(place, train={"optimizer": optimizer, **sizes})
    folder = place / "muon"
    assert learn(place, folder, config) == WorkerResult(finished=2, stopped=False)
    found = losses(stages(folder, config), 0)
    assert found[-1] < found[0]


def test_every_unit_leaves_what_the_next_one_needs(finished):
    config, folder = finished
    found = stages(folder, config)
    first, second = found.record(0), found.record(1)
    assert list(first.accuracy) == ["task0"]
    assert list(second.accuracy) == ["task0", "task1"]
    assert len(first.buffers["task0"]) == 2
    assert found.weights(0).keys() == found.weights(1).keys()
    names = found.left(0, "importance").keys()
    assert "targets.task0.output.weight" in names
    assert "targets.earlier.output.weight" in names
    assert not any(name.startswith("targets.task1") for name in names)
    assert min(float(v.min()) for v in found.left(1, "importance").values()) >= 0


def test_heads_move_only_in_their_own_task(finished):
    config, folder = finished
    found = stages(folder, config)
    first, second = found.weights(0), found.weights(1)
    moved = {name for name in first if not torch.equal(first[name], second[name])}
    assert "targets.task1.output.weight" in moved
    assert "targets.task0.output.weight" in moved, "replay trains the head of the earlier task"
    assert "targets.earlier.output.weight" not in moved


def test_history_says_what_each_part_did(finished):
    config, folder = finished
    frame = stages(folder, config).history(1).frame()
    metrics = set(frame[frame.split == "train"].metric)
    assert {"loss.task1", "penalty", "clamped_share", "sharpness", "replay_loss"} <= metrics
    assert frame[frame.split == "train"].step.tolist()[0] == 13
    assert set(frame.split) == {"train", "validation", "test"}


class StopsAt(Worker):
    """Asks to stop once the given unit has taken the given number of steps."""

    def should_stop(self):
        self.line.asked += 1
        return self.line.asked == self.line.limit


class Line:
    def __init__(self, limit):
        self.asked, self.limit = 0, limit

    def post(self, event):
        pass

    def stop_requested(self):
        return False

    def progressed(self, run, step):
        pass


class Watched(Worker):
    """Stops at once, and notes limit and phase of the watchdogs."""

    def should_stop(self):
        self.line.limit = [(dog.floor_s, dog._now and dog._now[0]) for dog in _watching]
        return True


def test_a_unit_is_watched(place, tmp_path):
    config = job(place, train={"hang_timeout_s": 77, "max_steps": 2})
    payload, line = ContinualInputs(config=config, zoo=config.run.zoo, package="encoder"), Line(0)
    run(Watched(rank=0, world=1, run_dir=tmp_path, line=line), payload)
    assert line.limit == [(77.0, BETWEEN)]
    assert _watching == []


def test_what_is_done_before_and_after_the_steps_is_watched_and_moves_on(
    place, tmp_path, monkeypatch
):
    """Importance is measured sample by sample: each of them is progress."""
    phases, opened, measured = [], [], []

    def beat(dog):
        phases.append(dog._now and dog._now[0])
        plain(dog)

    def measuring(*given):
        phases.clear()
        found = importance(*given)
        measured.append(Counter(phases))
        return found

    plain, importance = Watchdog.beat, find.gathered_fisher
    monkeypatch.setattr(Watchdog, "beat", beat)
    monkeypatch.setattr(find, "gathered_fisher", measuring)

    def noting(learner, unit):
        opened.append(_watching[0]._now[0])
        return opening(learner, unit)

    opening = Learner._open
    monkeypatch.setattr(Learner, "_open", noting)
    config = job(place, train={"max_steps": 2})
    learn(place, tmp_path, config)
    assert opened == [BUILDING] * 2
    assert measured == [{STORING: config.method.find.fisher_samples}] * 2
    assert _watching == []


def test_weights_of_other_sizes_are_named(place, finished, tmp_path):
    """Each element is found by its place: a larger matrix would be read in part, and wrong."""
    config, folder = finished
    done, mine = stages(folder, config), stages(tmp_path, config)
    weights = done.weights(0)
    name = next(name for name, value in weights.items() if value.dim() == 2)
    rows, width = weights[name].shape
    weights[name] = torch.zeros(rows + 1, width)
    mine.commit(
        mine.units[0], weights=weights, left={}, history=done.history(0), record=done.record(0)
    )
    message = rf"{name} \[{rows + 1}, {width}\] instead of \[{rows}, {width}\]"
    for kind in ("single", "fsdp2"):
        with pytest.raises(IntegrityError, match=message):
            learn(place, tmp_path, config.model_copy(update={"engine": EngineConfig(type=kind)}))


@pytest.mark.parametrize("limit", [3, 12 + 7])
def test_stopped_and_continued_is_bit_equal(place, finished, tmp_path, limit):
    config, reference = finished
    payload = ContinualInputs(config=config, zoo=config.run.zoo, package="encoder")
    stopped = run(StopsAt(rank=0, world=1, run_dir=tmp_path, line=Line(limit)), payload)
    assert stopped == WorkerResult(finished=limit // 12, stopped=True)
    assert learn(place, tmp_path, config) == WorkerResult(finished=2, stopped=False)
    ours, theirs = stages(tmp_path, config), stages(reference, config)
    for index in range(2):
        assert same(ours.weights(index), theirs.weights(index))
        assert same(ours.left(index, "importance"), theirs.left(index, "importance"))
        assert losses(ours, index) == losses(theirs, index)
        assert ours.record(index).buffers == theirs.record(index).buffers


def test_a_finished_task_never_runs_again(place, finished, tmp_path, monkeypatch):
    config, _ = finished
    learned = []
    original = Learner.learn

    def crash_in_the_second(self, unit):
        if unit.index == 1 and not learned.count(1):
            learned.append(1)
            raise RuntimeError("the machine went away")
        learned.append(unit.index)
        return original(self, unit)

    monkeypatch.setattr(Learner, "learn", crash_in_the_second)
    with pytest.raises(RuntimeError, match="went away"):
        learn(place, tmp_path, config)
    assert learn(place, tmp_path, config).finished == 2
    assert learned == [0, 1, 1]
    assert learn(place, tmp_path, config).finished == 2
    assert learned == [0, 1, 1]


def test_a_damaged_unit_is_refused(place, finished, tmp_path):
    config, folder = finished
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    path = stages(tmp_path, config).folder(0) / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    with pytest.raises(IntegrityError, match=r"weights\.safetensors"):
        learn(place, tmp_path, config)


def test_package_of_a_stream(place, finished, tmp_path):
    config, folder = finished
    zoo = Zoo(place / "zoo")
    parent = zoo.get("encoder")
    outcome = Outcome.read(config, parent, stages(folder, config))
    write_package(tmp_path, outcome)
    model = load_model(tmp_path)
    assert list(model.targets) == ["earlier", "task0", "task1"]
    state = load_file(tmp_path / "state/continual.safetensors")
    weights = load_file(tmp_path / "model.safetensors")
    anchors = {k.removeprefix("anchor."): v for k, v in state.items() if k.startswith("anchor.")}
    assert all(torch.equal(weights[name], value) for name, value in anchors.items())
    assert {f"importance.{name}" for name in anchors} <= state.keys()
    evaluation = json.loads((tmp_path / "evaluation/accuracy_matrix.json").read_text())
    assert evaluation["scenario"] == "task-incremental"
    assert evaluation["matrix"][0][1] is None
    assert evaluation["figures"]["forgetting"] == forgetting(outcome.matrix)
    assert outcome.summary.unwatched_heads == ("earlier",)
    assert outcome.task.labels["earlier"] == ["a", "b", "c", "d"]
    assert outcome.task.labels["task0"] == ["animal", "tool"]
    frame = pd.read_parquet(tmp_path / "history.parquet")
    assert frame.seconds.is_monotonic_increasing
    assert load_config(ContinualConfig, tmp_path / "job.yaml") == config
    assert "after task1" in outcome.table()


def test_a_stream_goes_on_from_a_package_of_a_stream(place, finished, tmp_path):
    config, folder = finished
    zoo = Zoo(place / "zoo")
    outcome = Outcome.read(config, zoo.get("encoder"), stages(folder, config))
    with zoo.draft(
        "learned", kind="continual", producer={"stage": "test"}, parents=[],
        task=outcome.task.model_dump(), metrics={},
    ) as draft:  # fmt: skip
        write_package(draft.path, outcome)
        draft.commit()
    more = job(place, count=3, method={"preset": "ewc", "find": {"penalty": 1.0}})
    more = more.model_copy(update={"tasks": more.tasks[2:]})
    assert learn(place, tmp_path, more, "learned").finished == 1
    found = stages(tmp_path, more)
    frame = found.history(0).frame()
    assert frame[frame.metric == "penalty"]["value"].max() > 0, "protected from the first step on"
    assert same(
        {k: v for k, v in found.weights(0).items() if k.startswith("targets.task0")},
        {
            k: v
            for k, v in stages(folder, config).weights(1).items()
            if k.startswith("targets.task0")
        },
    )


@pytest.mark.parametrize("preset", ["finetune", "joint", "replay"])
def test_other_presets_run(place, tmp_path, preset):
    method = {"preset": preset, "replay": {"every_steps": 6, "choice": "random"}}
    config = job(place, method=method)
    learn(place, tmp_path, config)
    found = stages(tmp_path, config)
    outcome = Outcome.read(config, Zoo(place / "zoo").get("encoder"), found)
    assert outcome.summary.steps == 24
    assert (outcome.summary.forgetting is None) == (preset == "joint")
    assert found.left(0, "importance") == {}
    if preset == "joint":
        assert {"loss.task0", "loss.task1"} <= set(found.history(0).frame().metric)


def test_clamp_without_importance_has_anchors(place, tmp_path):
    clamp = {"enabled": True, "radius": 0.0, "floor": 1e-4}
    config = job(place, method={"preset": "finetune", "clamp": clamp})
    learn(place, tmp_path, config)
    found = stages(tmp_path, config)
    first, second = found.weights(0), found.weights(1)
    shared = [n for n in first if not n.startswith("targets.")]
    assert max(float((first[n] - second[n]).abs().max()) for n in shared) <= 1.01e-4
    head = "targets.task1.output.weight"
    assert float((first[head] - second[head]).abs().max()) > 1e-3


def test_sharded_importance_equals_gathered(place, finished, tmp_path):
    config, folder = finished
    find = {**config.method.find.model_dump(), "way": "sharded"}
    method = {**config.method.model_dump(mode="json"), "find": find}
    other = job(place, method=method)
    learn(place, tmp_path, other)
    one, two = (
        stages(folder, config).left(0, "importance"),
        stages(tmp_path, other).left(0, "importance"),
    )
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-4, atol=1e-6)


def outcome_with(place, finished, **promotion):
    config, folder = finished
    config = job(place, promotion=promotion)
    return Outcome.read(config, Zoo(place / "zoo").get("encoder"), stages(folder, config))


def test_promotion_is_refused_beyond_the_bound(place, finished, monkeypatch):
    from orchestrator.continual import outcome as module

    lost = np.array([[0.9, np.nan], [0.6, 0.8]])
    monkeypatch.setattr(module, "_matrix", lambda *_: lost)
    refused = outcome_with(place, finished, max_forgetting=0.2, alias="champion").summary
    assert (refused.promotion, refused.promotion_refused) == ("refused", True)
    within = outcome_with(place, finished, max_forgetting=0.31, alias="champion").summary
    assert (within.promotion, within.promotion_refused) == ("promoted", False)
    assert outcome_with(place, finished).summary.promotion == "not asked"


def test_check_text_counts_gradients(place):
    config = job(place, count=3, method={"preset": "c&f+replay", "replay": {"every_steps": 6}})
    assert gradient_passes(config) == 2 * (36 + 2 * (0 + 1 + 2))
    text = describe(config, Zoo(place / "zoo").get("encoder"))
    assert "create, find, clamp, replay" in text
    assert "84 gradients" in text


def test_check_names_a_missing_file(place):
    config = job(place)
    missing = config.tasks[0].model_copy(update={"source": "files:nowhere.jsonl"})
    config = config.model_copy(update={"tasks": (missing, *config.tasks[1:])})
    with pytest.raises(InputError, match=r"tasks\.0\.source: nowhere\.jsonl"):
        describe(config, Zoo(place / "zoo").get("encoder"))


def test_a_head_of_the_same_name_with_other_classes_is_refused(place, tmp_path):
    config = job(place)
    clash = config.tasks[0].model_copy(update={"name": "earlier"})
    config = config.model_copy(update={"tasks": (clash,)})
    with pytest.raises(InputError, match="'earlier' with 4 classes"):
        learn(place, tmp_path, config)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"tasks": [{"source": "builtin:pydoc/kind"}] * 2}, "already the name of task 0"),
        ({"cluster": {"workers": 3}}, "train.global_batch_size: 8 does not divide over 3 workers"),
        ({"engine": {"type": "single"}, "cluster": {"workers": 2}}, "engine.type: 'single'"),
        ({"method": {"preset": "joint", "find": {"enabled": True}}}, "no meaning with preset"),
        ({"method": {"preset": "c&g"}}, "method.preset"),
        ({"method": {"parts": ["replai"]}}, "Did you mean 'replay'"),
        ({"method": {"parts": ["find"]}}, "parts.0.type: 'find' has a section of its own"),
        ({"promotion": {"alias": "latest"}}, "'latest' always moves"),
        ({"train": {"early_stopping": {}, "eval_every_steps": 5}}, "train.early_stopping: is not"),
        ({"train": {"max_rollbacks": 5}}, "train.max_rollbacks: 5 is not supported"),
        ({"tasks": [{"source": "builtin:pydoc/kindd"}]}, "Did you mean 'pydoc/kind'"),
    ],
)
def test_bad_configs_say_what_is_allowed(place, changes, expected):
    with pytest.raises(ConfigError, match=expected):
        job(place, **changes)


def test_preset_is_valid():
    root = Path(__file__).parents[3]
    config = load_config(ContinualConfig, root / "jobs/configs/continual_pydoc.yaml")
    assert [task.title for task in config.tasks] == ["role", "sympy"]
    assert list(config.model_dump()["method"]["create"]) == ["enabled", "rho", "adaptive"]
