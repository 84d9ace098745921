"""Registries of back ends and calibrators: the parts of a job that other packages can add."""

from orchestrator.config.registry import EntryConfig, Registry


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
