"""Benchmark and select on a real Ray Tune, with real training of tiny packages."""

import json
import re
import shutil
import time
import urllib.request

import pytest
import ray

from orchestrator.cli import job_main
from orchestrator.cluster.tune import run_queue
from orchestrator.config import ClusterSection, dump_yaml
from orchestrator.errors import InputError, StageError
from orchestrator.modeling.package import load_model
from orchestrator.selection import benchmark_runner
from orchestrator.selection.halving import Bracket
from orchestrator.selection.matrix.files import read_matrix
from orchestrator.selection.monitoring import GAUGES
from orchestrator.selection.policies.sh import Halving
from orchestrator.selection.results import SelectionReport
from orchestrator.selection.select_runner import run
from orchestrator.selection.trials.journal import Journal
from orchestrator.selection.trials.scheduler import HalvingScheduler
from orchestrator.selection.trials.source import TrialSource
from orchestrator.training.events import NewTrial
from orchestrator.zoo import Zoo
from tests.support.candidates import (
    BENCHMARKS,
    ENCODERS,
    FINE_TUNE,
    TARGET,
    TOPICS,
    benchmark_job,
    commit_broken,
    make_processor,
    make_world,
    select_job,
)
from tests.support.curve_trial import Curve
from tests.support.killed_driver import killed_at_the_first_row

CURVE_TRIAL = "tests.support.curve_trial:CurveTrial"
EPOCHS = FINE_TUNE["epochs"]


@pytest.fixture(scope="module")
def world(local_ray, tmp_path_factory):
    """A zoo and its performance matrix, measured by the benchmark job."""
    place = make_world(tmp_path_factory.mktemp("world"))
    result = benchmark_runner.run(benchmark_job(place))
    assert result.metrics["cells_missing"] == 0
    return place


def rows_of(place, name="pick"):
    return Journal(place / "runs" / name / "trials.jsonl").rows


def test_the_matrix_holds_real_scores_and_every_epoch_ran_once(world):
    matrix = read_matrix(world / "matrix.parquet")
    assert matrix.final().shape == (len(ENCODERS), len(BENCHMARKS))
    assert matrix.final().to_numpy().mean() > 0.6  # two balanced classes: chance is 0.5
    assert matrix.history().stages == EPOCHS
    rows = rows_of(world, "bench")
    assert len(rows) == len({(r.trial, r.rung) for r in rows}) == 15 * EPOCHS
    assert not (world / "runs" / "bench" / "trials").exists()


@pytest.fixture(scope="module")
def selected(world):
    return run(select_job(world))


def test_selection_trains_fewer_steps_and_beats_the_majority_class(world, selected):
    figures = selected.metrics
    rows = rows_of(world)
    assert figures["steps"] == sum(row.steps for row in rows) < figures["brute_force_steps"] / 2
    assert figures["epochs"] == len(rows) == len({(r.trial, r.rung) for r in rows})
    assert figures["test_accuracy"] > figures["majority_accuracy"] + 0.2
    assert 1 <= figures["proxy_passes"] < len(ENCODERS)


def test_the_package_of_the_winner_records_how_it_was_chosen(world, selected):
    package = Zoo(world / "zoo").get("chosen")
    assert package.ref == selected.package
    assert package.kind == "finetuned"
    assert package.manifest.parents[0].ref == selected.metrics["winner"]
    assert package.manifest.task.labels == {TARGET: sorted(TOPICS[TARGET])}
    model = load_model(package.path)
    assert set(model.targets) == {TARGET}
    report = package.read_json("evaluation/selection.json")
    assert [entry["status"] for entry in report["ranking"]].count("winner") == 1
    assert all(entry["reason"] for entry in report["ranking"])
    trained = {row.trial for row in rows_of(world)}
    dropped = {e["model"] for e in report["ranking"] if e["status"] == "not recalled"}
    assert trained | dropped == {f"{name}/v0001" for name in ENCODERS}
    assert not trained & dropped
    assert report["ledger"]["epochs"] == selected.metrics["epochs"]
    assert package.history() is not None


def test_the_same_run_returns_at_once(world, selected):
    before = len(rows_of(world))
    assert run(select_job(world)) == selected
    assert benchmark_runner.run(benchmark_job(world)).metrics["epochs"] == 15 * EPOCHS
    assert len(rows_of(world)) == before
    assert len(Zoo(world / "zoo").packages()) == len(ENCODERS) + 1


