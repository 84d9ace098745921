"""Open Inference Protocol V2 and OpenAI, compared with the native answers."""

import base64

import numpy as np
import pytest

from tests.support.packages import LABELS, SENTENCES


def tensor(name, texts, **changes):
    return {"name": name, "datatype": "BYTES", "shape": [len(texts)], "data": list(texts)} | changes


def infer(call, *tensors, path="/v2/models/tiny/infer", **body):
    return call("POST", path, json={"inputs": list(tensors), **body})


def native_scores(call, inputs):
    answers = call("POST", "/predict", json={"inputs": inputs}).json()
    return np.asarray(
        [[{e["label"]: e["score"] for e in a}[label] for label in LABELS] for a in answers]
    )


def test_v2_describes_the_server_and_the_model(call):
    assert set(call("GET", "/v2").json()) == {"name", "version", "extensions"}
    for path in ("/v2/models/tiny", "/v2/models/tiny/versions/v0001"):
        body = call("GET", path).json()
        assert (body["name"], body["versions"]) == ("tiny", ["v0001"])
        assert body["inputs"] == [{"name": "text", "datatype": "BYTES", "shape": [-1]}]
        assert {output["name"]: output["shape"] for output in body["outputs"]} == {
            "topic.label": [-1],
            "topic.scores": [-1, 3],
            "embedding": [-1, 16],
        }
        assert call("GET", f"{path}/ready").status_code == 200
    for path in ("/v2/health/live", "/v2/health/ready"):
        assert call("GET", path).status_code == 200


def test_v2_infers_what_the_native_route_predicts(call):
    texts = SENTENCES[:3]
    body = infer(call, tensor("text", texts), id="42").json()
    assert (body["id"], body["model_name"], body["model_version"]) == ("42", "tiny", "v0001")
    label, scores = body["outputs"]
    assert (label["name"], label["datatype"], label["shape"]) == ("topic.label", "BYTES", [3])
    assert (scores["name"], scores["datatype"], scores["shape"]) == ("topic.scores", "FP32", [3, 3])
    expected = native_scores(call, list(texts))
    np.testing.assert_allclose(np.reshape(scores["data"], (3, 3)), expected, atol=1e-6)
    assert label["data"] == [LABELS[index] for index in expected.argmax(1)]


def test_v2_gives_the_outputs_that_are_asked_for(call):
    body = infer(
        call,
        tensor("text", SENTENCES[:2]),
        outputs=[{"name": "embedding"}, {"name": "topic.label"}],
    ).json()
    assert [output["name"] for output in body["outputs"]] == ["embedding", "topic.label"]
    vectors = np.reshape(body["outputs"][0]["data"], (2, 16))
    expected = call("POST", "/embed", json={"inputs": list(SENTENCES[:2])}).json()
    np.testing.assert_allclose(vectors, expected, atol=1e-6)


