"""Learning curves of a running job: appended to its storage in parts, never written again.

``<run>/curves/part-<first row>-<hash>.parquet`` holds the rows that were logged between two
checkpoints. A checkpoint stores a position only: the number of rows, and the last part. Each part
names the one before it, so the rows of a checkpoint are found by going back from its last part, and
the hash in a part's name proves its content. Parts that a resumed run does not come across hold
steps that it repeats: they are removed, and each step is logged once.

The finished curve is ``history.parquet`` of the package, which reports read (`Package.history`).
"""

import hashlib
import io
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from orchestrator.errors import IntegrityError
from orchestrator.storage.stores import Store
from orchestrator.training.events import Notice
from orchestrator.training.history import COLUMNS, CurvePosition, History, HistoryRow, Keep
from orchestrator.training.worker_context import WorkerContext, from_rank_zero

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

CURVES = "curves"
"""Folder of the parts, below the run's own."""
MAX_PART_BYTES = 2**30
PREVIOUS = b"previous"
"""Key in a part's metadata: name of the part before it; empty: it is the first."""


START = CurvePosition()


class CurveParts:
    """The parts of one run's curves; every rank has one, rank 0 writes.

    Args:
        context: This worker.
    """

    def __init__(self, context: WorkerContext) -> None:
        self._context = context
        self._position = START
        self._checked: tuple[CurvePosition, dict[str, bytes]] | None = None

    def require(self, position: CurvePosition | None) -> None:
        """Verify the parts before a position, so that an older checkpoint can be taken; collective.

        Raises:
            IntegrityError: One is missing or damaged.
            StageError: The storage fails; whatever rank 0 meets is raised on every rank.
        """

        def read() -> None:
            self._checked = position or START, self._parts(position or START)

        from_rank_zero(self._context, read)

    def resume(
        self,
        position: CurvePosition | None,
        rows: Sequence[HistoryRow] = (),
        keep: Keep | None = None,
    ) -> History:
        """Return the curves before a position, and remove what was logged after it; collective.

        Args:
            position: From the checkpoint.
            rows: Rows that a checkpoint of an earlier version holds itself.
            keep: Which stored rows are needed in memory; None: all.

        Raises:
            IntegrityError: A part is missing or damaged.
            FencedError: A newer group has claimed the run.
            StageError: The storage fails; whatever rank 0 meets is raised on every rank.
        """
        context, self._position = self._context, position or START
        content = from_rank_zero(context, lambda: self._read_and_remove(keep))
        if content is not None:
            return History(_rows_of(_parse(content)), taken=True)
        if self._position.rows:
            self._say_lost()
            self._position = START
        return History(rows)

    def extend(self, rows: Sequence[HistoryRow]) -> tuple[CurvePosition, Callable[[], None]]:
        """Return the position after some new rows, and what stores them.

        Args:
            rows: Those since the last call.

        Returns:
            The position; and a function for rank 0 that may be called again after it has failed,
            and has to be called before the position is stored.
        """
        before = self._position
        if not rows or self._context.rank != 0:
            return before, _nothing
        content = _encode(_table(rows), before.last)
        name = f"part-{before.rows:010d}-{_digest(content)}.parquet"
        self._position = CurvePosition(rows=before.rows + len(rows), last=name)
        store = self._context.store
        return self._position, lambda: store.write(f"{CURVES}/{name}", content)

    def whole(self, history: History) -> "pd.DataFrame":
        """Return the whole curve of a run: the stored rows, and those since; on rank 0.

        Every part must have been stored.

        Raises:
            IntegrityError: A part is missing or damaged.
        """
        import pandas as pd

        parts = self._parts(self._position)
        if self._position.rows and not parts:
            self._say_lost()
        tables = [*map(_parse, parts.values()), _table(history.take())]
        frames = [table.to_pandas() for table in tables]
        whole: pd.DataFrame = pd.concat(frames, ignore_index=True).astype(COLUMNS)
        return whole

    def _say_lost(self) -> None:
        message = (
            f"the learning curves before this checkpoint ({self._position.rows:,} rows) are "
            f"not there: the folder {CURVES} is empty. The run goes on without them."
        )
        self._context.emit(Notice(message=message))

    def _read_and_remove(self, keep: Keep | None) -> bytes | None:
        """Return the rows before the position as one part, remove later parts; on rank 0."""
        store = self._context.store
        there = store.files(CURVES)
        (checked, parts), self._checked = self._checked or (None, {}), None
        if checked != self._position:
            parts = self._parts(self._position)
        self._context.require_claim()
        for name in there:
            if name not in parts:
                store.remove(f"{CURVES}/{name}")
        if not parts:
            return None
        rows: list[HistoryRow] = []
        for part in parts.values():
            history = History(_rows_of(_parse(part)), taken=True)
            if keep is not None:
                history.forget(keep)
            rows += history.rows
        return _encode(_table(rows), "")

    def _parts(self, position: CurvePosition) -> dict[str, bytes]:
        """Return the parts before a position; none where the folder is empty.

        Raises:
            IntegrityError: One is missing or damaged.
        """
        store = self._context.store
        return read_parts(store, position) if store.files(CURVES) else {}


def read_parts(store: Store, position: CurvePosition) -> dict[str, bytes]:
    """Return the parts before a position, by name, the first one first.

    Raises:
        IntegrityError: One is missing or damaged; says what to do.
    """
    found: dict[str, bytes] = {}
    name = position.last
    while name:
        where = f"{store.root}/{CURVES}/{name}"
        advice = f"Restore it, or remove {store.root}/{CURVES} to go on without these curves."
        try:
            content = store.read(f"{CURVES}/{name}", MAX_PART_BYTES)
        except FileNotFoundError as error:
            raise IntegrityError(f"{where}: missing. {advice}") from error
        if f"-{_digest(content)}." not in name:
            raise IntegrityError(f"{where}: damaged: its hash differs. {advice}")
        found[name] = content
        name = (_parse(content).schema.metadata or {}).get(PREVIOUS, b"").decode()
    return dict(reversed(found.items()))


def copy_parts(source: Store, target: Store, position: CurvePosition) -> None:
    """Copy the curves before a position to another run; nothing there is fine.

    Raises:
        IntegrityError: A part is damaged.
        StageError: The target cannot be written.
    """
    if source.files(CURVES):
        for name, content in read_parts(source, position).items():
            target.write(f"{CURVES}/{name}", content)


def _nothing() -> None:
    """Store nothing: there are no new rows, or rank 0 stores them."""


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:32]


def _table(rows: Sequence[HistoryRow]) -> "pa.Table":
    import pyarrow as pa

    types = {"str": pa.string(), "int64": pa.int64(), "float64": pa.float64()}
    columns = {
        name: pa.array([getattr(row, name) for row in rows], types[kind])
        for name, kind in COLUMNS.items()
    }
    return pa.table(columns)


def _encode(table: "pa.Table", previous: str) -> bytes:
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(table.replace_schema_metadata({PREVIOUS: previous}), buffer)
    return buffer.getvalue()


def _parse(content: bytes) -> "pa.Table":
    import pyarrow.parquet as pq

    return pq.read_table(io.BytesIO(content))


def _rows_of(table: "pa.Table") -> list[HistoryRow]:
    columns = [table[name].to_pylist() for name in COLUMNS]
    return [HistoryRow(*row) for row in zip(*columns, strict=True)]
