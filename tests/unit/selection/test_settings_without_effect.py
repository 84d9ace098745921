"""Settings and files of selection that ``--check`` refuses, each in one line."""

import pytest

from orchestrator.errors import ConfigError, IntegrityError
from orchestrator.selection import benchmark_runner
from tests.support.candidates import benchmark_job, make_world, select_job


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"recall": {"mode": "all", "k": 2}}, r"recall\.k: 2 has no effect in mode all"),
        ({"recall": {"mode": "all", "proxies": ["knn"]}}, r"recall\.proxies: .*no effect"),
        (
            {"recall": {"mode": "all", "features": "mean"}},
            r"recall\.features: .* no effect",
        ),
        ({"recall": {"mode": "paper", "score_top": 2}}, r"recall\.score_top: 2 .* mode default"),
        ({"recall": {"cluster_threshold": 0.1}}, r"recall\.cluster_threshold: 0.1 .* mode paper"),
        ({"prices": {"currency": "EUR"}}, r"prices\.currency: EUR has no effect"),
        ({"budget": {"currency": 1}, "prices": {"cpu_hour": 0}}, "limits nothing"),
        (
            {"budget": {"currency": 1}, "prices": {"cpu_hour": 0, "gpu_hour": 3}},
            r"budget\.currency: limits nothing",
        ),
    ],
)
def test_settings_without_effect_are_refused(changes, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        select_job(tmp_path, **changes)


def test_settings_with_an_effect_are_taken(tmp_path):
    for changes in (
        {"recall": {"mode": "paper", "k": 2, "cluster_threshold": 0.1, "features": "mean"}},
        {"recall": {"mode": "default", "k": 2, "score_top": 0, "features": "mean"}},
        {"prices": {"cpu_hour": 0, "currency": "EUR"}},
        {"budget": {"currency": 1}, "prices": {"cpu_hour": 0.1}},
        {
            "budget": {"currency": 1},
            "prices": {"cpu_hour": 0, "gpu_hour": 3},
            "cluster": {"gpus_per_worker": 1},
        },
    ):
        select_job(tmp_path, **changes)


def test_check_of_a_benchmark_reads_the_matrix_that_it_completes(tmp_path):
    world = make_world(tmp_path, encoders=("bert",))
    (world / "matrix.parquet").write_bytes(b"not parquet")
    with pytest.raises(IntegrityError, match="not readable as Parquet"):
        benchmark_runner.check(benchmark_job(world))
