"""Texts that a model writes: continued prompts, decoded answers, and transcribed recordings.

Shapes: B rows of a batch, S tokens or frames.
"""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from orchestrator.arrays import AnyArray, IntArray
from orchestrator.data.prefetch import Ahead
from orchestrator.data.processors.readings import begin_ids, end_id, prompt_ids, written_text
from orchestrator.data.rows.rows import Rows
from orchestrator.errors import InputError
from orchestrator.inference.models import LoadedModel, Writing

if TYPE_CHECKING:
    from orchestrator.data.processors.example_processor import ExampleProcessor, RowProcessor
    from orchestrator.data.processors.text import TextProcessor
    from orchestrator.tasks.base import AnyTask

BATCH_ROWS = 16
"""Rows that are written together."""

Batches = Iterator[tuple[IntArray, dict[str, AnyArray]]]
"""Places of rows, and what the model reads of them."""


def written_texts(
    model: LoadedModel,
    processor: "RowProcessor | None",
    task: "AnyTask",
    rows: Rows,
    limit: int,
    progress: Callable[[int], None] | None = None,
) -> list[str]:
    """Return what the model writes for each row.

    Args:
        model: the model.
        processor: its processors; the tokenizer among them.
        task: a task that writes text.
        rows: prompts or sounds.
        limit: positions of the model.
        progress: told about finished rows.

    Raises:
        InputError: the package has no tokenizer, or the rows are not what it reads.
    """
    from orchestrator.tasks.base import text_processor

    words = text_processor(processor)
    if words is None:
        raise InputError("the package has no tokenizer; it cannot write text.")
    if rows.sounds is not None:
        batches, new = _sounds(rows, processor, words, decoder=task.config.decoder)
        new = limit - new
    elif task.config.decoder:
        batches, new = _sources(rows, words, limit), limit - 1
    else:
        batches, new = _prompts(rows, words, limit, task.config.max_new_tokens)
    # CTC reads its frames and has neither an end nor a start.
    end = end_id(words) if model.generates(task.head) else None
    start = getattr(task.config, "start_token_id", None)
    options = Writing(min(task.config.max_new_tokens, max(new, 1)), end, start)
    texts = [""] * len(rows)
    with Ahead(batches) as made:
        for places, arrays in made:
            for place, ids in zip(places, model.write(arrays, task.head, options), strict=True):
                texts[place] = written_text(words, ids.tolist())
            if progress is not None:
                progress(len(places))
    return texts


def _sounds(
    rows: Rows, processor: "RowProcessor | None", words: "TextProcessor", *, decoder: bool
) -> tuple[Batches, int]:
    """Return batches of recordings with what a decoder reads first, and how many tokens that is."""
    first = begin_ids(words) if decoder else np.zeros(1, dtype=np.int64)

    def batches() -> Batches:
        for places, arrays in media_batches(rows, processor):
            begin = {"decoder_input_ids": np.tile(first, (len(places), 1))} if decoder else {}
            yield places, arrays | begin

    return batches(), len(first)


def _prompts(rows: Rows, words: "TextProcessor", limit: int, wanted: int) -> tuple[Batches, int]:
    """Return batches of prompts to continue, and the tokens that there is room for.

    A prompt keeps at least half of the positions; a longer one loses its first tokens.
    """
    longest = max(limit - wanted, limit // 2)
    prompts = prompt_ids(words, rows.texts, longest)
    pad = words.settings.pad_id

    def batches() -> Batches:
        for places in _chunks([len(prompt) for prompt in prompts]):
            size = max(len(prompts[place]) for place in places)
            ids = np.full((len(places), size), pad, dtype=np.int64)
            mask = np.zeros_like(ids)
            for row, place in enumerate(places):
                ids[row, size - len(prompts[place]) :] = prompts[place]
                mask[row, size - len(prompts[place]) :] = 1
            yield places, {"input_ids": ids, "attention_mask": mask}

    return batches(), limit - max(map(len, prompts), default=0) + 1


def _sources(rows: Rows, words: "TextProcessor", limit: int) -> Batches:
    """Yield batches of prompts that an encoder reads."""
    for places in _chunks([len(text) for text in rows.texts]):
        arrays = words.arrays([rows.texts[place] for place in places], None, limit, "right")
        yield places, dict(arrays)


BATCH_IMAGES = 64
"""Images in memory of one run."""


def media_batches(rows: Rows, processor: "RowProcessor | None") -> Batches:
    """Yield batches of images or sounds as the model reads them.

    Raises:
        InputError: the package does not read them, or a file cannot be decoded.
    """
    if rows.images is not None:
        for start in range(0, len(rows), BATCH_IMAGES):
            places = np.arange(start, min(start + BATCH_IMAGES, len(rows)))
            yield places, {"pixel_values": rows.images[places]}
        return
    from orchestrator.data.samples.media_samples import media_arrays, media_processor

    found: ExampleProcessor = media_processor(processor, rows)
    # Without a mask the padding of a longer neighbor would change an answer.
    alone = rows.sounds is not None and found.sound is not None and not _has_mask(found)
    for places in _chunks([len(each) for each in rows.media], 1 if alone else BATCH_ROWS):
        yield places, media_arrays(rows, places, found)


def _has_mask(processor: "ExampleProcessor") -> bool:
    sound = processor.sound
    return sound is not None and (sound.kind != "wav2vec2" or sound.mask)


def _chunks(sizes: list[int], rows: int = BATCH_ROWS) -> Iterator[IntArray]:
    """Yield places of rows of similar size."""
    order = np.argsort(sizes, kind="stable")
    for start in range(0, len(order), rows):
        yield order[start : start + rows]
