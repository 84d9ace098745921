"""``quantize inspect`` and ``retime``: read a quantized package, choose again on this host."""

import argparse
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from orchestrator.config import StrictModel, validate_config
from orchestrator.config.tables import table
from orchestrator.errors import InputError
from orchestrator.quantization.config import QuantizeConfig
from orchestrator.quantization.plans import PLAN_FILE, PlanFile
from orchestrator.quantization.results import (
    PARETO_FILE,
    REPORT_FILE,
    ParetoPoint,
    ParetoReport,
    QuantizationReport,
)
from orchestrator.storage import sha256_bytes

if TYPE_CHECKING:
    from orchestrator.zoo import Package

HASH_CHARACTERS: Final = 12
JOB_FILE: Final = "job.yaml"


class Inspection(StrictModel):
    """Everything that a quantized package says about itself."""

    package: str
    """Its reference."""
    plan: PlanFile
    """Kind of every unit."""
    report: QuantizationReport
    """Before and after, audit, and prices."""
    front: ParetoReport
    """Every measured plan."""


def register(subparsers: Any) -> None:
    """Add ``quantize inspect`` to the command line."""
    quantize = subparsers.add_parser("quantize", help="`quantize inspect`: a quantized package")
    verbs = quantize.add_subparsers(dest="quantize_verb", required=True)
    inspect = verbs.add_parser("inspect", help="plan, audit, front and rows of a package")
    inspect.add_argument("package", help="name, name@alias or name/v0001")
    inspect.add_argument("--zoo", default="zoo", help="zoo that holds the package")
    inspect.add_argument("--json", action="store_true", help="print JSON instead of tables")
    inspect.set_defaults(func=run_inspect)
    retime = verbs.add_parser("retime", help="measure the stored plans here and choose again")
    retime.add_argument("package", help="name, name@alias or name/v0001")
    retime.add_argument("--zoo", default="zoo", help="zoo that holds the package")
    retime.add_argument("overrides", nargs="*", metavar="key.path=value", help="change a setting")
    retime.set_defaults(func=run_retime)


def run_inspect(options: argparse.Namespace) -> int:
    """Print what a package says about its quantization.

    Raises:
        InputError: The package is not quantized.
    """
    from orchestrator.zoo import Zoo

    package = Zoo(options.zoo).get(options.package)
    if PLAN_FILE not in package.manifest.files:
        raise InputError(f"{package.ref} is not quantized: it has no {PLAN_FILE}")
    found = Inspection(
        package=package.ref,
        plan=PlanFile.of(package.read_json(PLAN_FILE)),
        report=package.read_model(REPORT_FILE, QuantizationReport),
        front=package.read_model(PARETO_FILE, ParetoReport),
    )
    text = found.model_dump_json() if options.json else "\n".join(in_words(found))
    sys.stdout.write(f"{text}\n")
    return 0


def run_retime(options: argparse.Namespace) -> int:
    """Measure the plans of a package on this host, commit the best as its next version.

    The settings are those of its job. Validation rows and times choose; test rows confirm once.

    Raises:
        InputError: The package is not quantized.
        NoPlanError: No plan keeps the goal on this host.
    """
    from orchestrator.quantization.runner import run

    result = run(retime_config(options.package, options.zoo, options.overrides))
    sys.stdout.write(f"{result.model_dump_json()}\n")
    return 0