def test_v2_pairs(call):
    body = infer(call, tensor("text", ["Return"]), tensor("text_pair", ["the sum"])).json()
    expected = native_scores(call, [["Return", "the sum"]])
    np.testing.assert_allclose([body["outputs"][1]["data"]], expected, atol=1e-6)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 422),
        ({"inputs": []}, 422),
        ({"inputs": {}}, 422),
        ({"inputs": [7]}, 422),
        ({"inputs": [tensor("other", ["a"])]}, 422),
        ({"inputs": [tensor(["text"], ["a"])]}, 422),
        ({"inputs": [tensor("text", ["a"], datatype="FP32")]}, 422),
        ({"inputs": [tensor("text", ["a"], shape=[2])]}, 422),
        ({"inputs": [tensor("text", ["a"], shape="1")]}, 422),
        ({"inputs": [tensor("text", [7])]}, 422),
        ({"inputs": [tensor("text", []), tensor("text", [])]}, 422),
        ({"inputs": [tensor("text", [])]}, 400),
        ({"inputs": [tensor("text", ["a", "b"]), tensor("text_pair", ["a"])]}, 422),
        ({"inputs": [tensor("text", ["a"])], "outputs": [{"name": "none"}]}, 422),
        ({"inputs": [tensor("text", ["a"])], "outputs": [{}]}, 422),
        ({"inputs": [tensor("text", ["a"])], "outputs": []}, 422),
        ({"inputs": [tensor("text", ["a"])], "outputs": "all"}, 422),
        ({"inputs": [tensor("text", ["a"])], "parameters": []}, 200),
        ({"inputs": [tensor("text", ["a"])], "parameters": [1]}, 422),
        ({"inputs": [tensor("text", ["a"])], "id": 7}, 422),
        ({"inputs": [tensor("text", ["a"] * 33)]}, 413),
        ({"inputs": [tensor("text", [" ".join(SENTENCES)])]}, 413),
        (
            {"inputs": [tensor("text", [" ".join(SENTENCES)])], "parameters": {"truncate": True}},
            200,
        ),
    ],
)
def test_v2_refuses_what_is_wrong(call, body, status):
    assert call("POST", "/v2/models/tiny/infer", json=body).status_code == status


def test_another_model_or_version_is_not_found_anywhere(call):
    good = tensor("text", ["a"])
    assert infer(call, good, path="/v2/models/other/infer").status_code == 404
    assert infer(call, good, path="/v2/models/tiny/versions/v0002/infer").status_code == 404
    assert call("GET", "/v2/models/other").status_code == 404
    assert call("GET", "/v1/models/other").status_code == 404
    answer = call("POST", "/v1/embeddings", json={"input": "a", "model": "other"})
    assert answer.status_code == 404


def test_openai_embeddings_in_both_encodings(call):
    texts = list(SENTENCES[:2])
    expected = call("POST", "/embed", json={"inputs": texts}).json()
    body = call("POST", "/v1/embeddings", json={"input": texts, "model": "tiny"}).json()
    assert (body["object"], body["model"]) == ("list", "tiny")
    assert [item["index"] for item in body["data"]] == [0, 1]
    np.testing.assert_allclose([item["embedding"] for item in body["data"]], expected, atol=1e-6)
    tokens = sum(len(row) for row in call("POST", "/tokenize", json={"inputs": texts}).json())
    assert body["usage"] == {"prompt_tokens": tokens, "total_tokens": tokens}
    coded = call("POST", "/v1/embeddings", json={"input": texts[0], "encoding_format": "base64"})
    raw = base64.b64decode(coded.json()["data"][0]["embedding"])
    np.testing.assert_allclose(np.frombuffer(raw, dtype="<f4"), expected[0], atol=1e-6)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 422),
        ({"input": []}, 400),
        ({"input": ""}, 400),
        ({"input": [1, 2]}, 200),
        ({"input": [[1, 2], [3]]}, 200),
        ({"input": ["a", [3]]}, 200),
        ({"input": [1, "a"]}, 422),
        ({"input": [[]]}, 422),
        ({"input": [-1]}, 422),
        ({"input": [10**9]}, 422),
        ({"input": "a", "encoding_format": "int8"}, 422),
        ({"input": "a", "dimensions": 8}, 200),
        ({"input": "a", "dimensions": 0}, 422),
        ({"input": "a", "dimensions": 17}, 422),
        ({"input": "a", "dimensions": 16}, 200),
        ({"input": "a", "user": "u", "model": None}, 200),
        ({"input": "a", "model": 7}, 422),
        ({"input": " ".join(SENTENCES)}, 413),
    ],
)
def test_openai_refuses_what_is_wrong(call, body, status):
    assert call("POST", "/v1/embeddings", json=body).status_code == status


def test_openai_lists_the_model(call):
    body = call("GET", "/v1/models").json()
    assert [entry["id"] for entry in body["data"]] == ["tiny"]
    assert call("GET", "/v1/models/tiny").json() == body["data"][0]
