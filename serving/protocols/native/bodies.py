"""Models of the bodies and answers of the native protocol."""

from typing import Annotated, Final, Literal, NotRequired

from pydantic import ConfigDict, Discriminator, Field, PrivateAttr, Tag
from typing_extensions import TypedDict

from orchestrator.inference.inputs import Item
from serving.protocols.messages import FIRST_ERROR, RequestBody

PAIR: Final = 2
EXAMPLE_TEXT: Final = "Return the sum of the elements."


def _form(value: object) -> str:
    """Tell token ids from texts, so that an error is about what was meant."""
    return "ids" if isinstance(value, list) and value and type(value[0]) is int else "texts"


ByForm: Final = Discriminator(_form)
Texts = Annotated[list[str], FIRST_ERROR]
Ids = Annotated[list[int], FIRST_ERROR]
TextOrIds = Annotated[Annotated[Ids, Tag("ids")] | Annotated[str, Tag("texts")], ByForm]
SeveralTexts = Annotated[list[TextOrIds], FIRST_ERROR]
Inputs = Annotated[
    Annotated[Ids, Tag("ids")] | Annotated[str | Texts | SeveralTexts, Tag("texts")], ByForm
]
"""One text or several, each as text or as token ids."""


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


TextOrPair = Annotated[list[str], Field(min_length=1, max_length=PAIR), FIRST_ERROR]
Asked = Question | ChoiceQuestion
BatchItem = Annotated[
    Annotated[Ids, Tag("ids")] | Annotated[str | TextOrPair | Asked, Tag("texts")], ByForm
]
Batch = Annotated[list[BatchItem], FIRST_ERROR]
AnyInputs = Annotated[
    Annotated[Ids, Tag("ids")] | Annotated[str | Texts | Batch | Asked, Tag("texts")], ByForm
]
Direction = Literal["left", "right", "Left", "Right"]


class Cut(RequestBody):
    """Options for inputs that are too long."""

    truncate: bool | None = None
    """Cut what is longer than ``max_input_length``; otherwise it is refused. Null: as
    ``auto_truncate``."""
    truncation_direction: Direction | None = None
    """End that is cut; null: as the package's tokenizer does."""

    @property
    def cut(self) -> Literal["left", "right"] | None:
        """The end that is cut, in small letters."""
        left = self.truncation_direction in ("left", "Left")
        return None if self.truncation_direction is None else "left" if left else "right"


class Parameters(Cut):
    """Options in the place where Hugging Face's clients send them."""

    top_k: Annotated[int, Field(ge=1)] | None = None
    """Answer with so many classes, the most likely ones; null: all."""
    function_to_apply: Literal["softmax", "sigmoid", "none"] | None = None
    """Function that makes scores of logits; null: softmax. Of ``classification`` alone."""
    aggregation_strategy: Literal["first"] | None = None
    """Way that spans are made of tags: the first piece of a word decides. No other is offered."""
    ignore_labels: Texts | None = None
    """Types of spans that are left out of the answer; of ``tags`` alone."""


class EmbedOptions(Cut):
    """Options of vectors."""

    normalize: bool | None = None
    """Scale each vector to length 1; null: as the package states, and where it states nothing,
    true."""
    prompt_name: str | None = None
    """Prompt that the package states, put before each text; null takes its default one, ``""``
    none."""
    dimensions: int | None = None
    """Keep this many leading dimensions, before scaling; null: all."""
    encoding_format: Literal["float", "base64"] | None = None
    """``base64``: each vector as little-endian float32; null: ``float``."""


class PredictRequest(Cut):
    """Inputs for a target of the package."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"inputs": [EXAMPLE_TEXT], "truncate": True}]}
    )

    inputs: AnyInputs
    """One text, or the token ids of one; a batch of texts; a batch whose items are texts,
    ``[text]``, pairs or token ids; or, as the kind of the target asks, a question with its context
    or choices, or a batch of questions. Images and recordings are files in base64."""
    raw_scores: bool = False
    """Answer with logits in place of probabilities; of ``classification`` alone."""
    target: str | None = None
    """Target that answers; null takes the default of ``/info``."""
    parameters: Parameters | None = None
    """Options in another place. A single text is answered as Hugging Face's pipelines do then, with
    a list of one ranking."""
    _files: list[bytes] = PrivateAttr(default_factory=list)

    @property
    def files(self) -> list[bytes]:
        """Images or recordings that the body is, or holds as a form does; empty: it is JSON."""
        return self._files


class EmbedRequest(EmbedOptions):
    """Texts to embed."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"inputs": [EXAMPLE_TEXT], "normalize": True}]}
    )

    inputs: Inputs
    """One text or a batch of texts; texts may be given as token ids of ``/tokenize``."""
    target: str | None = None
    """Similarity target; null takes the default of ``/info`` if it is one, else the embedding that
    the package states (the mean over the tokens where it states none)."""
    parameters: EmbedOptions | None = None
    """Options in another place; those of both places count, these first."""


class EmbedAllRequest(Cut):
    """Texts whose tokens are embedded."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"inputs": EXAMPLE_TEXT}]})

    inputs: Inputs
    """As for ``/embed``."""
    prompt_name: str | None = None
    """As for ``/embed``."""


class SimilarityInput(RequestBody):
    """A sentence, and those that it is compared with."""

    source_sentence: str
    """The sentence."""
    sentences: Texts
    """The others."""


class SimilarityParameters(Cut):
    """Options of a comparison."""

    prompt_name: str | None = None
    """Prompt of all sentences; as for ``/embed``."""


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
    parameters: SimilarityParameters | None = None
    """Options."""


class RerankRequest(Cut):
    """Texts to order by their relevance."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"query": "sum", "texts": [EXAMPLE_TEXT, "Start a worker."]}]
        }
    )

    query: str
    """Text that is looked for."""
    texts: Texts
    """Texts in which it is looked for."""
    raw_scores: bool = False
    """Answer with logits in place of probabilities; of ``classification`` alone."""
    return_text: bool = False
    """Repeat each text in the answer."""
    target: str | None = None
    """Target that scores; null takes the default of ``/info``."""


class Rank(TypedDict):
    """The place of a text. ``text`` is there if it was asked for."""

    index: int
    score: float
    text: NotRequired[str]


class TokenizeRequest(RequestBody):
    """Texts to tokenize."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"inputs": EXAMPLE_TEXT}]})

    inputs: str | Texts
    """One text or a batch of texts."""
    add_special_tokens: bool = True
    """Include tokens like ``[CLS]``."""
    prompt_name: str | None = None
    """Prompt that the package states, put before each text; null: none."""


class DecodeRequest(RequestBody):
    """Token ids to turn into text."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"ids": [5, 6, 7]}]})

    ids: Annotated[
        Annotated[Ids, Tag("ids")] | Annotated[list[Ids], FIRST_ERROR, Tag("texts")], ByForm
    ]
    """Token ids of one text, or of several."""
    skip_special_tokens: bool = True
    """Leave out tokens like ``[CLS]``."""
