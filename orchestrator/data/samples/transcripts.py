"""Recordings and their transcripts.

A decoder (Speech2Text, Wang et al. 2020) reads the end token ([SEP] of tokenizers trained here) and
then what it has written, and writes the text and the end token, as BART does. For ctc the labels
are the text alone. Spectrograms are masked in training (SpecAugment); raw waveforms are never
changed.

Shapes: B batch, F frames, M mel bins, N samples, T tokens.
"""

from typing import Protocol

import numpy as np
import torch

from orchestrator.arrays import IntArray
from orchestrator.data.corpora.example_rows import Sound
from orchestrator.data.media.audio import AudioProcessor
from orchestrator.data.media.augmentation import mask_spectrograms
from orchestrator.data.media.augmentation_config import SpecAugmentConfig
from orchestrator.data.processors.example_processor import ExampleProcessor
from orchestrator.data.processors.readings import end_id
from orchestrator.data.samples.base import Batch, SampleInputs
from orchestrator.data.samples.kinds import TranscriptsConfig
from orchestrator.data.samples.masking import IGNORED
from orchestrator.data.samples.sequences import stack
from orchestrator.errors import InputError

FEATURES, MASK = "input_features", "attention_mask"


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
        self._end, self._pad = end_id(self._words), self._words.settings.pad_id
        self._written = written
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
        arrays |= self._decoder_side(texts) if self._written else {}
        labels = [np.append(ids, self._end) for ids in texts] if self._written else texts
        arrays[f"labels.{self._target}"] = stack(labels, IGNORED)
        return {name: torch.from_numpy(array) for name, array in arrays.items()}

    def _decoder_side(self, texts: list[IntArray]) -> dict[str, IntArray]:
        inputs = [np.insert(ids, 0, self._end) for ids in texts]
        return {
            "decoder_input_ids": stack(inputs, self._pad),
            "decoder_attention_mask": stack([np.ones_like(ids) for ids in inputs], 0),
        }
