"""A model with free fields: payloads, results and checkpoint states of test workers."""

from pydantic import ConfigDict

from orchestrator.config import StrictModel


class AnyState(StrictModel):
    """Holds whatever a test gives it."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=True)
