"""Published peaks by the name of a device, and what `mfu` is a share of."""

import pytest
import torch

from orchestrator.config import validate_config
from orchestrator.errors import ConfigError
from orchestrator.modeling import peaks
from orchestrator.modeling.peaks import PEAKS, published_peak
from orchestrator.pretraining.estimate_clusters import ACCELERATORS
from orchestrator.training.config import EngineConfig

HALF, SHORT, FULL = torch.float16, torch.bfloat16, torch.float32
NAMES = {  # as drivers report them -> bf16, in 10^12
    "NVIDIA A100-SXM4-80GB": 312,
    "NVIDIA A100-PCIE-40GB": 312,
    "NVIDIA H100 80GB HBM3": 989,
    "NVIDIA H100 PCIe": 756,
    "NVIDIA H100 NVL": 835.5,
    "NVIDIA H200": 989,
    "NVIDIA L4": 121,
    "NVIDIA L40S": 362,
    "NVIDIA A10": 125,
    "NVIDIA A10G": 70,
    "Tesla T4": 8.1,
    "Tesla V100-SXM2-16GB": 15.7,
    "NVIDIA GeForce RTX 4090": 165.2,
    "NVIDIA B200": 2250,
}


@pytest.mark.parametrize(("name", "tera"), NAMES.items())
def test_a_device_is_found_by_its_name(name, tera):
    assert published_peak(name, SHORT) == pytest.approx(tera * 1e12)


def test_formats_have_peaks_of_their_own():
    assert published_peak("Tesla T4", HALF) == 65e12
    assert published_peak("NVIDIA A100-SXM4-80GB", FULL) == 19.5e12
    assert published_peak("NVIDIA A100-SXM4-80GB", FULL, tf32=True) == 156e12
    assert published_peak("Tesla V100-SXM2-16GB", FULL, tf32=True) == 15.7e12  # it has none


def test_an_unknown_device_has_none():
    assert published_peak("NVIDIA L400", SHORT) is None
    assert published_peak("AMD Instinct MI300X", SHORT) is None


def test_specific_names_come_before_general_ones():
    seen = []
    for name in PEAKS:
        assert not any(set(earlier.split()) < set(name.split()) for earlier in seen), name
        seen.append(name)


def test_estimates_use_the_same_figures():
    assert ACCELERATORS["h100"].half_flops == PEAKS["H100"].bf16


def test_mfu_is_a_share_of_the_makers_figure(monkeypatch, caplog):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA H200")
    assert peaks.device_peak("cuda:0", SHORT) == 989e12
    assert peaks.device_peak("cuda:0", FULL) == 67e12
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA X1")
    monkeypatch.setattr(peaks, "ceiling_flops", lambda *_: 5.0)
    assert peaks.device_peak("cuda:0", SHORT) == 5.0
    assert "set engine.peak_tflops" in caplog.text
    assert peaks.device_peak("cpu", FULL) == 5.0


def test_the_peak_can_be_given():
    assert validate_config(EngineConfig, {"peak_tflops": 400}, "test").peak_tflops == 400
    with pytest.raises(ConfigError, match="peak_tflops"):
        validate_config(EngineConfig, {"peak_tflops": 0}, "test")
    with pytest.raises(ConfigError, match="tf32: has no effect with precision: bf16"):
        validate_config(EngineConfig, {"tf32": True, "precision": "bf16"}, "test")