@pytest.mark.slow
def test_prometheus_finds_every_metric_of_the_selection(world):
    run(select_job(world, "watched", package="watched", budget={"epochs": 10}))
    (node,) = ray.nodes()
    address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    found: dict[tuple[str, ...], float] = {}
    deadline = time.monotonic() + 120
    while len({name for name, *_ in found} & GAUGES.keys()) < len(GAUGES) - 1:
        assert time.monotonic() < deadline, sorted(found)
        with urllib.request.urlopen(address, timeout=60) as page:
            text = page.read().decode()
        for name, labels, value in re.findall(r"(?m)^ray_(orch_select_\w+){(.*)} (\S+)$", text):
            own = dict(re.findall(r'(\w+)="([^"]*)"', labels))
            if own["run"] == "watched":
                kept = [own[label] for label in GAUGES[name][1] if label != "run"]
                found[name, *kept] = float(value)
        time.sleep(1)
    rows = rows_of(world, "watched")
    assert found["orch_select_candidates", "finalist"] == 1
    assert found["orch_select_rung",] == EPOCHS
    assert found["orch_select_best_score",] == max(row.validation for row in rows)
    assert found["orch_select_budget_used",] == pytest.approx(len(rows) / 10)
    of_phases = [v for (name, *_), v in found.items() if name == "orch_select_epochs"]
    assert sum(of_phases) == len(rows)


@pytest.mark.slow
def test_finalists_become_packages_of_one_run(world):
    result = run(
        select_job(world, "top", package="top", finish_top=2, constraints={"max_latency_ms": 5000})
    )
    zoo = Zoo(world / "zoo")
    first, second = zoo.get("top"), zoo.get("top-2")
    assert result.package == first.ref
    assert first.manifest.producer.run_id == second.manifest.producer.run_id
    assert (first.manifest.metrics["place"], second.manifest.metrics["place"]) == (1, 2)
    for package in (first, second):
        figures = package.manifest.metrics
        assert package.manifest.parents[0].ref == figures["model"]
        report = package.read_json("evaluation/selection.json")
        found = {each["model"]: each["test"] for each in report["finalists"]}
        assert report["latencies"].keys() >= found.keys()
        assert found[figures["model"]] == figures["test_accuracy"]
        assert set(load_model(package.path).targets) == {TARGET}


@pytest.mark.slow
def test_a_loser_of_the_winners_base_is_measured_in_it(local_ray, tmp_path):
    place = make_world(tmp_path, encoders=("bert",))
    zoo = Zoo(place / "zoo")
    base = zoo.get("bert")
    with zoo.draft(
        "child",
        kind="pretrained",
        producer={"stage": "test"},
        parents=[base],
        task=base.manifest.task.model_dump(mode="json"),
    ) as draft:
        shutil.copytree(base.path, draft.path, dirs_exist_ok=True)
        (draft.path / "manifest.json").unlink()
        draft.commit()
    run(select_job(place, matrix=None, recall={"mode": "all"}))
    package = zoo.get("chosen")
    report = SelectionReport.model_validate(package.read_json("evaluation/selection.json"))
    salvage = report.salvage
    assert [trial.share for trial in salvage.trials] == [0.25, 0.5, 0.75]
    assert report.validation_accuracy == salvage.after >= salvage.before
    assert len(package.manifest.parents) == 1 + len(salvage.merged)
    (row,) = [each for each in report.ledger.rows if each.phase == "salvage"]
    assert row.seconds == salvage.seconds > 0
    job = select_job(place, "alone", matrix=None, recall={"mode": "all"}, salvage=False)
    run(job.model_copy(update={"package": "alone"}))
    assert zoo.get("alone").read_json("evaluation/selection.json")["salvage"] is None


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["default", "all"])
def test_broken_candidates_are_ranked_last_and_end_nothing(local_ray, tmp_path, mode, capfd):
    """Weights that are not finite show in a proxy, or without proxies in a trial."""
    place = make_world(tmp_path, encoders=("bert", "conv"))
    broken = commit_broken(Zoo(place / "zoo"), make_processor())
    job = select_job(place, matrix=None, recall={"mode": mode})
    (place / "job.yaml").write_text(dump_yaml(job))
    assert job_main("select", ["--config", str(place / "job.yaml")]) == 0
    line = json.loads(capfd.readouterr().out.strip().splitlines()[-1])
    report = SelectionReport.read(place / "runs" / "pick" / "selection.json")
    failed = [row.model.partition("/")[0] for row in report.ranking if row.status == "failed"]
    assert sorted(failed) == sorted(broken)
    assert [row.place for row in report.ranking] == list(range(1, 7))
    assert failed == [row.model.partition("/")[0] for row in report.ranking[2:]]
    assert {ref.partition("/")[0] for ref in line["metrics"]["failed"]} == set(broken)
    assert "not finite" in line["metrics"]["failed"]["nan/v0002"]
    assert len([row for row in rows_of(place) if row.error]) == (mode == "all")  # not retried


