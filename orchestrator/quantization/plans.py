"""Plans: the kind of arithmetic of every GEMM unit of a model.

A *unit* is one GEMM with a constant weight (or one recurrent layer), named after its module:
``encoder.layers.3.feed_forward.down``. The node that executes it is named ``<unit>.<kind>``, so
that the audit reads the plan back from the graph that the runtime really executes.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, get_args

from pydantic import Field, JsonValue, ValidationError

from orchestrator.config import StrictModel
from orchestrator.errors import InputError
from orchestrator.quantization.backends.hosts import Host
from orchestrator.quantization.kinds import FLOAT, STATIC_KINDS, KindName, Range, TableKind

PLAN_FILE: Final = "plan.json"
PLAN_VERSION: Final = 1
DIGEST_CHARACTERS: Final = 12
FEED_FORWARD_MARK: Final = ".feed_forward."


@dataclass(frozen=True, slots=True)
class Unit:
    """One GEMM of a model: its name, weight shape (K, N) and its INT8 kinds."""

    name: str
    shape: tuple[int, int]
    kinds: tuple[KindName, ...]

    @property
    def role(self) -> str:
        """Name without layer numbers: units of one role and shape cost the same time."""
        return re.sub(r"\.\d+(?=\.|$)", ".*", self.name)

    def options(self, allowed: Sequence[KindName]) -> tuple[KindName, ...]:
        """Return the allowed INT8 kinds of this unit; all of its kinds if none is allowed."""
        wanted = tuple(kind for kind in self.kinds if kind in allowed)
        return wanted or self.kinds


class PlanFile(StrictModel):
    """Content of ``plan.json``."""

    version: int
    """Version of this file's format."""
    digest: str
    """Short hash of the INT8 units and their kinds."""
    batch_invariant: bool
    """Whether an answer is independent of the other texts of a batch."""
    units: dict[str, KindName]
    """Kind of every unit."""
    ranges: dict[str, Range] = Field(default_factory=dict)
    """Calibrated input ranges of the ``static_*`` units."""
    equalized: tuple[str, ...] = ()
    """Norms whose outputs are shifted and scaled (``emission.equalization``)."""
    tables: TableKind = "float"
    """Arithmetic of the word table."""
    host: Host | None = None
    """Machine and runtime that the plan was measured on; older plans do not say."""
    backend: str = "onnxruntime_cpu"
    """Back end that executes it, by its name in the registry."""

    @classmethod
    def of(cls, content: JsonValue) -> "PlanFile":
        """Check the content of a file.

        Raises:
            InputError: If the version, a kind or a field is unknown.
        """
        version = content.get("version") if isinstance(content, dict) else None
        if version != PLAN_VERSION:
            raise InputError(
                f"plan version {version!r} is not supported; this release reads version "
                f"{PLAN_VERSION}: quantize the source package again"
            )
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            kinds = ", ".join(get_args(KindName))
            raise InputError(f"the plan is not readable (kinds: {kinds}): {error}") from error

    @classmethod
    def read(cls, folder: Path) -> "PlanFile | None":
        """Return the plan of a package folder, or None if it has none.

        Raises:
            InputError: If the plan is not readable.
        """
        path = folder / PLAN_FILE
        return cls.of(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None


@dataclass(frozen=True)
class Plan:
    """An immutable map from unit name to kind; all other units stay in float."""

    kinds: Mapping[str, KindName]
    equalized: tuple[str, ...] = ()
    """Norms whose outputs are shifted and scaled, exactly in float."""
    tables: TableKind = "float"
    """Storage of the word table."""

    @property
    def integer(self) -> dict[str, KindName]:
        """The units executed in integers, in model order."""
        return {name: kind for name, kind in self.kinds.items() if kind != FLOAT}

    @property
    def batch_invariant(self) -> bool:
        """Whether an answer is bit for bit independent of the other texts of its batch."""
        return "s7" not in self.kinds.values()

    @property
    def digest(self) -> str:
        """A short hash of the INT8 units, their kinds, and the equalized norms."""
        text = json.dumps(sorted(self.integer.items()))
        if self.equalized:
            text += json.dumps(sorted(self.equalized))
        if self.tables != "float":
            text += self.tables
        return hashlib.sha256(text.encode()).hexdigest()[:DIGEST_CHARACTERS]

    def kind(self, unit: str) -> KindName:
        """Return the kind of a unit."""
        return self.kinds.get(unit, FLOAT)

    def to_file(
        self, ranges: Mapping[str, Range] | None = None, host: Host | None = None
    ) -> PlanFile:
        """Return the content of ``plan.json``.

        Args:
            ranges: Calibrated ranges; those of ``static_*`` units are recorded.
            host: Machine and runtime that the plan was measured on.
        """
        static = [name for name, kind in self.kinds.items() if kind in STATIC_KINDS]
        return PlanFile(
            version=PLAN_VERSION,
            digest=self.digest,
            batch_invariant=self.batch_invariant,
            units=dict(self.kinds),
            ranges={name: ranges[name] for name in static} if ranges else {},
            equalized=self.equalized,
            tables=self.tables,
            host=host,
        )


def float_plan(units: Iterable[Unit]) -> Plan:
    """Return the plan with every unit in float."""
    return Plan({unit.name: FLOAT for unit in units})


def single_plan(units: Iterable[Unit], name: str, kind: KindName) -> Plan:
    """Return the plan with the one INT8 unit ``name``."""
    return Plan({unit.name: kind if unit.name == name else FLOAT for unit in units})


def role_plan(units: Iterable[Unit], role: str, kind: KindName) -> Plan:
    """Return the plan with every unit of a role in ``kind``, where the unit has that kind."""
    return Plan(
        {unit.name: kind if unit.role == role and kind in unit.kinds else FLOAT for unit in units}
    )


def fully_quant(units: Iterable[Unit], kind: KindName) -> Plan:
    """SAMP's *Fully-Quant* mode: every unit in INT8, in ``kind`` where the unit has that kind."""
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
