"""The index: one row per package, built from manifests only."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from orchestrator.zoo.package import Package

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = (
    "ref",
    "name",
    "version",
    "kind",
    "status",
    "created_at",
    "aliases",
    "task",
    "modality",
    "stage",
    "parents",
    "bytes",
    "licence",
)
"""Columns every index has; each numeric metric adds ``metric.<name>``."""


def build_index(
    packages: Sequence[Package], aliases: Mapping[str, Sequence[str]]
) -> "pd.DataFrame":
    """Return the index of packages.

    Args:
        packages: What to list, in this order.
        aliases: Reference → names of the aliases that point to it.

    Returns:
        `COLUMNS` (``created_at`` in UTC, ``aliases`` and ``parents`` joined by spaces, ``bytes``
        int64), then the metrics as float64 with NaN where a package has none.
    """
    import pandas as pd

    rows = [_row(package, aliases.get(package.ref, ())) for package in packages]
    frame = pd.DataFrame.from_records(rows, columns=list(COLUMNS))
    frame["created_at"] = pd.to_datetime(frame["created_at"], utc=True).dt.as_unit("us")
    frame["bytes"] = frame["bytes"].astype("int64")
    texts = [name for name in COLUMNS if name not in ("created_at", "bytes")]
    frame[texts] = frame[texts].astype("str")
    metrics = pd.DataFrame([_numbers(package) for package in packages], index=frame.index)
    return pd.concat([frame, metrics.astype("float64").sort_index(axis=1)], axis=1)


def _row(package: Package, aliases: Sequence[str]) -> dict[str, object]:
    manifest = package.manifest
    return {
        "ref": package.ref,
        "name": package.name,
        "version": package.version,
        "kind": package.kind,
        "status": manifest.status,
        "created_at": manifest.created_at,
        "aliases": " ".join(sorted(aliases)),
        "task": manifest.task.kind if manifest.task else "",
        "modality": manifest.task.modality if manifest.task else "",
        "stage": manifest.producer.stage,
        "parents": " ".join(parent.ref for parent in manifest.parents),
        "bytes": manifest.total_bytes,
        "licence": manifest.licence or "",
    }


def _numbers(package: Package) -> dict[str, float]:
    return {
        f"metric.{name}": float(value)
        for name, value in package.manifest.metrics.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
