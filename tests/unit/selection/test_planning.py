import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest

from orchestrator.cluster.session import RaySession
from orchestrator.errors import ConfigError, InputError, IntegrityError, StageError
from orchestrator.selection import benchmark_runner, planning, select_runner
from orchestrator.selection.benchmark_runner import (
    complete_matrix,
    describe_benchmark,
    plan_benchmark,
)
from orchestrator.selection.candidates import (
    dataset_facts,
    listed_candidates,
    protocol_of,
    resolve_packages,
)
from orchestrator.selection.config import RecallConfig
from orchestrator.selection.costs.forecast import forecast_lines
from orchestrator.selection.halving import Bracket
from orchestrator.selection.matrix.facts import ModelFacts
from orchestrator.selection.matrix.files import read_matrix, write_matrix
from orchestrator.selection.outcome import selection_report
from orchestrator.selection.planning import describe_selection, plan_selection
from orchestrator.selection.recall import recall_candidates
from orchestrator.selection.results import REPORT_NAME, JournalRow, ProxyScore, SelectionReport
from orchestrator.selection.target_rows import RowCounts
from orchestrator.selection.trials.journal import Journal
from orchestrator.storage import RunFolder, atomic_write_json
from orchestrator.training.config import FineTuneConfig
from orchestrator.zoo import Zoo
from tests.support.candidates import (
    ENCODERS,
    FINE_TUNE,
    TARGET,
    TOPICS,
    benchmark_job,
    commit_broken,
    commit_encoder,
    make_processor,
    make_world,
    select_job,
    spec,
)

EPOCHS = FINE_TUNE["epochs"]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("world"))


def row(trial, rung, validation, **fields):
    return JournalRow(trial=trial, rung=rung, validation=validation, steps=9, **fields)


def fill_journal(journal, trials, epochs=EPOCHS, seed=0):
    rng = np.random.default_rng(seed)
    for trial in trials:
        base = rng.uniform(0.4, 0.8)
        for rung in range(1, epochs + 1):
            last = base + 0.05 if rung == epochs else None
            journal.append(row(trial, rung, base + 0.02 * rung, test=last))


@pytest.fixture(scope="module")
def matrix(world):
    """The matrix file, with invented scores."""
    config = benchmark_job(world)
    plan = plan_benchmark(config)
    journal = Journal(world / "invented.jsonl")
    fill_journal(journal, [cell.trial for cell in plan.cells])
    complete = complete_matrix(plan, journal, EPOCHS)
    write_matrix(complete, config.matrix)
    return complete


def test_a_benchmark_plans_every_cell_once(world, matrix):
    assert len(matrix.model_names) == 5
    assert matrix.dataset_names == ("animals", "food", "things")
    assert matrix.missing() == []
    facts = matrix.models["bert/v0001"]
    assert facts.manifest_sha256 == Zoo(world / "zoo").get("bert").manifest_sha256


def test_what_the_matrix_holds_is_not_trained_again(world, matrix):
    assert plan_benchmark(benchmark_job(world)).cells == ()
    more = plan_benchmark(benchmark_job(world, datasets=[spec(world, n) for n in TOPICS]))
    assert {cell.dataset for cell in more.cells} == {TARGET}


def test_a_column_of_other_settings_is_refused(world, matrix):
    other = benchmark_job(world, fine_tune={**FINE_TUNE, "learning_rate": 1e-3})
    with pytest.raises(InputError, match="other fine-tuning settings"):
        plan_benchmark(other)
    fewer = [{**spec(world, "food"), "max_rows": 60}]
    with pytest.raises(InputError, match="other rows"):
        plan_benchmark(benchmark_job(world, datasets=fewer))


def test_failed_trials_leave_a_gap(world, tmp_path):
    plan = plan_benchmark(benchmark_job(world, matrix=str(tmp_path / "m.parquet")))
    journal = Journal(tmp_path / "t.jsonl")
    trials = [cell.trial for cell in plan.cells]
    fill_journal(journal, trials[1:])
    journal.append(row(trials[0], 1, None, error="out of memory"))
    complete = complete_matrix(plan, journal, EPOCHS)
    assert complete.missing() == [(plan.cells[0].package, plan.cells[0].dataset)]


