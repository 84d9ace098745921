"""The lease of a run on an object store: one driver at a time, where no file system has a lock.

The holder writes its own file, ``.lock-<number>``, again and again. A file that has not changed for
a while, by the clock of the one who looks, belongs to a process that is dead or cut off, and so
does one that says that it was released. Whoever wants the run then makes the file with the next
number; of many, one succeeds (`Claim`). A driver that was cut off finds the higher number when it
comes back, and changes nothing more. `filelock` has leases on local files only.
"""

import logging
import threading
import time
import uuid
from collections.abc import Callable

from orchestrator.errors import InputError, OrchestratorError
from orchestrator.storage.claims import Claim, Claimant, FencedError, numbers
from orchestrator.storage.locks import LockedError
from orchestrator.storage.remote.remote_store import RemoteStore

LOCK = ".lock-"
"""Beginning of the name of a lease's file."""
LEASE_S = 20.0
"""A file that did not change for this long belongs to nobody."""
BEAT_S = 4.0
"""Seconds between two writes of the holder."""
POLL_S = 0.5
PROBE = ".probe-"
logger = logging.getLogger(__name__)


class Repeated:
    """An action that a thread repeats; what goes wrong is logged, and it is tried again.

    Args:
        action: What to do.
        every_s: Seconds between two times.
        name: Name of the thread.
    """

    def __init__(self, action: Callable[[], None], every_s: float, name: str) -> None:
        self._action, self._every_s = action, every_s
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._ended.wait(self._every_s):
            try:
                self._action()
            except LockedError as error:  # whoever changes something next raises it
                logger.error("%s", error)
                return
            except OrchestratorError as error:
                logger.warning("event=%s_failed reason=%r", self._thread.name, str(error))

    def stop(self) -> None:
        """End it, after what is under way."""
        self._ended.set()
        self._thread.join()


class Lease:
    """A driver's exclusive right to a run.

    Args:
        store: The run's folder.

    Attributes:
        number: The lease's; later ones are higher. 0: not acquired.
    """

    number: int = 0

    def __init__(self, store: RemoteStore) -> None:
        self._store = store
        self._quick = RemoteStore(store.root)
        self._claimant = Claimant.here()
        self._beats: Repeated | None = None

    def acquire(self) -> None:
        """Take the lease; waits for some seconds to see whether a holder is dead.

        Raises:
            LockedError: Another process holds it and lives; names it.
            StageError: The store failed.
        """
        while True:
            self.number = self._free() + 1
            if Claim(self._store, self.number, LOCK).make(self._claimant):
                break
        self._beats = Repeated(self._beat, BEAT_S, "lease")

    def _free(self) -> int:
        """Return the highest number once its holder has ended; 0: there was none."""
        since = time.monotonic()
        first: Claimant | None = None
        while True:
            number = max(numbers(self._store, LOCK), default=0)
            holder = Claim(self._store, number, LOCK).claimant() if number else None
            if not number or (holder is not None and holder.released):
                return number
            if first is None and holder is not None:
                first = holder
                logger.info(
                    "%s is held by %s; waiting up to %.0f s to see whether it lives",
                    *(self._store.root, holder, LEASE_S),
                )
            if holder is not None and holder != first:
                began = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(holder.since))
                raise LockedError(f"{self._store.root}: held by {holder} since {began}.")
            if time.monotonic() - since > LEASE_S:
                return number
            time.sleep(POLL_S)

    def require(self) -> None:
        """Raise unless the run is still ours; before anything of it is changed.

        Raises:
            LockedError: Another process has taken it over.
            StageError: The store failed.
        """
        self._require(self._store)

    def _require(self, store: RemoteStore) -> None:
        try:
            Claim(store, self.number, LOCK).require()
        except FencedError as error:
            raise LockedError(
                f"{store.root}: another process has taken over this run, for this one was cut off "
                "for too long. It ends here and changes nothing more."
            ) from error

    def release(self) -> None:
        """Let another process take the run at once; without the lease nothing happens."""
        if self._beats is None:
            return
        self._beats.stop()
        self._beats = None
        try:
            self._require(self._quick)
            self._write(self._claimant.model_copy(update={"released": True}))
        except OrchestratorError as error:  # the next one waits until the file is old
            logger.warning("event=lease_not_released reason=%r", str(error))

    def _beat(self) -> None:
        self._require(self._quick)
        more = {"beat": self._claimant.beat + 1}
        self._claimant = self._claimant.model_copy(update=more)
        self._write(self._claimant)

    def _write(self, claimant: Claimant) -> None:
        self._quick.write(Claim(self._quick, self.number, LOCK).name, claimant.content)


def require_exclusive(store: RemoteStore) -> None:
    """Refuse a store where two writers can both make the same new object.

    Raises:
        InputError: It has no conditional writes.
        StageError: It failed.
    """
    name = f"{PROBE}{uuid.uuid4().hex}"
    store.create(name, b"1")
    try:
        store.create(name, b"2")
    except FileExistsError:
        return
    finally:
        store.remove(name)
    raise InputError(
        f"{store.root}: this store has no conditional writes: of two processes that make the same "
        "new object, both succeed. Without them two drivers could damage a run. Use S3, GCS, Azure "
        "or another store with If-None-Match, or a local or network-mounted run.dir."
    )
