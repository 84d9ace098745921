"""The native protocol: the routes and shapes of Text Embeddings Inference (TEI).

One difference, where TEI's shape would be a trap: a flat list of texts is a batch. TEI reads
``["a", "b"]`` as one pair; so does this for packages whose task takes pairs. ``[["a", "b"]]`` is a
pair and ``[["a"], ["b"]]`` a batch everywhere.
"""

from collections.abc import Iterable
from typing import Annotated, Final, Literal

from pydantic import ConfigDict, Field
from typing_extensions import TypedDict

from serving.config import Limits
from serving.guard.errors import ErrorType, ServingError
from serving.model.card import ModelCard
from serving.model.service import Ranking
from serving.model.tokenize import TextInput, Token
from serving.protocols.messages import FIRST_ERROR, Message, RequestBody
from serving.protocols.protocol import Operation, ProtocolConfig, WireProtocol, protocols

PAIR: Final = 2
EXAMPLE_TEXT: Final = "Return the sum of the elements."

Texts = Annotated[list[str], FIRST_ERROR]
TextOrPair = Annotated[list[str], Field(min_length=1, max_length=PAIR), FIRST_ERROR]
Batch = Annotated[list[str | TextOrPair], FIRST_ERROR]


class PredictRequest(RequestBody):
    """Texts or pairs of texts to classify."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"inputs": [EXAMPLE_TEXT], "truncate": True}]}
    )

    inputs: str | Texts | Batch
    """One text; a batch of texts; or a batch whose items are texts, ``[text]`` or pairs."""
    truncate: bool = False
    """Cut texts that are longer than ``max_input_length``; otherwise they are refused."""
    raw_scores: bool = False
    """Answer with logits in place of probabilities."""
    target: str | None = None
    """Classification target; null takes the default of ``/info``."""


class EmbedRequest(RequestBody):
    """Texts to embed."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"inputs": [EXAMPLE_TEXT], "normalize": True}]}
    )

    inputs: str | Texts
    """One text or a batch of texts."""
    truncate: bool = False
    """Cut texts that are longer than ``max_input_length``; otherwise they are refused."""
    normalize: bool = True
    """Scale each vector to length 1."""


class TokenizeRequest(RequestBody):
    """Texts to tokenize."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"inputs": EXAMPLE_TEXT}]})

    inputs: str | Texts
    """One text or a batch of texts."""
    add_special_tokens: bool = True
    """Include tokens like ``[CLS]``."""


class Score(TypedDict):
    """One class of a prediction.

    A dictionary and not a model: an answer has one per input and class, and a model is ten times
    as expensive to make.
    """

    score: float
    label: str


Prediction = list[Score]
"""All classes of one input, most likely first."""


class Classifier(Message):
    """Class names of the default target."""

    id2label: dict[str, str]
    """Index of a class, as text -> its name."""
    label2id: dict[str, int]
    """Name of a class -> its index."""


class ClassifierType(Message):
    """A model with a classification target."""

    classifier: Classifier
    """Its classes."""


class Pooling(Message):
    """Reduction of token vectors to one vector."""

    pooling: Literal["mean"]
    """Mean over the tokens of the text."""


class EmbeddingType(Message):
    """A model that only embeds."""

    embedding: Pooling
    """Its pooling."""


class ServedModel(Message):
    """The served package."""

    model_id: str
    """Package name."""
    model_sha: str
    """SHA-256 of the package's manifest."""
    model_dtype: str
    """Number format of the weights."""
    model_type: ClassifierType | EmbeddingType
    """Kind of model."""
    version: str
    """Package version, ``v0001``."""
    backend: str
    """``onnxruntime`` or ``torch``."""
    max_input_length: int
    """Most tokens of one input, special tokens included."""
    targets: dict[str, list[str]]
    """Classification target -> its class names in order."""
    default_target: str | None
    """Target that is answered when a request names none."""
    embedding_size: int | None
    """Width of embeddings; null when the package gives none."""
    auto_truncate: Literal[False] = False
    """Texts are cut only on request."""


class Info(Limits, ServedModel):
    """The served package and the limits of this service."""


