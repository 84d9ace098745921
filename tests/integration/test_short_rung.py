"""A first rung in optimizer steps on a real Ray Tune, with real training of tiny packages."""

import pytest

from orchestrator.selection.select_runner import run
from orchestrator.selection.trials.journal import Journal
from tests.support.candidates import make_world, select_job
from tests.support.killed_driver import killed_at_the_first_row


@pytest.mark.slow
def test_a_driver_killed_in_the_short_rung_trains_no_step_twice(local_ray, tmp_path):
    """The second run ends like one that was never killed; every cost counts the steps."""
    place, cluster = make_world(tmp_path), {"address": local_ray.address}
    fields = {"matrix": None, "recall": {"mode": "all"}, "cluster": cluster}
    fields["halving"] = {"policy": "sh", "first_rung_steps": 4}
    job = select_job(place, "killed", package="survivor", **fields)
    paid = killed_at_the_first_row(job, place)
    result = run(job)
    file = place / "runs" / "killed" / "trials.jsonl"
    assert file.read_bytes().startswith(paid[: paid.rfind(b"\n") + 1])
    rows = Journal(file).rows
    assert len(paid.splitlines()) < 5, "it was killed within the short rung"
    assert len(rows) == len({(r.trial, r.rung) for r in rows})
    steps = [4] * 5 + [5] * 2 + [9] * 2
    assert [row.steps for row in rows] == steps
    assert result.metrics["first_rung_steps"] == 4
    assert result.metrics["steps"] == sum(steps)
    assert result.metrics["epochs"] == pytest.approx(sum(steps) / 9, abs=1e-4)
    clean = run(select_job(place, "clean", package="clean", **fields))
    again = Journal(place / "runs" / "clean" / "trials.jsonl").rows
    scores = {(r.trial, r.rung): (r.validation, r.test) for r in again}
    assert scores == {(r.trial, r.rung): (r.validation, r.test) for r in rows}
    assert clean.metrics["winner"] == result.metrics["winner"]
