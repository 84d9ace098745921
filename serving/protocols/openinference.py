"""Open Inference Protocol, version 2 (KServe, Triton, Seldon), JSON form.

A text model has one input tensor ``text`` (BYTES, [B]) and, for tasks on pairs, ``text_pair``. Its
outputs are, per classification target NAME, ``NAME.label`` (BYTES, [B]) and ``NAME.scores``
(FP32, [B, K], classes in the order of the metadata), and ``embedding`` (FP32, [B, D]).
"""

from collections.abc import Sequence
from typing import Any

import orchestrator
from serving.card import ModelCard
from serving.engine import EMBEDDING, TextInput
from serving.errors import ErrorType, ServingError
from serving.protocols import fields
from serving.protocols.openai import check_model
from serving.service import Service, probabilities

_INPUTS = ("text", "text_pair")


def server() -> dict[str, Any]:
    """Answer ``GET /v2``."""
    return {"name": "ray-model-orchestrator", "version": orchestrator.__version__, "extensions": []}


def model(card: ModelCard, name: str, version: str | None) -> dict[str, Any]:
    """Answer ``GET /v2/models/{name}[/versions/{version}]``.

    Raises:
        ServingError: another model or version is served.
    """
    _check(card, name, version)
    return {
        "name": card.name,
        "versions": [card.version],
        "platform": card.backend,
        "inputs": [{"name": "text", "datatype": "BYTES", "shape": [-1]}],
        "outputs": [
            {"name": output, "datatype": datatype, "shape": shape}
            for output, (datatype, shape) in _outputs(card).items()
        ],
        "parameters": {"labels": {name: list(names) for name, names in card.targets.items()}},
    }


async def infer(
    service: Service, name: str, version: str | None, body: dict[str, Any]
) -> dict[str, Any]:
    """Answer ``POST /v2/models/{name}[/versions/{version}]/infer``.

    Raises:
        ServingError: the model, a tensor or an input is not acceptable.
    """
    card = service.card
    _check(card, name, version)
    fields.only(body, ("id", "parameters", "inputs", "outputs"))
    inputs = _texts(fields.required(body, "inputs"))
    parameters = body.get("parameters") or {}
    if not isinstance(parameters, dict):
        raise fields.wrong("parameters", "an object", parameters)
    truncate = fields.boolean(parameters, "truncate", default=False)
    outputs = await _run(service, inputs, _wanted(body, card), truncate=truncate)
    answer = {"model_name": card.name, "model_version": card.version, "outputs": outputs}
    identifier = fields.text(body, "id")
    return answer if identifier is None else {"id": identifier, **answer}


async def _run(
    service: Service, inputs: list[TextInput], wanted: list[str], *, truncate: bool
) -> list[dict[str, Any]]:
    tensors: dict[str, list[Any]] = {}
    if set(wanted) - {EMBEDDING}:
        logits = await service.logits(inputs, truncate=truncate)
        for target, labels in service.card.targets.items():
            scores = probabilities(logits[target])
            tensors[f"{target}.label"] = [labels[index] for index in scores.argmax(1)]
            tensors[f"{target}.scores"] = scores.ravel().tolist()
    if EMBEDDING in wanted:
        vectors, _ = await service.embed(inputs, truncate=truncate)
        tensors[EMBEDDING] = vectors.ravel().tolist()
    offered = _outputs(service.card)
    return [
        {
            "name": name,
            "datatype": offered[name][0],
            "shape": [len(inputs), *offered[name][1][1:]],
            "data": tensors[name],
        }
        for name in wanted
    ]


def _check(card: ModelCard, name: str, version: str | None) -> None:
    check_model(card, name)
    if version not in (None, card.version):
        message = f"That version is not served here; {card.version} is."
        raise ServingError(ErrorType.NOT_FOUND, message)


def _outputs(card: ModelCard) -> dict[str, tuple[str, list[int]]]:
    outputs: dict[str, tuple[str, list[int]]] = {}
    for target, labels in card.targets.items():
        outputs[f"{target}.label"] = ("BYTES", [-1])
        outputs[f"{target}.scores"] = ("FP32", [-1, len(labels)])
    if card.embedding_size is not None:
        outputs[EMBEDDING] = ("FP32", [-1, card.embedding_size])
    return outputs


def _wanted(body: dict[str, Any], card: ModelCard) -> list[str]:
    """Names of the requested output tensors; by default those of the default target."""
    offered = _outputs(card)
    requested = body.get("outputs")
    if requested is None:
        target = card.default_target
        return [EMBEDDING] if target is None else [f"{target}.label", f"{target}.scores"]
    if not isinstance(requested, list) or not all(isinstance(item, dict) for item in requested):
        raise fields.wrong("outputs", "an array of objects", requested)
    names = [fields.text(item, "name") or "" for item in requested]
    if not names or set(names) - set(offered):
        message = f"`outputs` must name some of: {', '.join(offered)}."
        raise ServingError(ErrorType.VALIDATION, message)
    return names


def _texts(tensors: Any) -> list[TextInput]:
    if not isinstance(tensors, list) or not all(isinstance(item, dict) for item in tensors):
        raise fields.wrong("inputs", "an array of tensors", tensors)
    columns = {fields.text(tensor, "name"): _column(tensor) for tensor in tensors}
    if "text" not in columns or set(columns) - set(_INPUTS) or len(columns) != len(tensors):
        message = "One input tensor `text` is expected, and for pairs `text_pair`."
        raise ServingError(ErrorType.VALIDATION, message)
    nothing: list[str | None] = [None] * len(columns["text"])
    pairs: Sequence[str | None] = columns.get("text_pair") or nothing
    if len(pairs) != len(columns["text"]):
        message = "`text` and `text_pair` have different lengths."
        raise ServingError(ErrorType.VALIDATION, message)
    return [TextInput(text, pair) for text, pair in zip(columns["text"], pairs, strict=True)]


def _column(tensor: dict[str, Any]) -> list[str]:
    if tensor.get("datatype") != "BYTES":
        raise ServingError(ErrorType.VALIDATION, "The datatype of a text tensor must be BYTES.")
    data = fields.strings(fields.required(tensor, "data"), "data")
    if tensor.get("shape") not in ([len(data)], [len(data), 1]):
        message = f"`shape` does not fit {len(data)} texts; it must be [{len(data)}]."
        raise ServingError(ErrorType.VALIDATION, message)
    return data
