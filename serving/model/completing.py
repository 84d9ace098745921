"""Text that a causal language model writes, token by token, where the model runs."""

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from orchestrator.data.processors.readings import end_id, prompt_ids
from orchestrator.modeling.generation.config import GenerationConfig
from orchestrator.tasks.base import AnyTask
from serving.guard.errors import ErrorType, ServingError

if TYPE_CHECKING:
    from serving.model.service import Service

UNFINISHED: Final = "\ufffd"
"""End of a text whose last character has not all of its bytes yet."""


class _GoneError(Exception):
    """Nobody reads the text any more."""


def writing_task(service: "Service") -> AnyTask:
    """Return the task that continues prompts.

    Raises:
        ServingError: The package has none, or a decoder writes its texts.
    """
    found = [task for task in service.card.tasks.values() if task.kind() == "generation"]
    if not found or found[0].config.decoder:
        message = f"{service.card.name} does not continue prompts; /info lists what it answers."
        raise ServingError(ErrorType.UNSUPPORTED, message)
    return found[0]


def read_prompt(service: "Service", prompt: str | Sequence[int]) -> list[int]:
    """Return the tokens of a prompt.

    Raises:
        ServingError: It is empty, too long, or has a token id that is not in the vocabulary.
    """
    reader = service.engine.reader
    if isinstance(prompt, str):
        ids: list[int] = prompt_ids(reader.processor, [prompt])[0].tolist()
    else:
        ids = list(prompt)
    if not ids:
        raise ServingError(ErrorType.EMPTY, "`prompt` is empty.")
    if not 0 <= min(ids) <= max(ids) < reader.frame.vocab_size:
        message = f"`prompt` has token ids that are not 0 to {reader.frame.vocab_size - 1}."
        raise ServingError(ErrorType.TOKENIZER, message)
    if len(ids) > service.card.max_length:
        message = f"`prompt` has {len(ids)} tokens; the model reads {service.card.max_length}."
        raise ServingError(ErrorType.TOO_LONG, message)
    return ids


async def tokens(
    service: "Service", head: str, prompt: Sequence[int], config: GenerationConfig
) -> AsyncIterator[int]:
    """Yield each new token as soon as it is chosen; the model stops when nobody reads on."""
    loop, gone = asyncio.get_running_loop(), threading.Event()
    chosen: asyncio.Queue[int | None] = asyncio.Queue()

    def watch(token: Any, _ended: Any) -> None:
        if gone.is_set():
            raise _GoneError
        loop.call_soon_threadsafe(chosen.put_nowait, int(token[0]))

    def run() -> None:
        ids = np.asarray([prompt], dtype=np.int64)
        batch = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
        try:
            if not gone.is_set():
                service.engine.continue_prompt(batch, head, config, watch)
        except _GoneError:
            pass
        finally:
            loop.call_soon_threadsafe(chosen.put_nowait, None)

    running = asyncio.ensure_future(service.call(run))
    try:
        while (token := await chosen.get()) is not None:
            yield token
        await running
    finally:
        gone.set()


async def pieces(
    service: "Service",
    head: str,
    prompt: Sequence[int],
    config: GenerationConfig,
    stops: Sequence[str],
) -> AsyncIterator[tuple[str, int, str | None]]:
    """Yield the text as it grows.

    Text that may be the beginning of a stop string, or half of a character, waits for the next
    token.

    Yields:
        New text, number of new tokens so far, and at the end why it ended: ``stop`` or ``length``.
    """
    processor = service.engine.reader.processor
    end, ids, sent = end_id(processor), [], ""
    reason = "length"
    text = ""
    async for token in tokens(service, head, prompt, config):
        ids.append(token)
        if token == end:
            reason = "stop"
            break
        text = processor.decode(ids)
        places = [place for place in map(text.find, stops) if place >= 0]
        if places:
            text, reason = text[: min(places)], "stop"
            break
        ready = text[: len(text) - _held_back(text, stops)]
        if ready.startswith(sent) and len(ready) > len(sent):
            yield ready[len(sent) :], len(ids), None
            sent = ready
    yield text[len(sent) :], len(ids), reason


def _held_back(text: str, stops: Sequence[str]) -> int:
    """Return how many characters at the end are not certain yet."""
    if text.endswith(UNFINISHED):
        return len(text) - len(text.rstrip(UNFINISHED))
    longest = max(map(len, stops), default=0)
    sizes = range(min(longest - 1, len(text)), 0, -1)
    return next((n for n in sizes if any(s.startswith(text[-n:]) for s in stops)), 0)
