"""Clock of a selection: seconds and money that its slots have cost, over all tries of the run.

Each try writes its own mark into the run folder, again and again while it lasts. A try that was
killed has therefore counted up to its last mark.
"""

import math
import time
from collections.abc import Callable, Sequence

from orchestrator.config import StrictModel, TrialClusterSection
from orchestrator.selection.costs.config import PricesConfig
from orchestrator.storage import RunFolder

MARK_EVERY_S = 2.0
ROUNDING = 1e-9


class Attempt(StrictModel):
    """One try of a run to finish."""

    began: float
    """Unix time at which slots were first held."""
    last: float
    """Unix time up to which they certainly were."""
    slots: float
    """Trials that fit at once."""
    price: float | None
    """Price of one slot for one second; null without prices."""
    currency: str = ""
    """Its currency."""

    @property
    def seconds(self) -> float:
        """Length of the try."""
        return max(0.0, self.last - self.began)


class RunClock:
    """The tries of one run; the last one is going on.

    Args:
        folder: The run.
        slots: Trials that fit at once now.
        price: Of one slot for one second; None without prices.
        currency: Of the price.
        now: Unix time.
    """

    def __init__(
        self,
        folder: RunFolder,
        slots: float,
        price: float | None = None,
        currency: str = "",
        now: Callable[[], float] = time.time,
    ) -> None:
        self._folder, self._now = folder, now
        self._before = _attempts(folder)
        began = now()
        self._attempt = Attempt(
            began=began, last=began, slots=slots, price=price, currency=currency
        )
        self._marked = 0.0
        self.tick()

    @property
    def slots(self) -> float:
        """Trials that fit at once now."""
        return self._attempt.slots

    @property
    def attempts(self) -> tuple[Attempt, ...]:
        """All tries up to this moment."""
        return (*self._before, self._attempt.model_copy(update={"last": self._now()}))

    @property
    def currency(self) -> str:
        """Currency of the price."""
        return self._attempt.currency

    @property
    def price(self) -> float | None:
        """Price of all slots for one second; None without prices."""
        return None if self._attempt.price is None else self._attempt.price * self.slots

    def seconds(self) -> float:
        """Seconds that slots have been held."""
        return sum(attempt.seconds for attempt in self.attempts)

    def tick(self) -> None:
        """Record that the try goes on, at most every `MARK_EVERY_S`."""
        if self._now() - self._marked >= MARK_EVERY_S:
            self.stop()

    def stop(self) -> tuple[Attempt, ...]:
        """Record this moment, and return all tries."""
        self._marked = self._now()
        attempts = self.attempts
        self._folder.mark(_step(len(self._before)), attempts[-1].model_dump())
        return attempts


def money_of(attempts: Sequence[Attempt]) -> float | None:
    """Price of all slots for the whole time; None where a try had no prices."""
    prices = [a.price for a in attempts if a.price is not None]
    if len(prices) < len(attempts):
        return None
    return sum(a.seconds * a.slots * p for a, p in zip(attempts, prices, strict=True))


def slots_of(cluster: TrialClusterSection, cpus: float, gpus: float) -> float:
    """Trials that fit at once on a cluster, at least one.

    Args:
        cluster: What one trial reserves.
        cpus: CPUs of the cluster.
        gpus: Its GPUs.
    """
    return float(max(1, trials_that_fit(cluster, cpus, gpus)))


def trials_that_fit(cluster: TrialClusterSection, cpus: float, gpus: float) -> int:
    """Trials that fit at once, as `slots_of`; 0 where none does, 1 if they reserve nothing."""
    workers = cluster.workers_per_trial
    fits = [
        math.floor(have / (takes * workers) + ROUNDING)  # 1 // 0.1 is 9
        for have, takes in ((cpus, cluster.cpus_per_worker), (gpus, cluster.gpus_per_worker))
        if takes > 0
    ]
    return min(fits, default=1)


def slot_price(cluster: TrialClusterSection, prices: PricesConfig) -> float | None:
    """Price of one slot for one second, of all workers of a trial; None without prices."""
    if prices.cpu_hour is None and prices.gpu_hour is None:
        return None
    hour = cluster.cpus_per_worker * (prices.cpu_hour or 0.0)
    hour += cluster.gpus_per_worker * (prices.gpu_hour or 0.0)
    return cluster.workers_per_trial * hour / 3600


def _attempts(folder: RunFolder) -> tuple[Attempt, ...]:
    found: list[Attempt] = []
    while (stored := folder.done(_step(len(found)))) is not None:
        found.append(Attempt.model_validate(stored))
    return tuple(found)


def _step(attempt: int) -> str:
    return f"clock {attempt + 1}"
