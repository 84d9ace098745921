"""Verification of a whole zoo: every hash, every pointer.

Lineage: a package and everything it was made from, and whether that is still there.
"""

from dataclasses import dataclass
from typing import Literal

from orchestrator.errors import IntegrityError
from orchestrator.storage.stores import Store
from orchestrator.zoo.aliases import read_aliases
from orchestrator.zoo.manifest import Parent
from orchestrator.zoo.names import CHAMPION, LATEST, Reference
from orchestrator.zoo.package import Package
from orchestrator.zoo.resolve import current_aliases, find, names, read_all, versions


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
