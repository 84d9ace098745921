"""The package that a config names, found and verified before anything is started."""

from typing import TYPE_CHECKING

from orchestrator.config import require_no_problems
from orchestrator.storage.uris import absolute
from serving.config import ServingConfig
from serving.guard.keys import KeyRing

if TYPE_CHECKING:
    from orchestrator.zoo import Package


def resolve(config: ServingConfig) -> "Package":
    """Return the verified package a config names.

    Raises:
        ConfigError: settings contradict each other.
        InputError: the zoo, package, version or alias does not exist, the package cannot be served,
            or the key file is unusable.
        IntegrityError: the package is damaged.
    """
    from orchestrator.zoo import Zoo
    from serving.model.engine import require_served

    require_no_problems(config, "serving config")
    if config.api_keys_file is not None:
        KeyRing.load(config.api_keys_file)
    package = Zoo(config.zoo).get(config.model)
    require_served(package, config.target)
    return package


def pin(config: ServingConfig) -> ServingConfig:
    """Return the config for replicas: one version, absolute paths.

    Replicas started later serve the same bytes even if the alias moves, and run in another working
    directory.

    Raises:
        ConfigError, InputError, IntegrityError: As `resolve`.
    """
    keys = config.api_keys_file
    return config.model_copy(
        update={
            "model": resolve(config).ref,
            "zoo": absolute(config.zoo),
            "api_keys_file": None if keys is None else absolute(keys),
        }
    )
