"""The service behind all protocols: check inputs, tokenize, run, name the classes.

A protocol only translates; the rules about inputs are here once. The service does not know how
runs are batched: `execute` is the batched method of a Serve replica, or a direct call.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from orchestrator.errors import IntegrityError
from serving.guard.errors import ErrorType, ServingError
from serving.guard.guard import Policy
from serving.model.batching import Encoded, Outputs, Work
from serving.model.card import ModelCard
from serving.model.engine import EMBEDDING, Engine
from serving.model.tokenize import TextInput, Token, TooLongError

INLINE_CHARACTERS: Final = 20_000
"""Texts longer than this in sum are tokenized in a thread: the event loop stays responsive."""

Execute = Callable[[Work], Awaitable[Outputs]]


@dataclass(slots=True)
class Health:
    """State that health routes answer with; set by the replica that owns the model."""

    ready: bool = False
    probe_ok: bool = False

    def require_ready(self) -> None:
        """Refuse to call a replica ready that is not.

        Raises:
            ServingError: the model is not loaded and warmed up yet.
        """
        if not self.ready:
            raise ServingError(ErrorType.UNHEALTHY, "The model is not ready.")


@dataclass(frozen=True, slots=True)
class Ranking:
    """Classes of one input, most likely first.

    Attributes:
        labels: K class names.
        scores: [K] probabilities, or logits when the request set ``raw_scores``.
    """

    labels: list[str]
    scores: list[float]


@dataclass(slots=True)
class Service:
    """Answers of one package.

    Attributes:
        engine: tokenizer and description of the package.
        execute: runs encoded inputs, sharing batches with other requests.
        policy: the limits in force.
        health: state shown by health routes.
    """

    engine: Engine
    execute: Execute
    policy: Policy
    health: Health = field(default_factory=Health)

    @property
    def card(self) -> ModelCard:
        """Description of the served package."""
        return self.engine.card

    async def predict(
        self,
        inputs: Sequence[TextInput],
        *,
        truncate: bool = False,
        target: str | None = None,
        raw_scores: bool = False,
    ) -> list[Ranking]:
        """Classify each input.

        Raises:
            ServingError: an input, their number, their length or the target is not acceptable.
        """
        name = self.card.target(target)
        logits = (await self.logits(inputs, truncate=truncate))[name]
        scores = logits if raw_scores else probabilities(logits)
        return [_ranking(row, self.card.targets[name]) for row in scores]

    async def logits(self, inputs: Sequence[TextInput], *, truncate: bool = False) -> Outputs:
        """Return target name -> [B, K] logits, inputs in order.

        Raises:
            ServingError: as for `predict`.
        """
        encoded = await self._encode(inputs, truncate=truncate)
        return _finite(await self.execute(Work("predict", encoded)))

    async def embed(
        self, inputs: Sequence[TextInput], *, truncate: bool = False, normalize: bool = True
    ) -> tuple[np.ndarray, int]:
        """Return [B, D] float32 embeddings and the number of tokens they took.

        Raises:
            ServingError: as for `predict`, or the package gives no embeddings.
        """
        if self.card.embedding_size is None:
            message = f"{self.card.name} gives no embeddings; it offers /predict."
            raise ServingError(ErrorType.UNSUPPORTED, message)
        encoded = await self._encode(inputs, truncate=truncate)
        vectors = _finite(await self.execute(Work("embed", encoded)))[EMBEDDING]
        if normalize:
            length = np.linalg.norm(vectors, axis=1, keepdims=True)
            vectors = vectors / np.maximum(length, np.finfo(np.float32).tiny)
        return vectors, sum(len(item) for item in encoded)

    async def tokenize(self, texts: Sequence[str], *, special: bool = True) -> list[list[Token]]:
        """Return the tokens of each text in the shape of Text Embeddings Inference.

        Raises:
            ServingError: a text or their number is not acceptable.
        """
        self._check([TextInput(text) for text in texts])
        return await asyncio.to_thread(
            lambda: [self.engine.tokens(text, special=special) for text in texts]
        )

    async def _encode(self, inputs: Sequence[TextInput], *, truncate: bool) -> list[Encoded]:
        characters = self._check(inputs)
        try:
            if characters <= INLINE_CHARACTERS:
                encoded = self.engine.encode(inputs, truncate=truncate)
            else:
                encoded = await asyncio.to_thread(self.engine.encode, inputs, truncate=truncate)
        except TooLongError as error:
            raise ServingError(ErrorType.TOKENIZER, str(error)) from error
        tokens = sum(len(item) for item in encoded)
        if tokens > self.policy.limits.max_batch_tokens:
            message = f"{tokens} tokens in one request; {self.policy.limits.max_batch_tokens} fit."
            raise ServingError(ErrorType.TOO_MANY_INPUTS, message)
        return encoded

    def _check(self, inputs: Sequence[TextInput]) -> int:
        most = self.policy.limits.max_client_batch_size
        if not inputs:
            raise ServingError(ErrorType.EMPTY, "`inputs` is empty.")
        if len(inputs) > most:
            message = f"{len(inputs)} inputs in one request; {most} are allowed."
            raise ServingError(ErrorType.TOO_MANY_INPUTS, message)
        characters = 0
        for index, pair in enumerate(inputs):
            for text in pair:
                if text is not None:
                    if not text.strip():
                        raise ServingError(ErrorType.EMPTY, f"Input {index} is empty.")
                    characters += len(text)
        return characters


def _finite(outputs: Outputs) -> Outputs:
    """Refuse answers that JSON cannot hold: they would be written as null."""
    for name, rows in outputs.items():
        if not np.isfinite(rows).all():
            raise IntegrityError(f"The model gave a value of '{name}' that is not finite.")
    return outputs


def probabilities(logits: np.ndarray) -> np.ndarray:
    """Return the softmax over classes, [B, K] float64."""
    scores = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    result: np.ndarray = scores / scores.sum(axis=1, keepdims=True)
    return result


def _ranking(scores: np.ndarray, labels: Sequence[str]) -> Ranking:
    order = np.argsort(-scores, kind="stable")
    return Ranking([labels[index] for index in order], scores[order].tolist())