def test_entries_become_packages(tmp_path):
    zoo, processor = Zoo(tmp_path / "zoo"), make_processor()
    commit_encoder(zoo, "bert", processor)
    commit_encoder(zoo, "bert", processor)
    commit_encoder(zoo, "tuned", processor, kind="finetuned")
    assert [p.ref for p in resolve_packages(zoo, ["all"])] == ["bert/v0002"]
    assert [p.ref for p in resolve_packages(zoo, ["all:finetuned"])] == ["tuned/v0001"]
    zoo.promote("bert/v0001")
    assert [p.ref for p in resolve_packages(zoo, ["all"])] == ["bert/v0001"]
    both = resolve_packages(zoo, ["tuned", "bert/v0002", "bert/v0002"])
    assert [p.ref for p in both] == ["bert/v0002", "tuned/v0001"]
    with pytest.raises(InputError, match="tuned/v0001"):
        resolve_packages(zoo, ["all:imported"])


def test_the_target_may_not_be_a_column(world, matrix):
    with pytest.raises(InputError, match=r"identical rows|the same name"):
        plan_selection(select_job(world, target=spec(world, "food")))
    (world / "renamed.jsonl").write_text((world / "food.jsonl").read_text())
    with pytest.raises(InputError, match="identical rows"):
        plan_selection(select_job(world, target=spec(world, "renamed")))


def scores_for(plan, value=0.7):
    names = plan.to_score
    return {m: ProxyScore(values={"knn": value}, floors={"knn": 0.4}, rows=60) for m in names}


def recalled_of(plan, proxies, mode="default"):
    predictor = plan.decider.predictor
    return recall_candidates(plan.recall, proxies, mode=mode, predictor=predictor, pool=plan.pool)


def test_a_small_zoo_is_recalled_to_three_of_five(world, matrix):
    plan = plan_selection(select_job(world))
    assert plan.decider.name == "default"
    assert plan.pool == 3
    assert set(plan.to_score) >= set(plan.recall.representatives.values())
    assert 1 <= len(plan.to_score) < len(ENCODERS)
    recalled = recalled_of(plan, scores_for(plan))
    assert [item.kept for item in recalled] == [True] * 3 + [False] * 2


def test_a_plan_needs_no_torch(world, matrix):
    """Its import takes a second, in which Ray and the trials could start."""
    code = (
        "import sys\n"
        "from orchestrator.selection.config import SelectConfig\n"
        "from orchestrator.selection.planning import plan_selection\n"
        "plan_selection(SelectConfig.model_validate_json(sys.stdin.read()))\n"
        "print({'torch', 'ray', 'transformers'} & set(sys.modules) or 'light')"
    )
    job = select_job(world).model_dump_json()
    command = [sys.executable, "-c", code]
    found = subprocess.run(
        command, input=job, stdout=subprocess.PIPE, text=True, timeout=120, check=True
    )
    assert found.stdout.strip() == "light"


def test_candidates_that_cannot_be_trained_are_named_before_anything_is_loaded(tmp_path):
    world = make_world(tmp_path, encoders=("bert", "conv"))
    commit_broken(Zoo(world / "zoo"), make_processor())
    config = select_job(world, matrix=None)
    plan = plan_selection(config)
    assert plan.failed == {
        "digits/v0001": "reads images, the rows are texts",
        "onnx/v0001": "cannot be trained: ONNX graphs only, no model.safetensors",
        "wordless/v0001": "has no tokenizer.json, and the rows are texts",
    }
    assert set(plan.packages) == {"bert/v0001", "conv/v0001", "nan/v0002"}
    for ref, reason in plan.failed.items():
        assert f"left out: {ref}: {reason}" in describe_selection(config)
    benchmark = benchmark_job(world, datasets=[spec(world, "food")])
    assert "left out: onnx/v0001 on files:" in describe_benchmark(benchmark)
    assert {cell.package for cell in plan_benchmark(benchmark).cells} == set(plan.packages)
    digits = select_job(world, matrix=None, target={"source": "builtin:digits"})
    assert "left out: bert/v0001: reads texts, the rows are images" in describe_selection(digits)
    assert set(plan_selection(digits).packages) == {"digits/v0001"}
    texts = digits.model_copy(update={"candidates": ("bert", "conv")})
    with pytest.raises(InputError, match=r"conv/v0001: reads texts, the rows are images"):
        describe_selection(texts)
    missing = select_job(world, matrix=None, target={"source": f"files:{world}/none.jsonl"})
    with pytest.raises(InputError, match="does not exist"):
        describe_selection(missing)


