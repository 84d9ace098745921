"""Verification of a whole zoo: every hash, every pointer."""

from dataclasses import dataclass

from orchestrator.errors import IntegrityError
from orchestrator.storage.stores import Store
from orchestrator.zoo.aliases import read_aliases
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
