"""The routes of Text Embeddings Inference beyond `/predict`, and the reranking of Cohere."""

import base64

import numpy as np
import pytest

from orchestrator.data.processors.text import TextProcessor
from orchestrator.inference.inputs import rows_of_texts
from orchestrator.inference.predictor import Predictor
from orchestrator.modeling.package import load_model
from orchestrator.zoo import Zoo
from serving.model.engine import load_engine
from tests.support.packages import LABELS, MAX_LENGTH, SENTENCES, commit_graph, commit_tiny
from tests.support.serving import NoRecorder, application

QUERY, TEXTS = SENTENCES[0], list(SENTENCES[1:5])


@pytest.fixture(scope="module")
def unit(package):
    vectors = Predictor.open(package).embed(rows_of_texts(SENTENCES))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture
def ask(call):
    def send(path, status=200, **body):
        answer = call("POST", path, json=body)
        assert answer.status_code == status, answer.text
        return answer.json()

    return send


def test_the_root_answers_by_shape_and_package(ask):
    for path, body in (
        ("/predict", {"inputs": QUERY}),
        ("/predict", {"inputs": TEXTS, "raw_scores": True}),
        ("/embed", {"inputs": QUERY, "normalize": True}),
        ("/embed", {"inputs": TEXTS, "dimensions": 3}),
        ("/similarity", {"inputs": {"source_sentence": QUERY, "sentences": TEXTS}}),
        ("/rerank", {"query": QUERY, "texts": TEXTS}),
    ):
        assert ask("/", **body) == ask(path, **body), path
    assert ask("/", inputs=QUERY, surprise=1, status=422)["error_type"] == "validation"


def test_a_package_without_targets_embeds_at_the_root(tmp_path):
    engine = load_engine(commit_tiny(Zoo(str(tmp_path)), targets=({"type": "mlm"},)))
    body = {"inputs": QUERY}
    root, embed = (post(engine, path, body) for path in ("/", "/embed"))
    assert root.json() == embed.json()
    assert np.shape(root.json()) == (1, 16)


