"""Images, recordings and written texts: answers over HTTP are those of `Predictor`."""

import asyncio
import base64

import httpx
import numpy as np
import pytest
import tritonclient.http as triton
from huggingface_hub import InferenceClient

from orchestrator.data.rows.rows import Rows
from orchestrator.inference.predictor import Predictor
from orchestrator.modeling.package import write_model
from orchestrator.zoo import Zoo
from serving.model.engine import load_engine
from tests.support.listening import listening
from tests.support.serving import NoRecorder, application
from tests.unit.inference.test_every_kind import lesson, picture, tone

CASES = {
    "classes of images": ("vision", "image"),
    "classes of sounds": ("audio", "audio"),
    "ctc": ("audio", "audio"),
    "decoded transcription": ("audio", "audio"),
    "causal generation": ("text", "text"),
    "decoded generation": ("text", "text"),
}
FILES = {"image": [picture(i) for i in range(3)], "audio": [tone(i) for i in range(3)]}


@pytest.fixture(scope="module", params=CASES)
def served(request, tmp_path_factory):
    """A package, its predictor and its application."""
    _task, _rows, model, processor = lesson(request.param)
    modality, reads = CASES[request.param]
    zoo = Zoo(str(tmp_path_factory.mktemp("zoo")))
    stated = {"kind": "finetuned", "modality": modality, "labels": {}, "max_length": 32}
    with zoo.draft(
        "tiny", kind="finetuned", producer={}, parents=[], task=stated, metrics={}
    ) as draft:
        write_model(draft.path, model, model.config)
        processor.save(draft.path)
        package = draft.commit()
    app = application(load_engine(package), NoRecorder()).app
    return reads, Predictor.open(package), app


def known(predictor, reads):
    nothing = np.zeros(3, dtype=np.int64)
    if reads == "text":
        rows = Rows([f"tell {word}" for word in ("amber", "cedar", "vale")], None, nothing)
    elif reads == "image":
        rows = Rows([], None, nothing, pictures=FILES["image"])
    else:
        rows = Rows([], None, nothing, sounds=FILES["audio"])
    return rows, predictor.answers(rows)


def send(app, path, **options):
    async def once():
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.post(path, **options)

    return asyncio.run(once())


def same(found, answer):
    """Whether an answer of /predict says what the predictor says."""
    if isinstance(found, dict):
        return found["text"] == answer.text
    scores = {each["label"]: each["score"] for each in found}
    return sorted(scores.values()) == pytest.approx(sorted(answer.scores), abs=1e-5)


def test_it_answers_what_the_predictor_does(served):
    reads, predictor, app = served
    rows, expected = known(predictor, reads)
    inputs = rows.texts or [base64.b64encode(each).decode() for each in FILES[reads]]
    answer = send(app, "/predict", json={"inputs": inputs})
    assert answer.status_code == 200, answer.text
    assert all(map(same, answer.json(), expected))
    single = send(app, "/predict", json={"inputs": inputs[0]})
    assert same(single.json(), expected[0])
    if reads != "text":
        kind = {"image": "image/png", "audio": "audio/wav"}[reads]
        for path in ("/predict", "/"):
            raw = send(app, path, content=FILES[reads][1], headers={"content-type": kind})
            assert same(raw.json(), expected[1])
        form = [("file", ("a", content, kind)) for content in FILES[reads]]
        assert send(app, "/predict", files=form).json() == answer.json()


def test_what_is_not_such_a_file_is_refused(served):
    reads, _, app = served
    if reads == "text":
        raw = send(app, "/predict", content=b"x", headers={"content-type": "image/png"})
        assert (raw.status_code, raw.json()["error_type"]) == (415, "media_type")
        return
    for body, status in (
        ({"inputs": "%%%"}, 422),
        ({"inputs": base64.b64encode(b"no file").decode()}, 422),
        ({"inputs": [1]}, 422),
        ({"inputs": []}, 400),
    ):
        answer = send(app, "/predict", json=body)
        assert answer.status_code == status, answer.text
    headers = {"content-type": "multipart/form-data; boundary=x"}
    assert send(app, "/predict", content=b"nothing", headers=headers).status_code == 400
    refused = send(app, "/embed", json={"inputs": "a"})
    assert (refused.status_code, refused.json()["error_type"]) == (400, "unsupported")
    assert send(app, "/tokenize", json={"inputs": "a"}).status_code == 400


def test_tensors_of_files_pixels_and_samples(served):
    reads, predictor, app = served
    rows, expected = known(predictor, reads)
    with listening(app) as url:
        client = triton.InferenceServerClient(url.removeprefix("http://"))
        assert client.get_model_metadata("tiny")["inputs"][0]["name"] == reads
        contents = np.asarray(rows.texts or FILES[reads], dtype=object)
        tensor = triton.InferInput(reads, [3], "BYTES")
        tensor.set_data_from_numpy(contents)
        found = client.infer("tiny", [tensor])
        name = found.get_response()["outputs"][-1]["name"]
        if name.endswith(".text"):
            texts = [each.decode() for each in found.as_numpy(name)]
            assert texts == [answer.text for answer in expected]
        else:
            scores = [answer.scores for answer in expected]
            np.testing.assert_allclose(found.as_numpy(name), scores, atol=1e-5)
            values = numbers(reads)
            kind = triton.np_to_triton_dtype(values.dtype)
            tensor = triton.InferInput(reads, list(values.shape), kind)
            tensor.set_data_from_numpy(values)
            again = client.infer("tiny", [tensor]).as_numpy(name)
            np.testing.assert_allclose(again, scores[:1], atol=1e-4)


def numbers(reads):
    import io

    import soundfile
    from PIL import Image

    content = io.BytesIO(FILES[reads][0])
    if reads == "image":
        return np.asarray(Image.open(content))[..., None]
    return soundfile.read(content, dtype="float32")[0]


def test_the_client_of_hugging_face(served):
    reads, predictor, app = served
    _, expected = known(predictor, reads)
    if reads == "text":
        return
    with listening(app) as url:
        client = InferenceClient(url, timeout=30)
        if hasattr(expected[0], "text"):
            found = client.automatic_speech_recognition(FILES["audio"][0])
            assert found.text == expected[0].text
        else:
            ask = client.image_classification if reads == "image" else client.audio_classification
            found = ask(FILES[reads][0])
            assert sorted(each.score for each in found) == pytest.approx(
                sorted(expected[0].scores), abs=1e-5
            )
            assert len(ask(FILES[reads][0], top_k=1)) == 1
