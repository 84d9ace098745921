"""Examples on disk: texts, and pictures or sounds as files inside one memory-mapped Arrow file.

A picture is stored unchanged, a sound as FLAC of one channel at the model's rate. They are decoded
when a batch is made: a worker reads only the files of its own samples.
"""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from orchestrator.arrays import IntArray
from orchestrator.data.media.audio import read_sound
from orchestrator.data.media.images import read_image
from orchestrator.data.model_inputs import ModelInputs

if TYPE_CHECKING:
    from PIL.Image import Image

Sound = npt.NDArray[np.float32]

SCHEMA = pa.schema([("text", pa.string()), ("pair", pa.string()), ("media", pa.large_binary())])
BATCH_BYTES = 1 << 24
BATCH_ROWS = 4096


class ExampleWriter:
    """Write examples to an Arrow file.

    Attributes:
        rows: Number of examples so far.
    """

    def __init__(self, path: Path) -> None:
        self.rows = 0
        self._pending: list[tuple[str, str, bytes]] = []
        self._bytes = 0
        self._writer = pa.ipc.new_file(str(path), SCHEMA)

    def add(self, text: str, pair: str, media: bytes) -> None:
        """Append one example."""
        self._pending.append((text, pair, media))
        self._bytes += len(media)
        self.rows += 1
        if self._bytes >= BATCH_BYTES or len(self._pending) >= BATCH_ROWS:
            self._flush()

    def _flush(self) -> None:
        if self._pending:
            columns = [list(column) for column in zip(*self._pending, strict=True)]
            self._writer.write_batch(pa.record_batch(columns, schema=SCHEMA))
        self._pending, self._bytes = [], 0

    def __enter__(self) -> "ExampleWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self._flush()
        self._writer.close()


class Examples:
    """The examples of one split; they stay on disk. ``len()`` is their number.

    Attributes:
        inputs: What the model reads.
        rate: Samples per second of the sounds.
        training: Whether they are augmented at random.
    """

    def __init__(self, path: Path, inputs: ModelInputs, rate: int, training: bool) -> None:
        table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
        self.inputs, self.rate, self.training = inputs, rate, training
        self._texts, self._pairs, self._media = (table[name] for name in SCHEMA.names)

    def __len__(self) -> int:
        return len(self._media)

    def text(self, indices: IntArray) -> list[str]:
        """Return the first texts; empty strings where there are none."""
        return [self._texts[int(index)].as_py() for index in indices]

    def pair(self, indices: IntArray) -> list[str]:
        """Return the second texts; empty strings where there are none."""
        return [self._pairs[int(index)].as_py() for index in indices]

    def pictures(self, indices: IntArray) -> "list[Image]":
        """Return the pictures."""
        return [read_image(file) for file in self._files(indices)]

    def sounds(self, indices: IntArray) -> list[Sound]:
        """Return the sounds, [N] each."""
        return [read_sound(file, self.rate) for file in self._files(indices)]

    def _files(self, indices: Sequence[int] | IntArray) -> list[BytesIO]:
        return [BytesIO(self._media[int(index)].as_buffer()) for index in indices]
