"""Serve config files (`serving/configs/*.yaml`) as `orchestrator serve` reads them.

`serve deploy` reads the same file itself; here its one application is started on this machine.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from orchestrator.config import require_no_problems, validate_config
from orchestrator.config.yaml_files import parse_yaml, read_text
from orchestrator.errors import ConfigError, InputError, Problem
from serving.config import ServingConfig
from serving.preflight import is_loopback

IMPORT_PATH: Final = "serving.app:build"
DEFAULT_HOST: Final = "127.0.0.1"
DEFAULT_PORT: Final = 8000


@dataclass(frozen=True, slots=True)
class Plan:
    """A package to serve and its address.

    Attributes:
        config: The application's settings.
        host: Address the proxy listens on.
        port: Its port.
        name: Name of the Serve application.
        route_prefix: Path below which the application answers.
    """

    config: ServingConfig
    host: str = DEFAULT_HOST
    port: int = DEFAULT_PORT
    name: str = "default"
    route_prefix: str = "/"

    @property
    def url(self) -> str:
        """Address of the application."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}{self.route_prefix.rstrip('/')}"


def read_plan(path: str | Path, overrides: list[str]) -> Plan:
    """Read a Serve config file with one application of this project.

    Args:
        path: The file.
        overrides: ``key.path=value`` for the application's arguments.

    Raises:
        ConfigError: The file or the arguments are not right; all problems are listed.
    """
    source = str(path)
    data, problems = parse_yaml(read_text(Path(path)), source)
    if problems:
        raise ConfigError(source, problems)
    application = _only_application(data, source)
    arguments = application.get("args") or {}
    config = validate_config(ServingConfig, arguments, f"{source}, args", overrides)
    http = data.get("http_options") or {}
    return Plan(
        config,
        host=str(http.get("host", DEFAULT_HOST)),
        port=int(http.get("port", DEFAULT_PORT)),
        name=str(application.get("name", "default")),
        route_prefix=str(application.get("route_prefix", "/")),
    )


def check_plan(plan: Plan) -> None:
    """Refuse what must not be served.

    Raises:
        ConfigError: Settings contradict each other.
        InputError: Everybody could reach the service and nobody needs a key.
    """
    require_no_problems(plan.config, "serving config")
    if plan.config.api_keys_file is None and not is_loopback(plan.host):
        raise InputError(
            f"host: {plan.host} is reachable from other machines, so api_keys_file is needed. Make "
            "a key with `orchestrator serve --new-key NAME >> keys.txt`, or use 127.0.0.1."
        )


def _only_application(data: Any, source: str) -> dict[str, Any]:
    applications = data.get("applications") if isinstance(data, dict) else None
    if not isinstance(applications, list) or not applications:
        message = "is not a Serve config file: it lists no `applications`. See serving/configs/."
        raise ConfigError(source, [Problem("applications", message)])
    if len(applications) > 1 or not isinstance(applications[0], dict):
        message = f"{len(applications)} are listed, one is expected. Use `serve deploy` for more."
        raise ConfigError(source, [Problem("applications", message)])
    found = applications[0].get("import_path")
    if found != IMPORT_PATH:
        message = f"{found!r} is not served here; use {IMPORT_PATH}, or `serve deploy`."
        raise ConfigError(source, [Problem("applications.0.import_path", message)])
    application: dict[str, Any] = applications[0]
    return application
