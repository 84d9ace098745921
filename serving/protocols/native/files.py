"""Bodies that are files: an image or a recording, or a form with some."""

from email.parser import BytesParser
from email.policy import HTTP
from typing import Final

from serving.guard.errors import ErrorType, ServingError
from serving.protocols.messages import read
from serving.protocols.native.bodies import PredictRequest
from serving.protocols.protocol import JSON, Received

FORM: Final = "multipart/form-data"
FILE_TYPES: Final = ("image/*", "audio/*", "application/octet-stream", FORM)
"""Media types of bodies that are files or hold them."""
_FILE_FIELDS: Final = frozenset({"file", "files", "inputs"})


def parse_predict(received: Received) -> PredictRequest:
    """Read the body of ``/predict``: JSON, a file, or a form.

    Raises:
        ServingError: It is not one of them.
    """
    kind = received.media_type
    if kind == JSON:
        return read(PredictRequest, received.content, received.max_depth)
    target, files = None, [received.content]
    if kind == FORM:
        target, files = _form(received)
    if not received.content or not files:
        raise ServingError(ErrorType.EMPTY, "The body holds no file.")
    body = PredictRequest(inputs="", target=target)
    body.files.extend(files)
    return body


def _form(received: Received) -> tuple[str | None, list[bytes]]:
    """Return the target and the files of a form."""
    head = f"Content-Type: {received.content_type}\r\n\r\n".encode()
    form = BytesParser(policy=HTTP).parsebytes(head + received.content)
    if not form.is_multipart() or form.defects:
        raise ServingError(ErrorType.MALFORMED, "The body is not a form with that boundary.")
    target: str | None = None
    files: list[bytes] = []
    for part in form.iter_parts():  # type: ignore[attr-defined]  # as the policy makes them
        name = part.get_param("name", header="content-disposition")
        content = bytes(part.get_payload(decode=True) or b"")  # type: ignore[arg-type]
        if name in _FILE_FIELDS:
            files.append(content)
        elif name == "target":
            target = content.decode("utf-8", "replace")
        else:
            message = "The fields of a form are `file` (any number) and `target`."
            raise ServingError(ErrorType.VALIDATION, message)
    return target, files
