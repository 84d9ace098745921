"""References to packages: ``name``, ``name@alias``, ``name/v0003``."""

import re
from dataclasses import dataclass

from orchestrator.config import NAME_PATTERN
from orchestrator.errors import InputError

LATEST = "latest"
CHAMPION = "champion"

_NAME = re.compile(NAME_PATTERN)
_VERSION = re.compile(r"v(?!0000$)(\d{4}|[1-9]\d{4,8})")
RULE = "1 to 64 of a-z, 0-9, '.', '_', '-', beginning with a letter or digit"


@dataclass(frozen=True, slots=True)
class Reference:
    """A parsed reference.

    Attributes:
        name: Name of the package.
        version: Like ``v0003``, when the reference names one.
        alias: Like ``champion``, when the reference names one.
    """

    name: str
    version: str | None = None
    alias: str | None = None

    def __str__(self) -> str:
        if self.version is not None:
            return f"{self.name}/{self.version}"
        return f"{self.name}@{self.alias}" if self.alias is not None else self.name


def parse_reference(text: str) -> Reference:
    """Parse a reference.

    Raises:
        InputError: Not of one of the three forms.
    """
    form = "Write name, name@alias or name/v0001"
    if text.count("@") + text.count("/") > 1:
        raise InputError(f"{text!r} is not a package reference. {form}.")
    if "@" in text:
        name, alias = text.split("@")
        return Reference(require_name(name), alias=require_alias(alias))
    if "/" in text:
        name, version = text.split("/")
        if not is_version(version):
            raise InputError(f"{text!r}: {version!r} is not a version. {form}.")
        return Reference(require_name(name), version=version)
    return Reference(require_name(text))


def require_name(name: str) -> str:
    """Return a package name, or raise InputError when it is not safe as a folder name."""
    if not _NAME.fullmatch(name):
        raise InputError(f"{name!r} is not a package name. Allowed: {RULE}.")
    return name


def require_alias(alias: str) -> str:
    """Return an alias, or raise InputError when it is not a name or looks like a version."""
    if not _NAME.fullmatch(alias) or is_version(alias):
        raise InputError(f"{alias!r} is not an alias. Allowed: {RULE}; not a version like v0001.")
    return alias


def is_name(text: str) -> bool:
    """Return whether a folder's name can be a package's name."""
    return _NAME.fullmatch(text) is not None


def is_version(text: str) -> bool:
    """Return whether a text is a version like ``v0001``."""
    return _VERSION.fullmatch(text) is not None


def version_number(version: str) -> int:
    """Return the number of a version: ``v0012`` → 12."""
    return int(version[1:])


def version_name(number: int) -> str:
    """Return the version of a number: 12 → ``v0012``."""
    return f"v{number:04d}"
