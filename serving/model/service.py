"""The service behind all protocols: check inputs, tokenize, run, answer.

A protocol only translates; the rules about inputs are here once. Answers are made by the tasks of
the package, as evaluation and batch prediction make them. The service does not know how runs are
batched: `execute` is that of a queue, or a direct call.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import numpy as np

from orchestrator.arrays import AnyArray, Float32Array
from orchestrator.data.processors.tokenizer_files import Side
from orchestrator.inference.batching import Outputs, Work
from orchestrator.inference.inputs import (
    Encoded,
    Item,
    Token,
    TooLongError,
    joined,
)
from orchestrator.inference.models import EMBEDDING, TOKEN_EMBEDDINGS
from orchestrator.tasks.base import Answer, AnyTask
from serving.guard.errors import ErrorType, ServingError
from serving.guard.guard import Policy
from serving.model.card import ModelCard
from serving.model.engine import Engine
from serving.model.whole import write

INLINE_CHARACTERS: Final = 20_000
"""Texts longer than this in sum are tokenized in a thread: the event loop stays responsive."""

FORMS: Final = {
    "text": "a text",
    "pair": "two texts (for an answer from a context, `question` and `context`)",
    "choices": "a `question` with `choices`",
}
"""Forms of an input → what messages call them."""

Execute = Callable[[Work], Awaitable[Outputs]]
Call = Callable[[Callable[[], Any]], Awaitable[Any]]
Encode = Callable[..., list[Encoded]]
"""Items, and ``truncate`` by name → tokens."""


@dataclass(slots=True)
class Health:
    """State that health routes answer with; set by the replica that owns the model."""

    ready: bool = False
    probe_ok: bool = False

    def require_ready(self) -> None:
        """Refuse to call a replica ready that is not.

        Raises:
            ServingError: The model is not loaded and warmed up yet.
        """
        if not self.ready:
            raise ServingError(ErrorType.UNHEALTHY, "The model is not ready.")


@dataclass(slots=True)
class Service:
    """Answers of one package.

    Attributes:
        engine: Tokenizer and description of the package.
        execute: Runs encoded inputs, sharing batches with other requests.
        policy: The limits in force.
        health: State shown by health routes.
        call: Runs a function where the model runs.
    """

    engine: Engine
    execute: Execute
    policy: Policy
    health: Health = field(default_factory=Health)
    call: Call = asyncio.to_thread

    @property
    def card(self) -> ModelCard:
        """Description of the served package."""
        return self.engine.card

    def truncates(self, wanted: bool | None) -> bool:
        """Return whether to cut what is too long: as a request says, else as the limits say."""
        return self.policy.limits.auto_truncate if wanted is None else wanted

    async def predict(
        self,
        items: Sequence[Item],
        *,
        truncate: bool = False,
        cut: Side | None = None,
        target: str | None = None,
    ) -> list[Answer]:
        """Answer each item with a task.

        Args:
            items: What is asked.
            truncate: Cut what is too long; otherwise it is refused.
            cut: At which end; None: where the package's tokenizer does.
            target: Target; None: the default one.

        Raises:
            ServingError: An item, their number, their length or the target is not acceptable.
        """
        task = self.card.task(target)
        if task.writes_text:
            self._check(items)
            return await write(self, items, task)
        encoded, outputs = await self._outputs(items, task, truncate=truncate, cut=cut)
        readings = [item.reading for item in encoded if item.reading is not None]
        answers: list[Answer] = task.answers(outputs, readings if task.needs_reading else None)
        return answers

    async def logits(
        self,
        items: Sequence[Item],
        *,
        truncate: bool = False,
        cut: Side | None = None,
        target: str | None = None,
    ) -> list[AnyArray]:
        """Return the outputs of a target as they are, one array per item.

        Raises:
            ServingError: As for `predict`.
        """
        task = self.card.task(target)
        return (await self._outputs(items, task, truncate=truncate, cut=cut))[1]

    async def embed(
        self,
        items: Sequence[Item],
        *,
        truncate: bool = False,
        cut: Side | None = None,
        normalize: bool | None = None,
        target: str | None = None,
        prompt: str | None = None,
        dimensions: int | None = None,
    ) -> tuple[Float32Array, int]:
        """Return [B, D] float32 vectors and the number of tokens they took.

        Args:
            items: Texts.
            truncate: Cut what is too long; otherwise it is refused.
            cut: At which end; None: where the package's tokenizer does.
            normalize: Scale each vector to length 1; None: as the package states, and where it
                states nothing, yes.
            target: Similarity target; None: the default one, or what the package states.
            prompt: Name of a prompt that the package states; None: its default one.
            dimensions: Keep this many leading dimensions, d ≤ D, before scaling; None: all.

        Raises:
            ServingError: As for `predict`, or the prompt or the dimensions are not there.
        """
        name = self.card.embedding(target)
        width = self.card.embedding_sizes[name]
        if dimensions is not None and not 1 <= dimensions <= width:
            message = f"`dimensions` must be 1 to {width}."
            raise ServingError(ErrorType.VALIDATION, message)
        encode = self._vector_encoder(name, prompt)
        encoded = await self._encode(items, None, truncate=truncate, cut=cut, encode=encode)
        vectors = np.stack((await self._run(encoded, (name,)))[name])[:, :dimensions]
        if normalize is None:
            normalize = not (self.card.stated is not None and name == EMBEDDING)
        return unit(vectors) if normalize else vectors, sum(len(item) for item in encoded)

    async def infer(
        self,
        items: Sequence[Item],
        wanted: Sequence[str],
        *,
        truncate: bool = False,
        prompt: str | None = None,
    ) -> Outputs:
        """Return several outputs: name of a target or ``embedding`` → one per item.

        They come from one run; an embedding that the package states reads its own tokens.

        Args:
            items: What is asked.
            wanted: Names of outputs.
            truncate: Cut what is too long; otherwise it is refused.
            prompt: Name of the embedding's prompt; see `embed`.

        Raises:
            ServingError: As for `predict`, or the prompt is unknown.
        """
        stated = EMBEDDING in wanted and self.card.stated is not None
        apart = {EMBEDDING} if stated or prompt else set()
        found: Outputs = {}
        if together := [name for name in wanted if name not in apart]:
            encoded = await self._encode(items, None, truncate=truncate)
            found |= await self._run(encoded, together)
        if apart:
            encode = self._vector_encoder(EMBEDDING, prompt)
            encoded = await self._encode(items, None, truncate=truncate, encode=encode)
            found |= await self._run(encoded, (EMBEDDING,))
        return found

    async def embed_all(
        self,
        items: Sequence[Item],
        *,
        truncate: bool = False,
        cut: Side | None = None,
        prompt: str | None = None,
    ) -> list[AnyArray]:
        """Return one vector per token of each text, [S, D], special tokens included.

        Raises:
            ServingError: As for `embed`, or the package is a graph, which has no such output.
        """
        if self.card.backend != "torch":
            message = f"{self.card.backend} graphs have no vectors of tokens; /embed is offered."
            raise ServingError(ErrorType.UNSUPPORTED, message)
        encode = self._vector_encoder(EMBEDDING, prompt)
        encoded = await self._encode(items, None, truncate=truncate, cut=cut, encode=encode)
        return (await self._run(encoded, (TOKEN_EMBEDDINGS,)))[TOKEN_EMBEDDINGS]

    async def decode(self, items: Sequence[Item], *, skip_special: bool = True) -> list[str]:
        """Return the texts of token ids.

        Raises:
            ServingError: An id is not in the vocabulary, or there are too many texts or ids.
        """
        self._check(items)
        tokenizer = self.engine.reader.processor.tokenizer
        rows = [list(item.tokens) for item in items]
        return await asyncio.to_thread(
            lambda: [tokenizer.decode(row, skip_special_tokens=skip_special) for row in rows]
        )

    async def tokenize(self, texts: Sequence[str], *, special: bool = True) -> list[list[Token]]:
        """Return the tokens of each text in the shape of Text Embeddings Inference.

        Raises:
            ServingError: A text or their number is not acceptable.
        """
        self._check([Item(text) for text in texts])
        found, most = list[list[Token]](), self.policy.limits.max_batch_tokens
        for text in texts:
            found.append(await asyncio.to_thread(self.engine.reader.tokens, text, special=special))
            if sum(map(len, found)) > most:
                raise ServingError(ErrorType.TOO_MANY_INPUTS, f"More than {most} tokens.")
        return found

    def _vector_encoder(self, name: str, prompt: str | None) -> Encode:
        """Return the reader of an output of vectors, with a prompt.

        Raises:
            ServingError: The prompt is unknown.
        """
        if name == EMBEDDING:
            if prompt:
                self.card.prompt(prompt)
            return partial(self.engine.embedding_reader.encode, prompt=prompt)
        if prompt:
            message = f"'{name}' reads no prompt; the package's own embedding does."
            raise ServingError(ErrorType.UNSUPPORTED, message)
        return self.engine.reader.encode

    async def _outputs(
        self, items: Sequence[Item], task: AnyTask, *, truncate: bool, cut: Side | None
    ) -> tuple[list[Encoded], list[AnyArray]]:
        """Return how each item was read, and the outputs of a task's head."""
        reads_text = task.needs_reading or task.template is not None
        if cut is not None and (task.reads_windows or task.template is not None):
            message = f"`truncation_direction` is not for '{task.head}': it chooses what it cuts."
            raise ServingError(ErrorType.VALIDATION, message)
        for index, item in enumerate(items):
            if item.tokens and reads_text:
                message = f"Input {index}: '{task.head}' reads texts; send one, not token ids."
                raise ServingError(ErrorType.VALIDATION, message)
            form = "choices" if item.choices else "text" if item.pair is None else "pair"
            if form not in task.modalities:
                needs = " or ".join(FORMS[name] for name in FORMS if name in task.modalities)
                message = f"Input {index}: '{task.head}' answers {task.kind()} and needs {needs}."
                raise ServingError(ErrorType.VALIDATION, message)
        encoded = await self._encode(items, task, truncate=truncate, cut=cut)
        return encoded, (await self._run(encoded, (task.head,)))[task.head]

    async def _run(self, encoded: Sequence[Encoded], wanted: Sequence[str]) -> Outputs:
        sequences = [sequence for item in encoded for sequence in item.sequences]
        found = await self.execute(Work(tuple(wanted), sequences))
        return {name: joined(encoded, rows) for name, rows in found.items()}

    async def _encode(
        self,
        items: Sequence[Item],
        task: AnyTask | None,
        *,
        truncate: bool,
        cut: Side | None = None,
        encode: Encode | None = None,
    ) -> list[Encoded]:
        characters = self._check(items)
        if encode is None:
            encode = partial(self.engine.reader.encode, task=task)
        try:
            if characters <= INLINE_CHARACTERS:
                encoded = encode(items, truncate=truncate, cut=cut)
            else:
                encoded = await asyncio.to_thread(encode, items, truncate=truncate, cut=cut)
        except TooLongError as error:
            raise ServingError(ErrorType.TOO_LONG, str(error)) from error
        tokens = sum(len(item) for item in encoded)
        if tokens > self.policy.limits.max_batch_tokens:
            message = f"{tokens} tokens in one request; {self.policy.limits.max_batch_tokens} fit."
            raise ServingError(ErrorType.TOO_MANY_INPUTS, message)
        return encoded

    def _check(self, items: Sequence[Item]) -> int:
        """Refuse empty texts and too many inputs; return the number of characters."""
        most = self.policy.limits.max_client_batch_size
        if not items:
            raise ServingError(ErrorType.EMPTY, "`inputs` is empty.")
        inputs = sum(len(item.choices) or 1 for item in items)
        if inputs > most:
            message = f"{inputs} inputs in one request; {most} are allowed."
            raise ServingError(ErrorType.TOO_MANY_INPUTS, message)
        characters = 0
        for index, item in enumerate(items):
            if item.tokens:
                known = self.engine.reader.frame.vocab_size
                if not 0 <= min(item.tokens) <= max(item.tokens) < known:
                    message = f"Input {index} has token ids that are not 0 to {known - 1}."
                    raise ServingError(ErrorType.TOKENIZER, message)
                characters += len(item.tokens)
                continue
            for text in (item.text, item.pair, *item.choices):
                if text is not None:
                    if not text.strip():
                        raise ServingError(ErrorType.EMPTY, f"Input {index} is empty.")
                    characters += len(text)
        return characters


def unit(vectors: Float32Array) -> Float32Array:
    """Return vectors [B, D] scaled to length 1."""
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(length, np.finfo(np.float32).tiny), dtype=np.float32)