def test_the_check_finds_the_target_in_the_matrix(world, matrix, tmp_path):
    assert "3 data sets" in describe_selection(select_job(world))
    with pytest.raises(InputError, match="target 'food' is in the performance matrix"):
        describe_selection(select_job(world, target=spec(world, "food")))
    lines = (world / "food.jsonl").read_text().splitlines()
    (tmp_path / "mine.jsonl").write_text("\n".join(lines[:-2]))  # another name, almost its rows
    with pytest.raises(InputError, match=r"target 'mine' is in the .*'food' \("):
        describe_selection(select_job(world, target=spec(tmp_path, "mine")))


def test_a_broken_candidate_leaves_the_plan_and_the_next_one_is_looked_at(world, matrix):
    plan = plan_selection(select_job(world))
    broken = plan.to_score[0]
    rest = plan.without({broken: "the features are not finite"}, RecallConfig())
    assert broken not in {*rest.packages, *rest.to_score, *rest.recall.candidates}
    assert rest.pool == plan.pool
    assert rest.failed == {broken: "the features are not finite"}
    with pytest.raises(StageError, match="every candidate failed"):
        plan.without(dict.fromkeys(plan.packages, "is broken"), RecallConfig())


def test_policies_fall_back_with_little_history(world, matrix):
    fast = plan_selection(select_job(world, halving={"policy": "fast"}))
    assert fast.decider.name == "default"
    assert "fast became default" in fast.warnings[0]
    alone = plan_selection(select_job(world, matrix=None))
    assert alone.decider.name == "sh"
    assert set(alone.to_score) == set(alone.packages)  # no candidate has history
    everything = plan_selection(select_job(world, recall={"mode": "all"}))
    assert everything.pool == 5
    assert everything.to_score == ()


def test_the_budget_shrinks_the_pool(world, matrix):
    assert plan_selection(select_job(world, budget={"epochs": 4})).pool == 2
    assert plan_selection(select_job(world, budget={"epochs": 3})).pool == 1
    steps = plan_selection(select_job(world)).rungs.steps_per_epoch
    assert plan_selection(select_job(world, budget={"steps": 4 * steps + 1})).pool == 2
    with pytest.raises(InputError, match=f"allow at least {3 * steps}"):
        plan_selection(select_job(world, budget={"steps": 3 * steps - 1}))


def test_settings_of_the_budget_that_cannot_hold_are_refused(world):
    for changes, message in (
        ({"halving": {"budget_epochs": 4}}, r"Write budget: \{epochs: 4\}"),
        ({"budget": {"epochs": 2}}, "Allow at least 3"),
        ({"budget": {"epochs": 5}, "finish_top": 2}, "Allow at least 6"),
        ({"budget": {"epochs": 5, "steps": 9}}, "keep one"),
        ({"recall": {"k": 2}, "finish_top": 3}, "recall.k is 2"),
    ):
        with pytest.raises(ConfigError, match=message):
            select_job(world, **changes)
    with pytest.raises(InputError, match="6 finalists, but 5 candidates"):
        plan_selection(select_job(world, finish_top=6))


def test_paper_mode_ranks_by_mean_score_times_proxy(world, matrix):
    config = select_job(world, recall={"mode": "paper"}, halving={"policy": "paper"})
    plan = plan_selection(config)
    assert plan.decider.name == "paper"
    recalled = recalled_of(plan, scores_for(plan), "paper")
    assert recalled[0].score <= float(matrix.final().mean(axis=1).max()) * 0.7 + 1e-9
    with pytest.raises(InputError, match="need knn"):
        recalled_of(plan, {}, "paper")


def test_a_package_that_changed_loses_its_history(tmp_path):
    world = make_world(tmp_path, encoders=("bert", "conv", "gpt"))
    config = benchmark_job(world)
    plan = plan_benchmark(config)
    journal = Journal(world / "t.jsonl")
    fill_journal(journal, [cell.trial for cell in plan.cells])
    complete = complete_matrix(plan, journal, EPOCHS)
    stale = complete.add_model(
        "conv/v0001", ModelFacts(package="conv/v0001", manifest_sha256="0" * 64)
    )
    write_matrix(stale, config.matrix)
    found = plan_selection(select_job(world))
    assert found.recall.unknown == ("conv/v0001",)
    assert any("conv/v0001 changed" in warning for warning in found.warnings)


