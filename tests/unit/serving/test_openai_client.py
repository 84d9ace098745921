"""The client library of OpenAI, over real HTTP."""

import base64

import numpy as np
import openai
import pytest

from orchestrator.inference.inputs import rows_of_texts
from orchestrator.inference.predictor import Predictor
from tests.support.listening import listening
from tests.support.packages import SENTENCES
from tests.support.serving import NoRecorder, application


@pytest.fixture(scope="module")
def url(engine):
    with listening(application(engine, NoRecorder()).app) as address:
        yield f"{address}/v1"


@pytest.fixture(scope="module")
def client(url):
    return openai.OpenAI(base_url=url, api_key="none", timeout=30, max_retries=0)


@pytest.fixture(scope="module")
def unit(package):
    vectors = Predictor.open(package).embed(rows_of_texts(SENTENCES))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def vectors(answer):
    return [entry.embedding for entry in answer.data]


def test_embeddings_in_both_encodings(client, unit):
    for options in ({}, {"encoding_format": "float"}, {"encoding_format": "base64"}):
        found = client.embeddings.create(model="tiny", input=list(SENTENCES), **options)
        if options.get("encoding_format") == "base64":
            raw = [base64.b64decode(each) for each in vectors(found)]
            found_vectors = [np.frombuffer(each, "<f4") for each in raw]
        else:
            found_vectors = vectors(found)
        np.testing.assert_allclose(found_vectors, unit, atol=1e-6)
        assert found.usage.prompt_tokens > 0


def test_leading_dimensions_are_scaled_again(client, unit):
    found = client.embeddings.create(model="tiny", input=SENTENCES[0], dimensions=4)
    expected = unit[0, :4] / np.linalg.norm(unit[0, :4])
    np.testing.assert_allclose(vectors(found), [expected], atol=1e-6)


@pytest.mark.parametrize("special", [True, False])
def test_token_ids_are_those_of_tokenize(client, unit, engine, special):
    ids = [
        [token["id"] for token in engine.reader.tokens(text, special=special)]
        for text in SENTENCES[:3]
    ]
    found = client.embeddings.create(model="tiny", input=ids)
    np.testing.assert_allclose(vectors(found), unit[:3], atol=1e-6)
    single = client.embeddings.create(model="tiny", input=ids[0])
    np.testing.assert_allclose(vectors(single), unit[:1], atol=1e-6)


def test_models(client):
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").id == "tiny"
    assert client.models.retrieve("tiny/v0001").id == "tiny"


def test_errors_are_understood(client):
    with pytest.raises(openai.NotFoundError) as missing:
        client.embeddings.create(model="other", input="a")
    assert (missing.value.code, missing.value.type) == ("not_found", "invalid_request_error")
    assert missing.value.request_id
    with pytest.raises(openai.UnprocessableEntityError, match="dimensions"):
        client.embeddings.create(model="tiny", input="a", dimensions=4096)
    with pytest.raises(openai.APIStatusError) as many:
        client.embeddings.create(model="tiny", input=["a"] * 33)
    assert (many.value.status_code, many.value.code) == (413, "too_many_inputs")
