"""The native routes with a real package: shapes, values, and every way to get them wrong."""

import numpy as np
import pytest
import torch

from orchestrator.data.processors.text import TextProcessor
from orchestrator.modeling.package import load_model
from tests.support.packages import LABELS, MAX_LENGTH, SENTENCES


@pytest.fixture(scope="module")
def direct(package):
    """Logits and embeddings of one text at a time, straight from the model: the oracle."""
    processor = TextProcessor.load(package.path)
    model = load_model(package.path).eval()

    @torch.inference_mode()
    def run(text, pair=None):
        batch = processor([text], None if pair is None else [pair], MAX_LENGTH)
        pooled = model.pool(model.encode(batch), batch)
        return model.predict(batch)["topic"][0].numpy(), pooled[0].numpy()

    return run


def softmax(logits):
    scores = np.exp(np.asarray(logits, dtype=np.float64))
    return scores / scores.sum()


def as_array(prediction):
    by_label = {entry["label"]: entry["score"] for entry in prediction}
    assert set(by_label) == set(LABELS)
    return np.asarray([by_label[label] for label in LABELS])


def test_a_single_text_gets_one_ranking(call, direct):
    answer = call("POST", "/predict", json={"inputs": SENTENCES[0]})
    assert answer.status_code == 200
    body = answer.json()
    np.testing.assert_allclose(as_array(body), softmax(direct(SENTENCES[0])[0]), atol=1e-6)
    scores = [entry["score"] for entry in body]
    assert scores == sorted(scores, reverse=True)
    assert sum(scores) == pytest.approx(1)


def test_a_batch_is_answered_in_order_like_its_texts_alone(call, direct):
    for inputs in (list(SENTENCES), [[text] for text in SENTENCES]):
        body = call("POST", "/predict", json={"inputs": inputs}).json()
        assert len(body) == len(SENTENCES)
        for text, prediction in zip(SENTENCES, body, strict=True):
            np.testing.assert_allclose(as_array(prediction), softmax(direct(text)[0]), atol=1e-5)


def test_pairs_are_pairs(call, direct):
    first, second = "Return the sum", "of the elements"
    body = call("POST", "/predict", json={"inputs": [[first, second], [first]]}).json()
    np.testing.assert_allclose(as_array(body[0]), softmax(direct(first, second)[0]), atol=1e-5)
    np.testing.assert_allclose(as_array(body[1]), softmax(direct(first)[0]), atol=1e-5)


def test_raw_scores_are_logits(call, direct):
    body = call("POST", "/predict", json={"inputs": SENTENCES[1], "raw_scores": True}).json()
    np.testing.assert_allclose(as_array(body), direct(SENTENCES[1])[0], atol=1e-5)


def test_embeddings_are_normalized_unless_told(call, direct):
    vector = direct(SENTENCES[2])[1]
    body = call("POST", "/embed", json={"inputs": SENTENCES[2]}).json()
    np.testing.assert_allclose(body, [vector / np.linalg.norm(vector)], atol=1e-6)
    raw = call("POST", "/embed", json={"inputs": [SENTENCES[2]], "normalize": False}).json()
    np.testing.assert_allclose(raw, [vector], atol=1e-5)


def test_long_texts_are_refused_or_cut_as_the_sender_says(call, direct):
    long = " ".join(SENTENCES)
    refused = call("POST", "/predict", json={"inputs": ["short", long]})
    assert (refused.status_code, refused.json()["error_type"]) == (413, "too_long")
    assert "Input 1" in refused.json()["error"]
    cut = call("POST", "/predict", json={"inputs": long, "truncate": True})
    np.testing.assert_allclose(as_array(cut.json()), softmax(direct(long)[0]), atol=1e-6)


def test_tokens_point_into_the_text(call):
    text = "Return the sum"
    tokens = call("POST", "/tokenize", json={"inputs": text}).json()[0]
    assert [tokens[0]["text"], tokens[-1]["text"]] == ["[CLS]", "[SEP]"]
    assert tokens[0]["special"]
    assert tokens[0]["start"] is None
    pieces = [text[token["start"] : token["stop"]] for token in tokens[1:-1]]
    assert "".join(pieces) == text.replace(" ", "")
    bare = call("POST", "/tokenize", json={"inputs": text, "add_special_tokens": False}).json()[0]
    assert bare == tokens[1:-1]


def test_info_tells_the_limits_and_no_path(call, package):
    body = call("GET", "/info").json()
    assert body["model_id"] == "tiny"
    assert body["max_input_length"] == MAX_LENGTH
    assert body["max_client_batch_size"] == 32
    assert body["max_batch_tokens"] == 16384
    assert body["targets"] == {"topic": list(LABELS)}
    assert body["model_type"]["classifier"]["id2label"] == {str(i): x for i, x in enumerate(LABELS)}
    assert body["model_sha"] == package.manifest_sha256
    assert str(package.path) not in str(body)


