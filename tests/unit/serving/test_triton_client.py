"""`tritonclient[http]`: metadata, readiness, and inference with JSON and binary tensors."""

import json
import re

import numpy as np
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from orchestrator.inference.inputs import rows_of_texts
from orchestrator.inference.predictor import Predictor
from orchestrator.zoo import Zoo
from serving.model.engine import load_engine
from tests.support.listening import listening
from tests.support.packages import LABELS, SENTENCES, commit_tiny
from tests.support.serving import NoRecorder, application

CONTEXT = "Start a worker process\nand wait until it is ready."
HEADS = (
    {"type": "cls", "name": "topic", "num_labels": 3},
    {"type": "tags", "name": "ner", "num_labels": 3},
    {"type": "regression", "name": "score"},
    {"type": "span", "name": "answers"},
    {"type": "choice", "name": "pick"},
    {"type": "similarity", "name": "near", "projection_size": 8},
)


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    return Zoo(str(tmp_path_factory.mktemp("zoo")))


@pytest.fixture(scope="module")
def client(engine):
    with listening(application(engine, NoRecorder()).app) as url:
        yield triton.InferenceServerClient(url.removeprefix("http://"))


@pytest.fixture(scope="module")
def many(zoo):
    package = commit_tiny(zoo, "many", targets=HEADS)
    with listening(application(load_engine(package), NoRecorder()).app) as url:
        yield Predictor.open(package), triton.InferenceServerClient(url.removeprefix("http://"))


@pytest.fixture(scope="module")
def known(package):
    answers = Predictor.open(package).answers(rows_of_texts(SENTENCES[:3]))
    return np.asarray([answer.scores for answer in answers])


def bytes_input(name, values, *, binary=True):
    array = np.asarray(values, dtype=object)
    tensor = triton.InferInput(name, list(array.shape), "BYTES")
    tensor.set_data_from_numpy(array, binary_data=binary)
    return tensor


def test_it_sees_server_and_model(client):
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("tiny")
    assert client.is_model_ready("tiny", "v0001")
    assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
    assert client.get_model_metadata("tiny")["name"] == "tiny"
    assert client.get_model_config("tiny")["max_batch_size"] == 32
    assert client.get_model_repository_index()[0]["state"] == "READY"
    with pytest.raises(InferenceServerException, match="not served here"):
        client.get_model_metadata("other")


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False, None])
def test_it_infers_in_json_and_in_binary(client, known, binary_in, binary_out):
    outputs = None
    if binary_out is not None:
        names = ("topic.label", "topic.scores")
        outputs = [triton.InferRequestedOutput(name, binary_data=binary_out) for name in names]
    tensor = bytes_input("text", SENTENCES[:3], binary=binary_in)
    found = client.infer("tiny", [tensor], outputs=outputs, request_id="7")
    np.testing.assert_allclose(found.as_numpy("topic.scores"), known, atol=1e-6)
    labels = [each.decode() if isinstance(each, bytes) else each
              for each in found.as_numpy("topic.label")]  # fmt: skip
    assert labels == [LABELS[index] for index in known.argmax(1)]
    assert found.get_response()["id"] == "7"


def test_it_infers_in_another_thread(client, known):
    waiting = client.async_infer("tiny", [bytes_input("text", SENTENCES[:3])])
    np.testing.assert_allclose(
        waiting.get_result(timeout=30).as_numpy("topic.scores"), known, atol=1e-6
    )


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.uint16])
def test_it_sends_token_ids(client, known, engine, dtype):
    rows = [engine.reader.tokens(text, special=True) for text in SENTENCES[:3]]
    length = max(map(len, rows))
    ids = np.zeros((3, length), dtype=dtype)
    mask = np.zeros((3, length), dtype=dtype)
    for place, row in enumerate(rows):
        ids[place, : len(row)] = [token["id"] for token in row]
        mask[place, : len(row)] = 1
    tensors = []
    for name, values in (("input_ids", ids), ("attention_mask", mask)):
        tensor = triton.InferInput(name, list(values.shape), triton.np_to_triton_dtype(dtype))
        tensor.set_data_from_numpy(values)
        tensors.append(tensor)
    found = client.infer("tiny", tensors).as_numpy("topic.scores")
    np.testing.assert_allclose(found, known, atol=1e-6)


