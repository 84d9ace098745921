"""Reranking in the shape of Cohere, which retrieval frameworks call."""

from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from serving.guard.errors import ErrorType
from serving.model.reranking import rerank
from serving.protocols.messages import FIRST_ERROR, Message, RequestBody
from serving.protocols.protocol import Operation, ProtocolConfig, WireProtocol, protocols


class Document(RequestBody):
    """A text."""

    text: str
    """The text."""


class RerankBody(RequestBody):
    """Documents to order by their relevance."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"query": "sum", "documents": ["Return the sum.", "Start a worker."]}]
        }
    )

    model: str | None = None
    """Package name or ``name/v0001``; null means the served one."""
    query: str
    """Text that is looked for."""
    documents: Annotated[list[str | Document], FIRST_ERROR]
    """Texts in which it is looked for."""
    top_n: Annotated[int, Field(ge=1)] | None = None
    """Answer with so many documents, the most relevant ones; null: all."""
    return_documents: bool = False
    """Repeat each document in the answer."""


class Result(Message):
    """The place of a document."""

    index: int
    """Its place in the request."""
    relevance_score: float
    """Score of how well it answers the query; more is better."""
    document: Document | None = Field(None, exclude_if=lambda document: document is None)
    """The document, if it was asked for."""


class RerankAnswer(Message):
    """Documents, the most relevant one first."""

    model: str
    """Package name."""
    results: list[Result]
    """One per document."""


@protocols.add
class CohereProtocol(WireProtocol):
    """Rerank documents."""

    class Config(ProtocolConfig):
        """The reranking of Cohere."""

        type: Literal["cohere"] = "cohere"

    def operations(self) -> Iterable[Operation]:
        """Return the routes of this protocol."""
        errors = (ErrorType.UNSUPPORTED, ErrorType.NOT_FOUND)
        for path in ("/v1/rerank", "/v2/rerank"):
            yield Operation(
                "POST", path, "Order documents by their relevance.", self.rerank, RerankAnswer,
                RerankBody, errors, "predict",
            )  # fmt: skip

    async def rerank(self, body: RerankBody) -> RerankAnswer:
        """Answer ``POST /v1/rerank``; what is too long is cut, as Cohere's service does.

        Raises:
            ServingError: The model, a document or their number is not acceptable.
        """
        card = self.service.card
        card.require_name(body.model)
        texts = [each if isinstance(each, str) else each.text for each in body.documents]
        scores = await rerank(self.service, body.query, texts, truncate=True)
        order = sorted(range(len(scores)), key=lambda index: -scores[index])[: body.top_n]
        return RerankAnswer(
            model=card.name,
            results=[
                Result(
                    index=index,
                    relevance_score=scores[index],
                    document=Document(text=texts[index]) if body.return_documents else None,
                )
                for index in order
            ],
        )
