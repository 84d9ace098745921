"""The models of docs/models.md and its table of components."""

import re
from pathlib import Path

import pytest
import yaml

from orchestrator.cli import main
from orchestrator.config import validate_config
from orchestrator.modeling.builder import build_on_meta
from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.huggingface.classes import architecture_of, architectures

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs/models.md").read_text(encoding="utf-8")
SECTIONS = re.findall(r"^### ([^\n]*)\n(.*?)(?=^##|\Z)", PAGE, re.DOTALL | re.MULTILINE)
MODELS = {
    title: re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    for title, text in SECTIONS
    if "```yaml" in text
}


@pytest.mark.parametrize("title", MODELS)
def test_a_model_of_the_page_is_built(title):
    (text,) = MODELS[title]
    config = validate_config(ModelConfig, yaml.safe_load(text), title)
    assert sum(parameter.numel() for parameter in build_on_meta(config).parameters()) > 10**6
    named = re.search(r"`(\w+)`", title)
    if named:
        assert architecture_of(config).name == named[1]


def test_every_block_of_the_page_is_tested():
    assert len(MODELS) == PAGE.count("```yaml") == 46


def test_every_model_type_is_on_the_page():
    """One class of each; families of equal form stand in a title, towers are parts of a model."""
    named = set(re.findall(r"`(\w+)`\)$", "\n".join(MODELS), re.MULTILINE))
    types = {each.model_type for each in architectures().values()}
    shown = {architectures()[name].model_type for name in named}
    towers = {"clip_text_model", "clip_vision_model", "siglip_text_model", "siglip_vision_model"}
    assert types - shown == {"xlm-roberta", "camembert", "hubert", "mt5"} | towers


def test_the_table_of_components_is_the_one_that_the_command_writes(capsys):
    assert main(["components", "--markdown"]) == 0
    assert capsys.readouterr().out.strip() in PAGE
