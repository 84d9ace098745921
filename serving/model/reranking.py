"""Scores of texts by how well they answer a query."""

from collections.abc import Sequence
from typing import Any

from orchestrator.data.processors.tokenizer_files import Side
from orchestrator.inference.inputs import Item
from serving.guard.errors import ErrorType, ServingError
from serving.model.service import Service


async def rerank(
    service: Service,
    query: str,
    texts: Sequence[str],
    *,
    truncate: bool = False,
    cut: Side | None = None,
    raw: bool = False,
    target: str | None = None,
) -> list[float]:
    """Return how well each text answers a query; more is better.

    A package trained on pairs reads the query with each text: the score is the probability of
    the last of its two classes, or its number. Else it is the cosine of the vectors, with the
    package's prompts ``query``, and ``document`` or ``passage``, where it states them.

    Args:
        service: What answers.
        query: What is looked for.
        texts: Where it is looked for.
        truncate: Cut what is too long; otherwise it is refused.
        cut: At which end; None: where the package's tokenizer does.
        raw: Return logits of classes, not probabilities.
        target: Target that scores; None: the default one, or what the package states.

    Raises:
        ServingError: As for `predict`, or the target does not score pairs.
    """
    task = service.card.reranker(target)
    if raw and (task is None or task.kind() != "classification"):
        message = "`raw_scores` is for classes; these scores are no probabilities."
        raise ServingError(ErrorType.VALIDATION, message)
    if task is None:
        stated = () if service.card.stated is None else service.card.stated.prompts
        prompts = ["query" if "query" in stated else None]
        prompts.append(next((name for name in ("document", "passage") if name in stated), None))
        (asked, _), (found, _) = [
            await service.embed(
                [Item(text) for text in each],
                truncate=truncate,
                cut=cut,
                normalize=True,
                target=target,
                prompt=prompt,
            )
            for each, prompt in zip(([query], texts), prompts, strict=True)
        ]
        cosines: list[float] = (found @ asked[0]).tolist()
        return cosines
    pairs = [Item(query, text) for text in texts]
    if raw:
        rows = await service.logits(pairs, truncate=truncate, cut=cut, target=task.head)
        return [float(row[-1] - row[0]) for row in rows]
    answers: list[Any] = await service.predict(pairs, truncate=truncate, cut=cut, target=task.head)
    name = "values" if task.kind() == "regression" else "scores"
    return [float(getattr(answer, name)[-1]) for answer in answers]
