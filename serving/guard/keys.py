"""API keys: only their SHA-256 is stored, comparison takes the same time whatever is sent.

A key file has one key per line, ``name:hex digest``, and behind a second colon the scopes of a key
that may not do everything: ``name:hex digest:embed,read``. Blank lines and lines starting with
``#`` are skipped. Keys are 256 random bits, so a plain digest (no salt, no stretching) cannot be
searched.
"""

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, get_args

from orchestrator.errors import InputError

Scope = Literal["read", "embed", "predict", "generate"]
"""Rights of a key: to read what is served, to ask for vectors and tokens, for answers of targets,
for written text."""
SCOPES: Final[tuple[Scope, ...]] = get_args(Scope)

_LINE: Final = re.compile(
    r"(?P<name>[a-z0-9][a-z0-9._-]{0,63}):(?P<digest>[0-9a-f]{64})(:(?P<scopes>[a-z,]+))?"
)
_SCHEME: Final = b"bearer "
_KEY_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class Key:
    """A key that may use the service.

    Attributes:
        name: Name of its owner.
        scopes: What it may do.
    """

    name: str
    scopes: frozenset[str] = frozenset(SCOPES)


@dataclass(frozen=True, slots=True)
class KeyRing:
    """The keys that may use the service.

    Attributes:
        digests: Name → SHA-256 digest of the key.
        scopes: Name → what that key may do; keys that are left out may do everything.
    """

    digests: dict[str, bytes]
    scopes: dict[str, frozenset[str]] = field(default_factory=dict)

    @classmethod
    def load(cls, path: str | Path) -> "KeyRing":
        """Read a key file.

        Raises:
            InputError: The file is missing, empty, or has a line of another form.
        """
        try:
            lines = Path(path).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(
                f"API key file '{path}' cannot be read ({error}). Create it with "
                f"`orchestrator serve --new-key NAME >> FILE`, or leave api_keys_file out."
            ) from error
        digests: dict[str, bytes] = {}
        scopes: dict[str, frozenset[str]] = {}
        for number, line in enumerate(lines, start=1):
            text = line.strip()
            if not text or text.startswith("#"):
                continue
            match = _LINE.fullmatch(text)
            allowed = frozenset(((match and match["scopes"]) or "").split(",")) - {""}
            if match is None or match["name"] in digests or allowed - set(SCOPES):
                # The line itself may be a key somebody pasted: it is never repeated.
                raise InputError(
                    f"API key file '{path}', line {number}: expected one `name:sha256-hex` per "
                    f"line, each name once, or `name:sha256-hex:SCOPES` with some of "
                    f"{','.join(SCOPES)}. Make lines with `orchestrator serve --new-key NAME`."
                )
            digests[match["name"]] = bytes.fromhex(match["digest"])
            if allowed:
                scopes[match["name"]] = allowed
        if not digests:
            raise InputError(f"API key file '{path}' has no key: nobody could use the service.")
        return cls(digests, scopes)

    def owner(self, authorization: bytes) -> Key | None:
        """Return the key in an ``Authorization`` header, or None.

        Every stored digest is compared, each in constant time: timing tells nothing of them.
        """
        if authorization[: len(_SCHEME)].lower() != _SCHEME:
            return None
        sent = hashlib.sha256(authorization[len(_SCHEME) :].strip()).digest()
        found: str | None = None
        for name, digest in self.digests.items():
            if hmac.compare_digest(sent, digest):
                found = name
        return None if found is None else Key(found, self.scopes.get(found, frozenset(SCOPES)))


def new_key(name: str, scopes: str = "") -> tuple[str, str]:
    """Make a key: ``(secret to hand out, line for the key file)``.

    Args:
        name: Name of its owner.
        scopes: What it may do, separated by commas; empty: everything.

    Raises:
        InputError: ``name`` has characters a key file does not allow, or a scope is unknown.
    """
    unknown = sorted(set(scopes.split(",")) - {*SCOPES, ""})
    if unknown:
        raise InputError(
            f"Scopes of a key: '{', '.join(unknown)}' is none. Use some of {','.join(SCOPES)}."
        )
    secret = secrets.token_urlsafe(_KEY_BYTES)
    line = f"{name}:{hashlib.sha256(secret.encode()).hexdigest()}"
    if _LINE.fullmatch(line) is None:
        raise InputError(
            f"Key name '{name}': use 1 to 64 of a-z 0-9 . _ -, first a letter or digit."
        )
    return secret, f"{line}:{scopes}" if scopes else line
