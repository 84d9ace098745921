"""``orchestrator generate``: the package's text, streamed as it is written, and stop strings."""

import json

import pytest
import torch

import orchestrator
from orchestrator.cli import main
from orchestrator.data.processors.text import TextProcessor
from orchestrator.errors import ConfigError, InputError
from orchestrator.modeling.package import load_model
from orchestrator.zoo import Zoo
from tests.support.packages import SENTENCES, commit_tiny

HEAD = {"type": "lm", "name": "lm"}
PROMPT = "Return the sum of"
NEW = 8


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("generate")
    commit_tiny(Zoo(folder / "zoo"), "writer", targets=(HEAD,), mask="causal")
    commit_tiny(Zoo(folder / "zoo"))
    return folder


@pytest.fixture
def generate(place, monkeypatch, capsys):
    monkeypatch.chdir(place)

    def call(*arguments):
        code = main(["generate", "package=writer", f"max_new_tokens={NEW}", *arguments])
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return call


def greedy(place, prompt: str, count: int = NEW) -> list[int]:
    """Take the most probable token, one after the other, without a cache."""
    folder = Zoo(place / "zoo").get("writer").path
    model, processor = load_model(folder).eval(), TextProcessor.load(folder)
    ids = processor.tokenizer.encode(prompt).ids[:-1]  # without [SEP]
    new = []
    for _ in range(count):
        with torch.no_grad():
            logits = model.predict({"input_ids": torch.tensor([ids])})["lm"][0, -1]
        new.append(int(logits.argmax()))
        ids = [*ids, new[-1]]
        if new[-1] == processor.settings.special["sep"]:
            break
    return new


def test_greedy_text_is_streamed_and_in_the_last_line(place, generate):
    code, shown, _ = generate(f"prompt={PROMPT}")
    folder = Zoo(place / "zoo").get("writer").path
    expected = TextProcessor.load(folder).decode(greedy(place, PROMPT))
    *streamed, line = shown.strip("\n").split("\n")
    assert code == 0
    assert json.loads(line)["metrics"]["texts"] == [expected]
    assert "\n".join(streamed) == PROMPT + expected
    assert orchestrator.load("writer", zoo=place / "zoo").generate(PROMPT, max_new_tokens=NEW) == [
        expected
    ]


def test_a_stop_string_ends_the_text_before_it_and_is_never_shown(place, generate):
    _, shown, _ = generate(f"prompt={PROMPT}", "stream=false")
    whole = json.loads(shown)["metrics"]["texts"][0]
    stop = whole[len(whole) // 2 :][:3]
    _, shown, _ = generate(f"prompt={PROMPT}", f"stop={json.dumps([stop])}")
    *streamed, line = shown.strip("\n").split("\n")
    cut = whole[: whole.index(stop)]
    assert json.loads(line)["metrics"]["texts"] == [cut]
    assert "\n".join(streamed) == PROMPT + cut


def test_samples_follow_their_seed_and_beams_give_several(place):
    writer = orchestrator.load("writer", zoo=place / "zoo")
    options = {"max_new_tokens": NEW, "sample": True, "num_return_sequences": 3}
    first = writer.generate(PROMPT, seed=1, **options)
    assert len(first) == 3
    assert writer.generate(PROMPT, seed=1, **options) == first
    assert writer.generate(PROMPT, seed=2, **options) != first
    beams = writer.generate(PROMPT, max_new_tokens=NEW, num_beams=3, num_return_sequences=2)
    assert len(beams) == 2
    assert len(writer.generate([PROMPT, SENTENCES[1]], max_new_tokens=2)) == 2


def test_what_cannot_be_generated_is_refused(place, generate):
    assert "has no head" in generate("prompt=a", "target=topic")[2]
    assert "prompt: is empty" in generate("prompt=' '")[2]
    assert "Set that, or leave it out" in generate("prompt=a", "temperature=0.5")[2]
    code, _, errors = generate("prompt=a", "package=tiny")
    assert code == 2
    assert "no head 'lm' that predicts the next token" in errors
    code, _, errors = generate("prompt=a", "max_new_tokens=500")
    assert "do not fit the model" in errors
    writer = orchestrator.load("writer", zoo=place / "zoo")
    with pytest.raises(ConfigError, match="Did you mean 'num_beams'"):
        writer.generate("a", num_beam=2)
    with pytest.raises(InputError, match="is empty"):
        writer.generate([" "])
