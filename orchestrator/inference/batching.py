"""Batching: the sequences of several requests in few runs of the model, bounded by tokens.

Sequences are sorted by length, which leaves little padding; `dispatch` says where runs end. Results
keep the order of the sequences.

Shapes: B sequences of a run, S tokens of the longest, K outputs, D width.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from orchestrator.arrays import AnyArray, Float32Array, IntArray
from orchestrator.inference.inputs import Tokens

EMBEDDING_MASK: Final = "embedding_mask"
"""Input [B, S], 1 at the tokens that are pooled; without it all real ones are."""

Outputs = dict[str, list[AnyArray]]
"""Name of a head, or ``embedding`` → one array per sequence: [K], [S, K] or [D]."""


@dataclass(frozen=True, slots=True)
class Work:
    """The work of one request.

    Attributes:
        wanted: Names of heads, and ``embedding``.
        sequences: At least one.
    """

    wanted: tuple[str, ...]
    sequences: Sequence[Tokens]


Run = Callable[[Sequence[Tokens], Collection[str]], Outputs]
"""A model: sequences and names of outputs → outputs."""

Cut = Callable[[Sequence[int]], Sequence[int]]
"""Lengths of sequences, shortest first → number of sequences of each run (`Dispatch.cut`)."""


def run_works(works: Sequence[Work], run: Run, cut: Cut) -> list[Outputs]:
    """Run the works of several requests together.

    Args:
        works: One per request.
        run: The model.
        cut: Says which sequences share a run.

    Returns:
        What each work wanted.
    """
    sequences = [sequence for work in works for sequence in work.sequences]
    wanted = dict.fromkeys(name for work in works for name in work.wanted)
    together = run_sorted(sequences, tuple(wanted), run, cut)
    results = []
    start = 0
    for work in works:
        stop = start + len(work.sequences)
        results.append({name: together[name][start:stop] for name in work.wanted})
        start = stop
    return results


def run_sorted(sequences: Sequence[Tokens], wanted: Collection[str], run: Run, cut: Cut) -> Outputs:
    """Run sequences, shortest first, and return the outputs in the order they were given."""
    order = sorted(range(len(sequences)), key=lambda index: len(sequences[index]))
    found: dict[str, dict[int, AnyArray]] = {name: {} for name in wanted}
    start = 0
    for size in cut([len(sequences[index]) for index in order]):
        run_order = order[start : start + size]
        outputs = run([sequences[index] for index in run_order], wanted)
        for name in wanted:
            found[name] |= zip(run_order, outputs[name], strict=True)
        start += size
    return {name: [rows[index] for index in range(len(sequences))] for name, rows in found.items()}


def padded_tokens(sequences: Sequence[Tokens]) -> int:
    """Return the tokens of a run, padding included."""
    return len(sequences) * max(map(len, sequences))


def pad(sequences: Sequence[Tokens], pad_id: int) -> dict[str, IntArray]:
    """Return ``input_ids``, ``attention_mask`` and ``token_type_ids``, each [B, S] int64.

    ``embedding_mask`` too, where a sequence has tokens that the pooling of embeddings leaves out.
    """
    shape = (len(sequences), max(map(len, sequences)))
    ids = np.full(shape, pad_id, dtype=np.int64)
    mask = np.zeros(shape, dtype=np.int64)
    types = np.zeros(shape, dtype=np.int64)
    for row, sequence in enumerate(sequences):
        length = len(sequence)
        ids[row, :length] = sequence.input_ids
        mask[row, :length] = 1
        types[row, :length] = sequence.token_type_ids
    batch = {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}
    prompts = np.asarray([sequence.prompt for sequence in sequences])
    if prompts.any():
        batch[EMBEDDING_MASK] = mask * (np.arange(shape[1]) >= prompts[:, None])
    return batch


def unpadded(values: Float32Array, sequences: Sequence[Tokens]) -> list[AnyArray]:
    """Return the output of each sequence; of one row of outputs per token, the real ones."""
    if values.ndim < 3:
        return list(values)
    return [row[: len(sequence)] for row, sequence in zip(values, sequences, strict=True)]