def test_a_number_that_is_not_finite_is_refused(client):
    tensor = triton.InferInput("input_ids", [1, 2], "FP32")
    tensor.set_data_from_numpy(np.asarray([[1, np.nan]], dtype=np.float32))
    with pytest.raises(InferenceServerException, match="NaN or infinite") as refused:
        client.infer("tiny", [tensor])
    assert refused.value.status() == "422"


def test_every_kind_has_tensors(many):
    predictor, client = many
    text, pair = [CONTEXT], ["What starts?"]
    found = client.infer("many", [bytes_input("text", text)], outputs=[
        triton.InferRequestedOutput(name)
        for name in ("topic.scores", "score.values", "ner.spans", "near.vector", "embedding")
    ])  # fmt: skip
    rows = rows_of_texts(text)
    for name, head, field in (
        ("topic.scores", "topic", "scores"),
        ("score.values", "score", "values"),
        ("near.vector", "near", "vector"),
    ):
        expected = [getattr(answer, field) for answer in predictor.answers(rows, head)]
        np.testing.assert_allclose(found.as_numpy(name), expected, atol=1e-5)
    spans = json.loads(found.as_numpy("ner.spans")[0])
    (answer,) = predictor.answers(rows, "ner")
    assert [span["word"] for span in spans] == [span.text for span in answer.spans]
    assert found.as_numpy("embedding").shape == (1, 16)
    asked = client.infer(
        "many",
        [bytes_input("text", pair), bytes_input("text_pair", text)],
        outputs=[
            triton.InferRequestedOutput(f"answers.{name}") for name in ("answer", "start", "end")
        ],
    )
    (answer,) = predictor.answers(rows_of_texts(pair, text), "answers")
    assert asked.as_numpy("answers.answer")[0].decode() == answer.text
    assert asked.as_numpy("answers.start").tolist() == [answer.start]
    chosen = client.infer(
        "many",
        [bytes_input("text", pair), bytes_input("choices", [list(SENTENCES[:3])])],
        outputs=[triton.InferRequestedOutput(f"pick.{name}") for name in ("choice", "scores")],
    )
    scores = chosen.as_numpy("pick.scores")
    assert scores.sum() == pytest.approx(1)
    assert chosen.as_numpy("pick.choice").tolist() == scores.argmax(1).tolist()


@pytest.mark.parametrize(
    ("head", "content", "says"),
    [
        (b"999", b"{}", "body's size"),
        (b"-1", b"{}", "body's size"),
        (b"2", b"{}rest", "inputs"),
        (None, b"\x00\x01", "UTF-8|JSON"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(call, head, content, says):
    headers = {} if head is None else {"Inference-Header-Content-Length": head.decode()}
    answer = call("POST", "/v2/models/tiny/infer", content=content, headers=headers)
    assert answer.status_code in (400, 422)
    assert re.search(says, answer.json()["error"])


@pytest.mark.parametrize(
    "raw", [b"", b"\x05\0\0\0ab", b"\xff\xff\xff\xff", b"\x01\0\0\0a\x01", b"\x01\0\0\0\xff"]
)
def test_binary_texts_that_end_early_are_refused(call, raw):
    size = {"binary_data_size": len(raw)}
    head = json.dumps(
        {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1], "parameters": size}]}
    ).encode()
    headers = {"Inference-Header-Content-Length": str(len(head))}
    answer = call("POST", "/v2/models/tiny/infer", content=head + raw, headers=headers)
    assert answer.status_code == 422
