"""Answers over HTTP of every kind of head are those of `Predictor`; clients of Hugging Face."""

import asyncio

import httpx
import numpy as np
import pytest
from huggingface_hub import InferenceClient

from orchestrator.inference.inputs import rows_of_texts
from orchestrator.inference.predictor import Predictor
from orchestrator.zoo import Zoo
from serving.model.engine import load_engine
from tests.support.listening import listening
from tests.support.packages import SENTENCES, commit_graph, commit_tiny
from tests.support.serving import NoRecorder, application

HEADS = (
    {"type": "cls", "name": "topic", "num_labels": 3},
    {"type": "multilabel", "name": "flags", "num_labels": 2},
    {"type": "tags", "name": "ner", "num_labels": 3},
    {"type": "regression", "name": "score"},
    {"type": "span", "name": "answers"},
    {"type": "choice", "name": "pick"},
    {"type": "similarity", "name": "near", "projection_size": 8},
    {"type": "mlm"},
)
QUESTION, CONTEXT = "Return the sum", "Start a worker process\nand wait until it is ready."
TEXTS = [*SENTENCES, CONTEXT]


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    return Zoo(str(tmp_path_factory.mktemp("zoo")))


@pytest.fixture(scope="module")
def package(zoo):
    return commit_tiny(zoo, "float", targets=HEADS)


@pytest.fixture(scope="module", params=["torch", "onnxruntime"])
def app(zoo, package, request):
    """The same heads in both runtimes; what is known of them is that of torch."""
    if request.param == "torch":
        served = commit_tiny(zoo, "many", targets=HEADS)
    else:
        served = commit_graph(zoo, package, "many")
    engine = load_engine(served)
    assert engine.card.backend == request.param
    return application(engine, NoRecorder()).app


@pytest.fixture(scope="module")
def known(package):
    """Answers of the predictor to texts, and to pairs of texts."""
    predictor = Predictor.open(package)
    return lambda head, *texts: predictor.answers(rows_of_texts(*texts), head)


@pytest.fixture(scope="module")
def post(app):
    def send(path, **body):
        async def once():
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                return await client.post(path, json=body)

        return asyncio.run(once())

    return send


def predict(post, inputs, target):
    answer = post("/predict", inputs=inputs, target=target)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_classes_are_ranked(post, known):
    for row, answer in zip(predict(post, TEXTS, "topic"), known("topic", TEXTS), strict=True):
        found = {entry["label"]: entry["score"] for entry in row}
        assert [found[f"LABEL_{i}"] for i in range(3)] == pytest.approx(answer.scores, abs=1e-5)
        assert row[0]["label"] == answer.label


def test_labels_and_numbers_are_those_of_the_predictor(post, known):
    for head, numbers in (("flags", "scores"), ("score", "values")):
        for row, answer in zip(predict(post, TEXTS, head), known(head, TEXTS), strict=True):
            expected = answer.to_json()
            assert row[numbers] == pytest.approx(list(expected[numbers]), abs=1e-5)
            assert row.keys() == expected.keys()
    assert predict(post, TEXTS[0], "flags")["labels"] == list(known("flags", TEXTS[:1])[0].labels)


def test_spans_have_the_characters_of_the_text_as_it_was_sent(post, known):
    for text, row, answer in zip(
        TEXTS, predict(post, TEXTS, "ner"), known("ner", TEXTS), strict=True
    ):
        assert [(s["entity_group"], s["start"], s["end"]) for s in row] == [
            (span.label, span.start, span.end) for span in answer.spans
        ]
        assert all(span["word"] == text[span["start"] : span["end"]] for span in row)
    assert any(predict(post, TEXTS, "ner"))


def test_a_question_is_answered_from_its_context(post, known):
    asked = {"question": QUESTION, "context": CONTEXT}
    found = predict(post, asked, "answers")
    (answer,) = known("answers", [QUESTION], [CONTEXT])
    assert found == {"answer": answer.text, "start": answer.start, "end": answer.end,
                     "score": pytest.approx(answer.score, abs=1e-5)}  # fmt: skip
    assert predict(post, [asked], "answers") == [found]
    assert predict(post, [QUESTION, CONTEXT], "answers") == found


