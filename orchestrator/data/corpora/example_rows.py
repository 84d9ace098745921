"""Examples on disk: which are admitted, and how they are stored and read.

Broken, too long or too short examples are left out and counted by reason. The others are in one
memory-mapped Arrow file: texts, a picture unchanged, a sound as FLAC of one channel at the model's
rate. Media are decoded when a batch is made: a worker reads only the files of its own samples.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from orchestrator.arrays import IntArray
from orchestrator.data.media.audio import read_sound
from orchestrator.data.media.images import read_image
from orchestrator.data.media.inputs import ModelInputs
from orchestrator.data.media.spectrograms import kaldi_frames
from orchestrator.data.processors.example_processor import ExampleProcessor
from orchestrator.data.processors.unknown import count_unknown
from orchestrator.data.samples.kinds import ExamplesConfig, TranscriptsConfig
from orchestrator.data.sources.contents import Entries, Entry
from orchestrator.errors import InputError

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


class RejectedError(Exception):
    """An example that is left out; the message is the reason."""


@dataclass
class Admission:
    """Reads, checks and converts examples.

    Attributes:
        entries: Their source; counts those left out.
        samples: The sample kind.
        inputs: What the model reads.
        processor: Processors of the examples.
        block_size: Most tokens of a text.
        tokens: Number of tokens of the texts admitted so far.
        unknown: Number of them that the tokenizer does not know.
        shortened: Texts that are longer than the model reads; they are cut.
    """

    entries: Entries
    samples: ExamplesConfig
    inputs: ModelInputs
    processor: ExampleProcessor
    block_size: int
    tokens: int = 0
    unknown: int = 0
    shortened: int = field(default=0)

    def media(self, entry: Entry) -> bytes | None:
        """Return an example's picture or sound in the form that is stored; empty for texts alone.

        None: the example is left out, and counted by reason.
        """
        before = self.unknown
        try:
            length = self._length(entry)
            media = self._read(entry, length)
        except RejectedError as reason:
            self.entries.rejected[str(reason)] += 1
            self.unknown = before
            return None
        self.tokens += length
        return media

    def _length(self, entry: Entry) -> int:
        """Return the number of tokens of an example's texts."""
        text = self.processor.text
        if text is None:
            return 0
        both = [entry.text, *([entry.pair] if entry.pair else [])]
        encoded = text.encode(both)
        lengths = [len(ids) for ids in encoded]
        if not all(lengths):
            raise RejectedError("no tokens")
        if isinstance(self.samples, TranscriptsConfig) and lengths[0] + 1 > self.block_size:
            raise RejectedError("text longer than block_size")
        self.shortened += sum(length + 2 > self.block_size for length in lengths)
        self.unknown += count_unknown(text, encoded)
        return sum(lengths)

    def _read(self, entry: Entry, length: int) -> bytes:
        if self.inputs.picture is None and self.inputs.sound is None:
            return b""
        what = "sound" if self.inputs.picture is None else "picture"
        try:
            content = self.entries.read(entry)
        except InputError:
            raise RejectedError(f"{what} missing") from None
        try:
            if what == "sound":
                return self._sound(content, entry, length)
            read_image(BytesIO(content))
        except InputError:
            raise RejectedError(f"{what} unreadable") from None
        return content

    def _sound(self, content: bytes, entry: Entry, length: int) -> bytes:
        """Return a sound of one channel at the model's rate as a FLAC file."""
        import soundfile  # type: ignore[import-untyped]

        samples, shape = self.samples, self.inputs.sound
        if not isinstance(samples, TranscriptsConfig) or shape is None:
            raise ValueError("these examples have no sounds")
        sound = read_sound(BytesIO(content), samples.rate, resample=True)
        seconds = len(sound) / samples.rate
        if seconds > samples.max_seconds:
            raise RejectedError("sound longer than max_seconds")
        if shape.kind != "whisper":  # Whisper pads every recording to 30 s
            read = (
                len(sound) if shape.kind == "wav2vec2" else kaldi_frames(len(sound), samples.rate)
            )
            positions = shape.positions(read)
            if positions > shape.most_positions:
                raise RejectedError("sound longer than the model reads")
            if positions < self._needed(entry, length):
                raise RejectedError("sound too short")
        if _has_stored_format(content, samples.rate):
            return content
        file = BytesIO()
        limited = np.clip(sound, -1.0, 1.0)
        soundfile.write(file, limited, samples.rate, format="FLAC", subtype="PCM_16")
        return file.getvalue()

    def _needed(self, entry: Entry, length: int) -> int:
        """Return the fewest positions of a sound: an aligned token, and a blank between equals."""
        if not self.inputs.aligned:
            return 1
        (ids,) = self.processor.words.encode([entry.text])
        return length + sum(a == b for a, b in pairwise(ids))


def _has_stored_format(content: bytes, rate: int) -> bool:
    """Return whether a sound has the stored format already."""
    import soundfile

    found = soundfile.info(BytesIO(content))
    kind = (found.format, found.subtype, found.channels, found.samplerate)
    return kind == ("FLAC", "PCM_16", 1, rate)
