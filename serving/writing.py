"""Answers as JSON, written in pieces so that no large one stops the event loop.

The serializer holds Python's lock while it works, so a thread would not help: a list is written
element by element, and the loop gets its turn in between.
"""

import asyncio
from typing import Any, Final, get_args, get_origin

from pydantic import TypeAdapter

from serving.guard.errors import ErrorType, ServingError

PIECE_BYTES: Final = 65_536
"""Bytes that are written before the loop gets its turn."""


class Writer:
    """Writes answers of one type.

    Args:
        answer: The type, anything pydantic can serialize.
    """

    def __init__(self, answer: Any) -> None:
        self._whole: TypeAdapter[object] = TypeAdapter(answer)
        self._element: TypeAdapter[object] | None = None
        if get_origin(answer) is list:
            self._element = TypeAdapter(get_args(answer)[0])

    async def write(self, result: object, most: int) -> bytes:
        """Return the JSON text of an answer.

        Args:
            result: A value of the type.
            most: Largest number of bytes.

        Raises:
            ServingError: It would be larger.
        """
        if self._element is None or not isinstance(result, list):
            content = self._whole.dump_json(result)
            _require_small(len(content), most)
            return content
        pieces: list[bytes] = []
        size, since = 2, 0
        for each in result:
            pieces.append(self._element.dump_json(each))
            size, since = size + len(pieces[-1]) + 1, since + len(pieces[-1])
            _require_small(size, most)
            if since > PIECE_BYTES:
                since = 0
                await asyncio.sleep(0)
        return b"[" + b",".join(pieces) + b"]"


def _require_small(size: int, most: int) -> None:
    if size > most:
        message = f"The answer is larger than {most} bytes; ask for fewer or shorter inputs."
        raise ServingError(ErrorType.TOO_LARGE, message)
