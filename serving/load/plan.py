"""Requests and their times, drawn from a seed before the first one is sent.

Arrivals are a Poisson process: many users who do not know of one another. A generator that waits
for answers before it sends again slows down with the server and leaves out the requests that would
have waited ("coordinated omission"); this one never waits.
"""

import json
import math
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
from pydantic import Field, SecretStr

from orchestrator.arrays import FloatArray
from orchestrator.config import StrictModel
from orchestrator.errors import InputError

MAX_REQUESTS: Final = 1_000_000
PLACEHOLDER: Final = "{text}"
SHORTEST, LONGEST = 5, 128
WORDS: Final = (
    "the of and a to in is for on that with as are by this from be at or an was which not it have "
    "service answer model request order price delivery account update report network question "
    "customer review quality message history support product results method system number"
)


class LoadPlan(StrictModel):
    """Load on one endpoint."""

    url: str = Field(pattern=r"^https?://[^\s/]+$")
    """The server without a path, as in ``http://127.0.0.1:8000``."""
    path: str = Field("/predict", pattern=r"^/")
    """Path of the endpoint."""
    body: str = json.dumps({"inputs": [PLACEHOLDER]})
    """JSON of a request; each string ``{text}`` becomes a text."""
    rate: float = Field(gt=0)
    """Requests per second, on average."""
    seconds: float = Field(gt=0)
    """Length of the load."""
    timeout_s: float = Field(10.0, gt=0)
    """A request without an answer after so many seconds is given up."""
    seed: int = 0
    """Draws arrivals and texts."""
    processes: int = Field(1, ge=1, le=64)
    """Processes that send."""
    texts: tuple[str, ...] = ()
    """Texts to send; none: texts of 5 to 128 words are made up."""
    key: SecretStr = SecretStr("")
    """API key; empty: none is sent."""

    @cached_property
    def arrivals(self) -> FloatArray:
        """Seconds from the start at which requests are sent, ascending."""
        return poisson_arrivals(self.rate, self.seconds, self.seed)

    def require_bodies(self) -> None:
        """Refuse a body that holds no text, and a load beyond all bounds.

        Raises:
            InputError: Saying what is allowed.
        """
        try:
            found = json.loads(self.body)
        except ValueError as error:
            raise InputError(f"--body: not JSON ({error}): {self.body[:80]!r}") from error
        if filled(found, "a") == found:
            raise InputError(f'--body: no string is "{PLACEHOLDER}": {self.body[:80]!r}')
        if (expected := self.rate * self.seconds) > MAX_REQUESTS:
            raise InputError(
                f"--rate {self.rate:g} for {self.seconds:g} s are {expected:.0f} requests; "
                f"at most {MAX_REQUESTS} are sent."
            )

    def bodies(self, indices: Sequence[int]) -> list[bytes]:
        """JSON of the requests with these indices; a request does not depend on who sends it."""
        template = json.loads(self.body)
        return [json.dumps(filled(template, self._text(index))).encode() for index in indices]

    def _text(self, index: int) -> str:
        draw = np.random.default_rng((self.seed, index))
        if self.texts:
            return self.texts[int(draw.integers(len(self.texts)))]
        # log-uniform: most real texts are short, a few are long
        length = round(math.exp(draw.uniform(math.log(SHORTEST), math.log(LONGEST))))
        return " ".join(draw.choice(WORDS.split(), length))


def poisson_arrivals(rate: float, seconds: float, seed: int) -> FloatArray:
    """Draw the times of a Poisson process.

    Args:
        rate: Mean number of arrivals per second.
        seconds: Its length.
        seed: Of the draw.

    Returns:
        Ascending times in [0, seconds); at least one.
    """
    draw = np.random.default_rng(seed)
    times: FloatArray = np.zeros(0)
    while not len(times) or times[-1] < seconds:
        gaps = draw.exponential(1 / rate, max(16, math.ceil(rate * seconds / 4)))
        times = np.concatenate([times, (times[-1] if len(times) else 0.0) + np.cumsum(gaps)])
    inside = times[times < seconds]
    return inside if len(inside) else np.zeros(1)


def filled(template: Any, text: str) -> Any:
    """Return a JSON value with a text in place of each ``{text}``."""
    if isinstance(template, dict):
        return {key: filled(value, text) for key, value in template.items()}
    if isinstance(template, list):
        return [filled(value, text) for value in template]
    return text if template == PLACEHOLDER else template


def read_texts(path: str | Path) -> tuple[str, ...]:
    """Read the texts of a file, one per line; empty lines are left out.

    Raises:
        InputError: There is no such file, no text in it, or it is not UTF-8.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--texts: {path} cannot be read: {error}") from error
    if not (texts := tuple(line for line in lines if line.strip())):
        raise InputError(f"--texts: {path} holds no text.")
    return texts
