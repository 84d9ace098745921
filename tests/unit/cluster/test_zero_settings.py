"""DeepSpeed's settings by device: its own figures on accelerators, cache-sized ones on a CPU."""

import pytest

from orchestrator.cluster.engines.zero_settings import zero_settings
from orchestrator.training.config import EngineConfig

LARGE, SMALL = 7_000_000_000, 1_000_000
OWN = {"reduce_scatter", "contiguous_gradients", "allgather_bucket_size", "sub_group_size"}
"""What DeepSpeed decides on an accelerator, like everything of stage 3."""


def sharding(stage, device, elements=LARGE, **settings):
    config = EngineConfig(type="zero", zero_stage=stage, **settings)
    return zero_settings(config, device, elements)["zero_optimization"]


@pytest.mark.parametrize("stage", [1, 2, 3])
@pytest.mark.parametrize("device", ["cuda", "xpu"])
def test_accelerators_get_deepspeeds_own_buckets_and_overlap(stage, device):
    found = sharding(stage, device)
    assert found["reduce_bucket_size"] == 500_000_000
    assert found["overlap_comm"] is True
    assert not OWN & found.keys()
    assert not [key for key in found if key.startswith("stage3_")]


def test_a_bucket_is_not_larger_than_the_model():
    assert sharding(2, "cuda", SMALL)["reduce_bucket_size"] == SMALL


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_a_cpu_gets_buckets_that_fit_its_cache_and_no_overlap(stage):
    found = sharding(stage, "cpu")
    assert found["reduce_bucket_size"] == 2_500_000
    assert "overlap_comm" not in found
    assert (found.get("reduce_scatter") is False) == (stage < 3)
    ahead = {key: value for key, value in found.items() if key.startswith("stage3_")}
    assert set(ahead.values()) == ({0} if stage == 3 else set())
    assert len(ahead) == (4 if stage == 3 else 0)


@pytest.mark.parametrize(
    ("stage", "precision", "own"), [(1, "fp32", 0), (1, "bf16", 1), (2, "bf16", 0), (3, "fp32", 1)]
)
def test_deepspeed_measures_no_norm_where_it_need_not(stage, precision, own):
    found = sharding(stage, "cuda", precision=precision)
    assert found.get("compute_grad_norm", True) is bool(own)
    offloaded = sharding(2, "cuda", offload={"optimizer": "cpu"})
    assert "compute_grad_norm" not in offloaded
    assert offloaded["offload_optimizer"] == {"device": "cpu", "pin_memory": True}


def test_a_file_amends_what_the_device_decides():
    content = {"zero_optimization": {"reduce_bucket_size": 7, "overlap_comm": False}}
    found = sharding(2, "cuda", deepspeed=content)
    assert (found["reduce_bucket_size"], found["overlap_comm"]) == (7, False)
    assert found["stage"] == 2
