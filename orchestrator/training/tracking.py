"""Where the figures of a run are written besides its ``history.parquet``. Imports nothing heavy."""

import importlib.util
from collections.abc import Iterable
from urllib.parse import urlsplit

from pydantic import Field

from orchestrator.config import StrictModel
from orchestrator.errors import InputError, Problem


class MlflowConfig(StrictModel):
    """One MLflow run for one run of ours, however often that is interrupted and continued."""

    tracking_uri: str | None = None
    """Server or store: https://, sqlite:///, a folder; null takes MLFLOW_TRACKING_URI, else a
    database mlflow.db beside the runs."""
    experiment: str = Field("orchestrator", min_length=1)
    """Experiment that the run belongs to; made when it is not there."""

    def problems(self) -> Iterable[Problem]:
        """Passwords stay out of configs: those are stored with every run and package."""
        address = urlsplit(self.tracking_uri or "")
        if address.password is not None or address.username is not None:
            yield Problem(
                "tracking_uri",
                "holds a user name or password, and configs are stored with every run. Set "
                "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_URI.",
            )


class TrackingSection(StrictModel):
    """Who is told how training goes."""

    tensorboard: bool = True
    """Write TensorBoard event files into the run's folder."""
    mlflow: MlflowConfig | None = None
    """Log to MLflow as well; null: do not."""

    def require_installed(self) -> None:
        """Refuse what this installation cannot do.

        Raises:
            InputError: MLflow is asked for and not installed; names the extra.
        """
        if self.mlflow is not None and importlib.util.find_spec("mlflow") is None:
            raise InputError(
                "tracking.mlflow: the package mlflow is not installed. Install the extra "
                "`tracking` (pip install 'ray-model-orchestrator[tracking]'), or leave "
                "tracking.mlflow out."
            )
