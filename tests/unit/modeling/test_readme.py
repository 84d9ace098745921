"""The examples of the room's README."""

import re
from pathlib import Path

import pytest
import yaml

import orchestrator.modeling
from orchestrator.config import validate_config
from orchestrator.modeling.builder import build_on_meta
from orchestrator.modeling.config import ModelConfig

README = Path(orchestrator.modeling.__file__).parent / "README.md"
EXAMPLES = re.findall(r"```yaml\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("text", EXAMPLES)
def test_an_example_is_a_model(text):
    config = validate_config(ModelConfig, yaml.safe_load(text), "README")
    assert sum(parameter.numel() for parameter in build_on_meta(config).parameters()) > 10**6


def test_the_examples_are_found():
    assert len(EXAMPLES) == 17
