"""Answers that one call of the predictor makes: to images and recordings, and written texts.

They run where the model runs, apart from the batches of other requests.
"""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from orchestrator.data.rows.rows import Rows
from orchestrator.errors import InputError
from orchestrator.inference.inputs import Item, rows_of_texts
from orchestrator.tasks.base import Answer, AnyTask
from serving.guard.errors import ErrorType, ServingError
from serving.model.files import rows_of_files

if TYPE_CHECKING:
    from serving.model.service import Service


async def answer_files(
    service: "Service", contents: Sequence[bytes], target: str | None = None
) -> list[Answer]:
    """Answer each image or recording with a task.

    Raises:
        ServingError: A file, their number or the target is not acceptable.
    """
    card, most = service.card, service.policy.limits.max_client_batch_size
    task = card.task(target)
    if not contents:
        raise ServingError(ErrorType.EMPTY, "There is no file.")
    if len(contents) > most:
        message = f"{len(contents)} inputs in one request; {most} are allowed."
        raise ServingError(ErrorType.TOO_MANY_INPUTS, message)
    return await _answers(service, partial(rows_of_files, contents, card.reads), task)


async def write(service: "Service", items: Sequence[Item], task: AnyTask) -> list[Answer]:
    """Answer prompts with a task that writes text.

    Raises:
        ServingError: An item is not a text.
    """
    if any(item.tokens or item.pair is not None or item.choices for item in items):
        message = f"'{task.head}' answers {task.kind()} and needs a text."
        raise ServingError(ErrorType.VALIDATION, message)
    return await _answers(service, partial(rows_of_texts, [item.text for item in items]), task)


async def _answers(service: "Service", read: "partial[Rows]", task: AnyTask) -> list[Answer]:
    try:
        found: list[Answer] = await service.call(
            lambda: service.engine.predictor.answers(read(), task.head)
        )
    except InputError as error:
        message = f"An input cannot be read by '{task.head}'."
        raise ServingError(ErrorType.VALIDATION, message) from error
    return found
