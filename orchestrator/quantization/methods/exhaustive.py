"""Every layer in every mode: the optimum that other methods are compared with, for small models."""

from collections.abc import Sequence
from itertools import product
from typing import Final

from orchestrator.errors import InputError
from orchestrator.quantization.kinds import FLOAT, KindName
from orchestrator.quantization.methods.samp import layer_of
from orchestrator.quantization.methods.space import Measure, Space
from orchestrator.quantization.plans import Plan, Unit, ffn_only, fully_quant

MOST_PLANS: Final = 1000
"""More plans take hours."""


def search(space: Space, measure: Measure) -> None:
    """Measure all plans.

    Raises:
        InputError: There are too many.
    """
    measure(all_plans(space))


def require_few(
    units: Sequence[Unit], kinds: Sequence[KindName]
) -> tuple[Sequence[str], Sequence[Plan]]:
    """Return the layers of a model, and the pure modes of each, float first.

    Raises:
        InputError: They make too many plans.
    """
    layers = list(dict.fromkeys(layer_of(unit) for unit in units))
    plain = Plan({unit.name: FLOAT for unit in units})
    modes = [plain, *(plan for kind in kinds for plan in _modes(units, kind))]
    if len(modes) ** len(layers) > MOST_PLANS:
        raise InputError(
            f"method: exhaustive has {len(modes)} ** {len(layers)} plans; at most {MOST_PLANS} are "
            "measured. Name one of the kinds, or use method: front"
        )
    return layers, modes


def all_plans(space: Space) -> dict[str, Plan]:
    """Return the plans that give each layer one of float, its feed-forward, or all of it in INT8.

    Raises:
        InputError: There are too many.
    """
    layers, modes = require_few(space.units, space.kinds)
    plans: dict[str, Plan] = {}
    known: set[str] = set()
    for choice in product(range(len(modes)), repeat=len(layers)):
        mode = dict(zip(layers, choice, strict=True))
        kinds: dict[str, KindName] = {
            unit.name: modes[mode[layer_of(unit)]].kind(unit.name) for unit in space.units
        }
        plan = Plan(kinds)
        if plan.digest not in known:
            known.add(plan.digest)
            plans["all." + ".".join(map(str, choice)) if plan.integer else "float"] = plan
    return plans


def _modes(units: Sequence[Unit], kind: KindName) -> list[Plan]:
    """Return the pure modes in a kind that differ from float and from one another."""
    found = {plan.digest: plan for plan in (ffn_only(units, kind), fully_quant(units, kind))}
    return [plan for plan in found.values() if set(plan.kinds.values()) != {FLOAT}]
