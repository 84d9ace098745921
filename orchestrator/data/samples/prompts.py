"""Prompts and their answers, for causal models and for those with an encoder and a decoder.

A causal model reads prompt and answer in one sequence, ``input_ids`` [B, S]; labels are the next
tokens, from the last token of the prompt on, so that no token of the prompt is learned. An
encoder reads the prompt and a decoder writes the answer, ``decoder_input_ids`` [B, T].

Shapes: B batch, S tokens of the longest sequence, T tokens of the longest answer.
"""

import numpy as np
import torch

from orchestrator.arrays import IntArray
from orchestrator.data.processors.readings import answer_ids, prompt_ids
from orchestrator.data.processors.text import TextProcessor
from orchestrator.data.rows.rows import Rows
from orchestrator.data.samples.base import Batch, SampleInputs, stack
from orchestrator.data.samples.kinds import ParallelConfig
from orchestrator.data.samples.masking import IGNORED
from orchestrator.errors import InputError

MIN_PROMPT = 0.25
"""Share of the positions that a prompt keeps beside a long answer."""


class PromptSamples:
    """Rows with a prompt and a text, tokenized once: ``labels.<name>`` [B, S] or [B, T]."""

    def __init__(
        self,
        rows: Rows,
        processor: TextProcessor | None,
        target_name: str,
        max_length: int | None = None,
        *,
        decoder: bool = False,
        start_token_id: int | None = None,
    ) -> None:
        """Tokenize the rows.

        Args:
            rows: prompts in ``texts``, answers in ``labels``.
            processor: tokenizer.
            target_name: target that is trained.
            max_length: limit of a sequence in tokens; None takes the processor's.
            decoder: whether a decoder writes the answer.
            start_token_id: first token that a decoder reads; None: padding.

        Raises:
            InputError: there are no rows or no tokenizer, or the rows are not texts.
        """
        if processor is None or not len(rows) or not rows.texts:
            raise InputError("prompts need rows of texts and a tokenizer.")
        limit = processor.max_length if max_length is None else max_length
        longest = limit if decoder else int(limit * (1 - MIN_PROMPT))
        self._pad = processor.settings.pad_id
        self._start = self._pad if start_token_id is None else start_token_id
        self._name, self.parts = target_name, (len(rows),)
        self._answers = answer_ids(processor, list(rows.labels), longest)
        self._source: dict[str, IntArray] | None = None
        self._prompts: list[IntArray] = []
        if decoder:
            self._source = processor.arrays(rows.texts, None, limit, "right")
        else:
            self._prompts = [
                prompt_ids(processor, [text], limit - len(answer) + 1)[0]
                for text, answer in zip(rows.texts, self._answers, strict=True)
            ]

    def __len__(self) -> int:
        return len(self._answers)

    def collate(self, indices: IntArray, epoch: int | IntArray) -> Batch:
        """Build a batch, cut to its longest row."""
        del epoch
        answers = [self._answers[index] for index in indices]
        arrays = (
            self._continued([self._prompts[index] for index in indices], answers)
            if self._source is None
            else self._decoded(self._source, indices, answers)
        )
        return {name: torch.from_numpy(array) for name, array in arrays.items()}

    def _continued(self, prompts: list[IntArray], answers: list[IntArray]) -> dict[str, IntArray]:
        """Return prompts with answers; the last token of an answer is only a label."""
        inputs = [np.concatenate([p, a[:-1]]) for p, a in zip(prompts, answers, strict=True)]
        labels = [
            np.concatenate([np.full(len(p) - 1, IGNORED), a])
            for p, a in zip(prompts, answers, strict=True)
        ]
        ids = stack(inputs, self._pad)
        return {
            "input_ids": ids,
            "attention_mask": stack([np.ones_like(each) for each in inputs], 0),
            "token_type_ids": np.zeros_like(ids),
            f"labels.{self._name}": stack(labels, IGNORED),
        }

    def _decoded(
        self, source: dict[str, IntArray], indices: IntArray, answers: list[IntArray]
    ) -> dict[str, IntArray]:
        """Return prompts for the encoder, and answers for the decoder."""
        longest = int(source["attention_mask"][indices].sum(axis=1).max())
        inputs = [np.insert(answer[:-1], 0, self._start) for answer in answers]
        return {
            **{name: array[indices, :longest] for name, array in source.items()},
            "decoder_input_ids": stack(inputs, self._pad),
            "decoder_attention_mask": stack([np.ones_like(each) for each in inputs], 0),
            f"labels.{self._name}": stack(answers, IGNORED),
        }


class ParallelSamples(PromptSamples):
    """Parallel text: sources for an encoder, targets for a decoder."""

    @classmethod
    def build(cls, config: ParallelConfig, inputs: SampleInputs) -> "ParallelSamples":
        """Build the samples of a split.

        Raises:
            InputError: The tokenizer has no token for the decoder to begin with.
        """
        processor = inputs.tokenizer
        roles = processor.roles
        begin = roles.cls if roles.bos is None else roles.bos
        start = {"padding": roles.pad, "begin": begin, "end": roles.ending}[config.start]
        if start is None:
            raise InputError(
                f"this tokenizer has no token for {config.start}. Set samples.start to another of "
                "padding, end and begin."
            )
        name = inputs.targets["lm"]
        return cls(inputs.rows, processor, name, decoder=True, start_token_id=start)
