"""Checkpoints: atomic commit, verification when read, retention of two, damage."""

import errno
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from orchestrator.cluster.checkpoints import reading, saving
from orchestrator.cluster.checkpoints import store as checkpoints
from orchestrator.cluster.checkpoints.store import CheckpointFolder
from orchestrator.errors import InputError, IntegrityError, StageError
from orchestrator.storage import json_files, verify, write_hashed
from orchestrator.training.engines.state_index import RankPart
from orchestrator.training.events import CheckpointDamaged, NoSpace
from tests.support.state import AnyState


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch):
    monkeypatch.setattr(saving, "RETRY_AFTER_S", (0.0, 0.0))


class StubEngine:
    """Writes one file."""

    replicated, world, tensor_ranks = True, 1, 1

    def shards(self):
        return []

    def __init__(self, value, fails=False, rank=None):
        self.value, self.fails = value, fails
        self.rank, self.name = rank or 0, "training.safetensors"
        if rank is not None:
            self.name = f"training-{rank:05d}.safetensors"

    def snapshot(self):
        value = self.value

        def write(folder):
            if self.fails:
                raise OSError(28, "No space left on device")
            entry = write_hashed(folder / self.name, [str(value).encode()])
            return RankPart(rank=self.rank, tensors=self.name, files={self.name: entry}, pieces=())

        return write


class OneWorker:
    """A group of one that remembers its events."""

    rank, world = 0, 1

    def __init__(self):
        self.events = []

    def broadcast_from_rank_zero(self, value):
        return value

    def all_ranks(self, succeeded):
        return succeeded

    def first_bytes(self, data):
        return data

    def emit(self, event):
        self.events.append(event)

    def require_claim(self):
        pass


@pytest.fixture
def group():
    return OneWorker()


@pytest.fixture
def folder(tmp_path):
    return CheckpointFolder(tmp_path / "checkpoints")


def test_what_was_committed_is_found(folder, group):
    path = folder.commit(10, StubEngine("a"), AnyState(history=[1, 2]), group)
    found = folder.latest(group)
    assert (found.step, found.path, found.world) == (10, path, 1)
    assert found.extra == {"history": [1, 2]}


def test_nothing_is_found_where_nothing_is(folder, group):
    assert folder.latest(group) is None


def test_two_stay(folder, group):
    for step in (5, 10, 15, 100):
        folder.commit(step, StubEngine(step), AnyState(), group)
    assert sorted(p.name for p in folder.root.iterdir()) == ["step-00000015", "step-00000100"]


def test_at_least_two_stay(tmp_path, group):
    folder = CheckpointFolder(tmp_path, keep=1)
    for step in (1, 2, 3):
        folder.commit(step, StubEngine(step), AnyState(), group)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_damaged_newest_one_is_passed_over_with_a_message(folder, group):
    folder.commit(1, StubEngine("old"), AnyState(), group)
    newest = folder.commit(2, StubEngine("new"), AnyState(), group)
    (newest / "training.safetensors").write_text("NEW")
    assert folder.latest(group).step == 1
    assert isinstance(group.events[0], CheckpointDamaged)
    assert "step-00000002" in group.events[0].message


def test_without_a_manifest_it_does_not_exist(folder, group):
    folder.commit(1, StubEngine("old"), AnyState(), group)
    newest = folder.commit(2, StubEngine("new"), AnyState(), group)
    (newest / "manifest.json").unlink()
    assert folder.latest(group).step == 1


