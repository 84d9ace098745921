"""The native protocol: the routes and shapes of Text Embeddings Inference (TEI).

One difference, where TEI's shape would be a trap: a flat list of texts is a batch. TEI reads
``["a", "b"]`` as one pair; so does this for packages whose task takes pairs. ``[["a", "b"]]`` is a
pair and ``[["a"], ["b"]]`` a batch everywhere.
"""

from collections.abc import Iterable, Sequence
from math import isfinite
from typing import Final, Literal

from orchestrator.inference.inputs import Item, Token
from serving.guard.errors import ErrorType, ServingError
from serving.model.card import SIMILARITY, ModelCard
from serving.protocols.answers import Prediction, prediction, ranking
from serving.protocols.native_models import (
    PAIR,
    Asked,
    ChoiceQuestion,
    Classifier,
    ClassifierType,
    EmbeddingType,
    EmbedParameters,
    EmbedRequest,
    Info,
    Pooling,
    PredictRequest,
    Question,
    Reached,
    SimilarityRequest,
    TaskInfo,
    TokenizeRequest,
)
from serving.protocols.protocol import Operation, ProtocolConfig, WireProtocol, protocols

RANKED: Final = "classification"
"""The kind of task whose answers are ranked classes."""


@protocols.add
class NativeProtocol(WireProtocol):
    """Classify, embed, tokenize."""

    class Config(ProtocolConfig):
        """The routes of Text Embeddings Inference."""

        type: Literal["native"] = "native"

    def operations(self) -> Iterable[Operation]:
        """Return the routes of this protocol."""
        unsupported, tokenizer = ErrorType.UNSUPPORTED, ErrorType.TOKENIZER
        refused = (unsupported, ErrorType.NOT_FOUND, tokenizer)
        return (
            Operation(
                "POST", "/predict", "Answer with a target of the package.", self.predict,
                Prediction | list[Prediction], PredictRequest, refused,
            ),
            Operation(
                "POST", "/embed", "Embed texts.", self.embed, list[list[float]],
                EmbedRequest, refused,
            ),
            Operation(
                "POST", "/similarity", "Compare a sentence with others.", self.similarity,
                list[float], SimilarityRequest, refused,
            ),
            Operation(
                "POST", "/tokenize", "Show tokens.", self.tokenize, list[list[Token]],
                TokenizeRequest,
            ),
            Operation("GET", "/info", "The served model and its limits.", self.info, Info),
        )  # fmt: skip

    async def predict(self, body: PredictRequest) -> Prediction | list[Prediction]:
        """Answer ``POST /predict``: in the shape of the target's kind, one answer per input.

        Raises:
            ServingError: An input, their number or the target is not acceptable.
        """
        task = self.service.card.task(body.target)
        needs_pair = self.service.card.takes_pairs or "text" not in task.modalities
        items, single = parse_inputs(body.inputs, needs_pair)
        truncate = body.truncate or (body.parameters is not None and body.parameters.truncate)
        answers: list[Prediction]
        if not body.raw_scores:
            found = await self.service.predict(items, truncate=truncate, target=body.target)
            answers = [prediction(task, answer) for answer in found]
        elif task.kind() == RANKED:
            rows = await self.service.logits(items, truncate=truncate, target=body.target)
            answers = [ranking(task.labels, row) for row in rows]
        else:
            message = f"`raw_scores` is for {RANKED}; '{task.head}' answers {task.kind()}."
            raise ServingError(ErrorType.VALIDATION, message)
        return answers[0] if single else answers

    async def embed(self, body: EmbedRequest) -> list[list[float]]:
        """Answer ``POST /embed``: one vector per text, always as a list of vectors.

        Raises:
            ServingError: an input, their number or the target is not acceptable.
        """
        options = body.parameters or EmbedParameters()
        vectors, _ = await self.service.embed(
            [Item(text) for text in as_list(body.inputs)],
            truncate=body.truncate or options.truncate,
            normalize=_normalize(body.normalize, options.normalize),
            target=body.target,
            prompt=body.prompt_name if options.prompt_name is None else options.prompt_name,
        )
        rows: list[list[float]] = vectors.tolist()
        return rows

    async def similarity(self, body: SimilarityRequest) -> list[float]:
        """Answer ``POST /similarity``: the cosine of each sentence with the first one.

        Raises:
            ServingError: an input, their number or the target is not acceptable.
        """
        texts = [body.inputs.source_sentence, *body.inputs.sentences]
        if len(texts) == 1:
            raise ServingError(ErrorType.EMPTY, "`sentences` is empty.")
        vectors, _ = await self.service.embed(
            [Item(text) for text in texts],
            truncate=body.parameters is not None and body.parameters.truncate,
            normalize=True,
            target=body.target,
            prompt=body.prompt_name,
        )
        cosines: list[float] = (vectors[1:] @ vectors[0]).tolist()
        return cosines

    async def tokenize(self, body: TokenizeRequest) -> list[list[Token]]:
        """Answer ``POST /tokenize``: the tokens of each text.

        Raises:
            ServingError: A text or their number is not acceptable.
        """
        return await self.service.tokenize(as_list(body.inputs), special=body.add_special_tokens)

    async def info(self) -> Info:
        """Answer ``GET /info``."""
        card = self.service.card
        return Info(
            model_id=card.name,
            model_sha=card.digest,
            model_dtype=card.dtype,
            model_type=_model_type(card),
            version=card.version,
            backend=card.backend,
            max_input_length=card.max_length,
            targets={name: list(task.labels) for name, task in card.tasks.items()},
            tasks={name: _task_info(card, name) for name in card.tasks},
            default_target=card.default_target,
            embedding_size=card.embedding_size,
            **self.service.policy.limits.model_dump(),
        )


