"""Plans: which kind each GEMM unit of a model is executed in.

A *unit* is one GEMM with a constant weight (or one recurrent layer), named after its module:
``encoder.layers.3.feed_forward.down``. The node that executes it is called ``<unit>.<kind>``, so
that the audit reads the plan back out of the graph the runtime really executes.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, get_args

from orchestrator.errors import InputError
from orchestrator.quantization.kinds import FLOAT, STATIC, KindName, Range

PLAN_VERSION: Final = 1
DIGEST_LENGTH: Final = 12
FEED_FORWARD_MARK: Final = ".feed_forward."


@dataclass(frozen=True, slots=True)
class Unit:
    """One GEMM of a model: its name, weight shape (K, N) and the INT8 kinds that exist for it."""

    name: str
    shape: tuple[int, int]
    kinds: tuple[KindName, ...]

    @property
    def role(self) -> str:
        """The name without layer numbers: units of one role and shape cost the same time."""
        return re.sub(r"\.\d+(?=\.|$)", ".*", self.name)

    def options(self, allowed: Sequence[KindName]) -> tuple[KindName, ...]:
        """Return the INT8 kinds to consider: the allowed ones, or all where none of these exist."""
        wanted = tuple(kind for kind in self.kinds if kind in allowed)
        return wanted or self.kinds


@dataclass(frozen=True)
class Plan:
    """An immutable map from unit name to kind; units that are not named stay in float."""

    kinds: Mapping[str, KindName]

    @property
    def integer(self) -> dict[str, KindName]:
        """The units executed in integers, in model order."""
        return {name: kind for name, kind in self.kinds.items() if kind != FLOAT}

    @property
    def batch_invariant(self) -> bool:
        """Whether a text's answer is bit for bit independent of the texts it is batched with."""
        return "s7" not in self.kinds.values()

    @property
    def digest(self) -> str:
        """A short name that depends on the INT8 units and their kinds alone."""
        text = json.dumps(sorted(self.integer.items()))
        return hashlib.sha256(text.encode()).hexdigest()[:DIGEST_LENGTH]

    def kind(self, unit: str) -> KindName:
        """Return the kind of a unit."""
        return self.kinds.get(unit, FLOAT)

    def to_json(self, ranges: Mapping[str, Range] | None = None) -> dict[str, Any]:
        """Return the content of ``plan.json``.

        Args:
            ranges: calibrated ranges; those of ``static_s7`` units are kept for the record.
        """
        static = [name for name, kind in self.kinds.items() if kind == STATIC]
        return {
            "version": PLAN_VERSION,
            "digest": self.digest,
            "batch_invariant": self.batch_invariant,
            "units": dict(self.kinds),
            "ranges": {name: list(ranges[name]) for name in static} if ranges else {},
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Plan":
        """Read the content of ``plan.json``.

        Raises:
            InputError: if the version or a kind is unknown.
        """
        if content.get("version") != PLAN_VERSION:
            raise InputError(
                f"plan version {content.get('version')!r} is not supported; this release reads "
                f"version {PLAN_VERSION}: quantize the source package again"
            )
        units = content["units"]
        wrong = {name: kind for name, kind in units.items() if kind not in get_args(KindName)}
        if wrong:
            raise InputError(f"unknown kinds in the plan: {wrong}; known: {get_args(KindName)}")
        return cls(dict(units))


def float_plan(units: Iterable[Unit]) -> Plan:
    """Keep every unit in float."""
    return Plan({unit.name: FLOAT for unit in units})


def single_plan(units: Iterable[Unit], name: str, kind: KindName) -> Plan:
    """Quantize the one unit ``name``."""
    return Plan({unit.name: kind if unit.name == name else FLOAT for unit in units})


def role_plan(units: Iterable[Unit], role: str, kind: KindName) -> Plan:
    """Quantize every unit of a role which has ``kind``."""
    return Plan(
        {unit.name: kind if unit.role == role and kind in unit.kinds else FLOAT for unit in units}
    )


def fully_quant(units: Iterable[Unit], kind: KindName) -> Plan:
    """SAMP's *Fully-Quant* mode: every unit in INT8, in ``kind`` where it exists for the unit."""
    return Plan({unit.name: _closest(unit, kind) for unit in units})


def ffn_only(units: Iterable[Unit], kind: KindName) -> Plan:
    """SAMP's *Quant-FFN-Only* mode: the feed-forward GEMMs in INT8, attention in float."""
    return Plan(
        {
            unit.name: _closest(unit, kind) if FEED_FORWARD_MARK in unit.name else FLOAT
            for unit in units
        }
    )


def named_plans(units: Sequence[Unit], allowed: Sequence[KindName]) -> dict[str, Plan]:
    """Return the baselines every search includes: float, and SAMP's two modes in each kind."""
    plans = {"float": float_plan(units)}
    for kind in allowed:
        for mode, make in (("fully_quant", fully_quant), ("ffn_only", ffn_only)):
            plan = make(units, kind)
            if plan.integer:
                used = "+".join(sorted(set(plan.integer.values())))
                plans.setdefault(f"{mode}.{used}", plan)
    return plans


def _closest(unit: Unit, kind: KindName) -> KindName:
    return kind if kind in unit.kinds else unit.kinds[0]