def test_all_damaged_is_an_error_and_not_like_none(folder, group):
    path = folder.commit(1, StubEngine("x"), AnyState(), group)
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["files"]["training.safetensors"]["sha256"] = "0" * 64
    (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(IntegrityError, match="no checkpoint is whole"):
        folder.latest(group)
    assert folder.steps() == [1]


def test_the_other_ranks_raise_as_well_when_all_are_damaged(folder):
    """Rank 0 alone would go on, or end, while they wait for it."""

    class Other(OneWorker):
        rank, world = 1, 2

        def broadcast_from_rank_zero(self, value):
            return next(told)

        def all_ranks(self, succeeded):
            return succeeded

    told = iter([checkpoints.NONE_THERE, 1])  # none is whole, some are there
    with pytest.raises(IntegrityError, match="no checkpoint is whole"):
        folder.latest(Other())


def failing(monkeypatch, times):
    """Let reading a file's hash fail as on a network storage that is away, ``times`` times."""
    hashed, failures = verify.sha256_file, []

    def failing_hash(path):
        if len(failures) < times:
            failures.append(path)
            raise OSError(errno.ESTALE, "Stale file handle")
        return hashed(path)

    monkeypatch.setattr(verify, "sha256_file", failing_hash)
    monkeypatch.setattr(reading, "PAUSE_S", 0.0)


def test_a_storage_that_comes_back_costs_no_checkpoint(folder, group, monkeypatch):
    for step in (1, 2):
        folder.commit(step, StubEngine(step), AnyState(), group)
    failing(monkeypatch, reading.TRIES - 1)
    assert folder.latest(group).step == 2
    assert group.events == []


def test_a_storage_that_stays_away_is_no_damage_and_nothing_is_passed_over(
    folder, group, monkeypatch
):
    for step in (1, 2):
        folder.commit(step, StubEngine(step), AnyState(), group)
    failing(monkeypatch, reading.TRIES)
    with pytest.raises(StageError, match=r"step-00000002.*Stale file handle.*Start again when"):
        folder.latest(group)
    assert folder.steps() == [1, 2]


def test_steps_are_ordered_as_numbers(folder, group):
    for step in (99_999_999, 100_000_000, 100_000_001):
        folder.commit(step, StubEngine(step), AnyState(), group)
    assert folder.steps() == [100_000_000, 100_000_001]
    assert folder.latest(group).step == 100_000_001


def test_a_full_disk_leaves_the_old_one_and_no_rest(folder, group):
    folder.commit(1, StubEngine("old"), AnyState(), group)
    with pytest.raises(StageError, match=r"step 2.*No space left"):
        folder.commit(2, StubEngine("new", fails=True), AnyState(), group)
    assert [p.name for p in folder.root.iterdir()] == ["step-00000001"]
    assert folder.latest(group).step == 1


def test_curves_that_grow_while_they_are_written_are_those_of_the_step(folder, group):
    rows, engine = [1, 2], SlowEngine("x")
    pending = folder.begin(7, engine, AnyState(history=rows), group)
    rows.append(3)
    engine.go.set()
    pending.settle(group)
    assert folder.latest(group).extra == {"history": [1, 2]}


def test_a_long_run_has_long_curves(folder, group, monkeypatch):
    """A million steps make hundreds of megabytes; a limit on reading would look like damage."""
    monkeypatch.setattr(json_files, "MAX_JSON_BYTES", 2000)
    folder.commit(1, StubEngine("x"), AnyState(history=[0.125] * 2000), group)
    assert len(folder.latest(group).extra["history"]) == 2000


def test_another_format_is_no_damage_and_nothing_is_lost(folder, group, monkeypatch):
    folder.commit(7, StubEngine("x"), AnyState(), group)
    monkeypatch.setattr(reading, "READ_VERSIONS", {reading.SCHEMA_VERSION + 1})
    with pytest.raises(InputError, match="Continue with the version that wrote it"):
        folder.latest(group)
    assert folder.steps() == [7]


def test_a_checkpoint_of_the_version_before_is_read(folder, group):
    """Version 2 had the same manifest; only the index of its tensors is new."""
    path = folder.commit(7, StubEngine("x"), AnyState(losses=[1.0]), group)
    stored = json.loads((path / "extra.json").read_text())
    stored["checkpoint"]["schema_version"] = 2
    entry = write_hashed(path / "extra.json", [json.dumps(stored).encode()])
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["schema_version"] = 2
    manifest["files"]["extra.json"] = entry.model_dump()
    (path / "manifest.json").write_text(json.dumps(manifest))
    assert folder.latest(group).extra == {"losses": [1.0]}


class Rank(OneWorker):
    """One of two."""

    world = 2

    def __init__(self, rank):
        super().__init__()
        self.rank = rank

    def broadcast_from_rank_zero(self, value):
        return 77


def test_another_ranks_failure_fails_here_too_and_at_once(folder):
    engines = [StubEngine("fine"), StubEngine("none", fails=True)]
    pending = [folder.begin(1, e, AnyState(), Rank(r)) for r, e in enumerate(engines)]
    with pytest.raises(StageError, match="another worker failed"):
        pending[0].settle(Rank(0))
    with pytest.raises(StageError, match="No space left"):
        pending[1].settle(Rank(1))
    assert list(folder.root.iterdir()) == []


def test_a_killed_writers_rest_is_swept_and_never_read(folder, group):
    folder.commit(1, StubEngine("x"), AnyState(), group)
    rest = folder.root / "step-00000009.tmp-abc"
    rest.mkdir()
    (rest / "manifest.json").write_text("{}")
    assert folder.latest(group).step == 1
    assert not rest.exists()


def test_the_same_step_can_be_committed_again(folder, group):
    folder.commit(3, StubEngine("first"), AnyState(), group)
    path = folder.commit(3, StubEngine("second"), AnyState(), group)
    assert (path / "training.safetensors").read_text() == "second"


def test_clear_removes_everything(folder, group):
    folder.commit(3, StubEngine("x"), AnyState(), group)
    folder.clear()
    assert folder.latest(group) is None


def test_a_file_that_nobody_listed_is_damage(folder, group):
    path = folder.commit(3, StubEngine("x"), AnyState(), group)
    (path / "other.bin").write_text("?")
    with pytest.raises(IntegrityError):
        folder.at(3, verify=True)


class SlowEngine(StubEngine):
    """Writes when it is told to."""

    def __init__(self, value, rank=None):
        super().__init__(value, rank=rank)
        self.go = threading.Event()

    def snapshot(self):
        write = super().snapshot()

        def later(folder):
            assert self.go.wait(30)
            return write(folder)

        return later


def test_training_goes_on_while_a_checkpoint_is_written(folder, group):
    engine, committed = SlowEngine("then"), []
    pending = folder.begin(3, engine, AnyState(a=1), group, lambda: committed.append(3))
    engine.value = "later"  # what is written is what it was
    assert not (folder.root / "step-00000003").exists()
    assert committed == []
    engine.go.set()
    pending.settle(group)
    assert committed == [3]
    found = folder.latest(group)
    assert (found.step, found.extra) == (3, {"a": 1})
    assert (found.path / "training.safetensors").read_text() == "then"
    assert not list(found.path.glob(".written*"))


def test_all_ranks_parts_are_awaited_before_the_commit(folder):
    first, second = SlowEngine("0", rank=0), SlowEngine("1", rank=1)
    first.go.set()
    pending = [folder.begin(5, e, AnyState(), Rank(r)) for r, e in enumerate((first, second))]
    time.sleep(0.3)
    assert not (folder.root / "step-00000005").exists()
    second.go.set()
    pending[0].settle(Rank(0))
    found = [path.name for path in folder.at(5, verify=True).path.iterdir()]
    assert {"training-00000.safetensors", "training-00001.safetensors"} < set(found)


class Two(OneWorker):
    """One of two that run at the same time and meet; ``met`` counts how often."""

    world = 2

    def __init__(self, rank, barrier, values, met):
        super().__init__()
        self.rank, self._barrier, self._values, self.met = rank, barrier, values, met

    def _exchange(self, value):
        self._values[self.rank] = value
        self._barrier.wait(30)
        found = list(self._values)
        self._barrier.wait(30)
        self.met.append(None)
        return found

    def broadcast_from_rank_zero(self, value):
        return self._exchange(value)[0]

    def all_ranks(self, succeeded):
        return all(self._exchange(succeeded))

    def first_bytes(self, data):
        return next((each for each in self._exchange(data) if each is not None), None)


def test_a_rank_that_hashes_for_long_keeps_nobody_waiting_in_a_collective(folder, monkeypatch):
    """A collective ends after minutes; a commit or a check of a large checkpoint may not."""
    barrier, values, met = threading.Barrier(2), [None, None], []

    def slowly(action):
        def slow(*arguments):
            begun, deadline = len(met), time.monotonic() + 20
            while len(met) < begun + 4 and time.monotonic() < deadline:
                time.sleep(0.001)
            assert len(met) >= begun + 4, "the other rank waits in one collective all the time"
            return action(*arguments)

        return slow

    def work(rank):
        group = Two(rank, barrier, values, met)
        folder.commit(1, StubEngine(rank, rank=rank), AnyState(), group)
        return folder.latest(group).step

    monkeypatch.setattr(saving, "BEAT_S", 0.001)
    for module, name in ((checkpoints, "commit_folder"), (reading, "require_hash")):
        monkeypatch.setattr(module, name, slowly(getattr(module, name)))
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(work, range(2))) == [1, 1]