@protocols.add
class NativeProtocol(WireProtocol):
    """Classify, embed, tokenize."""

    class Config(ProtocolConfig):
        """The routes of Text Embeddings Inference."""

        type: Literal["native"] = "native"

    def operations(self) -> Iterable[Operation]:
        """Return the routes of this protocol."""
        unsupported, tokenizer = ErrorType.UNSUPPORTED, ErrorType.TOKENIZER
        return (
            Operation(
                "POST", "/predict", "Classify texts.", self.predict, Prediction | list[Prediction],
                PredictRequest, (unsupported, ErrorType.NOT_FOUND, tokenizer),
            ),
            Operation(
                "POST", "/embed", "Embed texts.", self.embed, list[list[float]],
                EmbedRequest, (unsupported, tokenizer),
            ),
            Operation(
                "POST", "/tokenize", "Show tokens.", self.tokenize, list[list[Token]],
                TokenizeRequest,
            ),
            Operation("GET", "/info", "The served model and its limits.", self.info, Info),
        )  # fmt: skip

    async def predict(self, body: PredictRequest) -> Prediction | list[Prediction]:
        """Answer ``POST /predict``: classes of each input, most likely first.

        Raises:
            ServingError: an input, their number or the target is not acceptable.
        """
        inputs, single = parse_inputs(body.inputs, self.service.card.takes_pairs)
        rankings = await self.service.predict(
            inputs, truncate=body.truncate, raw_scores=body.raw_scores, target=body.target
        )
        answers = [_prediction(ranking) for ranking in rankings]
        return answers[0] if single else answers

    async def embed(self, body: EmbedRequest) -> list[list[float]]:
        """Answer ``POST /embed``: one vector per text, always as a list of vectors.

        Raises:
            ServingError: an input or their number is not acceptable.
        """
        inputs = [TextInput(text) for text in as_list(body.inputs)]
        vectors, _ = await self.service.embed(
            inputs, truncate=body.truncate, normalize=body.normalize
        )
        rows: list[list[float]] = vectors.tolist()
        return rows

    async def tokenize(self, body: TokenizeRequest) -> list[list[Token]]:
        """Answer ``POST /tokenize``: the tokens of each text.

        Raises:
            ServingError: a text or their number is not acceptable.
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
            targets={name: list(labels) for name, labels in card.targets.items()},
            default_target=card.default_target,
            embedding_size=card.embedding_size,
            **self.service.policy.limits.model_dump(),
        )


def as_list(texts: str | list[str]) -> list[str]:
    """Return one text as a batch of one."""
    return [texts] if isinstance(texts, str) else texts


def parse_inputs(
    value: str | list[str] | list[str | list[str]], takes_pairs: bool
) -> tuple[list[TextInput], bool]:
    """Return the inputs and whether the answer is for a single one.

    Raises:
        ServingError: a batch that begins with a text has an item of another kind.
    """
    if isinstance(value, str):
        return [TextInput(value)], True
    if not value or not isinstance(value[0], str):
        return [TextInput(*as_list(item)) for item in value], False
    texts = []
    for index, item in enumerate(value):
        if not isinstance(item, str):
            message = f"`inputs[{index}]` must be a string like `inputs[0]`, not an array."
            raise ServingError(ErrorType.VALIDATION, message)
        texts.append(item)
    if takes_pairs and len(texts) <= PAIR:
        return [TextInput(*texts)], True
    return [TextInput(text) for text in texts], False


def _prediction(ranking: Ranking) -> Prediction:
    pairs = zip(ranking.labels, ranking.scores, strict=True)
    return [{"score": score, "label": label} for label, score in pairs]


def _model_type(card: ModelCard) -> ClassifierType | EmbeddingType:
    if card.default_target is None:
        return EmbeddingType(embedding=Pooling(pooling="mean"))
    labels = card.targets[card.default_target]
    return ClassifierType(
        classifier=Classifier(
            id2label={str(index): label for index, label in enumerate(labels)},
            label2id={label: index for index, label in enumerate(labels)},
        )
    )