def test_the_report_ranks_every_candidate_with_a_reason(world, matrix, tmp_path):
    config = select_job(world)
    plan = plan_selection(config)
    proxies = scores_for(plan)
    recalled = recalled_of(plan, proxies)
    journal = Journal(tmp_path / "t.jsonl")
    pool = tuple(item.model for item in recalled if item.kept)
    bracket = Bracket(pool, EPOCHS, plan.decider.policy)
    failing = pool[-1]
    bracket.fail(failing, "out of memory")
    while not bracket.finished:
        for model in bracket.waiting():
            rung = bracket.rung
            test = 0.8 if rung == EPOCHS else None
            journal.append(row(model, rung, 0.5 + 0.1 * pool.index(model), test=test))
            bracket.record(model, rung, journal.rows[-1].validation)
    report = selection_report(plan, recalled, proxies, bracket, journal)
    by_status = [entry.status for entry in report.ranking]
    assert by_status == ["winner", "dropped", "not recalled", "not recalled", "failed"]
    assert all(entry.reason for entry in report.ranking)
    assert report.ranking[-1].model == failing
    assert report.test_accuracy == 0.8
    assert {cell.rung for cell in report.bracket} == {1, 2, 3}
    assert all(cell.predicted is not None for cell in report.bracket)
    assert report.ledger.epochs == 2 + 1 + 1
    assert report.ledger.brute_force_epochs == 15
    assert report.ledger.proxy_passes == len(plan.to_score)
    assert len(report.linkage.matrix) == 4
    assert [(each.model, each.test) for each in report.finalists] == [(report.winner, 0.8)]
    atomic_write_json(tmp_path / REPORT_NAME, report.model_dump())
    assert SelectionReport.read(tmp_path / REPORT_NAME) == report
    earlier = {k: v for k, v in report.model_dump().items() if k != "schema_version"}
    assert SelectionReport.model_validate(earlier) == report
    atomic_write_json(tmp_path / REPORT_NAME, {**earlier, "ledger": {}})
    with pytest.raises(IntegrityError, match="selection report"):
        SelectionReport.read(tmp_path / REPORT_NAME)


def test_finalists_are_ranked_behind_the_winner(world, matrix, tmp_path):
    plan = plan_selection(select_job(world, finish_top=2, halving={"policy": "sh"}))
    recalled = recalled_of(plan, scores_for(plan))
    journal = Journal(tmp_path / "t.jsonl")
    pool = tuple(item.model for item in recalled if item.kept)
    bracket = Bracket(pool, EPOCHS, plan.decider.policy, finalists=2)
    while not bracket.finished:
        rung = bracket.rung
        for model in bracket.waiting():
            score = 0.5 + 0.1 * pool.index(model)
            journal.append(row(model, rung, score, test=score if rung == EPOCHS else None))
            bracket.record(model, rung, score)
    report = selection_report(plan, recalled, scores_for(plan), bracket, journal, package="chosen")
    assert [(e.model, e.status) for e in report.ranking[:2]] == [
        (pool[2], "winner"),
        (pool[1], "finalist"),
    ]
    assert [e.package for e in report.finalists] == ["chosen", "chosen-2"]


def test_a_run_keeps_its_first_inputs(tmp_path):
    world = make_world(tmp_path, encoders=("bert", "conv", "gpt"))
    plan = plan_benchmark(benchmark_job(world))
    journal = Journal(world / "t.jsonl")
    fill_journal(journal, [cell.trial for cell in plan.cells])
    complete = complete_matrix(plan, journal, EPOCHS)
    config = select_job(world)
    write_matrix(complete, config.matrix)
    with RunFolder.open(config, "select") as folder:
        before = plan_selection(config, folder)
        write_matrix(complete.without(["food"]), config.matrix)
        commit_encoder(Zoo(world / "zoo"), "late", make_processor())
        after = plan_selection(config, folder)
    assert set(after.packages) == set(before.packages) == set(before.history.models)
    assert after.history.datasets == before.history.datasets == ("animals", "food", "things")


ENCODED = tuple(f"{name}/v0001" for name in ENCODERS)
PRETENDED = RaySession("127.0.0.1:1", cpus=2.0, gpus=0.0, started=False, private=False)


class Stopped(Exception):
    """Ends a run before it needs Ray."""


