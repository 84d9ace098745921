"""Rows of image or sound files, decoded when a batch is made: with a class, or with a transcript.

Shapes: B batch, C channels, F frames, M mel bins, N samples, K labels.
"""

from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
import torch

from orchestrator.arrays import AnyArray, IntArray
from orchestrator.data.media.audio import read_sound
from orchestrator.data.media.images import read_image
from orchestrator.data.processors.example_processor import ExampleProcessor, RowProcessor
from orchestrator.data.rows.rows import Rows
from orchestrator.data.samples.base import Batch
from orchestrator.errors import InputError

if TYPE_CHECKING:
    from orchestrator.data.corpora.example_rows import Sound


def media_arrays(rows: Rows, indices: IntArray, processor: ExampleProcessor) -> dict[str, AnyArray]:
    """Return the inputs of some rows: ``pixel_values``, ``input_features`` or ``input_values``.

    Raises:
        InputError: a file cannot be decoded, or the package reads another kind of files.
    """
    if rows.pictures is not None:
        if processor.picture is None:
            raise InputError("the rows are images, which this model does not read.")
        images = [read_image(BytesIO(rows.pictures[index])) for index in indices]
        return dict(processor.picture.arrays(images))
    if rows.sounds is None or processor.sound is None:
        raise InputError("the rows are sounds, which this model does not read.")
    return processor.sound.arrays(RowSounds(rows, processor.sound.rate).sounds(indices))


def media_processor(processor: RowProcessor | None, rows: Rows) -> ExampleProcessor:
    """Return the processors that can read rows of images or sounds.

    Raises:
        InputError: The package has none, or the rows are texts.
    """
    reads = isinstance(processor, ExampleProcessor) and (processor.picture or processor.sound)
    if rows.modality not in ("image", "audio"):
        raise InputError(f"the rows are of {rows.modality}; images or sounds are needed.")
    if not reads or not isinstance(processor, ExampleProcessor):
        raise InputError(f"the rows are of {rows.modality}, which this package does not read.")
    return processor


class RowSounds:
    """Sounds of rows and their texts, as samples of transcripts read them.

    Attributes:
        training: always false: recordings are not changed.
    """

    training = False

    def __init__(self, rows: Rows, rate: int) -> None:
        self._rows, self._rate = rows, rate

    def __len__(self) -> int:
        return len(self._rows)

    def text(self, indices: IntArray) -> list[str]:
        """Return the texts."""
        return [str(self._rows.labels[index]) for index in indices]

    def sounds(self, indices: IntArray) -> "list[Sound]":
        """Return the sounds at the rate of the model, [N] each."""
        files = [BytesIO((self._rows.sounds or [])[index]) for index in indices]
        return [read_sound(file, self._rate, resample=True) for file in files]


class MediaSamples:
    """Images or sounds with their label: ``labels.<name>`` as the rows have them."""

    def __init__(self, rows: Rows, processor: ExampleProcessor, target_name: str) -> None:
        """Take the rows.

        Raises:
            InputError: there are none.
        """
        if not len(rows):
            raise InputError("the data set has no rows. Check the source and its cap.")
        self._rows, self._processor = rows, processor
        self._name, self.parts = f"labels.{target_name}", (len(rows),)

    def __len__(self) -> int:
        return len(self._rows)

    def collate(self, indices: IntArray, epoch: int | IntArray) -> Batch:
        """Decode a batch."""
        del epoch
        arrays = media_arrays(self._rows, indices, self._processor)
        arrays[self._name] = self._rows.labels[indices]
        return {name: torch.from_numpy(np.ascontiguousarray(a)) for name, a in arrays.items()}