def post(engine, path, body):
    import asyncio

    import httpx

    async def once():
        transport = httpx.ASGITransport(application(engine, NoRecorder()).app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.post(path, json=body)

    return asyncio.run(once())


def test_vectors_of_tokens_are_those_of_the_encoder(ask, package):
    processor, model = TextProcessor.load(package.path), load_model(package.path).eval()
    batch = processor([QUERY], None, MAX_LENGTH)
    hidden, mask = model.read(batch)
    (rows,) = ask("/embed_all", inputs=QUERY)
    np.testing.assert_allclose(rows, hidden[0, mask[0].bool()].detach().numpy(), atol=1e-5)


def test_a_graph_says_that_it_has_no_vectors_of_tokens(tmp_path):
    zoo = Zoo(str(tmp_path))
    engine = load_engine(commit_graph(zoo, commit_tiny(zoo)))
    refused = post(engine, "/embed_all", {"inputs": "a"})
    assert (refused.status_code, refused.json()["error_type"]) == (400, "unsupported")


def test_vectors_in_base64(ask, unit):
    coded = ask("/embed", inputs=list(SENTENCES), encoding_format="base64")
    found = [np.frombuffer(base64.b64decode(text), "<f4") for text in coded]
    np.testing.assert_allclose(found, unit, atol=1e-6)


def test_rerank_by_cosine_where_the_package_scores_no_pairs(ask, unit):
    cosines = unit[1:5] @ unit[0]
    ranks = ask("/rerank", query=QUERY, texts=TEXTS, return_text=True)
    order = np.argsort(-cosines).tolist()
    assert [rank["index"] for rank in ranks] == order
    assert [rank["score"] for rank in ranks] == pytest.approx(cosines[order].tolist(), abs=1e-5)
    assert [rank["text"] for rank in ranks] == [TEXTS[index] for index in order]
    for path in ("/v1/rerank", "/v2/rerank"):
        documents = [TEXTS[0], *({"text": text} for text in TEXTS[1:])]
        best = ask(path, query=QUERY, documents=documents, top_n=2, return_documents=True)
        assert [result["index"] for result in best["results"]] == order[:2]
        assert best["results"][0]["document"] == {"text": TEXTS[order[0]]}
    assert (
        "raw_scores" in ask("/rerank", query="a", texts=["b"], raw_scores=True, status=422)["error"]
    )
    assert ask("/rerank", query="a", texts=[], status=400)["error_type"] == "empty"


@pytest.mark.parametrize("head", ["classification", "regression"])
def test_rerank_by_a_package_that_was_trained_on_pairs(tmp_path, head):
    target = {"type": "cls", "name": "pair", "num_labels": 2}
    if head == "regression":
        target = {"type": "regression", "name": "pair"}
    zoo = Zoo(str(tmp_path))
    package = commit_tiny(zoo, "pairs", targets=(target,), pairs=True)
    engine = load_engine(package)
    answers = Predictor.open(package).answers(rows_of_texts(["sum"] * 4, TEXTS), "pair")
    scores = [a.scores[1] if head == "classification" else a.values[0] for a in answers]
    answer = post(engine, "/rerank", {"query": "sum", "texts": TEXTS})
    assert answer.status_code == 200, answer.text
    ranks = answer.json()
    found = {rank["index"]: rank["score"] for rank in ranks}
    assert [found[index] for index in range(4)] == pytest.approx(scores, abs=1e-5)
    assert [rank["score"] for rank in ranks] == sorted(found.values(), reverse=True)
    raw = post(engine, "/rerank", {"query": "sum", "texts": TEXTS, "raw_scores": True})
    if head == "classification":
        logits = {rank["index"]: rank["score"] for rank in raw.json()}
        odds = [np.log(each / (1 - each)) for each in scores]
        assert [logits[index] for index in range(4)] == pytest.approx(odds, abs=1e-3)
    else:
        assert raw.status_code == 422


def test_tokens_and_back(ask, engine):
    tokens = ask("/tokenize", inputs=QUERY)[0]
    ids = [token["id"] for token in tokens]
    text = engine.reader.processor.tokenizer.decode(ids)
    assert ask("/decode", ids=ids) == [text]
    assert ask("/decode", ids=[ids, ids[1:-1]]) == [text, text]
    assert "[CLS]" in ask("/decode", ids=ids, skip_special_tokens=False)[0]
    assert ask("/decode", ids=[10**6], status=422)["error_type"] == "tokenizer"
    assert ask("/predict", inputs=ids) == ask("/predict", inputs=QUERY)
    assert ask("/embed", inputs=[ids, QUERY])[0] == pytest.approx(ask("/embed", inputs=QUERY)[0])


def test_each_end_of_a_text_can_be_cut(ask):
    long = " ".join(SENTENCES)
    kept = {}
    for side in ("left", "right", "Left", "Right"):
        kept[side] = ask("/embed", inputs=long, truncate=True, truncation_direction=side)
    assert kept["left"] == kept["Left"]
    assert kept["left"] != kept["right"] == ask("/embed", inputs=long, truncate=True)
    tokens = [token["id"] for token in ask("/tokenize", inputs=long, add_special_tokens=False)[0]]
    last = tokens[-(MAX_LENGTH - 2) :]
    np.testing.assert_allclose(ask("/embed", inputs=last), kept["left"], atol=1e-6)
    by_ids = ask("/embed", inputs=tokens, truncate=True, truncation_direction="left")
    np.testing.assert_allclose(by_ids, kept["left"], atol=1e-6)
    assert ask("/embed", inputs=long, status=413)["error_type"] == "too_long"


def test_a_service_may_cut_by_itself(ask, served):
    long = " ".join(SENTENCES)
    served.policy.limits = served.policy.limits.model_copy(update={"auto_truncate": True})
    assert ask("/embed", inputs=long) == ask("/embed", inputs=long, truncate=True)
    assert ask("/embed", inputs=long, truncate=False, status=413)["error_type"] == "too_long"
    assert ask("/v1/embeddings", input=long)["data"]
    assert {label["label"] for label in ask("/predict", inputs=long)} == set(LABELS)


def test_null_is_what_is_not_said(ask):
    nothing = {"truncate": None, "prompt_name": None, "dimensions": None, "parameters": None}
    assert ask("/embed", inputs=QUERY, **nothing) == ask("/embed", inputs=QUERY)
