"""Figures of a load, from the raw samples."""

from collections import Counter

import numpy as np

from orchestrator.arrays import FloatArray
from orchestrator.config import StrictModel
from orchestrator.config.tables import table
from serving.load.plan import LoadPlan
from serving.load.sender import NOT_CONNECTED, TIMED_OUT, Samples

LATE_MS = 20.0
"""Requests that were sent later than this make the figures those of the generator."""
NAMES = {TIMED_OUT: "timed out", NOT_CONNECTED: "not connected"}


class Latency(StrictModel):
    """Milliseconds from the moment a request was due to the end of its answer."""

    count: int
    p50: float
    p90: float
    p99: float
    p999: float
    max: float


class LoadResult(StrictModel):
    """Figures of a load."""

    url: str
    rate: float
    """Requests per second that were asked for."""
    seconds: float
    requests: int
    answers_per_s: float
    """Answers with a status below 400 per second, from the start to the last end."""
    statuses: dict[str, int]
    """HTTP status, ``timed out`` or ``not connected`` → requests."""
    answered: Latency | None
    """Statuses below 400."""
    refused: Latency | None
    """Statuses 429 and 503."""
    with_retry_after: float | None
    """Share of the refused ones that say when to come again."""
    late_ms: float
    """99th percentile of the milliseconds by which the generator itself was late."""

    @property
    def trusted(self) -> bool:
        """Whether the generator kept its times."""
        return self.late_ms <= LATE_MS

    def lines(self) -> list[str]:
        """A table of the latencies, the statuses, and what is wrong."""
        rows = [
            (name, *(round(value, 1) for value in (at.p50, at.p90, at.p99, at.p999, at.max)))
            for name, at in (("answered", self.answered), ("refused", self.refused))
            if at is not None
        ]
        found = ", ".join(f"{name}: {count}" for name, count in self.statuses.items())
        text = [
            f"{self.requests} requests in {self.seconds:g} s at {self.rate:g}/s to {self.url}; "
            f"{self.answers_per_s:.1f} answers/s",
            f"statuses  {found}",
        ]
        if rows:
            text.append(table(rows, ("ms", "p50", "p90", "p99", "p99.9", "max"), "<>>>>>"))
        if self.with_retry_after is not None and self.with_retry_after < 1:
            text.append(f"{1 - self.with_retry_after:.0%} of the refused have no Retry-After")
        if not self.trusted:
            text.append(
                f"WARNING: requests were sent up to {self.late_ms:.0f} ms late (99 %): the figures "
                "are those of this generator. Give it more --processes or idle cores."
            )
        return text


def summarize(plan: LoadPlan, samples: Samples) -> LoadResult:
    """Return the figures of a load."""
    status = samples.status
    latency = 1000 * (samples.ended - samples.due)
    answered = (status > 0) & (status < 400)
    refused = np.isin(status, (429, 503))
    counts = sorted(Counter(status.tolist()).items(), reverse=True)
    retry = float(samples.retry_after[refused].mean()) if refused.any() else None
    return LoadResult(
        url=plan.url + plan.path,
        rate=plan.rate,
        seconds=plan.seconds,
        requests=len(status),
        answers_per_s=float(answered.sum() / max(float(samples.ended.max()), plan.seconds)),
        statuses={NAMES.get(code, str(code)): n for code, n in counts},
        answered=_latency(latency[answered]),
        refused=_latency(latency[refused]),
        with_retry_after=retry,
        late_ms=float(1000 * np.quantile(samples.sent - samples.due, 0.99)),
    )


def _latency(ms: FloatArray) -> Latency | None:
    if not len(ms):
        return None
    p50, p90, p99, p999 = np.quantile(ms, (0.5, 0.9, 0.99, 0.999))
    return Latency(count=len(ms), p50=p50, p90=p90, p99=p99, p999=p999, max=float(ms.max()))
