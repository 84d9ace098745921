"""Samples of images and sounds, decoded when a batch is made: with a class, or with a transcript.

A decoder (Speech2Text, Wang et al. 2020) reads the end token ([SEP] of tokenizers trained here),
the language if its tokenizer names one, and what it has written, as BART does; of Whisper, the
prompt of its tokenizer. It writes all but the first of them and the end token. For ctc the labels
are the text alone. Spectrograms are masked in training (SpecAugment); raw waveforms are never
changed.

Shapes: B batch, C channels, F frames, M mel bins, N samples, K labels, T tokens.
"""

from io import BytesIO
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch

from orchestrator.arrays import AnyArray, IntArray
from orchestrator.data.corpora.example_rows import Sound
from orchestrator.data.media.audio import AudioProcessor, read_sound
from orchestrator.data.media.augmentation import mask_spectrograms
from orchestrator.data.media.images import read_image
from orchestrator.data.media.inputs import SpecAugmentConfig
from orchestrator.data.processors.example_processor import ExampleProcessor, RowProcessor
from orchestrator.data.processors.readings import begin_ids, end_id
from orchestrator.data.rows.rows import Rows
from orchestrator.data.samples.base import Batch, SampleInputs, stack
from orchestrator.data.samples.kinds import LabelledConfig, TranscriptsConfig
from orchestrator.data.samples.masked_patches import PictureBatches
from orchestrator.data.samples.masking import IGNORED
from orchestrator.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image

FEATURES, MASK = "input_features", "attention_mask"


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

    def sounds(self, indices: IntArray) -> list[Sound]:
        """Return the sounds at the rate of the model, [N] each."""
        files = [BytesIO((self._rows.sounds or [])[index]) for index in indices]
        return [read_sound(file, self._rate, resample=True) for file in files]


class RowPictures:
    """Pictures of rows, as samples of pictures read them.

    Attributes:
        training: Whether they are cropped at random.
    """

    def __init__(self, rows: Rows, training: bool) -> None:
        self._rows, self.training = rows, training

    def pictures(self, indices: IntArray) -> "list[Image]":
        """Return the pictures."""
        return [read_image(BytesIO((self._rows.pictures or [])[index])) for index in indices]


class LabelledPictures:
    """Files of pictures with their label, for pre-training: ``labels.<name>`` as the rows have."""

    def __init__(self, config: LabelledConfig, inputs: SampleInputs, target_name: str) -> None:
        """Take the rows of a split.

        Raises:
            InputError: The model's processor of pictures is missing.
        """
        rows = inputs.rows
        pictures = RowPictures(rows, inputs.training)
        self._pictures = PictureBatches(
            pictures, inputs.example_processor, config.crop, inputs.seed
        )
        self._labels, self._name = rows.labels, f"labels.{target_name}"
        self.parts = (len(rows),)

    def __len__(self) -> int:
        return len(self._labels)

    def collate(self, indices: IntArray, epoch: int | IntArray) -> Batch:
        """Decode a batch."""
        pixels = np.ascontiguousarray(self._pictures(indices, epoch))
        labels = torch.from_numpy(self._labels[indices])
        return {"pixel_values": torch.from_numpy(pixels), self._name: labels}


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


class Recordings(Protocol):
    """Sounds and their texts: examples of a corpus, or labelled rows.

    Attributes:
        training: whether they are changed at random.
    """

    training: bool

    def __len__(self) -> int:
        """Return their number."""
        ...

    def sounds(self, indices: IntArray) -> list[Sound]:
        """Return sounds, [N] each."""
        ...

    def text(self, indices: IntArray) -> list[str]:
        """Return their texts."""
        ...


class TranscriptSamples:
    """``input_features`` [B, F, M] or ``input_values`` [B, N], and the text.

    With a decoder ``decoder_input_ids``, ``decoder_attention_mask`` and ``labels.<name>`` [B, T];
    without one ``labels.<name>`` [B, T], -100 after the last token.
    """

    def __init__(
        self,
        examples: Recordings,
        processor: ExampleProcessor,
        target_name: str,
        seed: int,
        augment: SpecAugmentConfig | None,
        written: bool,
    ) -> None:
        """Take recordings.

        Args:
            examples: Recordings and their texts.
            processor: Processors of both.
            target_name: Name of the target.
            seed: seed of the masks.
            augment: Masks in training; None: none.
            written: Whether a decoder writes the text.

        Raises:
            InputError: They have no sounds.
        """
        if processor.sound is None:
            raise InputError("these examples have no sounds.")
        self._examples, self._target, self._seed = examples, target_name, seed
        self._sound: AudioProcessor = processor.sound
        self._words = processor.words
        self._pad, self._written = self._words.settings.pad_id, written
        self._end, self._begin = 0, np.zeros(0, dtype=np.int64)
        if written:
            self._end, self._begin = end_id(self._words), begin_ids(self._words)
        self._augment = augment if examples.training else None
        self.parts = (len(examples),)

    @classmethod
    def build(cls, config: TranscriptsConfig, inputs: SampleInputs) -> "TranscriptSamples":
        """Build the samples of a split."""
        examples, processor, targets = inputs.examples, inputs.example_processor, inputs.targets
        name, written = targets.get("lm") or targets["ctc"], "lm" in targets
        return cls(examples, processor, name, inputs.seed, config.augment, written)

    def __len__(self) -> int:
        return len(self._examples)

    def collate(self, indices: IntArray, epoch: int | IntArray) -> Batch:
        """Build a batch."""
        arrays = self._sound.arrays(self._examples.sounds(indices))
        if FEATURES in arrays and self._augment is not None:
            features = arrays[FEATURES]
            lengths = np.full(len(indices), features.shape[1])
            lengths = arrays[MASK].sum(axis=1) if MASK in arrays else lengths
            arrays[FEATURES] = mask_spectrograms(
                self._augment, features, lengths, indices, epoch, self._seed
            )
        encoded = self._words.encode(self._examples.text(indices))
        texts = [np.asarray(ids, dtype=np.int64) for ids in encoded]
        labels = texts
        if self._written:
            begun = [np.concatenate([self._begin, ids]) for ids in texts]
            arrays |= self._decoder_side(begun)
            labels = [np.append(ids[1:], self._end) for ids in begun]
        arrays[f"labels.{self._target}"] = stack(labels, IGNORED)
        return {name: torch.from_numpy(array) for name, array in arrays.items()}

    def _decoder_side(self, inputs: list[IntArray]) -> dict[str, IntArray]:
        return {
            "decoder_input_ids": stack(inputs, self._pad),
            "decoder_attention_mask": stack([np.ones_like(ids) for ids in inputs], 0),
        }
