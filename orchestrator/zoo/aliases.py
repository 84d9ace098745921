"""Names that move: ``latest``, ``candidate``, ``champion``, in one small file per package name.

A pointer is a hint: readers verify what it points at. The file keeps its moves, so that a rollback
knows where an alias was before.
"""

import getpass
import logging
from collections.abc import Callable
from typing import Literal

from pydantic import AwareDatetime, Field, ValidationError

from orchestrator.config import Name, StrictModel
from orchestrator.errors import IntegrityError
from orchestrator.storage.json_files import json_bytes, parse_json
from orchestrator.storage.stores import Store
from orchestrator.zoo.manifest import Version, now
from orchestrator.zoo.names import LATEST

ALIASES_NAME = "aliases.json"
LOCK_NAME = ".aliases.lock"
MAX_ALIASES_BYTES = 4 * 2**20
MAX_MOVES = 1000
"""Moves kept; the oldest are forgotten."""
logger = logging.getLogger(__name__)


class Move(StrictModel):
    """One move of an alias."""

    action: Literal["promote", "rollback"]
    """Promote puts the version on top of the alias's history, rollback takes the top away."""
    alias: Name
    """The alias that moved."""
    version: Version
    """Version that the alias points to since then."""
    previous: Version | None = None
    """Version that the alias pointed to before."""
    at: AwareDatetime
    """Time of the change, UTC."""
    by: str | None = None
    """Name of the user who moved it, on that machine."""
    forced: bool = False
    """Whether it moved to a package that the gate had rejected."""
    reason: str | None = None
    """Reason that the user gave; for a forced move, the gate's reasons."""


class Aliases(StrictModel):
    """The content of ``aliases.json``."""

    schema_version: Literal[1] = 1
    """Version of this layout."""
    aliases: dict[Name, Version] = Field(default_factory=dict)
    """Alias → version."""
    history: list[Move] = Field(default_factory=list)
    """Moves, oldest first; ``latest`` moves with every commit and is not recorded."""

    def holders(self, alias: str) -> list[str]:
        """Return the versions an alias held, oldest first, without those rolled back from."""
        stack: list[str] = []
        for move in self.history:
            if move.alias != alias:
                continue
            if not stack and move.previous is not None:
                stack.append(move.previous)
            while move.action == "rollback" and stack and stack[-1] != move.version:
                stack.pop()
            if not stack or stack[-1] != move.version:
                stack.append(move.version)
        return stack

    def moved(
        self,
        alias: str,
        version: str,
        action: Literal["promote", "rollback"],
        *,
        forced: bool = False,
        reason: str | None = None,
    ) -> "Aliases":
        """Return the aliases after a move; a move to where it is already changes nothing."""
        previous = self.aliases.get(alias)
        if previous == version:
            return self
        move = Move(
            action=action,
            alias=alias,
            version=version,
            previous=previous,
            at=now(),
            by=user_name(),
            forced=forced,
            reason=reason,
        )
        history = self.history if alias == LATEST else [*self.history, move][-MAX_MOVES:]
        return Aliases(aliases={**self.aliases, alias: version}, history=history)


def user_name() -> str | None:
    """Return the name of the user of this process; None where it has none."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container may run under a number without a name
        return None


def read_aliases(store: Store, name: str) -> Aliases:
    """Read the aliases of a package name; none yet is fine.

    Raises:
        IntegrityError: The file is damaged.
    """
    path = f"{name}/{ALIASES_NAME}"
    try:
        data = store.read(path, MAX_ALIASES_BYTES)
    except FileNotFoundError:
        return Aliases()
    where = f"{store.root}/{path}"
    try:
        found: Aliases = Aliases.model_validate(parse_json(data, where))
    except ValidationError as error:
        raise IntegrityError(f"{where}: damaged: {error.errors()[0]['msg']}.") from error
    return found


def readable_aliases(store: Store, name: str) -> Aliases:
    """Read the aliases; a damaged file is logged and counts as having none."""
    try:
        return read_aliases(store, name)
    except IntegrityError as error:
        logger.warning("event=damaged_aliases name=%s reason=%r", name, str(error))
        return Aliases()


def update_aliases(store: Store, name: str, change: Callable[[Aliases], Aliases]) -> Aliases:
    """Change the aliases under a lock and replace the file atomically.

    A damaged file is kept beside the new one as ``aliases.damaged.json``.
    """
    with store.lock(f"{name}/{LOCK_NAME}"):
        try:
            current = read_aliases(store, name)
        except IntegrityError as error:
            logger.warning("event=damaged_aliases_replaced name=%s reason=%r", name, str(error))
            damaged = store.read(f"{name}/{ALIASES_NAME}", MAX_ALIASES_BYTES)
            store.write(f"{name}/aliases.damaged.json", damaged)
            current = Aliases()
        changed = change(current)
        if changed != current:
            store.write(f"{name}/{ALIASES_NAME}", json_bytes(changed))
    return changed
