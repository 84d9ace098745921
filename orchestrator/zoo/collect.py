"""Garbage collection: which packages nobody needs any more."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orchestrator.zoo.aliases import Aliases
from orchestrator.zoo.names import LATEST, version_number
from orchestrator.zoo.package import Package

KEEP = 3
"""Newest versions of each name that are kept although nothing needs them."""


@dataclass(frozen=True, slots=True)
class Collection:
    """Versions and files that a collection removes, or would remove.

    Attributes:
        removed: References, sorted.
        kept: Reference → why it is kept.
        freed_bytes: Size of what is removed.
        swept: Leftovers of killed writers; empty in a dry run.
        dry_run: Whether nothing was removed yet.
    """

    removed: tuple[str, ...]
    kept: Mapping[str, str]
    freed_bytes: int
    swept: tuple[str, ...] = ()
    dry_run: bool = True


def plan_collection(
    packages: Sequence[Package], aliases: Mapping[str, Aliases], keep: int
) -> Collection:
    """Decide what to remove.

    Kept are the ``keep`` newest accepted and the ``keep`` newest rejected versions of each name,
    every version an alias points to, the version an alias would roll back to, and every ancestor of
    those. Rejected versions push out no accepted one.

    Args:
        packages: All packages whose manifests can be read.
        aliases: The aliases of each name.
        keep: At least 1.
    """
    kept: dict[str, str] = {}
    by_name: dict[str, list[Package]] = {}
    for package in packages:
        by_name.setdefault(package.name, []).append(package)
    for name, versions in by_name.items():
        newest = sorted(versions, key=lambda p: version_number(p.version), reverse=True)
        for rejected in (False, True):
            group = [p.ref for p in newest if p.rejected == rejected]
            kept.update({ref: f"one of the newest {keep}" for ref in group[:keep]})
        kept.update(_held(name, aliases.get(name, Aliases())))
    _keep_ancestors({package.ref: package for package in packages}, kept)
    removed = [package for package in packages if package.ref not in kept]
    return Collection(
        removed=tuple(sorted(package.ref for package in removed)),
        kept=dict(sorted(kept.items())),
        freed_bytes=sum(package.manifest.total_bytes for package in removed),
    )


def _held(name: str, aliases: Aliases) -> dict[str, str]:
    """Return what the aliases of a name need: where they point and where they would go back to."""
    held = {}
    for alias in aliases.aliases:
        for version in aliases.holders(alias)[-2:-1]:
            held[f"{name}/{version}"] = f"rollback target of {alias}"
    for alias, version in aliases.aliases.items():
        if alias != LATEST:
            held[f"{name}/{version}"] = f"alias {alias}"
    return held


def _keep_ancestors(packages: Mapping[str, Package], kept: dict[str, str]) -> None:
    queue = list(kept)
    while queue:
        ref = queue.pop()
        for parent in packages[ref].manifest.parents if ref in packages else ():
            if parent.ref not in kept:
                kept[parent.ref] = f"parent of {ref}"
                queue.append(parent.ref)
