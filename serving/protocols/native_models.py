"""Models of the bodies and answers of the native protocol."""

from typing import Annotated, Final, Literal

from pydantic import ConfigDict, Field

from orchestrator.inference.inputs import Item
from serving.config import Limits
from serving.protocols.messages import FIRST_ERROR, Message, RequestBody

PAIR: Final = 2
EXAMPLE_TEXT: Final = "Return the sum of the elements."


class Question(RequestBody):
    """A question and the text that answers it (``question_answering``)."""

    question: str
    """The question."""
    context: str
    """The text in which the answer is looked for."""

    def item(self) -> Item:
        """Return what the model is asked."""
        return Item(self.question, self.context)


class ChoiceQuestion(RequestBody):
    """A question with candidates; one of them is right (``multiple_choice``)."""

    question: str
    """The question."""
    choices: Annotated[list[str], Field(min_length=1), FIRST_ERROR]
    """The candidates."""

    def item(self) -> Item:
        """Return what the model is asked."""
        return Item(self.question, choices=tuple(self.choices))


Texts = Annotated[list[str], FIRST_ERROR]
TextOrPair = Annotated[list[str], Field(min_length=1, max_length=PAIR), FIRST_ERROR]
Asked = Question | ChoiceQuestion
Batch = Annotated[list[str | TextOrPair | Asked], FIRST_ERROR]


class Parameters(RequestBody):
    """Options in the place where Hugging Face's clients send them."""

    truncate: bool = False
    """Cut texts that are longer than ``max_input_length``; otherwise they are refused."""


class EmbedParameters(Parameters):
    """Options in the place where Hugging Face's clients send them."""

    normalize: bool | None = None
    """Scale each vector to length 1; null: as the package states."""
    prompt_name: str | None = None
    """Prompt that the package states, put before each text."""


class PredictRequest(RequestBody):
    """Inputs for a target of the package."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"inputs": [EXAMPLE_TEXT], "truncate": True}]}
    )

    inputs: str | Texts | Batch | Asked
    """One text; a batch of texts; a batch whose items are texts, ``[text]`` or pairs; or, as the
    kind of the target asks, a question with its context or choices, or a batch of questions."""
    truncate: bool = False
    """Cut texts that are longer than ``max_input_length``; otherwise they are refused."""
    raw_scores: bool = False
    """Answer with logits in place of probabilities; of ``classification`` alone."""
    target: str | None = None
    """Target that answers; null takes the default of ``/info``."""
    parameters: Parameters | None = None
    """Options in another place."""


class EmbedRequest(RequestBody):
    """Texts to embed."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"inputs": [EXAMPLE_TEXT], "normalize": True}]}
    )

    inputs: str | Texts
    """One text or a batch of texts."""
    truncate: bool = False
    """Cut texts that are longer than ``max_input_length``; otherwise they are refused."""
    normalize: bool | None = None
    """Scale each vector to length 1; null: as the package states, and where it states nothing,
    true."""
    target: str | None = None
    """Similarity target; null takes the default of ``/info`` if it is one, else the embedding that
    the package states (the mean over the tokens where it states none)."""
    prompt_name: str | None = None
    """Prompt that the package states, put before each text; null takes its default one, ``""``
    none."""
    parameters: EmbedParameters | None = None
    """Options in another place."""


class SimilarityInput(RequestBody):
    """A sentence, and those that it is compared with."""

    source_sentence: str
    """The sentence."""
    sentences: Texts
    """The others."""


class SimilarityRequest(RequestBody):
    """Sentences to compare."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"inputs": {"source_sentence": EXAMPLE_TEXT, "sentences": ["Add them up."]}}
            ]
        }
    )

    inputs: SimilarityInput
    """Sentences to compare."""
    target: str | None = None
    """Similarity target; null: as for ``/embed``."""
    prompt_name: str | None = None
    """Prompt of all sentences; as for ``/embed``."""
    parameters: Parameters | None = None
    """Options."""


class TokenizeRequest(RequestBody):
    """Texts to tokenize."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"inputs": EXAMPLE_TEXT}]})

    inputs: str | Texts
    """One text or a batch of texts."""
    add_special_tokens: bool = True
    """Include tokens like ``[CLS]``."""


class Classifier(Message):
    """Label names of the default target."""

    id2label: dict[str, str]
    """Index of a class, as text -> its name."""
    label2id: dict[str, int]
    """Name of a class -> its index."""


class ClassifierType(Message):
    """A model whose default target answers with labels."""

    classifier: Classifier
    """Its labels."""


class Pooling(Message):
    """Reduction of token vectors to one vector."""

    pooling: str
    """``mean``, ``cls`` ...; of several, joined by ``+``."""


class EmbeddingType(Message):
    """Any other model."""

    embedding: Pooling
    """Its pooling."""
    prompts: list[str] = Field(default_factory=list)
    """Names that ``prompt_name`` takes."""


class Reached(Message):
    """One metric of a target on its test rows."""

    value: float | None
    """The metric; null where it is undefined."""
    low: float | None
    """Lower end of the 95 % interval."""
    high: float | None
    """Upper end."""


class TaskInfo(Message):
    """One target."""

    kind: str
    """Kind of task: ``classification``, ``multilabel``, ``tags``, ``regression`` ..."""
    labels: list[str]
    """Label names in order; empty where answers are not labels."""
    route: Literal["/predict", "/embed"]
    """Route that answers it; vectors also go to ``/similarity`` and ``/v1/embeddings``."""
    metrics: dict[str, Reached]
    """Figures on the package's test rows by metric, the primary one first; empty if unknown."""


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
    """Target -> its label names in order."""
    tasks: dict[str, TaskInfo]
    """Target -> what it answers."""
    default_target: str | None
    """Target that is answered when a request names none; null: it must be named."""
    embedding_size: int
    """Width of the vectors of ``/embed`` when a request names no target."""
    auto_truncate: Literal[False] = False
    """Texts are cut only on request."""


class Info(Limits, ServedModel):
    """The served package and the limits of this service."""
