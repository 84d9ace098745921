"""Settings of a job that its package or its host leaves without effect: each is refused by name."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from orchestrator.errors import InputError
from orchestrator.quantization.backends.hosts import exact_kinds, this_host
from orchestrator.quantization.config import QuantizeConfig
from orchestrator.quantization.kinds import FLOAT
from orchestrator.quantization.methods.exhaustive import require_few
from orchestrator.quantization.plans import Plan, Unit
from orchestrator.quantization.results import PARETO_FILE, ParetoReport
from orchestrator.zoo import Zoo

if TYPE_CHECKING:
    from orchestrator.modeling.config import ModelConfig
    from orchestrator.quantization.backends.backend import Backend
    from orchestrator.zoo import Package


def check_settings(
    config: QuantizeConfig, package: "Package", model: "ModelConfig", limit: int
) -> None:
    """Require that the settings of a job have a meaning for its package on this host.

    Args:
        config: The job.
        package: The float package.
        model: Its config.
        limit: Longest input of the job, in tokens.

    Raises:
        InputError: One has none.
    """
    _check_kinds(config)
    if not model.embedding.reads_words:
        unused = list(_settings_of_tokens(config))
        if unused:
            raise InputError(
                f"{', '.join(unused)}: {package.ref} reads no tokens. Leave the setting out"
            )
    if package.manifest.task is None and (config.lengths or config.max_length is not None):
        raise InputError(
            f"{package.ref} states no task, so it cannot state a limit either. Leave out "
            "max_length and lengths, or fine-tune the package first"
        )
    long = [length for length in config.lengths if length >= limit]
    if long:
        raise InputError(
            f"lengths: {', '.join(map(str, long))} is not shorter than the limit of {limit} "
            "tokens. Give shorter lengths, or leave them out"
        )
    timed = {f"goal.buckets.{bucket.name}": bucket.length for bucket in config.goal.buckets}
    timed["latency.length"] = config.latency.length or limit
    for name, length in timed.items():
        if length > limit:
            raise InputError(
                f"{name}: {length} tokens, but inputs of the job have at most {limit}. "
                f"Use {limit} or less"
            )


def check_backend(config: QuantizeConfig, backend: "Backend") -> None:
    """Require that the settings of a job act on the back end that measures it.

    Raises:
        InputError: One does not.
    """
    name = backend.config.type_name()
    wrong = [kind for kind in config.kinds or () if kind not in backend.kinds]
    if wrong:
        raise InputError(
            f"kinds: {', '.join(wrong)} has no kernel in {name}. Use {', '.join(backend.kinds)}, "
            "or leave kinds out"
        )
    named = {
        "calibrator": config.calibrator.type_name() != "max",
        "tables": config.tables != "float",
    }
    unused = [key for key, given in named.items() if given and key not in backend.settings]
    if unused:
        raise InputError(
            f"{', '.join(unused)}: has no effect with the back end {name}. Leave it out"
        )


def _check_kinds(config: QuantizeConfig) -> None:
    """Require that this host executes the named kinds exactly."""
    exact = exact_kinds(this_host())
    wrong = [kind for kind in config.kinds or () if kind not in exact]
    if wrong:
        raise InputError(
            f"kinds: {', '.join(wrong)} would saturate on this CPU, which has no VNNI, AMX or dot "
            f"products of bytes. Use {', '.join(exact)}, or leave kinds out"
        )


def _settings_of_tokens(config: QuantizeConfig) -> Iterator[str]:
    """Yield the settings about words and lengths that a job names."""
    named = {
        "max_length": config.max_length is not None,
        "lengths": bool(config.lengths),
        "latency.length": config.latency.length is not None,
        "goal.buckets": bool(config.goal.buckets),
        "tables": config.tables != "float",
    }
    yield from (name for name, given in named.items() if given)


def check_method(config: QuantizeConfig, units: Sequence[Unit]) -> None:
    """Require that the plans of a method are few enough, and stored plans those of the model.

    Raises:
        InputError: They are not.
    """
    if config.front_of is not None:
        stored_plans(Zoo(config.run.zoo), config.front_of, units)
    elif config.method == "exhaustive":
        require_few(units, config.allowed)


def stored_plans(zoo: Zoo, ref: str, units: Sequence[Unit]) -> Mapping[str, Plan]:
    """Return the plans that a quantized package was chosen from, with texts at their limit.

    Those in kinds that this host does not execute exactly are left out.

    Raises:
        InputError: The package is not quantized, is of another model, or has no plan for this host.
    """
    package = zoo.get(ref)
    if not package.has(PARETO_FILE):
        raise InputError(f"front_of: {package.ref} is not quantized: it has no {PARETO_FILE}")
    points = package.read_model(PARETO_FILE, ParetoReport).points
    names = {unit.name for unit in units}
    if any(point.plan.keys() != names for point in points):
        raise InputError(f"front_of: {package.ref} is of another model; its units differ")
    exact = {FLOAT, *exact_kinds(this_host())}
    whole = [point for point in points if point.length is None]
    exactly = [point for point in whole if exact >= set(point.plan.values())]
    plans = {point.name: Plan(point.plan, tables=point.tables) for point in exactly}
    if not any(plan.integer for plan in plans.values()):
        raise InputError(
            f"front_of: no plan of {package.ref} runs exactly on this CPU (kinds "
            f"{', '.join(sorted(exact))}). Quantize the float package here"
        )
    return plans
