"""The allocator's price list: the error that each unit adds and the time that each role saves.

Error: one unit at a time is executed in INT8, on real texts, in the runtime that would serve it.
Errors of small perturbations add up, so a plan's predicted error is the sum over its units; the
prediction is stored beside each measured point. Time: units of one role and shape cost the same, so
all units of a role are switched together, which divides the noise of the clock by their number.
"""

from collections.abc import Mapping, Sequence

from orchestrator.quantization.allocator import Option
from orchestrator.quantization.kinds import KindName
from orchestrator.quantization.plans import Plan, Unit, role_plan, single_plan
from orchestrator.quantization.results import Divergence, Latency

SEPARATOR = "@"


def error_plans(units: Sequence[Unit], allowed: Sequence[KindName]) -> dict[str, Plan]:
    """Return the plans with one INT8 unit each, by ``<unit>@<kind>``."""
    return {
        f"{unit.name}{SEPARATOR}{kind}": single_plan(units, unit.name, kind)
        for unit in units
        for kind in unit.options(allowed)
    }


def latency_plans(units: Sequence[Unit], allowed: Sequence[KindName]) -> dict[str, Plan]:
    """Return the plans with one INT8 role each, by ``<role>@<kind>``."""
    return {
        f"{unit.role}{SEPARATOR}{kind}": role_plan(units, unit.role, kind)
        for unit in units
        for kind in unit.options(allowed)
    }


def options(
    units: Sequence[Unit],
    allowed: Sequence[KindName],
    errors: Mapping[str, Divergence],
    latencies: Mapping[str, Latency],
) -> dict[str, list[Option]]:
    """Price every kind of every unit.

    Args:
        units: The units of the model.
        allowed: INT8 kinds to choose from.
        errors: Measured divergence by name of ``error_plans``.
        latencies: Measured time, against float, by name of ``latency_plans``.

    Returns:
        Options by unit. Times are in units of the float model's call: -0.01 saves one percent.
    """
    members = {role: sum(unit.role == role for unit in units) for role in {u.role for u in units}}
    return {
        unit.name: [
            Option(
                kind,
                time=(latencies[f"{unit.role}{SEPARATOR}{kind}"].ratio - 1) / members[unit.role],
                error=max(errors[f"{unit.name}{SEPARATOR}{kind}"].kl, 0.0),
            )
            for kind in unit.options(allowed)
        ]
        for unit in units
    }


def predicted_error(plan: Plan, errors: Mapping[str, Divergence]) -> float | None:
    """Return the sum of the single-unit errors of a plan; None if one of them was not measured."""
    names = [f"{unit}{SEPARATOR}{kind}" for unit, kind in plan.integer.items()]
    if any(name not in errors for name in names):
        return None
    return float(sum(errors[name].kl for name in names))
