"""`/openapi.json` describes every request and answer, and the service keeps to it."""

import asyncio
import json
import re
from collections import Counter

import httpx
import pytest
import schemathesis
from hypothesis import given, settings
from openapi_spec_validator import validate
from schemathesis import GenerationMode
from schemathesis.checks import (
    content_type_conformance,
    not_a_server_error,
    response_schema_conformance,
)
from schemathesis.specs.openapi.checks import status_code_conformance

from serving.document import document as made_document
from tests.support.ray import ROOT
from tests.support.serving import NoRecorder, application

EXAMPLES = 25
PROMISES = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]


@pytest.fixture(scope="module")
def app(engine):
    return application(engine, NoRecorder()).app


@pytest.fixture(scope="module")
def document(app):
    return app.openapi()


@pytest.fixture(scope="module")
def described(app):
    return schemathesis.openapi.from_asgi("/openapi.json", app)


def operations(document):
    return [
        (f"{method.upper()} {path}", operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]


def schemas(value):
    """Every schema of a body, at any depth of an operation."""
    if isinstance(value, dict):
        for key, child in value.items():
            if key == "schema":
                yield child
            yield from schemas(child)
    elif isinstance(value, list):
        for child in value:
            yield from schemas(child)


def test_the_document_is_valid(document):
    validate(document)


def test_the_copy_in_the_documentation_is_this_one(document):
    copy = json.loads((ROOT / "docs/openapi.json").read_text(encoding="utf-8"))
    stale = "python -m serving.document > docs/openapi.json"
    assert copy == document == made_document(), f"Run {stale}"


def test_nothing_is_left_undescribed(document):
    found = document["components"]["schemas"]
    assert len(found) > 8
    assert not {"HTTPValidationError", "ValidationError"} & set(found)
    assert all(found.values())
    for name, operation in operations(document):
        assert operation["summary"], name
        assert all(schemas(operation)), name
        has_body = name.startswith("POST") and name != "POST /v2/repository/index"
        assert ("requestBody" in operation) == has_body, name
        for status, answer in operation["responses"].items():
            schema = answer["content"]["application/json"]["schema"]
            body = "OpenAIErrorBody" if " /v1/" in name else "ErrorBody"
            is_error = schema == {"$ref": f"#/components/schemas/{body}"}
            assert is_error == (status != "200"), f"{name} {status}"


def test_errors_of_the_guard_are_described_where_it_raises_them(document):
    by_name = {name: set(operation["responses"]) for name, operation in operations(document)}
    assert {"400", "401", "408", "413", "415", "422", "429", "500", "504"} <= by_name[
        "POST /tokenize"
    ]
    assert by_name["GET /healthz"] == {"200", "431", "500", "504"}


def test_every_field_of_a_request_is_explained(document):
    found = document["components"]["schemas"]
    for name in ("PredictRequest", "EmbedRequest", "TokenizeRequest", "EmbeddingsRequest"):
        assert found[name]["additionalProperties"] is False
        for field, schema in found[name]["properties"].items():
            assert schema["description"], f"{name}.{field}"


@pytest.mark.parametrize("mode", list(GenerationMode))
def test_requests_made_from_the_document_are_answered_as_it_says(described, mode):
    # Not with the plugin of schemathesis: its subtests need an attribute that pytest 9 dropped.
    answered = Counter()
    for operation in [result.ok() for result in described.get_all_operations()]:
        if mode is GenerationMode.NEGATIVE and not operation.body:
            continue  # nothing can be wrong in it

        @given(case=operation.as_strategy(generation_mode=mode))
        @settings(max_examples=EXAMPLES, deadline=None)
        def ask(case):
            answered[case.call_and_validate(checks=PROMISES).status_code] += 1

        ask()
    assert sum(answered.values()) > 4 * EXAMPLES
    assert answered[200 if mode is GenerationMode.POSITIVE else 422] > 0


@pytest.mark.parametrize("prefix", ["", "/text"])
def test_the_documentation_page_fetches_nothing_from_elsewhere(app, prefix):
    async def pages():
        transport = httpx.ASGITransport(app, root_path=prefix)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            page = await client.get(f"{prefix}/docs")
            files = re.findall(rf'="({prefix}/docs/static/[^"]+)"', page.text)
            return page.text, [await client.get(name) for name in files]

    page, files = asyncio.run(pages())
    assert f"url: '{prefix}/openapi.json'" in page
    assert "//" not in page
    assert len(files) == 3
    assert all(answer.status_code == 200 and len(answer.content) > 1000 for answer in files)
