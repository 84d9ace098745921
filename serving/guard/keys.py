"""API keys: only their SHA-256 is stored, comparison takes the same time whatever is sent.

A key file has one key per line, ``name:hex digest``; blank lines and lines starting with ``#`` are
skipped. Keys are 256 random bits, so a plain digest (no salt, no stretching) cannot be searched.
"""

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from orchestrator.errors import InputError

_LINE: Final = re.compile(r"(?P<name>[a-z0-9][a-z0-9._-]{0,63}):(?P<digest>[0-9a-f]{64})")
_SCHEME: Final = b"bearer "
_KEY_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class KeyRing:
    """The keys that may use the service: name -> SHA-256 digest of the key."""

    digests: dict[str, bytes]

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
        for number, line in enumerate(lines, start=1):
            text = line.strip()
            if not text or text.startswith("#"):
                continue
            match = _LINE.fullmatch(text)
            if match is None or match["name"] in digests:
                # The line itself may be a key somebody pasted: it is never repeated.
                raise InputError(
                    f"API key file '{path}', line {number}: expected one `name:sha256-hex` per "
                    "line, each name once. Make lines with `orchestrator serve --new-key NAME`."
                )
            digests[match["name"]] = bytes.fromhex(match["digest"])
        if not digests:
            raise InputError(f"API key file '{path}' has no key: nobody could use the service.")
        return cls(digests)

    def owner(self, authorization: bytes) -> str | None:
        """Name of the key in an ``Authorization`` header, or None.

        Every stored digest is compared, each in constant time: timing tells nothing of them.
        """
        if authorization[: len(_SCHEME)].lower() != _SCHEME:
            return None
        sent = hashlib.sha256(authorization[len(_SCHEME) :].strip()).digest()
        found: str | None = None
        for name, digest in self.digests.items():
            if hmac.compare_digest(sent, digest):
                found = name
        return found


def new_key(name: str) -> tuple[str, str]:
    """Make a key: ``(secret to hand out, line for the key file)``.

    Raises:
        InputError: ``name`` has characters a key file does not allow.
    """
    secret = secrets.token_urlsafe(_KEY_BYTES)
    line = f"{name}:{hashlib.sha256(secret.encode()).hexdigest()}"
    if _LINE.fullmatch(line) is None:
        raise InputError(
            f"Key name '{name}': use 1 to 64 of a-z 0-9 . _ -, first a letter or digit."
        )
    return secret, line