@pytest.mark.parametrize(
    ("body", "status", "error_type"),
    [
        ({}, 422, "validation"),
        ({"inputs": []}, 400, "empty"),
        ({"inputs": ""}, 400, "empty"),
        ({"inputs": ["ok", " \n\t"]}, 400, "empty"),
        ({"inputs": None}, 422, "validation"),
        ({"inputs": 7}, 422, "validation"),
        ({"inputs": {"a": "b"}}, 422, "validation"),
        ({"inputs": ["ok", 7]}, 422, "validation"),
        ({"inputs": [["a", "b", "c"]]}, 422, "validation"),
        ({"inputs": [[]]}, 422, "validation"),
        ({"inputs": [["a"], "b"]}, 200, None),
        ({"inputs": "ok", "truncate": "yes"}, 422, "validation"),
        ({"inputs": "ok", "raw_scores": 1}, 422, "validation"),
        ({"inputs": "ok", "target": 7}, 422, "validation"),
        ({"inputs": "ok", "target": "none"}, 404, "not_found"),
        ({"inputs": "ok", "target": "topic"}, 200, None),
        ({"inputs": "ok", "surprise": 1}, 422, "validation"),
        ({"inputs": ["x"] * 33}, 413, "too_many_inputs"),
        ({"inputs": ["x"] * 32}, 200, None),
    ],
)
def test_what_is_wrong_is_named_and_never_a_server_error(call, body, status, error_type):
    answer = call("POST", "/predict", json=body)
    assert answer.status_code == status
    if error_type is not None:
        assert set(answer.json()) == {"error", "error_type", "request_id"}
        assert answer.json()["error_type"] == error_type
        assert answer.json()["request_id"] == answer.headers["x-request-id"]


def test_half_a_surrogate_pair_is_refused(call):
    answer = call(
        "POST",
        "/predict",
        content=rb'{"inputs": "a \ud800 b"}',
        headers={"content-type": "application/json"},
    )
    assert (answer.status_code, answer.json()["error_type"]) == (422, "validation")


def test_control_characters_and_special_token_names_are_just_text(call):
    for text in ("\x00", "[MASK] [CLS]", "\u202e", "🤖" * 5, "a" * 5000):
        answer = call("POST", "/predict", json={"inputs": text, "truncate": True})
        assert answer.status_code == 200, text


def test_more_tokens_than_one_run_may_have(call, served):
    served.policy.limits = served.policy.limits.model_copy(update={"max_batch_tokens": 40})
    refused = call("POST", "/predict", json={"inputs": list(SENTENCES)})
    assert (refused.status_code, refused.json()["error_type"]) == (413, "too_many_inputs")
    assert call("POST", "/predict", json={"inputs": SENTENCES[0]}).status_code == 200
    one = call("POST", "/tokenize", json={"inputs": [SENTENCES[0]]})
    assert one.status_code == 200
    for inputs in ("a " * 41, [SENTENCES[0]] * (1 + 40 // len(one.json()[0]))):
        refused = call("POST", "/tokenize", json={"inputs": inputs})
        assert (refused.status_code, refused.json()["error_type"]) == (413, "too_many_inputs")


def test_answers_that_are_too_large_are_refused(call, served):
    served.policy.limits = served.policy.limits.model_copy(update={"max_answer_bytes": 1000})
    assert call("POST", "/tokenize", json={"inputs": ["a"]}).status_code == 200
    refused = call("POST", "/tokenize", json={"inputs": list(SENTENCES) * 4})
    assert (refused.status_code, refused.json()["error_type"]) == (413, "too_large")


def test_unknown_routes_and_methods_have_the_same_error_shape(call, served):
    missing = call("GET", "/nothing-here")
    assert (missing.status_code, missing.json()["error_type"]) == (404, "not_found")
    wrong = call("GET", "/predict")
    assert (wrong.status_code, wrong.json()["error_type"]) == (405, "method_not_allowed")
    assert served.recorder.rejections == ["not_found", "method_not_allowed"]


def test_health_routes_follow_the_replicas_state(call, served):
    assert [call("GET", path).status_code for path in ("/healthz", "/readyz", "/health")] == [
        200
    ] * 3
    served.service.health.probe_ok = False
    assert [call("GET", path).status_code for path in ("/healthz", "/readyz", "/health")] == [
        *(200, 200),
        503,
    ]
    served.service.health.ready = False
    unready = call("GET", "/readyz")
    assert (unready.status_code, unready.json()["error_type"]) == (503, "unhealthy")
    assert call("GET", "/healthz").status_code == 200


def test_the_documentation_lists_every_route_with_an_example(call):
    assert call("GET", "/docs").status_code == 200
    paths = call("GET", "/openapi.json").json()["paths"]
    posts = {path: entry["post"] for path, entry in paths.items() if "post" in entry}
    assert {"/predict", "/embed", "/tokenize", "/v1/embeddings", "/v2/models/{model}/infer"} <= set(
        posts
    )
    for path, entry in posts.items():
        if "requestBody" not in entry or path == "/v1/completions":
            continue
        example = entry["requestBody"]["content"]["application/json"]["example"]
        url = path.replace("{model}", "tiny").replace("{version}", "v0001")
        assert call("POST", url, json=example).status_code == 200, path
