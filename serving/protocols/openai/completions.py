"""``/v1/completions``: prompts that a causal language model continues, whole or as a stream."""

import json
import secrets
import time
from collections.abc import AsyncIterator, Iterable
from typing import Annotated, Any, Final, Literal

from pydantic import ConfigDict, Field, field_validator
from starlette.responses import Response, StreamingResponse

from orchestrator.modeling.generation.config import GenerationConfig
from serving.guard.errors import ErrorType, ServingError
from serving.model.completing import pieces, read_prompt, writing_task
from serving.protocols.messages import Message, RequestBody
from serving.protocols.native.bodies import Inputs
from serving.protocols.protocol import Operation, ProtocolConfig, WireProtocol, protocols

STREAM: Final = "text/event-stream"
MAX_TOKENS: Final = 16
"""New tokens where a request does not say, as OpenAI has it."""
Nothing = Annotated[float, Field(ge=0, le=0)]


class StreamOptions(RequestBody):
    """Options of a stream."""

    include_usage: bool = False
    """End with the number of tokens."""


class CompletionRequest(RequestBody):
    """Prompts to continue."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"prompt": "Return the sum"}]})

    prompt: Inputs
    """One prompt or several, each as text or as token ids."""
    model: str | None = None
    """Package name or ``name/v0001``; null means the served one."""
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    """New tokens at most; null: 16, or as many as there are positions for."""
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    """0 takes the most probable token; else tokens are drawn from logits over it; null: 1."""
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    """Draw from the fewest tokens that together have this probability; null: from all."""
    seed: Annotated[int, Field(ge=0)] | None = None
    """Start of the random numbers; null: another one each time."""
    stop: str | Annotated[list[str], Field(max_length=4)] | None = None
    """Strings that end the text, and are not part of it."""
    stream: bool = False
    """Answer with server-sent events as the text grows."""
    stream_options: StreamOptions | None = None
    """Options of a stream."""
    n: Literal[1] | None = None
    """Only 1 is offered."""
    best_of: Literal[1] | None = None
    """Only 1 is offered."""
    echo: Literal[False] | None = None
    """Not offered."""
    logprobs: None = None
    """Not offered."""
    suffix: None = None
    """Not offered."""
    presence_penalty: Nothing | None = None
    """Not offered: only 0."""
    frequency_penalty: Nothing | None = None
    """Not offered: only 0."""
    user: str | None = None
    """Accepted and not used."""

    @field_validator("stop")
    @classmethod
    def _no_empty_stop(cls, value: str | list[str] | None) -> str | list[str] | None:
        if value == "" or (isinstance(value, list) and "" in value):
            raise ValueError("must not be empty: it would end every text at once")
        return value


class CompletionChoice(Message):
    """The text behind a prompt."""

    index: int
    """Place of the prompt in the request."""
    text: str
    """The text."""
    finish_reason: Literal["stop", "length"] | None
    """``stop``: the model or a stop string ended it; ``length``: the limit; null: it goes on."""
    logprobs: None = None
    """Always null."""


class CompletionUsage(Message):
    """Tokens of a request."""

    prompt_tokens: int
    """Tokens of all prompts."""
    completion_tokens: int
    """New tokens."""
    total_tokens: int
    """Both."""


class CompletionAnswer(Message):
    """Texts in the order of the prompts; of a stream, a part of one."""

    id: str
    """Name of this answer."""
    object: Literal["text_completion"] = "text_completion"
    """Kind of this object."""
    created: int
    """Seconds since 1970."""
    model: str
    """Package name."""
    choices: list[CompletionChoice]
    """One per prompt."""
    usage: CompletionUsage | None = None
    """Tokens of the request."""


@protocols.add
class CompletionsProtocol(WireProtocol):
    """Continue prompts."""

    class Config(ProtocolConfig):
        """The completions of OpenAI."""

        type: Literal["completions"] = "completions"

    def operations(self) -> Iterable[Operation]:
        """Return the routes of this protocol."""
        errors = (ErrorType.UNSUPPORTED, ErrorType.NOT_FOUND, ErrorType.TOKENIZER)
        yield Operation(
            "POST", "/v1/completions", "Continue prompts.", self.complete, CompletionAnswer,
            CompletionRequest, errors, "generate", also={STREAM: {"type": "string"}},
        )  # fmt: skip

    async def complete(self, body: CompletionRequest) -> CompletionAnswer | Response:
        """Answer ``POST /v1/completions``.

        Raises:
            ServingError: The model, a prompt or an option is not acceptable.
        """
        card, most = self.service.card, self.service.policy.limits.max_client_batch_size
        card.require_name(body.model)
        head = writing_task(self.service).head
        given: Any = body.prompt
        is_one = isinstance(given, str) or (given and isinstance(given[0], int))
        prompts = [read_prompt(self.service, each) for each in ([given] if is_one else given)]
        if not prompts:
            raise ServingError(ErrorType.EMPTY, "`prompt` is empty.")
        if len(prompts) > most:
            message = f"{len(prompts)} prompts in one request; {most} are allowed."
            raise ServingError(ErrorType.TOO_MANY_INPUTS, message)
        configs = [_config(body, card.max_length - len(prompt) + 1) for prompt in prompts]
        stops = [body.stop] if isinstance(body.stop, str) else body.stop or []
        parts = [
            pieces(self.service, head, prompt, config, stops)
            for prompt, config in zip(prompts, configs, strict=True)
        ]
        name = {
            "id": f"cmpl-{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": card.name,
        }
        read = sum(map(len, prompts))
        if body.stream:
            with_usage = body.stream_options is not None and body.stream_options.include_usage
            return StreamingResponse(_events(name, parts, read if with_usage else None), 200,
                                     media_type=STREAM)  # fmt: skip
        choices, written = [], 0
        for index, part in enumerate(parts):
            text, count, reason = "", 0, None
            async for new, count, reason in part:  # noqa: B007
                text += new
            choices.append({"index": index, "text": text, "finish_reason": reason})
            written += count
        return CompletionAnswer.model_validate(
            {**name, "choices": choices, "usage": _usage(read, written)}
        )


def _config(body: CompletionRequest, room: int) -> GenerationConfig:
    """Return how tokens are chosen; nothing is drawn at temperature 0.

    Raises:
        ServingError: There are fewer positions than tokens are wanted.
    """
    wanted = min(MAX_TOKENS, room) if body.max_tokens is None else body.max_tokens
    if wanted > room:
        message = f"`max_tokens` is {wanted}; the model has room for {room} behind this prompt."
        raise ServingError(ErrorType.VALIDATION, message)
    if body.temperature == 0:
        return GenerationConfig(max_new_tokens=wanted)
    return GenerationConfig(
        max_new_tokens=wanted,
        sample=True,
        temperature=1.0 if body.temperature is None else body.temperature,
        top_p=body.top_p,
        seed=secrets.randbits(31) if body.seed is None else body.seed,
    )


def _usage(read: int, written: int) -> dict[str, int]:
    return {
        "prompt_tokens": read,
        "completion_tokens": written,
        "total_tokens": read + written,
    }


async def _events(
    name: dict[str, Any],
    parts: list[AsyncIterator[tuple[str, int, str | None]]],
    read: int | None,
) -> AsyncIterator[str]:
    """Yield server-sent events: parts of texts, at the end the tokens if ``read`` is given."""
    head = {**name, "object": "text_completion"}
    written = 0
    for index, part in enumerate(parts):
        count = 0
        async for text, count, reason in part:  # noqa: B007
            choice = {"index": index, "text": text, "finish_reason": reason, "logprobs": None}
            yield f"data: {json.dumps({**head, 'choices': [choice]})}\n\n"
        written += count
    if read is not None:
        yield f"data: {json.dumps({**head, 'choices': [], 'usage': _usage(read, written)})}\n\n"
    yield "data: [DONE]\n\n"
