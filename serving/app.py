"""`serve run serving.app:build model=NAME zoo=DIR`: the application builder Ray Serve calls.

Building resolves and verifies the package in the calling process, so a misspelt name or a damaged
file is one message within seconds, before any replica starts.
"""

import os
import sys
from typing import Any

import click
import ray
from ray.serve import Application
from ray.serve.config import HTTPOptions

from orchestrator.config import validate_config
from orchestrator.errors import OrchestratorError
from serving.config import ServingConfig
from serving.deployment import deployment
from serving.preflight import answers_as_serve, pin, require_free_port


class Arguments(ServingConfig):
    """`ServingConfig`, with this project's messages where Serve validates what it was given."""

    @classmethod
    def model_validate(cls, obj: Any, **_options: Any) -> Any:
        """Validate arguments of ``serve run`` or of a config file.

        Raises:
            ConfigError: Listing every problem with the nearest names.
        """
        try:
            return validate_config(ServingConfig, obj, "arguments of serving.app:build")
        except OrchestratorError as error:
            raise _for_command_line(error) from error


def build(args: Arguments) -> Application:
    """Return the application that serves one package.

    Args:
        args: A `ServingConfig`; Serve makes it from the command line or a config file.

    Raises:
        ConfigError: Settings contradict each other.
        InputError: The zoo, package, version or alias does not exist, the key file is unusable, or
            the HTTP port is taken.
        IntegrityError: The package is damaged.
    """
    try:
        _require_port_of_serve_run()
        return deployment(pin(args))
    except OrchestratorError as error:
        raise _for_command_line(error) from error


def _in_serve_run() -> bool:
    """Return whether the ``serve run`` command calls, which builds before it connects to Ray."""
    return not ray.is_initialized() and sys.argv[1:2] == ["run"]


def _require_port_of_serve_run() -> None:
    """Ask for the port now: ``serve run`` would find it taken only after a minute of waiting."""
    elsewhere = "RAY_ADDRESS" in os.environ or {"-a", "--address"} & set(sys.argv)
    if not _in_serve_run() or elsewhere:
        return
    options = HTTPOptions()
    host = options.host or "127.0.0.1"
    if not answers_as_serve(host, options.port):
        require_free_port(host, options.port)


def _for_command_line(error: OrchestratorError) -> Exception:
    """Return the error as the ``serve`` command prints it: one message, no stack trace."""
    if not _in_serve_run():
        return error
    return _Shown(error)


class _Shown(click.ClickException):
    """Error that the ``serve`` command prints as one line, with this project's exit code."""

    def __init__(self, error: OrchestratorError) -> None:
        super().__init__(str(error))
        self.exit_code = error.exit_code  # type: ignore[misc]  # click reads it from the instance
