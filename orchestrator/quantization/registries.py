"""Registries of back ends and calibrators: the parts of a job that other packages can add.

The entry of this stage in the registry of compressors, by which other stages use it, is here too.
"""

from typing import Literal

from orchestrator.config.registry import EntryConfig, Registry
from orchestrator.training.compression import COMPRESSORS, CompressorConfig


class BackendConfig(EntryConfig):
    """Options of a back end."""


BACKENDS: Registry[BackendConfig] = Registry(
    "backend", BackendConfig, builtin="orchestrator.quantization.backends"
)


class CalibratorConfig(EntryConfig):
    """Options of a calibrator."""


CALIBRATORS: Registry[CalibratorConfig] = Registry(
    "calibrator", CalibratorConfig, builtin="orchestrator.quantization.calibrators"
)


@COMPRESSORS.register("orchestrator.quantization.compressor:Int8Compressor")
class Int8Config(CompressorConfig):
    """INT8 arithmetic in the GEMMs of an encoder of texts."""

    type: Literal["int8"] = "int8"
