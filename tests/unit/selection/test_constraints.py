"""Constraints on candidates, in the plan and before anything is loaded."""

import pytest

from orchestrator.cluster.processes import load_named
from orchestrator.errors import InputError
from orchestrator.selection import select_runner
from orchestrator.selection.costs.config import ConstraintsConfig
from orchestrator.selection.costs.constraints import parameters_of, too_slow, within_constraints
from orchestrator.selection.costs.latency import time_package
from orchestrator.selection.costs.results import Latency
from orchestrator.selection.planning import plan_selection
from orchestrator.selection.scores.features import ProxyPayload
from orchestrator.selection.screening import Screening
from orchestrator.storage import RunFolder
from orchestrator.zoo import Zoo
from tests.support.candidates import make_world, select_job


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("world"), encoders=("bert", "bert-two", "conv"))


@pytest.fixture(scope="module")
def packages(world):
    return Zoo(world / "zoo").packages()


def test_parameters_are_counted_from_the_headers(packages):
    from orchestrator.modeling.package import load_model

    for package in packages:
        stored = load_model(package.path).state_dict(keep_vars=True)
        tensors = {tensor.data_ptr(): tensor.numel() for tensor in stored.values()}
        assert parameters_of(package) == sum(tensors.values())


def test_a_limit_below_the_largest_leaves_out_that_one_alone(world, packages):
    sizes = {package.ref: parameters_of(package) for package in packages}
    largest = max(sizes, key=sizes.get)
    limit = {"max_parameters": sizes[largest] - 1}
    job = select_job(world, matrix=None, constraints=limit)
    plan = plan_selection(job)
    assert set(plan.packages) == set(sizes) - {largest}
    assert plan.failed[largest] == (
        f"constraints.max_parameters: {sizes[largest]:,} parameters, "
        f"{sizes[largest] - 1:,} are allowed"
    )
    assert f"left out: {largest}: constraints.max_parameters" in select_runner.check(job)


def test_bytes_and_licenses_are_read_from_the_manifest(packages):
    smallest = min(packages, key=lambda package: package.manifest.total_bytes)
    tight = ConstraintsConfig(max_bytes=smallest.manifest.total_bytes)
    left, reasons = within_constraints(packages, tight)
    assert [package.ref for package in left] == [smallest.ref]
    assert all("constraints.max_bytes" in reason for reason in reasons.values())
    free = smallest.manifest.model_copy(update={"licence": "MIT"})
    assert within_constraints(packages, ConstraintsConfig())[0] == packages
    with pytest.raises(InputError, match="none declared, allowed: mit"):
        within_constraints(packages, ConstraintsConfig(licences=("mit",)))
    licensed = type(smallest)(smallest._store, free, b"")
    assert within_constraints([licensed], ConstraintsConfig(licences=("mit",)))[1] == {}


def test_where_none_is_left_the_nearest_miss_is_named(world, packages):
    smallest = min(packages, key=parameters_of)
    job = select_job(world, matrix=None, constraints={"max_parameters": 10})
    for refuses in (plan_selection, select_runner.check):
        with pytest.raises(InputError, match=f"The nearest is {smallest.ref}: .* 10 are allowed"):
            refuses(job)


def test_latency_is_measured_on_a_row_of_median_length(world):
    plan = plan_selection(select_job(world, matrix=None))
    payload = ProxyPayload(
        package="bert/v0001",
        zoo=plan.zoo,
        task=plan.spec,
        proxies=("knn",),
        rows=50,
        max_length=12,
        seed=3,
    )
    found = time_package(payload)
    assert found.ms > 0
    assert 5 <= found.tokens <= 12
    assert "CPUs" in found.host


def test_a_candidate_that_cannot_be_measured_is_left_out_as_broken(tmp_path):
    world = make_world(tmp_path, encoders=("bert", "conv"))
    config = select_job(
        world, matrix=None, recall={"mode": "all"}, constraints={"max_latency_ms": 1e6}
    )
    plan = plan_selection(config)
    (world / "zoo" / "conv" / "v0001" / "tokenizer.json").unlink()  # after the plan
    for count in (2, 0):  # the second time from the marks of the run
        with RunFolder.open(config, "select") as folder:
            screening, measured = Screening(config, plan, folder), 0
            while screening.waiting:
                name = screening.waiting[0]
                new = screening.trial(name)
                result = load_named(new.target)(new.payload).step()
                screening.record(name, result.model_dump_json())
                measured += 1
        assert measured == count
        assert "tokenizer.json" in screening.plan.failed["conv/v0001"]
        recalled = [item.model for item in screening.recalled]
        assert recalled == list(screening.latencies) == ["bert/v0001"]


def test_candidates_that_are_too_slow_are_left_out_until_none_is():
    times = {name: Latency(ms=ms, tokens=9, host="one CPU") for name, ms in [("a", 2), ("b", 5)]}
    assert set(too_slow(times, ["a", "b", "c"], 3.0)) == {"b"}
    assert set(too_slow(times, ["a", "b", "c"], 1.0)) == {"a", "b"}  # c is not measured yet
    with pytest.raises(InputError, match="The nearest is a with 2 ms, 1 are allowed"):
        too_slow(times, ["a", "b"], 1.0)
