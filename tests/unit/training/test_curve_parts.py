"""Learning curves in parts: appended, found from a position, each step once."""

import json

import pandas as pd
import pytest

from orchestrator.cluster.context import Worker
from orchestrator.errors import InputError, IntegrityError, StageError
from orchestrator.training.curve_parts import CURVES, CurveParts, copy_parts
from orchestrator.training.history import CurvePosition, History, HistoryRow
from tests.support.ranks import on_ranks
from tests.support.state import AnyState
from tests.unit.cluster.checkpoints.test_hostile_storage import Notes
from tests.unit.cluster.checkpoints.test_store import StubEngine


def rows(first, last):
    return [
        HistoryRow(s, s / 8, "train", metric, value, float(s))
        for s in range(first, last)
        for metric, value in (("loss", 1 / (s + 1)), ("diverged", float("inf")))
    ]


@pytest.fixture
def notes():
    return Notes()


@pytest.fixture
def ctx(tmp_path, notes):
    return Worker(0, 1, tmp_path / "run", line=notes)


def stored(parts, logged):
    position, store = parts.extend(logged)
    store()
    return position


def resumed(ctx, position):
    return CurveParts(ctx).resume(position).rows


def files(ctx):
    return sorted(path.name for path in (ctx.run_dir / CURVES).iterdir())


def test_each_part_holds_what_was_logged_since_the_one_before(ctx):
    parts, logged = CurveParts(ctx), rows(0, 4)
    first = stored(parts, logged)
    before = {path: path.read_bytes() for path in (ctx.run_dir / CURVES).iterdir()}
    assert stored(parts, []) == first
    assert len(files(ctx)) == 1, "nothing is stored without new rows"
    second = stored(parts, rows(4, 7))
    assert [name[:15] for name in files(ctx)] == ["part-0000000000", "part-0000000008"]
    assert all(path.read_bytes() == content for path, content in before.items())
    assert resumed(ctx, second) == rows(0, 7)
    assert second.rows == 14


def test_rows_after_the_position_are_dropped_and_logged_once(ctx):
    parts = CurveParts(ctx)
    kept = stored(parts, rows(0, 4))
    stored(parts, rows(4, 9))  # its checkpoint was never committed
    again = CurveParts(ctx)
    history = again.resume(kept)
    assert len(files(ctx)) == 1
    history.rows += rows(4, 6)
    last = stored(again, history.take())
    found = CurveParts(ctx).resume(last).frame()
    assert found[found.metric == "loss"].step.tolist() == [0, 1, 2, 3, 4, 5]


def test_a_run_that_begins_anew_has_no_rows_of_one_that_never_saved(ctx):
    stored(CurveParts(ctx), rows(0, 3))
    assert resumed(ctx, None) == []
    assert files(ctx) == []


def test_rows_in_a_checkpoint_of_an_earlier_version_go_on_in_parts(ctx):
    parts, old = CurveParts(ctx), rows(0, 3)
    history = parts.resume(None, old)
    assert history.rows == old
    history.rows += rows(3, 4)
    position = stored(parts, history.take())
    assert resumed(ctx, position) == rows(0, 4)


@pytest.mark.parametrize("part", [0, 1])
@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.unlink(),
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: path.write_bytes(path.read_bytes()[:40] + b"?" + path.read_bytes()[41:]),
    ],
    ids=["deleted", "truncated", "changed"],
)
def test_a_damaged_part_is_named_and_nothing_is_removed(ctx, part, damage):
    parts = CurveParts(ctx)
    stored(parts, rows(0, 3))
    last = stored(parts, rows(3, 5))
    name = files(ctx)[part]
    damage(ctx.run_dir / CURVES / name)
    before = files(ctx)
    with pytest.raises(IntegrityError, match=rf"{name}: .* to go on without"):
        CurveParts(ctx).resume(last)
    assert files(ctx) == before