def test_the_runner_enters_planning_once(world, matrix, monkeypatch):
    entered = []

    def trace(frame, event, _):
        files = (frame.f_back and frame.f_back.f_code.co_filename, frame.f_code.co_filename)
        if event == "call" and files == (select_runner.__file__, planning.__file__):
            entered.append(frame.f_code.co_name)

    def stop(*_):
        raise Stopped

    monkeypatch.setattr(
        "orchestrator.cluster.session.session_for", lambda *_: nullcontext(PRETENDED)
    )
    monkeypatch.setattr(select_runner, "_halve", stop)
    config = select_job(world, "traced", recall={"mode": "all"})
    sys.setprofile(trace)
    try:
        with pytest.raises(Stopped):
            select_runner.run(config)
    finally:
        sys.setprofile(None)
    assert entered == ["plan_selection"]


def test_check_needs_no_cluster(world, matrix):
    text = select_runner.check(select_job(world))
    assert "keeps 3 of 5" in text
    assert "3 + 3 + 1 = 7 epochs; brute force 15" in text
    assert "15 cells x 3 epochs = 45 epochs" in benchmark_runner.check(benchmark_job(world))


def test_the_plan_says_what_it_costs_and_what_nobody_knows(world, matrix, tmp_path):
    prices = {"cpu_hour": 3.6}
    text = select_runner.check(select_job(world, prices=prices, budget={"seconds": 9.0}))
    steps = plan_selection(select_job(world)).rungs.steps_per_epoch
    found = next(line.split() for line in text.splitlines() if "at most  " in line)
    assert found == ["at", "most", "5", str(5 * steps), "unknown", "unknown"]
    assert "unknown until the first rung; the matrix has no times" in text
    assert "budget: 9 seconds" in text
    timed = matrix.cells.assign(seconds=2.0)
    rows = {n: f.model_copy(update={"train_rows": 9}) for n, f in matrix.datasets.items()}
    write_matrix(replace(matrix, cells=timed, datasets=rows), tmp_path / "timed.parquet")
    job = select_job(world, matrix=str(tmp_path / "timed.parquet"), prices=prices)
    lines = forecast_lines(
        job,
        read_matrix(job.matrix),
        ENCODED,
        passes=0,
        sizes=[3, 1],
        rows=RowCounts(18, 0),
        slots=2,
    )
    assert [line.split() for line in lines[1:4]] == [
        ["rung", "1", "3", "3", "9", "8.0", "0.02"],
        ["rung", "2", "1", "1", "3", "4.0", "0.01"],
        ["at", "most", "4", "12", "12.0", "0.02"],
    ]
    assert lines[4] == "  seconds on 2 slots: by the matrix"


def test_facts_depend_on_rows_and_labels(world):
    from orchestrator.data.sources.opening import load_task
    from orchestrator.data.spec import DatasetSpec

    one = load_task(DatasetSpec(**spec(world, "food")))
    two = load_task(DatasetSpec(**spec(world, "things")))
    assert dataset_facts(one) == dataset_facts(load_task(DatasetSpec(**spec(world, "food"))))
    assert dataset_facts(one).digest != dataset_facts(two).digest


def test_a_matrix_of_an_earlier_release_keeps_its_protocol():
    """The hash that the first releases wrote for the defaults."""
    assert protocol_of(FineTuneConfig(), 7) == "8706a2375cb4bd16"
    assert protocol_of(FineTuneConfig(exportable=True), 7) != "8706a2375cb4bd16"
    assert protocol_of(FineTuneConfig(), 7, "bf16") != "8706a2375cb4bd16"


def test_check_of_many_packages_is_grouped():
    class Named:
        def __init__(self, number):
            self.ref, self.kind = f"m{number:03d}/v0001", ("pretrained", "imported")[number % 2]

    packages = [Named(number) for number in range(500)]
    left_out = {f"x{i}/v0001": f"reason {i % 40}" for i in range(80)}
    lines = listed_candidates(packages, left_out)
    assert len(lines) <= 17
    assert lines[0].startswith("  pretrained: 250: m000/v0001, m002/v0001")
    assert lines[0].endswith("and 244 more")
    assert "  left out: reason 0: 2: x0/v0001, x40/v0001" in lines
    assert lines[-1] == "  left out for 26 other reasons"
    assert listed_candidates(packages[:2], {"y/v0001": "no"}) == [
        "  m000/v0001 (pretrained)",
        "  m001/v0001 (imported)",
        "  left out: y/v0001: no",
    ]
