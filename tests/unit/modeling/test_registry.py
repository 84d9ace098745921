"""Names of components, and components of other packages."""

import sys
from typing import Literal

import pytest

from orchestrator.config import validate_config
from orchestrator.config.registry import Registry
from orchestrator.errors import ConfigError, InputError
from orchestrator.modeling.builder import build_model
from orchestrator.modeling.catalog import describe
from orchestrator.modeling.component import EncoderConfig, encoders, target_embeddings
from orchestrator.modeling.config import ModelConfig

PLUGIN = '''
from typing import Literal
from torch import nn
from orchestrator.modeling.catalog import describe
from orchestrator.modeling.component import EncoderConfig
from orchestrator.modeling.interfaces import Encoder


class DoublingEncoder(Encoder):
    class Config(EncoderConfig):
        """Multiply everything."""
        type: Literal["doubling"] = "doubling"
        factor: float = 2.0

    def __init__(self, config, dimensions):
        super().__init__()
        self.factor = config.factor

    def forward(self, hidden, mask, batch):
        return hidden * self.factor
'''


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """An installed third-party distribution with three entry points, two of them wrong."""
    (tmp_path / "doubling_plugin.py").write_text(PLUGIN, encoding="utf-8")
    info = tmp_path / "doubling_plugin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: doubling-plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[orchestrator.components]\n"
        "encoder.doubling = doubling_plugin:DoublingEncoder\n"
        "encoder.renamed = doubling_plugin:DoublingEncoder\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "doubling"
    encoders._entries.pop("doubling", None)
    sys.modules.pop("doubling_plugin", None)


def test_a_component_of_another_package_is_listed_unimported_and_then_built(plugin):
    assert plugin in encoders.names()
    assert "doubling_plugin" not in sys.modules
    config = validate_config(
        ModelConfig, {"vocab_size": 9, "encoder": {"type": plugin, "factor": 3.0}}, "model.yaml"
    )
    assert build_model(config).encoder.factor == 3.0


def test_options_of_another_package_are_checked_like_our_own(plugin):
    with pytest.raises(ConfigError, match="Did you mean 'factor'"):
        validate_config(ModelConfig, {"encoder": {"type": plugin, "factr": 3.0}}, "model.yaml")


def test_an_entry_point_that_defines_something_else_is_named(plugin):
    with pytest.raises(InputError, match=r"encoder\.renamed = doubling_plugin:DoublingEncoder"):
        encoders.config_class("renamed")


def test_a_name_cannot_be_registered_twice():
    registry = Registry("encoder", EncoderConfig)

    class EchoConfig(EncoderConfig):
        type: Literal["echo"] = "echo"

    registry.register("nowhere:Echo")(EchoConfig)
    with pytest.raises(ValueError, match="'echo' is registered twice"):
        registry.register("nowhere:Echo")(EchoConfig)


def test_a_name_with_nothing_near_is_answered_with_all_names():
    with pytest.raises(InputError) as caught:
        encoders.component_class("zzz")
    assert str(caught.value).startswith("'zzz' is not a registered encoder. (bigru, bilstm")


@pytest.mark.parametrize("name", encoders.names())
def test_a_component_class_has_the_config_it_is_registered_with(name):
    assert encoders.component_class(name).Config is encoders.config_class(name)


def test_target_embeddings_are_embeddings():
    assert "word" in target_embeddings.names()


def test_a_component_without_a_docstring_can_be_listed():
    registry = Registry("encoder", EncoderConfig)

    class Silent(EncoderConfig):
        type: Literal["silent"] = "silent"

    registry.register("nowhere:Silent")(Silent)
    assert describe(registry, "encoder", "silent").summary == "Not described."