DAMAGES = {
    "deleted": lambda path: path.unlink(),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "one bit": lambda path: path.write_bytes(
        (content := path.read_bytes())[:9] + bytes([content[9] ^ 1]) + content[10:]
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_part_costs_the_checkpoints_after_it_alone(ctx, notes, damage):
    """As a damaged file of the checkpoint itself: the one before is taken, which says so."""
    parts = CurveParts(ctx)
    for step in (1, 2):
        position, store = parts.extend(rows(3 * step, 3 * step + 3))
        state = AnyState(curves=position.model_dump())
        ctx.commit_checkpoint(step, StubEngine(str(step)), state, store)

    def require(found):
        again.require(CurvePosition.model_validate(found.extra["curves"]))

    again, name = CurveParts(ctx), files(ctx)[1]
    assert ctx.latest_checkpoint(require).step == 2
    DAMAGES[damage](ctx.run_dir / CURVES / name)
    found = ctx.latest_checkpoint(require)
    assert found.step == 1
    assert name in notes.events[-1].message
    kept = again.resume(CurvePosition.model_validate(found.extra["curves"]))
    assert kept.rows == rows(3, 6)
    assert len(files(ctx)) == 1
    first = ctx.run_dir / CURVES / files(ctx)[0]
    first.write_bytes(b"?")
    with pytest.raises(IntegrityError, match="no checkpoint is whole"):
        ctx.latest_checkpoint(require)
    assert first.exists()


def test_without_the_folder_a_run_goes_on_and_says_so(ctx, notes):
    position = CurvePosition(rows=3, last="part-0000000000-00.parquet")
    parts = CurveParts(ctx)
    assert parts.resume(position).rows == []
    (event,) = notes.events
    assert "3 rows" in event.message
    new = stored(parts, rows(3, 4))
    assert resumed(ctx, new) == rows(3, 4)


def test_a_branch_gets_the_curves_before_its_checkpoint(ctx, tmp_path):
    parts, logged = CurveParts(ctx), rows(0, 3)
    middle = stored(parts, logged)
    stored(parts, rows(3, 5))
    branch = Worker.alone(tmp_path / "branch")
    copy_parts(ctx.store, branch.store, middle)
    assert resumed(branch, middle) == logged
    assert len(files(branch)) == 1


def test_a_checkpoint_stays_small_however_much_is_logged(ctx):
    """10^5 rows were 13 MB of JSON in every checkpoint."""
    parts, logged = CurveParts(ctx), rows(0, 50_000)
    position, store = parts.extend(logged)
    state = AnyState(curves=position.model_dump())
    path = ctx.commit_checkpoint(9, StubEngine("x"), state, store)
    assert (path / "extra.json").stat().st_size <= 10_000
    assert json.loads((path / "extra.json").read_text())["extra"]["curves"]["rows"] == 100_000
    assert resumed(ctx, position) == logged


def test_stored_rows_leave_memory_and_the_whole_curve_comes_back(ctx):
    """Of 50 intervals, memory holds one, what evaluations said, and the time of the last row."""
    parts, history, expected = CurveParts(ctx), History(), []
    for first in range(0, 500, 10):
        history.rows += (new := rows(first, first + 10))
        history.log(first + 10, "validation", {"loss": 1.0})
        expected += [*new, history.rows[-1]]
        position = stored(parts, history.take())
        history.forget(lambda row: row.split == "validation")
        assert len(history.rows) <= 51
    history.log(501, "train", {"loss": 2.0})
    found = CurveParts(ctx).resume(position, keep=lambda row: row.split == "validation")
    assert [row.step for row in found.rows] == list(range(10, 501, 10))
    whole = parts.whole(history)
    pd.testing.assert_frame_equal(whole, History([*expected, history.rows[-1]]).frame())


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), InputError("no")])
def test_no_rank_waits_for_one_that_cannot_read(tmp_path, error):
    def work(worker):
        def fail(*_):
            raise error

        if worker.rank == 0:
            type(worker.store).files = fail
        found = []
        for collective in (CurveParts(worker).require, CurveParts(worker).resume):
            try:
                collective(CurvePosition(rows=3, last="part"))
            except (StageError, InputError, PermissionError) as raised:
                found.append([type(raised).__name__, str(raised)])
        worker.barrier()
        return found

    first, second = on_ranks(2, work, tmp_path / "ranks")
    assert first == [[type(error).__name__, str(error)]] * 2
    kind = "InputError" if isinstance(error, InputError) else "StageError"
    assert second == [[kind, str(error)]] * 2
