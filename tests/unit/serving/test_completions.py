"""`/v1/completions` through the client library of OpenAI: whole, streamed, and stopped."""

import json

import openai
import pytest

from orchestrator.data.processors.readings import prompt_ids
from orchestrator.inference.inputs import rows_of_texts
from orchestrator.inference.predictor import Predictor
from orchestrator.modeling.package import write_model
from orchestrator.zoo import Zoo
from serving.model.engine import load_engine
from tests.support.listening import listening
from tests.support.serving import NoRecorder, application
from tests.unit.inference.test_every_kind import learn, lesson

PROMPTS = ["tell amber upper", "tell birch vale"]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A model that learned a few answers, its package and a client."""
    task, rows, model, processor = lesson("causal generation")
    learn(task, rows, model, processor, 60)
    zoo = Zoo(str(tmp_path_factory.mktemp("zoo")))
    with zoo.draft("tiny", kind="finetuned", producer={}, parents=[], task=None, metrics={}) as d:
        write_model(d.path, model, model.config)
        processor.save(d.path)
        package = d.commit()
    with listening(application(load_engine(package), NoRecorder()).app) as url:
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="x", timeout=60, max_retries=0)
        yield Predictor.open(package), client


def complete(client, prompt=PROMPTS[0], **options):
    options = {"temperature": 0, "max_tokens": 12} | options
    return client.completions.create(model="tiny", prompt=prompt, **options)


def test_the_most_probable_text_is_that_of_the_predictor(written):
    predictor, client = written
    expected = [answer.text for answer in predictor.answers(rows_of_texts(PROMPTS))]
    found = complete(client, PROMPTS, max_tokens=20)
    assert [choice.index for choice in found.choices] == [0, 1]
    for choice, text in zip(found.choices, expected, strict=True):
        assert text.startswith(choice.text.strip())
        assert choice.finish_reason == "stop" or len(choice.text) > 10
    assert found.usage.total_tokens == found.usage.prompt_tokens + found.usage.completion_tokens
    ids = [each.tolist() for each in prompt_ids(predictor.reader.processor, PROMPTS)]
    assert found.usage.prompt_tokens == sum(map(len, ids))
    by_ids = complete(client, ids, max_tokens=20)
    assert [c.text for c in by_ids.choices] == [c.text for c in found.choices]


def test_a_stream_has_the_same_text(written):
    _, client = written
    whole = complete(client).choices[0]
    parts = list(complete(client, stream=True, stream_options={"include_usage": True}))
    assert "".join(c.text for part in parts for c in part.choices) == whole.text
    reasons = [c.finish_reason for part in parts for c in part.choices]
    assert set(reasons[:-1]) <= {None}
    assert reasons[-1] == whole.finish_reason
    assert len(reasons) > 2
    assert parts[-1].usage.completion_tokens > 0


def test_a_stop_string_ends_the_text_before_it(written):
    _, client = written
    whole = complete(client).choices[0].text
    stop = whole[len(whole) // 2 :][:3]
    for options in ({"stop": stop}, {"stop": ["never", stop]}):
        found = complete(client, **options).choices[0]
        assert found.text == whole[: whole.index(stop)]
        assert found.finish_reason == "stop"
        streamed = list(complete(client, stream=True, **options))
        assert "".join(c.text for part in streamed for c in part.choices) == found.text


def test_the_limit_is_kept_and_a_seed_repeats(written):
    _, client = written
    short = complete(client, max_tokens=1)
    assert (short.usage.completion_tokens, short.choices[0].finish_reason) == (1, "length")
    drawn = {complete(client, temperature=2, seed=7).choices[0].text for _ in range(3)}
    assert len(drawn) == 1
    others = {complete(client, temperature=2, seed=seed).choices[0].text for seed in range(5)}
    assert len(others) > 1


@pytest.mark.parametrize(
    ("options", "status"),
    [
        ({"max_tokens": 4096}, 422),
        ({"n": 2}, 422),
        ({"echo": True}, 422),
        ({"presence_penalty": 0.5}, 422),
        ({"stop": ""}, 422),
        ({"prompt": []}, 400),
        ({"prompt": [10**6]}, 422),
        ({"prompt": "tell " * 500}, 413),
    ],
)
def test_what_is_not_offered_is_refused(written, options, status):
    _, client = written
    with pytest.raises(openai.APIStatusError) as refused:
        complete(client, **options)
    assert refused.value.status_code == status


def test_a_package_that_continues_nothing_says_so(call):
    answer = call("POST", "/v1/completions", json={"prompt": "a"})
    assert (answer.status_code, json.loads(answer.text)["error"]["code"]) == (400, "unsupported")
