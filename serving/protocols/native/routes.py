"""The native protocol: the routes and shapes of Text Embeddings Inference (TEI).

One difference, where TEI's shape would be a trap: a flat list of texts is a batch. TEI reads
``["a", "b"]`` as one pair; so does this for packages whose task takes pairs. ``[["a", "b"]]`` is a
pair and ``[["a"], ["b"]]`` a batch everywhere.

``POST /`` answers by the shape of the body, then by the package. A body with ``query`` is that of
``/rerank``; ``inputs`` with ``source_sentence`` that of ``/similarity``; one with a field of
``/embed`` alone that of ``/embed``. Any other one is answered by the default target, and where
that is a vector, or there is none, by ``/embed``.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Final, Literal

import numpy as np

from orchestrator.inference.inputs import Item, Token
from serving.guard.body import parse_object
from serving.guard.errors import ErrorType, ServingError
from serving.model.card import SIMILARITY
from serving.model.reranking import rerank
from serving.model.whole import answer_files
from serving.protocols.answers import Prediction, Ranking, Span, base64_of, prediction, ranking
from serving.protocols.messages import RequestBody, read
from serving.protocols.native.bodies import (
    DecodeRequest,
    EmbedAllRequest,
    EmbedOptions,
    EmbedRequest,
    Parameters,
    PredictRequest,
    Rank,
    RerankRequest,
    SimilarityParameters,
    SimilarityRequest,
    TokenizeRequest,
)
from serving.protocols.native.files import FILE_TYPES, parse_predict
from serving.protocols.native.info import Info, info
from serving.protocols.native.inputs import parse_inputs, text_items
from serving.protocols.openinference.tensors import from_base64
from serving.protocols.protocol import (
    JSON,
    NO_TYPE,
    Operation,
    ProtocolConfig,
    Received,
    WireProtocol,
    protocols,
)

RANKED: Final = "classification"
"""The kind of task whose answers are ranked classes."""
ONLY_EMBED: Final = frozenset(EmbedRequest.model_fields) - set(PredictRequest.model_fields)
"""Fields that tell a body of ``/embed`` from one of ``/predict``."""
ROOT: Final = (PredictRequest, EmbedRequest, SimilarityRequest, RerankRequest)
"""Bodies of ``POST /``."""


@protocols.add
class NativeProtocol(WireProtocol):
    """Classify, embed, compare, rerank, tokenize."""

    class Config(ProtocolConfig):
        """The routes of Text Embeddings Inference."""

        type: Literal["native"] = "native"

    def operations(self) -> Iterable[Operation]:
        """Return the routes of this protocol."""
        tokenizer = ErrorType.TOKENIZER
        refused = (ErrorType.UNSUPPORTED, ErrorType.NOT_FOUND, tokenizer)
        vectors = list[list[float]] | list[str]
        return (
            Operation(
                "POST", "/", "Answer by the shape of the body and the kind of package.", self.root,
                Prediction | list[Prediction] | vectors | list[float] | list[Rank],
                ROOT, refused, "predict", (JSON, NO_TYPE, *FILE_TYPES), self._parse_root,
            ),
            Operation(
                "POST", "/predict", "Answer with a target of the package.", self.predict,
                Prediction | list[Prediction], PredictRequest, refused, "predict",
                (JSON, NO_TYPE, *FILE_TYPES), self._parse_predict,
            ),
            Operation(
                "POST", "/embed", "Embed texts.", self.embed, vectors,
                EmbedRequest, refused, "embed",
            ),
            Operation(
                "POST", "/embed_all", "Embed each token of texts.", self.embed_all,
                list[list[list[float]]], EmbedAllRequest, refused, "embed",
            ),
            Operation(
                "POST", "/similarity", "Compare a sentence with others.", self.similarity,
                list[float], SimilarityRequest, refused, "embed",
            ),
            Operation(
                "POST", "/rerank", "Order texts by their relevance.", self.rerank,
                list[Rank], RerankRequest, refused, "predict",
            ),
            Operation(
                "POST", "/tokenize", "Show tokens.", self.tokenize, list[list[Token]],
                TokenizeRequest, scope="embed",
            ),
            Operation(
                "POST", "/decode", "Turn token ids into text.", self.decode, list[str],
                DecodeRequest, (tokenizer,), "embed",
            ),
            Operation("GET", "/info", "The served model and its limits.", self.info, Info),
        )  # fmt: skip

    def _parse_predict(self, received: Received) -> PredictRequest:
        """Read the body of ``/predict``; one without a type is a file, where files are read."""
        if received.media_type != JSON and self.service.card.reads == "text":
            message = f"This package reads texts: send `Content-Type: {JSON}`."
            raise ServingError(ErrorType.MEDIA_TYPE, message)
        return parse_predict(received)

    def _parse_root(self, received: Received) -> RequestBody:
        """Read the body of ``POST /`` as what its shape says."""
        if received.media_type != JSON:
            return self._parse_predict(received)
        value = parse_object(received.content, received.max_depth)
        inputs = value.get("inputs")
        card = self.service.card
        default = card.tasks.get(card.default_target or "")
        embeds = not card.tasks or (default is not None and default.kind() == SIMILARITY)
        model: type[RequestBody] = PredictRequest
        if "query" in value:
            model = RerankRequest
        elif isinstance(inputs, dict) and "source_sentence" in inputs:
            model = SimilarityRequest
        elif (embeds and "target" not in value) or ONLY_EMBED & value.keys():
            model = EmbedRequest
        return read(model, received.content, received.max_depth)

    async def root(self, body: RequestBody) -> Any:
        """Answer ``POST /`` as the route of its body does.

        Raises:
            ServingError: An input, their number or the target is not acceptable.
        """
        if isinstance(body, RerankRequest):
            return await self.rerank(body)
        if isinstance(body, SimilarityRequest):
            return await self.similarity(body)
        if isinstance(body, EmbedRequest):
            return await self.embed(body)
        assert isinstance(body, PredictRequest)
        return await self.predict(body)

    async def predict(self, body: PredictRequest) -> Prediction | list[Prediction]:
        """Answer ``POST /predict``: in the shape of the target's kind, one answer per input.

        Raises:
            ServingError: An input, their number or the target is not acceptable.
        """
        card, service = self.service.card, self.service
        if body.files or card.reads != "text":
            return await self._predict_files(body)
        task = card.task(body.target)
        needs_pair = card.takes_pairs or "text" not in task.modalities
        items, single = parse_inputs(body.inputs, needs_pair)
        options = body.parameters or Parameters()
        truncate = service.truncates(_first(options.truncate, body.truncate))
        cut = options.cut or body.cut
        apply = "none" if body.raw_scores else options.function_to_apply or "softmax"
        _require_ranked(task, body, options)
        answers: list[Prediction]
        if apply == "softmax":
            found = await service.predict(items, truncate=truncate, cut=cut, target=body.target)
            answers = [prediction(task, answer) for answer in found]
        else:
            rows = await service.logits(items, truncate=truncate, cut=cut, target=body.target)
            if apply == "sigmoid":
                rows = [1 / (1 + np.exp(-np.asarray(row, dtype=np.float64))) for row in rows]
            answers = [ranking(task.labels, row) for row in rows]
        if options.top_k is not None:
            answers = [_most_likely(answer, options.top_k) for answer in answers]
        if options.ignore_labels is not None:
            answers = [_without(answer, options.ignore_labels) for answer in answers]
        if single and body.parameters is not None and task.kind() == RANKED:
            return [answers[0]]  # a pipeline's answer to one text
        return answers[0] if single else answers

    async def _predict_files(self, body: PredictRequest) -> Prediction | list[Prediction]:
        """Answer images or recordings; a single one as Hugging Face's client reads it."""
        contents, single = body.files, len(body.files) == 1
        if not contents:
            single = isinstance(body.inputs, str)
            texts = [body.inputs] if isinstance(body.inputs, str) else body.inputs
            if not isinstance(texts, list) or not all(isinstance(each, str) for each in texts):
                reads = self.service.card.reads
                message = f"`inputs` must be files in base64: this package reads {reads}."
                raise ServingError(ErrorType.VALIDATION, message)
            contents = [from_base64(str(each), "inputs") for each in texts]
        task = self.service.card.task(body.target)
        options = body.parameters or Parameters()
        _require_ranked(task, body, options)
        if body.raw_scores or options.function_to_apply not in (None, "softmax"):
            message = "Logits are answered for texts alone; leave that option out."
            raise ServingError(ErrorType.VALIDATION, message)
        found = await answer_files(self.service, contents, body.target)
        answers = [prediction(task, answer) for answer in found]
        if options.top_k is not None:
            answers = [_most_likely(answer, options.top_k) for answer in answers]
        return answers[0] if single else answers

    async def embed(self, body: EmbedRequest) -> list[list[float]] | list[str]:
        """Answer ``POST /embed``: one vector per text, always as a list of vectors.

        Raises:
            ServingError: An input, their number or the target is not acceptable.
        """
        options = body.parameters or EmbedOptions()
        vectors, _ = await self.service.embed(
            text_items(body.inputs),
            truncate=self.service.truncates(_first(options.truncate, body.truncate)),
            cut=options.cut or body.cut,
            normalize=_first(options.normalize, body.normalize),
            target=body.target,
            prompt=_first(options.prompt_name, body.prompt_name),
            dimensions=_first(options.dimensions, body.dimensions),
        )
        if _first(options.encoding_format, body.encoding_format) == "base64":
            return [base64_of(vector) for vector in vectors]
        rows: list[list[float]] = vectors.tolist()
        return rows

    async def embed_all(self, body: EmbedAllRequest) -> list[list[list[float]]]:
        """Answer ``POST /embed_all``: a vector for each token of each text, special ones included.

        Raises:
            ServingError: An input or their number is not acceptable, or the package is a graph.
        """
        rows = await self.service.embed_all(
            text_items(body.inputs),
            truncate=self.service.truncates(body.truncate),
            cut=body.cut,
            prompt=body.prompt_name,
        )
        return [row.tolist() for row in rows]

    async def similarity(self, body: SimilarityRequest) -> list[float]:
        """Answer ``POST /similarity``: the cosine of each sentence with the first one.

        Raises:
            ServingError: An input, their number or the target is not acceptable.
        """
        texts = [body.inputs.source_sentence, *body.inputs.sentences]
        if len(texts) == 1:
            raise ServingError(ErrorType.EMPTY, "`sentences` is empty.")
        options = body.parameters or SimilarityParameters()
        vectors, _ = await self.service.embed(
            [Item(text) for text in texts],
            truncate=self.service.truncates(options.truncate),
            cut=options.cut,
            normalize=True,
            target=body.target,
            prompt=_first(options.prompt_name, body.prompt_name),
        )
        cosines: list[float] = (vectors[1:] @ vectors[0]).tolist()
        return cosines

    async def rerank(self, body: RerankRequest) -> list[Rank]:
        """Answer ``POST /rerank``: the texts, the most relevant one first.

        Raises:
            ServingError: A text, their number or the target is not acceptable.
        """
        scores = await rerank(
            self.service,
            body.query,
            body.texts,
            truncate=self.service.truncates(body.truncate),
            cut=body.cut,
            raw=body.raw_scores,
            target=body.target,
        )
        order = sorted(range(len(scores)), key=lambda index: -scores[index])
        ranks: list[Rank] = [{"index": index, "score": scores[index]} for index in order]
        if body.return_text:
            ranks = [{**rank, "text": body.texts[rank["index"]]} for rank in ranks]
        return ranks

    async def tokenize(self, body: TokenizeRequest) -> list[list[Token]]:
        """Answer ``POST /tokenize``: the tokens of each text.

        Raises:
            ServingError: A text, their number or the prompt is not acceptable.
        """
        texts = [body.inputs] if isinstance(body.inputs, str) else body.inputs
        if body.prompt_name:
            prompt = self.service.card.prompt(body.prompt_name)
            texts = [prompt + text for text in texts]
        return await self.service.tokenize(texts, special=body.add_special_tokens)

    async def decode(self, body: DecodeRequest) -> list[str]:
        """Answer ``POST /decode``: the text of each list of token ids.

        Raises:
            ServingError: An id is not in the vocabulary, or there are too many texts.
        """
        items = text_items(body.ids)
        return await self.service.decode(items, skip_special=body.skip_special_tokens)

    async def info(self) -> Info:
        """Answer ``GET /info``."""
        return info(self.service.card, self.service.policy)


def _first(*wanted: Any) -> Any:
    """Return the first of several places of a request that says something."""
    return next((each for each in wanted if each is not None), None)


def _most_likely(ranked: Any, count: int) -> Ranking:
    return list(ranked[:count])


def _without(spans: Any, labels: Sequence[str]) -> list[Span]:
    return [span for span in spans if span["entity_group"] not in labels]


def _require_ranked(task: Any, body: PredictRequest, options: Parameters) -> None:
    """Refuse options that are for answers of another kind."""
    for_ranks = ("top_k", "function_to_apply")
    named = {name for name in for_ranks if getattr(options, name) is not None}
    named |= {"raw_scores"} if body.raw_scores else set()
    if named and task.kind() != RANKED:
        message = f"`{min(named)}` is for {RANKED}; '{task.head}' answers {task.kind()}."
        raise ServingError(ErrorType.VALIDATION, message)
    for_spans = ("aggregation_strategy", "ignore_labels")
    wrong = [name for name in for_spans if getattr(options, name) is not None]
    if wrong and task.kind() != "tags":
        message = f"`{wrong[0]}` is for tags; '{task.head}' answers {task.kind()}."
        raise ServingError(ErrorType.VALIDATION, message)