def as_list(texts: str | list[str]) -> list[str]:
    """Return one text as a batch of one."""
    return [texts] if isinstance(texts, str) else texts


def _normalize(*wanted: bool | None) -> bool | None:
    """Return what the two places of a request say together: a false one decides."""
    said = [each for each in wanted if each is not None]
    return all(said) if said else None


def parse_inputs(
    value: str | Sequence[str | list[str] | Asked] | Asked, takes_pairs: bool
) -> tuple[list[Item], bool]:
    """Return the items and whether the answer is for a single one.

    Args:
        value: ``inputs`` of a request.
        takes_pairs: Whether a flat list of two texts is one pair.

    Raises:
        ServingError: A batch that begins with a text has an item of another kind.
    """
    if isinstance(value, str):
        return [Item(value)], True
    if isinstance(value, Question | ChoiceQuestion):
        return [value.item()], True
    if not value or not isinstance(value[0], str):
        return [_item(item) for item in value], False
    texts = []
    for index, item in enumerate(value):
        if not isinstance(item, str):
            message = f"`inputs[{index}]` must be a string like `inputs[0]`, not an array."
            raise ServingError(ErrorType.VALIDATION, message)
        texts.append(item)
    if takes_pairs and len(texts) <= PAIR:
        return [_pair(texts)], True
    return [Item(text) for text in texts], False


def _item(value: str | list[str] | Asked) -> Item:
    if isinstance(value, Question | ChoiceQuestion):
        return value.item()
    return _pair(as_list(value))


def _pair(texts: list[str]) -> Item:
    return Item(texts[0], texts[1] if len(texts) == PAIR else None)


def _task_info(card: ModelCard, target: str) -> TaskInfo:
    task = card.tasks[target]
    metrics = {
        name: Reached(value=_finite(m.value), low=_finite(m.low), high=_finite(m.high))
        for name, m in card.metrics.get(target, {}).items()
    }
    route: Literal["/predict", "/embed"] = "/embed" if task.kind() == SIMILARITY else "/predict"
    return TaskInfo(kind=task.kind(), labels=list(task.labels), route=route, metrics=metrics)


def _finite(value: float) -> float | None:
    return value if isfinite(value) else None


def _model_type(card: ModelCard) -> ClassifierType | EmbeddingType:
    task = card.tasks.get(card.default_target or "")
    if task is None or not task.labels:
        modes = ("mean",) if card.stated is None else card.stated.pooling
        prompts = {} if card.stated is None else card.stated.prompts
        return EmbeddingType(embedding=Pooling(pooling="+".join(modes)), prompts=list(prompts))
    return ClassifierType(
        classifier=Classifier(
            id2label={str(index): label for index, label in enumerate(task.labels)},
            label2id={label: index for index, label in enumerate(task.labels)},
        )
    )
