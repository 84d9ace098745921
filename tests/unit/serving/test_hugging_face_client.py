"""`huggingface_hub.InferenceClient` with the address of the service alone, over real HTTP."""

import numpy as np
import pytest
from huggingface_hub import InferenceClient

from orchestrator.inference.inputs import rows_of_texts
from orchestrator.inference.predictor import Predictor
from orchestrator.zoo import Zoo
from serving.model.engine import load_engine
from tests.support.listening import listening
from tests.support.packages import LABELS, SENTENCES, commit_tiny
from tests.support.serving import NoRecorder, application

CONTEXT = "Start a worker process\nand wait until it is ready."


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    return Zoo(str(tmp_path_factory.mktemp("zoo")))


@pytest.fixture(scope="module")
def client_of(zoo):
    """Name and heads of a package → its predictor, and a client at its address."""
    open_servers = []

    def make(name, targets=None):
        package = commit_tiny(zoo, name, targets=targets)
        server = listening(application(load_engine(package), NoRecorder()).app)
        open_servers.append(server)
        return Predictor.open(package), InferenceClient(server.__enter__(), timeout=30)

    yield make
    for server in open_servers:
        server.__exit__(None, None, None)


@pytest.fixture(scope="module")
def topics(client_of):
    return client_of("topics")


@pytest.fixture(scope="module")
def embedder(client_of):
    return client_of("embedder", ({"type": "mlm"},))


def test_text_classification_with_its_parameters(topics):
    predictor, client = topics
    (answer,) = predictor.answers(rows_of_texts(SENTENCES[:1]))
    found = client.text_classification(SENTENCES[0])
    assert {each.label: each.score for each in found} == pytest.approx(
        dict(zip(LABELS, answer.scores, strict=True)), abs=1e-6
    )
    assert found[0].label == answer.label
    best = client.text_classification(SENTENCES[0], top_k=1)
    assert [each.label for each in best] == [answer.label]
    logits = client.text_classification(SENTENCES[0], function_to_apply="none")
    values = np.exp([each.score for each in logits])
    assert values / values.sum() == pytest.approx([each.score for each in found], abs=1e-5)
    single = client.text_classification(SENTENCES[0], function_to_apply="sigmoid")
    expected = [1 / (1 + np.exp(-each.score)) for each in logits]
    assert [each.score for each in single] == pytest.approx(expected, abs=1e-6)


def test_vectors_with_its_options(embedder):
    predictor, client = embedder
    text = SENTENCES[1]
    vector = predictor.embed(rows_of_texts([text]))[0]
    unit = vector / np.linalg.norm(vector)
    np.testing.assert_allclose(client.feature_extraction(text), [unit], atol=1e-6)
    raw = client.feature_extraction(text, normalize=False)
    np.testing.assert_allclose(raw, [vector], atol=1e-5)
    short = client.feature_extraction(text, dimensions=4, normalize=True)
    np.testing.assert_allclose(short, [vector[:4] / np.linalg.norm(vector[:4])], atol=1e-6)
    long = " ".join(SENTENCES)
    ends = [
        client.feature_extraction(long, truncate=True, truncation_direction=side)
        for side in ("left", "right")
    ]
    assert np.abs(ends[0] - ends[1]).max() > 1e-3
    kept = client.feature_extraction(long, truncate=True)
    np.testing.assert_allclose(kept, ends[1], atol=1e-6)


def test_cosines(embedder):
    predictor, client = embedder
    vectors = predictor.embed(rows_of_texts(SENTENCES))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    found = client.sentence_similarity(SENTENCES[0], other_sentences=list(SENTENCES[1:]))
    assert found == pytest.approx((vectors[1:] @ vectors[0]).tolist(), abs=1e-5)


def test_spans_and_left_out_types(client_of):
    predictor, client = client_of("ner", ({"type": "tags", "name": "ner", "num_labels": 3},))
    (answer,) = predictor.answers(rows_of_texts([CONTEXT]))
    found = client.token_classification(CONTEXT)
    assert [(s.entity_group, s.word, s.start, s.end) for s in found] == [
        (span.label, span.text, span.start, span.end) for span in answer.spans
    ]
    assert found
    left = client.token_classification(CONTEXT, ignore_labels=[found[0].entity_group])
    assert {s.entity_group for s in left} == {s.entity_group for s in found} - {
        found[0].entity_group
    }


def test_questions(client_of):
    predictor, client = client_of("answers", ({"type": "span", "name": "answers"},))
    (answer,) = predictor.answers(rows_of_texts(["What starts?"], [CONTEXT]))
    found = client.question_answering(question="What starts?", context=CONTEXT)
    assert (found.answer, found.start, found.end) == (answer.text, answer.start, answer.end)


def test_what_it_asks_of_a_server(topics):
    _, client = topics
    client = InferenceClient(client.model, provider="hf-inference", timeout=30)
    assert client.health_check()
    assert client.get_endpoint_info()["max_client_batch_size"] == 32


def test_an_option_that_is_not_offered_is_refused(topics):
    _, client = topics
    with pytest.raises(Exception, match="aggregation_strategy"):
        client.token_classification(SENTENCES[0], aggregation_strategy="max")