@pytest.mark.slow
def test_a_selection_ends_within_its_seconds_with_a_package(local_ray, tmp_path):
    """No trial starts behind the limit, but for the delays of a busy machine."""
    names = [f"{name}-{i}" for i in range(3) for name in ("bert", "bilstm", "conv", "gpt")]
    place = make_world(tmp_path, encoders=names)
    budget = {"seconds": 60}
    result = run(
        select_job(
            place,
            "short",
            matrix=None,
            recall={"mode": "all"},
            budget=budget,
            fine_tune={**FINE_TUNE, "epochs": 2000},
            prices={"cpu_hour": 0.05},
        )
    )
    report = Zoo(place / "zoo").get(result.package).read_json("evaluation/selection.json")
    ledger = report["ledger"]
    print(f"{ledger['wall_s']:.1f} s, {ledger['epochs']} epochs; {report['ended']}")
    assert "budget.seconds of 60" in report["ended"]
    marks = (place / "runs" / "short" / "journal").glob("clock*.json")
    began = json.loads(next(marks).read_text())["payload"]["began"]
    starts = [r.finished_at - r.seconds - r.startup_s for r in rows_of(place, "short")]
    assert min(starts) >= began
    assert max(starts[:-1]) <= began + 60 + 30
    held = ledger["wall_s"] * ledger["slots"]
    spent = sum((r["seconds"] + r["startup_s"]) * r["slots"] for r in ledger["rows"])
    assert spent == pytest.approx(held, rel=0.1)
    assert sum(r["money"] for r in ledger["rows"]) == pytest.approx(ledger["money"], rel=0.1)
    rows = rows_of(place, "short")
    assert [row.phase for row in rows].count("completion") == 1
    model = load_model(Zoo(place / "zoo").get(result.package).path)
    assert set(model.targets) == {TARGET}


@pytest.mark.chaos
def test_a_killed_driver_resumes_without_repeating_an_epoch(world, selected, local_ray):
    """SIGKILL in the middle of halving; the second run ends like one that was never killed."""
    cluster = {"address": local_ray.address}
    job = select_job(world, "killed", package="survivor", cluster=cluster)
    journal = world / "runs" / "killed" / "trials.jsonl"
    paid = killed_at_the_first_row(job, world)
    result = run(job)
    assert journal.read_bytes().startswith(paid[: paid.rfind(b"\n") + 1])
    rows = rows_of(world, "killed")
    assert len(rows) == len({(r.trial, r.rung) for r in rows}) == selected.metrics["epochs"]
    scores = {(r.trial, r.rung): (r.validation, r.test) for r in rows}
    assert scores == {(r.trial, r.rung): (r.validation, r.test) for r in rows_of(world)}
    assert result.metrics["winner"] == selected.metrics["winner"]


def curve(model, epochs=4):
    return [0.1 * model + 0.01 * epoch for epoch in range(epochs)] + [0.1 * model]


def play(tmp_path, name, cpus, fails=(), count=8):
    """Halving of stored curves through the real scheduler."""
    models = [f"m{i}" for i in range(count)]
    payloads = {
        model: Curve(trial=model, curve=tuple(curve(i)), fails_at=2 * (i in fails))
        for i, model in enumerate(models)
    }
    bracket = Bracket(tuple(models), 4, Halving())
    source = TrialSource(lambda: bracket, lambda m: NewTrial(m, CURVE_TRIAL, payloads[m]))
    scheduler = HalvingScheduler(source, Journal(tmp_path / f"{name}.jsonl"))
    cluster = ClusterSection(cpus_per_worker=cpus, max_failures=0)
    run_queue(scheduler, storage=tmp_path / name, cluster=cluster)
    return bracket, scheduler, Journal(tmp_path / f"{name}.jsonl").rows


def test_the_tune_scheduler_decides_like_the_bracket_alone(local_ray, tmp_path):
    expected = Bracket(tuple(f"m{i}" for i in range(8)), 4, Halving())
    while not expected.finished:
        rung = expected.rung
        for model in expected.waiting():
            expected.record(model, rung, curve(int(model[1:]))[rung - 1])
    bracket, _, rows = play(tmp_path, "wide", 0.25)
    assert bracket.verdicts == expected.verdicts
    assert len(rows) == 8 + 4 + 2 + 1


@pytest.mark.chaos
def test_a_failing_trial_closes_its_rung_and_is_dropped_with_the_reason(local_ray, tmp_path):
    bracket, scheduler, rows = play(tmp_path, "failing", 1, fails=(3,), count=4)
    assert scheduler.error is None
    assert bracket.winner == "m2"
    assert bracket.dropped["m3"] == (2, "failed: RuntimeError: epoch 2 fails as planned")
    assert [row.error for row in rows if row.trial == "m3"][-1].endswith("as planned")


@pytest.mark.chaos
def test_when_all_fail_the_error_names_the_reasons(local_ray, tmp_path):
    _, scheduler, _ = play(tmp_path, "hopeless", 1, fails=range(2), count=2)
    assert isinstance(scheduler.error, StageError)
    assert "fails as planned" in str(scheduler.error)


def test_impossible_resources_are_refused_before_anything_starts(world):
    greedy = select_job(world, "greedy", cluster={"workers": 3, "cpus_per_worker": 64})
    with pytest.raises(InputError, match=r"3 × 64 CPU"):
        run(greedy)
    assert not (world / "runs" / "greedy").exists(), "a refused run leaves nothing behind"