def retime_config(ref: str, zoo: str, overrides: Sequence[str]) -> QuantizeConfig:
    """Return the job that chooses again among the measured plans of a package.

    Args:
        ref: The package.
        zoo: Its zoo.
        overrides: Settings of the job to change, ``a.b=c``.

    Raises:
        InputError: The package is not quantized.
    """
    from orchestrator.config.yaml_files import parse_yaml
    from orchestrator.quantization.backends.hosts import exact_kinds, this_host
    from orchestrator.zoo import Zoo

    package = Zoo(zoo).get(ref)
    if PLAN_FILE not in package.manifest.files:
        raise InputError(f"{package.ref} is not quantized: it has no {PLAN_FILE}")
    text = (package.path / JOB_FILE).read_text(encoding="utf-8")
    stored, _ = parse_yaml(text, f"{package.ref}/{JOB_FILE}")
    if not isinstance(stored, dict):
        raise InputError(f"{package.ref}/{JOB_FILE} holds no settings")
    host = sha256_bytes(this_host().model_dump_json().encode())[:HASH_CHARACTERS]
    name = f"retime-{package.name}-{package.version}-{host}"
    place = {**stored.get("run", {}), "name": name, "zoo": zoo}
    exact = exact_kinds(this_host())
    parent = package.manifest.parents[0]  # the name in the job may be another version by now
    again = {
        **stored,
        "run": place,
        "package": parent.ref,
        "output": package.name,
        "front_of": package.ref,
        "method": "front",
        "mixed_plans": None,
        "backend": stored.get("backend") or {"type": _backend_of(package)},
        "kinds": [kind for kind in stored.get("kinds") or () if kind in exact] or None,
    }
    return validate_config(QuantizeConfig, again, f"retime of {package.ref}", overrides)


def _backend_of(package: "Package") -> str:
    return PlanFile.of(package.read_json(PLAN_FILE)).backend


def in_words(found: Inspection) -> Iterator[str]:
    """Yield the lines that a person reads."""
    report, latency = found.report, found.report.latency
    yield f"{found.package}: plan {report.plan.name} ({report.plan.digest}) of {report.source}"
    yield (
        f"audit: {report.audit.integer_units} of {len(found.plan.units)} units executed in "
        f"integers by {found.plan.backend}; model file {report.artefact_sha256[:HASH_CHARACTERS]}"
    )
    size, length = latency.shape
    yield (
        f"time: {latency.int8.cpu_ms:.3f} ms for {size} x {length} tokens, "
        f"{latency.int8.ratio:.3f} of the float graph; "
        f"{report.runtime.name} {report.runtime.version}"
    )
    for shape, bucket in report.buckets.items():
        yield f"time: {bucket.cpu_ms:.3f} ms for {shape} tokens"
    for split, record in report.splits.items():
        yield f"rows: {split} {record.rows}, sha256 {record.sha256[:HASH_CHARACTERS]}"
    yield from _quality(report)
    units = [(unit, kind) for unit, kind in found.plan.units.items()]
    yield table(units, ("unit", "kind"), "<<")
    yield table([_point(point) for point in found.front.points], POINTS, "<>>>>>>>>")


POINTS = ("plan", "INT8", "ms", "time", "predicted", "metric", "divergence", "flips", "predicted")


def _point(point: ParetoPoint) -> tuple[str, ...]:
    marks = "*" if point.chosen else ""
    agreement = None if point.closeness is None else point.closeness.agreement
    return (
        f"{point.name}{marks}",
        str(point.integer_units),
        f"{point.latency_ms:.3f}",
        f"{point.latency.ratio:.3f}",
        "-" if point.predicted_ratio is None else f"{point.predicted_ratio:.3f}",
        "-" if point.accuracy is None else f"{point.accuracy:.4f}",
        f"{point.error.error:.2e}",
        "-" if agreement is None else f"{1 - agreement.value:.4f}",
        "-" if point.predicted_flips is None else f"{point.predicted_flips:.4f}",
    )


def _quality(report: QuantizationReport) -> Iterator[str]:
    splits = {} if report.accuracy is None else dict(report.accuracy)
    for split, figures in splits.items():
        low, high = figures.interval
        yield (
            f"{figures.metric} on {split} rows: {figures.reference:.4f} to {figures.accuracy:.4f}, "
            f"drop {figures.drop:+.4f} [{low:+.4f}, {high:+.4f}]"
        )
    for split, near in report.closeness.items():
        agreed = "" if near.agreement is None else f", agreement {near.agreement.value:.4f}"
        yield (
            f"cosine on {split} rows: 90 % reach {near.cosine.value:.4f}, mean "
            f"{near.cosine_mean:.4f}, smallest {near.cosine_min:.4f}{agreed}"
        )
