"""The examples of the project's and the room's README."""

import re
from pathlib import Path

import pytest
import yaml

import orchestrator.modeling
from orchestrator.config import validate_config
from orchestrator.modeling.builder import build_on_meta
from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.huggingface.classes import architecture_of

README = Path(orchestrator.modeling.__file__).parent / "README.md"
EXAMPLES = re.findall(r"```yaml\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("text", EXAMPLES)
def test_an_example_is_a_model(text):
    config = validate_config(ModelConfig, yaml.safe_load(text), "README")
    assert sum(parameter.numel() for parameter in build_on_meta(config).parameters()) > 10**6


def test_the_examples_are_found():
    assert len(EXAMPLES) == 17


FRONT = Path(__file__).resolve().parents[3] / "README.md"
NAMED = r"\(`(\w+)`\)[^`]*(?:`[^`]*`)?[^`]*```yaml\n(.*?)```"
FAMILIES = re.findall(NAMED, FRONT.read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize(("name", "text"), FAMILIES)
def test_a_family_of_the_front_page_is_the_class_it_says(name, text):
    assert len(text.splitlines()) <= 25
    config = validate_config(ModelConfig, yaml.safe_load(text), name)
    build_on_meta(config)
    assert architecture_of(config).name == name


def test_all_five_families_are_on_the_front_page():
    assert [name for name, _ in FAMILIES] == [
        "BertForPreTraining",
        "GPT2LMHeadModel",
        "T5ForConditionalGeneration",
        "CLIPModel",
        "Speech2TextForConditionalGeneration",
    ]
