"""Trials of several workers: what is refused, what they cost, and whose failure is told."""

import pytest

from orchestrator.cluster.peers import GroupError, cause_of
from orchestrator.config import ClusterSection, TrialClusterSection, validate_config
from orchestrator.errors import ConfigError, InputError, IntegrityError
from orchestrator.pretraining.config import PretrainConfig
from orchestrator.selection.costs.clock import slot_price, slots_of, trials_that_fit
from orchestrator.selection.costs.config import PricesConfig
from orchestrator.selection.costs.forecast import steps_per_epoch, trial_lines
from orchestrator.training.config import FineTuneConfig
from tests.support.candidates import benchmark_job, select_job


def cluster(**settings):
    return TrialClusterSection.model_validate({"workers_per_trial": 2, **settings})


@pytest.mark.parametrize("job", [select_job, benchmark_job])
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"cluster": {"workers_per_trial": 3}}, "8 does not divide over 3 workers .* Use 6"),
        ({"cluster": {"workers_per_trial": 2, "gpus_per_worker": 0.5}}, "cannot share a GPU"),
        ({"cluster": {"workers_per_trial": 2, "cpus_per_worker": 0}}, "needs workers that take"),
    ],
)
def test_a_group_that_cannot_work_is_refused(tmp_path, job, settings, message):
    with pytest.raises(ConfigError, match=message):
        job(tmp_path, **settings)


def test_other_stages_refuse_the_setting():
    with pytest.raises(ConfigError, match=r"cluster\.workers_per_trial"):
        validate_config(PretrainConfig, {"cluster": {"workers_per_trial": 2}}, "test")


def test_a_slot_is_all_workers_of_a_trial():
    group, alone = cluster(cpus_per_worker=2), cluster(cpus_per_worker=2, workers_per_trial=1)
    assert (slots_of(group, 9, 0), slots_of(alone, 9, 0)) == (2, 4)
    assert trials_that_fit(cluster(gpus_per_worker=1), 64, 7) == 3
    assert trials_that_fit(group, 3, 0) == 0
    prices = PricesConfig(cpu_hour=0.09, gpu_hour=3)
    assert slot_price(group, prices) == pytest.approx(2 * slot_price(alone, prices))


def test_steps_are_counted_as_workers_share_them():
    settings = FineTuneConfig(global_batch_size=32)
    assert [steps_per_epoch(rows, settings, 4) for rows in (320, 321, 31)] == [10, 11, 2]
    assert steps_per_epoch(31, settings) == 1


def test_the_plan_says_how_many_trials_fit_or_that_none_can(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(5))
    monkeypatch.setattr("os.cpu_count", lambda: 5)
    assert trial_lines(cluster()) == ["  trials: 2 workers each, 2 at once"]
    assert trial_lines(cluster(workers_per_trial=1)) == []
    assert trial_lines(cluster(address="head:6379", workers_per_trial=64, workers=3)) == [
        "  trials: 64 workers each, at least 3 at once"
    ]
    with pytest.raises(InputError, match=r"3 × 2 × 1 CPU asked, 5 CPUs on this machine"):
        trial_lines(cluster(workers=3))


def test_the_failure_that_the_others_follow_from_is_told():
    closed, lost = RuntimeError("Connection closed by peer"), GroupError("was lost (died)")
    broken, memory = IntegrityError("weights that are not finite"), RuntimeError("out of memory")
    assert cause_of(broken, {1: closed}, 2) is broken
    assert cause_of(closed, {1: closed, 2: broken}, 3) is broken
    assert str(cause_of(closed, {1: lost, 2: closed}, 3)) == "worker 1 of 3: was lost (died)"
    told = str(cause_of(closed, {1: memory}, 2))
    assert told == "worker 0 of 2: Connection closed by peer; worker 1 of 2: out of memory"
    assert str(cause_of(None, {1: lost}, 2)) == "worker 1 of 2: was lost (died)"


def test_work_without_trials_takes_the_same_cluster():
    """The search for an INT8 form validates it as its own job does, which has no such key."""
    trials = TrialClusterSection(workers=3, cpus_per_worker=2, wait_s=9, workers_per_trial=2)
    assert trials.of_tasks == ClusterSection(workers=3, cpus_per_worker=2, wait_s=9)
    assert type(trials.of_tasks) is ClusterSection
