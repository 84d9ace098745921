"""Recordings and what is said in them.

For a decoder (Speech2Text, Wang et al. 2020): it reads [SEP] and then what it has written, and
writes the text and [SEP], as BART does. For ctc: the text alone. Spectrograms have parts hidden in
training (SpecAugment), sound that is read as it is stays as it is.

Shapes: B batch, F frames, M mel bins, N samples, T tokens.
"""

import numpy as np
import torch

from orchestrator.arrays import IntArray
from orchestrator.data.corpora.example_rows import Examples
from orchestrator.data.media.audio import AudioProcessor
from orchestrator.data.media.spectrograms import SpecAugment
from orchestrator.data.processors.example_processor import ExampleProcessor
from orchestrator.data.samples.base import Batch
from orchestrator.data.samples.masking import IGNORED
from orchestrator.data.samples.sample_configs import SpecAugmentConfig
from orchestrator.data.samples.sequences import stack
from orchestrator.data.spec import PAD, SEP
from orchestrator.errors import InputError

FEATURES, MASK = "input_features", "attention_mask"


class TranscriptSamples:
    """``input_features`` [B, F, M] or ``input_values`` [B, N], and the text.

    With a decoder ``decoder_input_ids``, ``decoder_attention_mask`` and ``labels.<name>`` [B, T];
    without one ``labels.<name>`` [B, T], -100 after the last token.
    """

    def __init__(
        self,
        examples: Examples,
        processor: ExampleProcessor,
        target_name: str,
        seed: int,
        augment: SpecAugmentConfig | None,
        written: bool,
    ) -> None:
        """Take recordings.

        Args:
            examples: recordings and their texts.
            processor: of both.
            target_name: name of the target.
            seed: seed of what is hidden.
            augment: how much is hidden in training.
            written: whether a decoder writes the text.

        Raises:
            InputError: they have no sounds.
        """
        if processor.sound is None:
            raise InputError("these examples have no sounds.")
        self._examples, self._target, self._seed = examples, target_name, seed
        self._sound: AudioProcessor = processor.sound
        self._words = processor.words
        self._written = written
        self._augment: SpecAugment | None = None
        if augment is not None and examples.training:
            self._augment = SpecAugment(**augment.model_dump())
        self.parts = (len(examples),)

    def __len__(self) -> int:
        return len(self._examples)

    def collate(self, indices: IntArray, epoch: int | IntArray) -> Batch:
        """Build a batch."""
        arrays = self._sound.arrays(self._examples.sounds(indices))
        if FEATURES in arrays and self._augment is not None:
            features = arrays[FEATURES]
            lengths = np.full(len(indices), features.shape[1])
            lengths = arrays[MASK].sum(axis=1) if MASK in arrays else lengths
            arrays[FEATURES] = self._augment(features, lengths, indices, epoch, self._seed)
        encoded = self._words.encode(self._examples.text(indices))
        texts = [np.asarray(ids, dtype=np.int64) for ids in encoded]
        arrays |= self._decoder_side(texts) if self._written else {}
        labels = [np.append(ids, SEP) for ids in texts] if self._written else texts
        arrays[f"labels.{self._target}"] = stack(labels, IGNORED)
        return {name: torch.from_numpy(array) for name, array in arrays.items()}

    def _decoder_side(self, texts: list[IntArray]) -> dict[str, IntArray]:
        inputs = [np.insert(ids, 0, SEP) for ids in texts]
        return {
            "decoder_input_ids": stack(inputs, PAD),
            "decoder_attention_mask": stack([np.ones_like(ids) for ids in inputs], 0),
        }
