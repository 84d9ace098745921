"""Constraints on candidates that the zoo can answer before anything is loaded."""

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.errors import InputError
from orchestrator.selection.costs.config import ConstraintsConfig
from orchestrator.selection.costs.results import Latency
from orchestrator.zoo.safety import count_elements

if TYPE_CHECKING:
    from orchestrator.zoo import Package

EXCLUDED = "constraints."
"""Beginning of the reasons of candidates that break a constraint."""


def within_constraints(
    packages: Iterable["Package"], constraints: ConstraintsConfig
) -> tuple[list["Package"], dict[str, str]]:
    """Separate the packages that keep to the constraints from the others.

    Args:
        packages: The packages.
        constraints: Those that are null allow everything.

    Returns:
        The packages that are left, and the reference of each other one with the reason.

    Raises:
        InputError: None is left; names the one that misses by the least.
    """
    left, reasons, excess = [], dict[str, str](), dict[str, float]()
    for package in packages:
        found = list(_violations(package, constraints))
        if found:
            excess[package.ref] = sum(ratio for _, ratio in found)
            reasons[package.ref] = "; ".join(text for text, _ in found)
        else:
            left.append(package)
    if not left:
        nearest = min(excess, key=lambda ref: (excess[ref], ref))
        raise InputError(
            f"constraints: none of {len(excess)} candidates keeps to them. The nearest is "
            f"{nearest}: {reasons[nearest]}. Relax a constraint or name other candidates."
        )
    return left, reasons


def too_slow(
    latencies: Mapping[str, Latency], candidates: Collection[str], most: float
) -> dict[str, str]:
    """Return the candidates that are slower than ``most`` milliseconds, each with the reason.

    Args:
        latencies: Measured so far.
        candidates: Those that have not been left out, measured or not.
        most: Milliseconds per row.

    Raises:
        InputError: No candidate is left; names the fastest.
    """
    reasons = {
        model: f"{EXCLUDED}max_latency_ms: {found.ms:.3g} ms, {most:g} are allowed ({found.host})"
        for model, found in latencies.items()
        if found.ms > most and model in candidates
    }
    if len(reasons) == len(candidates):
        fastest = min(latencies, key=lambda model: (latencies[model].ms, model))
        raise InputError(
            f"constraints: none of {len(latencies)} candidates keeps to them. The nearest is "
            f"{fastest} with {latencies[fastest].ms:.3g} ms, {most:g} are allowed "
            f"({latencies[fastest].host}). Relax a constraint or name other candidates."
        )
    return reasons


def parameters_of(package: "Package") -> int:
    """Numbers in the weights: as the manifest says, else by the headers of the files.

    Raises:
        IntegrityError: A header is damaged.
    """
    stated = package.manifest.metrics.get("parameters")
    if isinstance(stated, int):
        return stated
    names = [name for name in package.manifest.files if name.endswith(".safetensors")]
    return sum(count_elements(Path(package.path) / name) for name in names)


def _violations(package: "Package", constraints: ConstraintsConfig) -> Iterable[tuple[str, float]]:
    """Yield each broken constraint, and by which share of the limit it is broken."""
    if constraints.max_parameters is not None:
        count, most = parameters_of(package), constraints.max_parameters
        if count > most:
            text = f"constraints.max_parameters: {count:,} parameters, {most:,} are allowed"
            yield text, count / most - 1
    if constraints.max_bytes is not None:
        size, most = package.manifest.total_bytes, constraints.max_bytes
        if size > most:
            text = f"constraints.max_bytes: {size:,} bytes, {most:,} are allowed"
            yield text, size / most - 1
    if constraints.licences is not None:
        licence = package.manifest.licence
        if licence is None or licence.lower() not in {e.lower() for e in constraints.licences}:
            allowed = ", ".join(constraints.licences)
            yield f"constraints.licences: {licence or 'none declared'}, allowed: {allowed}", 1.0