def test_a_failed_write_is_told_when_it_is_settled(folder, group):
    pending = folder.begin(1, StubEngine("x", fails=True), AnyState(), group)
    with pytest.raises(StageError, match="No space left"):
        pending.settle(group)
    assert list(folder.root.iterdir()) == []


def test_going_back_before_damaged_ones_does_not_cost_the_new_ones(tmp_path, group):
    """Counted among the newest, two damaged later ones would push out every new one."""
    folder = CheckpointFolder(tmp_path, keep=3)
    for step in (10, 20, 30):
        folder.commit(step, StubEngine(step), AnyState(), group)
    for step in (20, 30):
        (folder.root / f"step-000000{step}" / "training.safetensors").write_text("??")
    assert folder.latest(group).step == 10
    folder.commit(15, StubEngine("again"), AnyState(), group)
    assert folder.latest(group).step == 15
    assert folder.steps() == [10, 15]


def test_a_library_error_is_a_failed_save_not_a_silent_one(folder, group):
    """An exception of any kind in the writing thread is raised where the save is settled."""

    class Odd(StubEngine):
        def snapshot(self):
            def write(folder):
                raise RuntimeError("PytorchStreamWriter failed writing file")

            return write

    with pytest.raises(StageError, match=r"step 1 .*PytorchStreamWriter"):
        folder.commit(1, Odd("x"), AnyState(), group)
    assert list(folder.root.iterdir()) == []


def test_a_save_that_finds_no_space_is_tried_again(folder, group):
    class Fuller(StubEngine):
        tries = 0

        def snapshot(self):
            write = super().snapshot()

            def crowded(folder):
                self.tries += 1
                if self.tries < 3:
                    raise OSError(28, "No space left on device")
                return write(folder)

            return crowded

    folder.commit(1, Fuller("x"), AnyState(), group)
    assert folder.latest(group).step == 1
    assert [type(event) for event in group.events] == [NoSpace, NoSpace]
