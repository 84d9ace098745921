"""Lineage: a package and everything it was made from, and whether that is still there."""

from dataclasses import dataclass
from typing import Literal

from orchestrator.errors import IntegrityError
from orchestrator.storage.stores import Store
from orchestrator.zoo.manifest import Parent
from orchestrator.zoo.package import Package

Status = Literal["ok", "missing", "damaged", "changed"]
MAX_ANCESTORS = 10_000


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
