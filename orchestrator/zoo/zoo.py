"""The zoo: versioned packages, movable aliases, and only verified content."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.errors import InputError, IntegrityError, RefusedError, StageError
from orchestrator.storage.atomic import GRACE_S
from orchestrator.storage.stores import open_store
from orchestrator.zoo.aliases import (
    LOCK_NAME,
    Aliases,
    read_aliases,
    readable_aliases,
    update_aliases,
)
from orchestrator.zoo.card import CARD_NAME
from orchestrator.zoo.draft import Draft
from orchestrator.zoo.manifest import Kind, Parent
from orchestrator.zoo.names import (
    CHAMPION,
    LATEST,
    parse_reference,
    require_alias,
    require_name,
    version_number,
)
from orchestrator.zoo.overview import (
    KEEP,
    Ancestor,
    Collection,
    Finding,
    build_index,
    check,
    check_all,
    plan_collection,
    trace,
)
from orchestrator.zoo.package import Package
from orchestrator.zoo.resolve import (
    current_aliases,
    find,
    names,
    read_all,
    read_manifests,
    versions,
)

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)


class Zoo:
    """Packages under one root: a path, ``file://``, ``memory://``, ``s3://``, ``gs://``.

    A committed version never changes; aliases move. Nothing is created before the first draft.

    Attributes:
        store: Where the packages lie.
    """

    def __init__(self, root: str | Path) -> None:
        self.store = open_store(root)

    @property
    def root(self) -> str:
        """Path or address of the zoo."""
        return self.store.root

    def __repr__(self) -> str:
        return f"Zoo({self.root!r})"

    def draft(
        self,
        name: str,
        *,
        kind: Kind,
        producer: Mapping[str, Any] | None = None,
        parents: Sequence[str | Package] = (),
        task: Mapping[str, Any] | None = None,
        metrics: Mapping[str, Any] | None = None,
        licence: str | None = None,
    ) -> Draft:
        """Begin a package; use it in a ``with`` block and call `Draft.commit`.

        Args:
            name: Name of the package.
            kind: Pretrained, imported, finetuned, continual or quantized.
            producer: ``stage``, ``job`` and more; git revision and library versions are added.
            parents: Packages, or references, it is made from.
            task: ``kind``, ``modality``, ``labels``, ``max_length``; may be set later.
            metrics: Summary figures; may be filled later.
            licence: SPDX identifier.

        Raises:
            InputError: A name, parent or value is not allowed. StageError: Not writable.
        """
        return Draft(
            self,
            name,
            kind=kind,
            producer=producer or {},
            parents=[self._parent(parent) for parent in parents],
            task=task,
            metrics=metrics or {},
            licence=licence,
        )

    def _parent(self, parent: str | Package) -> Parent:
        found = parent if isinstance(parent, Package) else self.peek(parent)
        return Parent(name=found.name, version=found.version, manifest_sha256=found.manifest_sha256)

    def get(self, ref: str) -> Package:
        """Return a package, completely verified.

        Args:
            ref: ``name`` (the champion if there is one, else the latest), ``name@alias`` or
                ``name/v0003``.

        Raises:
            InputError: No such name, version or alias; lists what there is.
            IntegrityError: It is damaged, and nothing to fall back to.
        """
        return find(self.store, parse_reference(ref))

    def peek(self, ref: str) -> Package:
        """Return a package by reading its manifest only; nothing is fetched or hashed.

        Raises:
            InputError: No such name, version or alias; lists what there is.
            IntegrityError: Its manifest is damaged, and nothing to fall back to.
        """
        return find(self.store, parse_reference(ref), lambda package: None)

    def names(self) -> list[str]:
        """Return the names of all packages, sorted."""
        return names(self.store)

    def packages(self) -> list[Package]:
        """Return all packages by name and version; only manifests are read.

        Damaged manifests are logged and left out; `verify` reports them.
        """
        packages, damaged = read_all(self.store)
        for ref, reason in damaged.items():
            logger.warning("event=damaged_manifest ref=%s reason=%r", ref, reason)
        return packages

    def made_by(self, name: str, run_id: str) -> Package | None:
        """Return the newest package of a name that a run has committed; None: there is none.

        Only the manifests of this name are read, in one request on an object store.

        Args:
            name: Name of the package.
            run_id: `RunFolder.package_id` of the run.
        """
        newest_first = reversed(versions(self.store, require_name(name)))
        packages, _ = read_manifests(self.store, [(name, version) for version in newest_first])
        return next((p for p in packages if p.manifest.producer.run_id == run_id), None)

    def index(self) -> "pd.DataFrame":
        """Return one row per package, built from the manifests; see `build_index`."""
        packages = self.packages()
        pointing: dict[str, list[str]] = {}
        for name in dict.fromkeys(package.name for package in packages):
            for alias, version in self.aliases(name).items():
                pointing.setdefault(f"{name}/{version}", []).append(alias)
        return build_index(packages, pointing)

    def aliases(self, name: str) -> dict[str, str]:
        """Return alias → version of a name; ``latest`` is always its newest accepted version."""
        return current_aliases(self.store, require_name(name))

    def promote(
        self, ref: str, alias: str = CHAMPION, *, force: bool = False, reason: str | None = None
    ) -> Package:
        """Point an alias at a package, after verifying it.

        Args:
            ref: Reference of the package.
            alias: Alias to move.
            force: Promote a rejected package too; the history of the alias records it.
            reason: Why, for the history.

        Raises:
            InputError: No such package, or the alias is ``latest``, which moves by itself.
            IntegrityError: The package is damaged; the alias stays where it is.
            RefusedError: The package is rejected, and ``force`` is not given.
        """
        require_movable(alias)
        package = find(self.store, parse_reference(ref), Package.verify)
        refused = package.manifest.reasons
        if package.rejected and not force:
            raise RefusedError(package.ref, refused)
        why = reason or ("; ".join(refused) if package.rejected else None)

        def change(now: Aliases) -> Aliases:
            version, forced = package.version, package.rejected
            return now.moved(alias, version, "promote", forced=forced, reason=why)

        update_aliases(self.store, package.name, change)
        logger.info("event=promoted alias=%s ref=%s rejected=%s", alias, package.ref, bool(refused))
        return package

    def rollback(self, name: str, alias: str = CHAMPION) -> Package:
        """Point an alias back at the last version it held that is still whole.

        Raises:
            InputError: The alias is not set, or never pointed anywhere else.
            StageError: Another writer moved the alias at the same time.
        """
        require_movable(alias)
        before = read_aliases(self.store, require_name(name))
        if alias not in before.aliases:
            held = ", ".join(before.aliases) or "none"
            raise InputError(
                f"{name} has no alias {alias!r}, so it cannot go back. Aliases: {held}."
            )
        package = self._last_whole(name, alias, before)

        def change(now: Aliases) -> Aliases:
            if now.aliases.get(alias) != before.aliases[alias]:
                raise StageError(f"{name}@{alias} was moved by somebody else just now. Look again.")
            return now.moved(alias, package.version, "rollback")

        update_aliases(self.store, name, change)
        logger.info("event=rolled_back alias=%s ref=%s", alias, package.ref)
        return package

    def _last_whole(self, name: str, alias: str, aliases: Aliases) -> Package:
        for version in reversed(aliases.holders(alias)[:-1]):
            try:
                return find(self.store, parse_reference(f"{name}/{version}"), Package.verify)
            except (InputError, IntegrityError) as error:
                logger.warning(
                    "event=rollback_skips ref=%s/%s reason=%r", name, version, str(error)
                )
        current = aliases.aliases[alias]
        raise InputError(f"{name}@{alias} is {current} and held no other version to go back to.")

    def verify(self, ref: str | None = None) -> list[Finding]:
        """Hash every file of one package, or of all, and check the aliases.

        Args:
            ref: A reference; an alias is not followed to another version when it is damaged.
                None: everything.

        Returns:
            One finding per package, and one per alias that points nowhere.

        Raises:
            InputError: No such package.
        """
        return check_all(self.store) if ref is None else [check(self.store, parse_reference(ref))]

    def lineage(self, ref: str) -> list[Ancestor]:
        """Return a package and its ancestors, nearest first; damaged or missing ones say so."""
        return trace(self.store, self.peek(ref))

    def gc(self, dry_run: bool = True, keep: int = KEEP, grace_s: float = GRACE_S) -> Collection:
        """Remove packages that nothing needs; by default only list them.

        Args:
            dry_run: Remove nothing.
            keep: Newest versions of each name to keep.
            grace_s: Leftovers of killed writers are swept after this many seconds.

        Raises:
            InputError: ``keep`` below 1.
            IntegrityError: A damaged alias file: what it protects is unknown, so nothing goes.
        """
        if keep < 1:
            raise InputError(f"keep is {keep}; at least 1 version of each name is kept.")
        aliases = {name: read_aliases(self.store, name) for name in self.names()}
        plan = plan_collection(self.packages(), aliases, keep)
        if dry_run:
            return plan
        removed = tuple(ref for ref in plan.removed if self._drop_unheld(ref))
        swept = [s for name in self.names() for s in self.store.sweep(name, grace_s)]
        return replace(plan, removed=removed, swept=tuple(swept), dry_run=False)

    def _drop_unheld(self, ref: str) -> bool:
        """Remove a version unless an alias was moved to it since the plan was made."""
        name, version = ref.split("/")
        with self.store.lock(f"{name}/{LOCK_NAME}"):
            held = read_aliases(self.store, name).aliases
            if version in (v for alias, v in held.items() if alias != LATEST):
                return False
            self.store.drop(ref)
        logger.info("event=removed ref=%s", ref)
        return True

    def next_number(self, name: str) -> int:
        """Return the number of the next version: above every version seen or remembered."""
        remembered = readable_aliases(self.store, name).aliases.values()
        known = [*versions(self.store, name), *remembered]
        return max((version_number(version) for version in known), default=0) + 1

    def committed(self, name: str, version: str) -> Package:
        """Record a new version as ``latest`` and return it; used by `Draft.commit`.

        ``latest`` stays where it is when the version is rejected.
        """
        package = Package.read(self.store, name, version)
        if package.rejected:
            return package

        def change(now: Aliases) -> Aliases:
            current = now.aliases.get(LATEST, version)
            newest = max(current, version, key=version_number)
            return now.moved(LATEST, newest, "promote")

        try:
            update_aliases(self.store, name, change)
        except StageError as error:  # readers find the newest version without the pointer
            logger.warning("event=latest_not_recorded ref=%s reason=%r", package.ref, str(error))
        return package

    def previous_card(self, name: str) -> str | None:
        """Return the model card of the newest whole version of a name, if there is one."""
        try:
            package = self.peek(f"{name}@{LATEST}")
            return package.read_bytes(CARD_NAME).decode("utf-8") if package.has(CARD_NAME) else None
        except (InputError, IntegrityError, UnicodeDecodeError):
            return None  # no version before, or none that can be trusted


def require_movable(alias: str) -> None:
    """Refuse aliases that are not moved by hand.

    Raises:
        InputError: Not an alias, or ``latest``.
    """
    if require_alias(alias) == LATEST:
        raise InputError(
            f"{LATEST!r} moves with every commit. Use another alias, like {CHAMPION!r}."
        )
