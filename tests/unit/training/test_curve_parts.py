"""Learning curves in parts: appended, found from a position, each step once."""

import json

import pytest

from orchestrator.cluster.context import Worker
from orchestrator.errors import IntegrityError
from orchestrator.training.curve_parts import CURVES, CurveParts, copy_parts
from orchestrator.training.history import CurvePosition, History, HistoryRow
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


def files(ctx):
    return sorted(path.name for path in (ctx.run_dir / CURVES).iterdir())


def test_each_part_holds_what_was_logged_since_the_one_before(ctx):
    parts, logged = CurveParts(ctx), rows(0, 4)
    first = stored(parts, logged)
    before = {path: path.read_bytes() for path in (ctx.run_dir / CURVES).iterdir()}
    assert stored(parts, logged) == first
    assert len(files(ctx)) == 1, "nothing is stored without new rows"
    logged += rows(4, 7)
    second = stored(parts, logged)
    assert [name[:15] for name in files(ctx)] == ["part-0000000000", "part-0000000008"]
    assert all(path.read_bytes() == content for path, content in before.items())
    assert CurveParts(ctx).resume(second) == logged
    assert second.rows == len(logged) == 14


def test_rows_after_the_position_are_dropped_and_logged_once(ctx):
    parts, logged = CurveParts(ctx), rows(0, 4)
    kept = stored(parts, logged)
    stored(parts, logged + rows(4, 9))  # its checkpoint was never committed
    again = CurveParts(ctx)
    history = History(again.resume(kept))
    assert len(files(ctx)) == 1
    history.rows += rows(4, 6)
    last = stored(again, history.rows)
    found = History(CurveParts(ctx).resume(last)).frame()
    assert found[found.metric == "loss"].step.tolist() == [0, 1, 2, 3, 4, 5]


def test_a_run_that_begins_anew_has_no_rows_of_one_that_never_saved(ctx):
    stored(CurveParts(ctx), rows(0, 3))
    assert CurveParts(ctx).resume(None) == []
    assert files(ctx) == []


def test_rows_in_a_checkpoint_of_an_earlier_version_go_on_in_parts(ctx):
    parts, old = CurveParts(ctx), rows(0, 3)
    assert parts.resume(None, old) == old
    position = stored(parts, old + rows(3, 4))
    assert CurveParts(ctx).resume(position) == rows(0, 4)


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
    parts, logged = CurveParts(ctx), rows(0, 3)
    stored(parts, logged)
    last = stored(parts, logged + rows(3, 5))
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
    parts, logged = CurveParts(ctx), []
    for step in (1, 2):
        logged += rows(3 * step, 3 * step + 3)
        position, store = parts.extend(logged)
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
    assert kept == rows(3, 6)
    assert len(files(ctx)) == 1
    first = ctx.run_dir / CURVES / files(ctx)[0]
    first.write_bytes(b"?")
    with pytest.raises(IntegrityError, match="no checkpoint is whole"):
        ctx.latest_checkpoint(require)
    assert first.exists()


def test_without_the_folder_a_run_goes_on_and_says_so(ctx, notes):
    position = CurvePosition(rows=3, last="part-0000000000-00.parquet")
    parts = CurveParts(ctx)
    assert parts.resume(position) == []
    (event,) = notes.events
    assert "3 rows" in event.message
    new = stored(parts, rows(3, 4))
    assert CurveParts(ctx).resume(new) == rows(3, 4)


def test_a_branch_gets_the_curves_before_its_checkpoint(ctx, tmp_path):
    parts, logged = CurveParts(ctx), rows(0, 3)
    middle = stored(parts, logged)
    stored(parts, logged + rows(3, 5))
    branch = Worker.alone(tmp_path / "branch")
    copy_parts(ctx.store, branch.store, middle)
    assert CurveParts(branch).resume(middle) == logged
    assert len(files(branch)) == 1


def test_a_checkpoint_stays_small_however_much_is_logged(ctx):
    """10^5 rows were 13 MB of JSON in every checkpoint."""
    parts, logged = CurveParts(ctx), rows(0, 50_000)
    position, store = parts.extend(logged)
    state = AnyState(curves=position.model_dump())
    path = ctx.commit_checkpoint(9, StubEngine("x"), state, store)
    assert (path / "extra.json").stat().st_size <= 10_000
    assert json.loads((path / "extra.json").read_text())["extra"]["curves"]["rows"] == 100_000
    assert CurveParts(ctx).resume(position) == logged
