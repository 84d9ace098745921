"""Views of a whole zoo: index, verification, lineage, and the plan of a garbage collection.

All of them only read. The index is built from manifests alone; verification and lineage hash every
file they report on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from orchestrator.errors import IntegrityError
from orchestrator.storage.stores import Store
from orchestrator.zoo.aliases import Aliases, read_aliases
from orchestrator.zoo.manifest import Parent
from orchestrator.zoo.names import CHAMPION, LATEST, Reference, version_number
from orchestrator.zoo.package import Package
from orchestrator.zoo.resolve import current_aliases, find, names, read_all, versions

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

Status = Literal["ok", "missing", "damaged", "changed"]
MAX_ANCESTORS = 10_000
KEEP = 3
"""Newest versions of each name that are kept although nothing needs them."""


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


@dataclass(frozen=True, slots=True)
class Finding:
    """Result of verifying one package or pointer.

    Attributes:
        ref: ``name/v0001``, or ``name@alias`` for a pointer.
        ok: Whether it is whole.
        message: What is wrong.
    """

    ref: str
    ok: bool
    message: str = ""


def check(store: Store, reference: Reference) -> Finding:
    """Verify what a reference points at, without falling back to another version.

    Raises:
        InputError: No such name, version or alias.
    """
    name, version = reference.name, reference.version
    if version is None:
        aliases = current_aliases(store, name)
        wanted = reference.alias or (CHAMPION if CHAMPION in aliases else LATEST)
        version = aliases.get(wanted)
    try:
        if version is None or version not in versions(store, name):
            find(store, reference)  # explains what there is
        else:
            Package.read(store, name, version).verify()
    except IntegrityError as error:
        return Finding(f"{name}/{version}", ok=False, message=str(error))
    return Finding(f"{name}/{version}", ok=True)


def check_all(store: Store) -> list[Finding]:
    """Verify every package and every alias."""
    packages, damaged = read_all(store)
    findings = [Finding(ref, ok=False, message=reason) for ref, reason in damaged.items()]
    for package in packages:
        try:
            package.verify()
        except IntegrityError as error:
            findings.append(Finding(package.ref, ok=False, message=str(error)))
        else:
            findings.append(Finding(package.ref, ok=True))
    for name in names(store):
        findings += _check_aliases(store, name)
    return sorted(findings, key=lambda finding: finding.ref)


@dataclass(frozen=True, slots=True)
class Ancestor:
    """One package in a lineage.

    Attributes:
        ref: Reference of the package.
        depth: 0 for the package asked for, 1 for its parents, and so on.
        kind: Kind of the package; empty when it cannot be read.
        status: ``ok``; ``missing``; ``damaged`` (unreadable or its files are not the manifest's);
            ``changed`` (it is not the package that the child was made from).
        message: What is wrong, when something is.
        child: The package that led here; empty for the first.
    """

    ref: str
    depth: int
    kind: str
    status: Status
    message: str = ""
    child: str = ""


def trace(store: Store, package: Package) -> list[Ancestor]:
    """Return a package and its ancestors, each once, nearest first.

    A damaged or missing parent is reported, not raised; what lies behind it is unknown.
    """
    lineage = [_state(package)]
    seen = {package.ref}
    queue = [(parent, 1, package.ref) for parent in package.manifest.parents]
    while queue and len(lineage) < MAX_ANCESTORS:
        parent, depth, child = queue.pop(0)
        if parent.ref in seen:
            continue
        seen.add(parent.ref)
        ancestor, found = _examine(store, parent, depth, child)
        lineage.append(ancestor)
        if found is not None:
            queue += [(grand, depth + 1, parent.ref) for grand in found.manifest.parents]
    return lineage


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
    for name, of_name in by_name.items():
        newest = sorted(of_name, key=lambda p: version_number(p.version), reverse=True)
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


def _check_aliases(store: Store, name: str) -> list[Finding]:
    try:
        aliases = read_aliases(store, name).aliases
    except IntegrityError as error:
        return [Finding(f"{name}@*", ok=False, message=str(error))]
    known = versions(store, name)
    return [
        Finding(f"{name}@{alias}", ok=False, message=f"points to {version}, which is not there.")
        for alias, version in aliases.items()
        if version not in known
    ]


def _state(package: Package) -> Ancestor:
    """Return the first entry: the package itself, hashed like its ancestors."""
    try:
        package.verify()
    except IntegrityError as error:
        return Ancestor(package.ref, 0, package.kind, "damaged", str(error))
    return Ancestor(package.ref, 0, package.kind, "ok")


def _examine(
    store: Store, parent: Parent, depth: int, child: str
) -> tuple[Ancestor, Package | None]:
    if parent.version not in store.folders(parent.name):
        message = f"{parent.ref} is not in the zoo any more"
        return Ancestor(parent.ref, depth, "", "missing", message, child), None
    try:
        package = Package.read(store, parent.name, parent.version)
        package.verify()
    except IntegrityError as error:
        return Ancestor(parent.ref, depth, "", "damaged", str(error), child), None
    if package.manifest_sha256 != parent.manifest_sha256:
        message = f"{child} was made from another {parent.ref}: the manifests differ"
        return Ancestor(parent.ref, depth, package.kind, "changed", message, child), package
    return Ancestor(parent.ref, depth, package.kind, "ok", "", child), package


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
