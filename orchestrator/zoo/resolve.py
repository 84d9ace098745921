"""Resolution of a reference to a verified package; an alias falls back to the newest intact one."""

import logging
from collections.abc import Callable, Iterable, Sequence

from orchestrator.config import did_you_mean
from orchestrator.config.messages import listing
from orchestrator.errors import InputError, IntegrityError
from orchestrator.storage.stores import Store
from orchestrator.zoo.aliases import Aliases, read_aliases, readable_aliases
from orchestrator.zoo.manifest import MANIFEST_NAME, MAX_MANIFEST_BYTES
from orchestrator.zoo.names import (
    CHAMPION,
    LATEST,
    Reference,
    is_name,
    is_version,
    version_number,
)
from orchestrator.zoo.package import Package

logger = logging.getLogger(__name__)


def names(store: Store) -> list[str]:
    """Return the names of all packages, sorted."""
    return [name for name in store.folders() if is_name(name)]


def versions(store: Store, name: str) -> list[str]:
    """Return the versions of a name, oldest first; on an object store some may be uncommitted."""
    found = [version for version in store.folders(name) if is_version(version)]
    return sorted(found, key=version_number)


def read_all(store: Store) -> tuple[list[Package], dict[str, str]]:
    """Read every manifest, by name and version; see `read_manifests`."""
    return read_manifests(
        store, [(name, version) for name in names(store) for version in versions(store, name)]
    )


def read_manifests(
    store: Store, refs: Sequence[tuple[str, str]]
) -> tuple[list[Package], dict[str, str]]:
    """Read the manifests of some versions, in one request on an object store.

    Args:
        store: Where the packages lie.
        refs: Name and version of each.

    Returns:
        The packages in this order, and reference → reason for those that cannot be read.
    """
    paths = {f"{name}/{version}/{MANIFEST_NAME}": (name, version) for name, version in refs}
    contents = store.read_many(list(paths), MAX_MANIFEST_BYTES)
    packages, damaged = [], {}
    for path, (name, version) in paths.items():
        if path not in contents:
            if store.local(path) is not None:  # an object store shows uploads in progress
                damaged[f"{name}/{version}"] = f"{store.root}/{path}: missing or unreadable."
            continue
        try:
            where = f"{store.root}/{path}"
            packages.append(Package.from_bytes(store, name, version, contents[path], where))
        except IntegrityError as error:
            damaged[f"{name}/{version}"] = str(error)
    return packages, damaged


def current_aliases(store: Store, name: str) -> dict[str, str]:
    """Return alias → version; ``latest`` is the newest accepted one, whatever the file says."""
    aliases = dict(readable_aliases(store, name).aliases)
    aliases.pop(LATEST, None)
    newest = _newest_accepted(store, name)
    return {**aliases, LATEST: newest} if newest is not None else aliases


def find(
    store: Store, reference: Reference, check: Callable[[Package], None] = Package.load
) -> Package:
    """Return the package a reference means, once it passed a check.

    A version is taken literally. An alias is a hint: when what it points to is damaged, the
    reader falls back, with a warning, to what the alias held before, and for ``latest`` to the
    newest version that is whole. ``latest`` is never a rejected version.

    Args:
        store: Where the packages lie.
        reference: What is asked for.
        check: Raises IntegrityError for a damaged package; by default every file is hashed.

    Raises:
        InputError: No such name, version or alias; lists what there is.
        IntegrityError: Damaged, and nothing to fall back to.
    """
    known = versions(store, reference.name)
    if not known:
        raise _unknown_name(store, reference.name)
    if reference.version is not None:
        if reference.version not in known:
            held = f"Versions: {listing(known)}."
            raise InputError(f"{reference} is not in the zoo {store.root}. {held}")
        return _checked(store, reference.name, reference.version, check)
    candidates = _held_versions(store, reference)
    if candidates is not None:
        return _first_valid(store, reference, candidates, check)
    return _first_valid(store, reference, reversed(known), check, accepted_only=True)


def _held_versions(store: Store, reference: Reference) -> list[str] | None:
    """Return the versions that the alias held, best first; None: the newest version is meant."""
    if reference.alias == LATEST:
        return None
    if reference.alias is None:
        aliases = readable_aliases(store, reference.name)
        return _held(aliases, CHAMPION) if CHAMPION in aliases.aliases else None
    aliases = read_aliases(store, reference.name)
    if reference.alias not in aliases.aliases:
        hint = did_you_mean(reference.alias, {**aliases.aliases, LATEST: ""}, "Aliases")
        raise InputError(f"{reference.name} has no alias {reference.alias!r}. {hint}")
    return _held(aliases, reference.alias)


def _held(aliases: Aliases, alias: str) -> list[str]:
    return list(dict.fromkeys([aliases.aliases[alias], *reversed(aliases.holders(alias))]))


def _first_valid(
    store: Store,
    reference: Reference,
    candidates: Iterable[str],
    check: Callable[[Package], None],
    *,
    accepted_only: bool = False,
) -> Package:
    first: IntegrityError | None = None
    rejected: list[str] = []
    for version in candidates:
        try:
            package = Package.read(store, reference.name, version)
            if accepted_only and package.rejected:
                rejected.append(version)
                continue
            check(package)
        except IntegrityError as error:
            first = first or error
            continue
        if first is not None:
            message = "event=fell_back asked=%s got=%s reason=%r"
            logger.warning(message, reference, package.ref, str(first))
        return package
    if first is None and rejected:
        raise InputError(
            f"{reference}: all versions are rejected by their gates ({listing(rejected)}). Name "
            f"one, like {reference.name}/{rejected[0]}, or promote it with --force."
        )
    raise first or IntegrityError(f"{reference}: nothing is committed.")


def _checked(store: Store, name: str, version: str, check: Callable[[Package], None]) -> Package:
    package = Package.read(store, name, version)
    check(package)
    return package


def _newest_accepted(store: Store, name: str) -> str | None:
    for version in reversed(versions(store, name)):
        packages, damaged = read_manifests(store, [(name, version)])
        if damaged or any(not package.rejected for package in packages):
            return version  # what is damaged may be accepted: readers fall back from it
    return None


def _unknown_name(store: Store, name: str) -> InputError:
    known = names(store)
    if not known:
        return InputError(f"the zoo {store.root} is empty: there is no {name!r} in it.")
    return InputError(
        f"the zoo {store.root} has no package {name!r}. {did_you_mean(name, known, 'Packages')}"
    )
