"""The back end of a job: the one that it names, else the first that has a form for its package.

Packages that can be a graph run in ONNX Runtime. The others run module by module in torch, and the
check and the log of the job say why.
"""

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.errors import InputError
from orchestrator.quantization.backends.backend import (
    DEFAULT,
    MODULES,
    Backend,
    Written,
    make_backend,
    named_backend,
)

if TYPE_CHECKING:
    from orchestrator.quantization.registries import BackendConfig
    from orchestrator.quantization.source import Source

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Chosen:
    """A back end, the float model in its form, and why it is not the usual one."""

    backend: Backend
    written: Written
    reason: str | None = None


def choose_backend(config: "BackendConfig | None", source: "Source") -> Chosen:
    """Return the back end of a job with the float model that it writes.

    Args:
        config: Back end of the job; None: ONNX Runtime, or torch for a model without a graph.
        source: The float model.

    Raises:
        InputError: The back end is not installed or has no form for the model, or no part of the
            model has an INT8 kernel.
    """
    if config is not None:
        backend = make_backend(config)
        _ = backend.version  # refused here where it is not installed
        return Chosen(backend, _with_units(backend, source))
    usual = named_backend(DEFAULT)
    try:
        return Chosen(usual, _with_units(usual, source))
    except InputError as error:
        other, reason = named_backend(MODULES), str(error)
        try:
            written = _with_units(other, source)
        except InputError:
            raise error from None
    logger.warning("event=backend_chosen backend=%s reason=%r", MODULES, reason)
    return Chosen(other, written, reason)


def _with_units(backend: Backend, source: "Source") -> Written:
    written = backend.emit(source)
    if not written.units:
        name = backend.config.type_name()
        raise InputError(no_units(source.config["encoder"]["type"], name))
    return written


def no_units(encoder: str, backend: str = DEFAULT) -> str:
    """Say that an encoder has nothing to quantize, and which ones have."""
    return (
        f"encoder {encoder!r} has no part with an INT8 kernel in {backend}. {DEFAULT} has kernels "
        f"for transformer, gatedcnn and LSTM encoders, {MODULES} for linear layers; GRU and RNN "
        "have none"
    )
