"""Configs of the demo; that it runs is tested in tests/e2e."""

from orchestrator.config import load_config
from orchestrator.demo.config import DemoConfig, preset
from orchestrator.pretraining.config import PretrainConfig


def test_the_demo_pretrains_five_different_models_some_of_them_sharded():
    names = DemoConfig().pretrain
    jobs = [load_config(PretrainConfig, preset(name)) for name in names]
    kinds = {
        (job.model.encoder.type_name(), job.model.target[0].type_name(), job.model.hidden_size)
        for job in jobs
    }
    assert len(names) >= 5
    assert len(kinds) >= 4
    assert DemoConfig().cluster.workers == 2
    assert {job.engine.sharding_stage for job in jobs} >= {2, 3}


def test_presets_that_do_not_exist_are_named():
    (problem,) = DemoConfig(benchmark="benchmark_nothing").problems()
    assert problem.path == "benchmark"
    assert "benchmark_pydoc" in problem.message