def test_one_of_several_choices_is_made(post):
    found = predict(post, {"question": QUESTION, "choices": list(SENTENCES[:4])}, "pick")
    assert sum(found["scores"]) == pytest.approx(1)
    assert found["choice"] == int(np.argmax(found["scores"]))
    turned = predict(post, {"question": QUESTION, "choices": list(SENTENCES[3::-1])}, "pick")
    assert turned["scores"][::-1] == pytest.approx(found["scores"], abs=1e-5)


def test_vectors_are_those_of_the_named_target(post, known):
    vectors = post("/embed", inputs=TEXTS, target="near").json()
    expected = [answer.vector for answer in known("near", TEXTS)]
    np.testing.assert_allclose(vectors, expected, atol=1e-5)
    assert np.shape(vectors) == (len(TEXTS), 8)
    assert np.shape(post("/embed", inputs=TEXTS).json()) == (len(TEXTS), 16)
    body = {"source_sentence": TEXTS[0], "sentences": TEXTS[1:]}
    cosines = post("/similarity", inputs=body, target="near").json()
    np.testing.assert_allclose(cosines, [np.dot(vectors[0], v) for v in vectors[1:]], atol=1e-5)


@pytest.mark.parametrize(
    ("path", "body", "status", "says"),
    [
        ("/predict", {"inputs": "a"}, 422, "several targets: topic, flags"),
        ("/predict", {"inputs": "a", "target": "near"}, 400, "/embed and /similarity answer it"),
        ("/embed", {"inputs": "a", "target": "ner"}, 400, "/predict answers it"),
        ("/predict", {"inputs": "a", "target": "answers"}, 422, "`question` and `context`"),
        ("/predict", {"inputs": "a", "target": "pick"}, 422, "`choices`"),
        ("/predict", {"inputs": [["a", "b"]], "target": "ner"}, 422, "needs a text"),
        ("/predict", {"inputs": "a", "target": "ner", "raw_scores": True}, 422, "raw_scores"),
        ("/predict", {"inputs": "a", "target": "none"}, 404, "Targets: topic"),
        (
            "/predict",
            {"inputs": {"question": "a", "choices": []}, "target": "pick"},
            422,
            "choices",
        ),
        ("/similarity", {"inputs": {"source_sentence": "a", "sentences": []}}, 400, "empty"),
    ],
)
def test_a_request_that_does_not_fit_is_told_what_would(post, path, body, status, says):
    answer = post(path, **body)
    assert answer.status_code == status
    assert says in answer.json()["error"]


def test_tensors_of_the_kinds_that_have_them(post, known):
    tensor = {"name": "text", "datatype": "BYTES", "shape": [1], "data": [TEXTS[0]]}
    wanted = [{"name": name} for name in ("flags.scores", "score.values", "topic.label")]
    found = post("/v2/models/many/infer", inputs=[tensor], outputs=wanted).json()["outputs"]
    assert found[0]["data"] == pytest.approx(list(known("flags", TEXTS[:1])[0].scores), abs=1e-5)
    assert found[1]["data"] == pytest.approx(list(known("score", TEXTS[:1])[0].values), abs=1e-5)
    assert found[2]["data"] == [known("topic", TEXTS[:1])[0].label]
    assert post("/v2/models/many/infer", inputs=[tensor]).status_code == 422


def test_the_client_of_hugging_face_reads_vectors_and_cosines(app, post):
    body = {"source_sentence": TEXTS[0], "sentences": TEXTS[1:]}
    with listening(app) as url:
        vectors = InferenceClient(f"{url}/embed", timeout=30).feature_extraction(TEXTS[0])
        client = InferenceClient(f"{url}/similarity", timeout=30)
        cosines = client.sentence_similarity(TEXTS[0], other_sentences=TEXTS[1:])
    np.testing.assert_allclose(vectors, post("/embed", inputs=TEXTS[0]).json(), atol=1e-6)
    assert cosines == pytest.approx(post("/similarity", inputs=body).json(), abs=1e-6)


def test_the_client_of_hugging_face_reads_spans(tmp_path):
    package = commit_tiny(Zoo(str(tmp_path)), "ner", targets=HEADS[2:3])
    (answer,) = Predictor.open(package).answers(rows_of_texts([CONTEXT]))
    with listening(application(load_engine(package), NoRecorder()).app) as url:
        found = InferenceClient(f"{url}/predict", timeout=30).token_classification(CONTEXT)
    assert [(s.entity_group, s.word, s.start, s.end) for s in found] == [
        (span.label, span.text, span.start, span.end) for span in answer.spans
    ]
    assert found
