"""Trials of two workers on a real Ray: equal to trials of one, and what a lost worker costs."""

import threading
import time

import psutil
import pytest
from safetensors.torch import load_file

from orchestrator.selection.results import SelectionReport
from orchestrator.selection.select_runner import run
from orchestrator.selection.trials.journal import Journal
from orchestrator.zoo import Zoo
from tests.support import candidates
from tests.support.candidates import FINE_TUNE, make_world, select_job
from tests.support.processes import command_of

ENCODERS = ("bert", "bilstm", "conv")
SAME = 5e-7
"""Sums over rows in other parts."""
PEER = "ray::TrialPeer"


@pytest.fixture(scope="module")
def place(local_ray, tmp_path_factory):
    """A zoo without dropout, whose numbers depend on the rank that draws them."""
    exact = {name: {**candidates.ENCODERS[name], "dropout": 0.0} for name in ENCODERS}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(candidates, "ENCODERS", exact)
        return make_world(tmp_path_factory.mktemp("world"), ENCODERS)


def job_of(place, name, workers, **changes):
    cluster = {"workers_per_trial": workers, **changes.pop("cluster", {})}
    fields = {
        "matrix": None,
        "package": name,
        "recall": {"mode": "all"},
        "halving": {"policy": "sh"},
        "prices": {"cpu_hour": 3.6},
        "fine_tune": {**FINE_TUNE, "dropout": 0.0},
    }
    return select_job(place, name, **(fields | changes), cluster=cluster)


def rows_of(place, name):
    rows = Journal(place / "runs" / name / "trials.jsonl").rows
    return {(row.trial, row.rung): row for row in rows}


def report_of(place, name):
    return SelectionReport.read(place / "runs" / name / "selection.json")


@pytest.mark.slow
def test_two_workers_select_as_one_does(place):
    """Trials are paused and go on in the same two processes, which train others meanwhile.

    The first rung is a part of an epoch.
    """
    for workers in (1, 2):
        halving = {"policy": "sh", "first_rung_steps": 4}
        run(job_of(place, f"by-{workers}", workers, halving=halving))
    alone, group = rows_of(place, "by-1"), rows_of(place, "by-2")
    assert group.keys() == alone.keys()
    for key, row in group.items():
        expected = alone[key]
        assert row.steps == expected.steps
        assert row.validation == pytest.approx(expected.validation, abs=SAME)
    first, second = report_of(place, "by-1"), report_of(place, "by-2")
    kept = [[(c.model, c.rung, c.kept) for c in report.bracket] for report in (first, second)]
    assert kept[0] == kept[1]
    assert second.winner == first.winner
    assert second.finalists[0].test == pytest.approx(first.finalists[0].test, abs=SAME)
    zoo = Zoo(place / "zoo")
    curves = [zoo.get(name).history() for name in ("by-1", "by-2")]
    assert curves[1]["value"].to_numpy() == pytest.approx(curves[0]["value"].to_numpy(), abs=SAME)
    weights, found = (load_file(zoo.get(n).path / "model.safetensors") for n in ("by-1", "by-2"))
    off = max(float((found[name] - value).abs().max()) for name, value in weights.items())
    print(f"largest difference of a weight: {off:.1e}")
    assert off <= 5e-6
    one, two = first.ledger, second.ledger
    assert two.slots == one.slots // 2
    assert two.money == pytest.approx(two.wall_s * two.slots * 2 * 0.001, rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("retries", [0, 1])
def test_a_killed_worker_costs_one_candidate_or_a_retry(place, retries):
    name = f"killed-{retries}"
    job = job_of(
        place,
        name,
        2,
        cluster={"max_failures": retries},
        fine_tune={**FINE_TUNE, "epochs": 2},
    )
    killer = threading.Thread(target=kill_a_peer, args=(place, name), daemon=True)
    killer.start()
    begun = time.monotonic()
    run(job)
    print(f"{time.monotonic() - begun:.1f} s")
    killer.join(timeout=1)
    assert not killer.is_alive(), "no worker was killed"
    failed = [row for row in report_of(place, name).ranking if row.status == "failed"]
    errors = [row.error for row in rows_of(place, name).values() if row.error]
    assert len(failed) == len(errors) == 1 - retries
    assert all("worker 1 of 2: was lost" in error for error in errors)
    deadline = time.monotonic() + 60
    while peers():
        assert time.monotonic() < deadline, "workers outlive their trials"
        time.sleep(0.1)


def kill_a_peer(place, name):
    """Kill the peer of the trial that comes after the first result."""
    journal = place / "runs" / name / "trials.jsonl"
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        if journal.exists() and (found := peers()):
            found[0].kill()
            return
        time.sleep(0.01)


def peers():
    """Processes of this test's Ray that are peers."""
    children = psutil.Process().children(recursive=True)
    return [each for each in children if PEER in command_of(each)]
