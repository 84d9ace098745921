"""A sentence embedder over HTTP: every protocol answers as sentence-transformers does."""

import asyncio

import httpx
import numpy as np
import pytest
from torch import nn

from orchestrator.modeling.huggingface.importing import ImportOptions, import_checkpoint
from orchestrator.zoo import Zoo
from serving.model.engine import load_engine
from tests.support.sentences import TEXTS, sentence_folder
from tests.support.serving import NoRecorder, application

EXACT = 1e-6
CASES = {
    "plain": {"pooling": "cls", "include_prompt": False},
    "projected": {
        "pooling": ("mean", "cls"),
        "layers": ((10, nn.Tanh()), "normalize"),
        "default": "query",
    },
}


@pytest.fixture(scope="module", params=CASES)
def both(request, tmp_path_factory):
    """Theirs, and ours as a function that posts JSON."""
    root = tmp_path_factory.mktemp("served")
    options = dict(CASES[request.param])
    theirs = sentence_folder(root / "m", options.pop("pooling"), **options)
    zoo = Zoo(str(root / "zoo"))
    package = import_checkpoint(zoo, f"hf:{root / 'm'}", ImportOptions(name="embedder"))
    app = application(load_engine(package), NoRecorder()).app

    def send(method, path, **body):
        async def once():
            transport = httpx.ASGITransport(app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                return await client.request(method, path, json=body or None)

        return asyncio.run(once())

    return theirs, send


def expected(theirs, **options):
    return theirs.encode(list(TEXTS), **options)


def test_the_native_protocol_has_prompts(both):
    theirs, send = both
    body = {"inputs": list(TEXTS), "truncate": True}
    found = send("POST", "/embed", **body).json()
    np.testing.assert_allclose(found, expected(theirs), atol=EXACT)
    for place in (
        {"prompt_name": "passage"},
        {"parameters": {"prompt_name": "passage", "truncate": True}},
    ):
        found = send("POST", "/embed", **body, **place).json()
        np.testing.assert_allclose(found, expected(theirs, prompt_name="passage"), atol=EXACT)
    plain = send("POST", "/embed", **body, prompt_name="").json()
    np.testing.assert_allclose(plain, expected(theirs, prompt=""), atol=EXACT)
    unit = expected(theirs, normalize_embeddings=True)
    found = send("POST", "/embed", **body, normalize=True).json()
    np.testing.assert_allclose(found, unit, atol=EXACT)
    inputs = {"source_sentence": TEXTS[0], "sentences": [TEXTS[1], TEXTS[2]]}
    cut = {"truncate": True}
    cosines = send("POST", "/similarity", inputs=inputs, parameters=cut).json()
    np.testing.assert_allclose(cosines, unit[1:3] @ unit[0], atol=EXACT)


def test_openai_takes_the_default_prompt(both):
    theirs, send = both
    short = [TEXTS[0][:18], TEXTS[2]]  # this protocol never cuts
    body = send("POST", "/v1/embeddings", input=short).json()
    vectors = [each["embedding"] for each in body["data"]]
    np.testing.assert_allclose(vectors, theirs.encode(short), atol=EXACT)


def test_the_open_inference_protocol_has_prompts(both):
    theirs, send = both
    column = {"name": "text", "datatype": "BYTES", "shape": [len(TEXTS)], "data": list(TEXTS)}
    for prompt in (None, "passage"):
        answer = send(
            "POST",
            "/v2/models/embedder/infer",
            inputs=[column],
            outputs=[{"name": "embedding"}],
            parameters={"truncate": True, "prompt_name": prompt},
        ).json()
        (found,) = answer["outputs"]
        vectors = np.reshape(found["data"], found["shape"])
        np.testing.assert_allclose(vectors, expected(theirs, prompt_name=prompt), atol=EXACT)


def test_a_prompt_that_is_not_there_is_refused_and_the_limit_is_stated(both):
    theirs, send = both
    answer = send("POST", "/embed", inputs="a", prompt_name="other")
    assert answer.status_code in (400, 422)
    assert "There is no such prompt. Prompts: " in answer.text
    assert "passage" in answer.text
    long = send("POST", "/embed", inputs=TEXTS[3])
    assert long.status_code >= 400
    assert "24 tokens" in long.text
    info = send("GET", "/info").json()
    assert info["max_input_length"] == theirs.max_seq_length
    assert info["embedding_size"] == len(expected(theirs)[0])
    kind = info["model_type"]
    assert kind["embedding"]["pooling"] in ("cls", "mean+cls")
    assert {"query", "passage"} <= set(kind["prompts"])
