"""Names of components, and components of other packages."""

import sys
from typing import Literal

import pytest

from orchestrator.config import validate_config
from orchestrator.config.registry import Registry
from orchestrator.errors import ConfigError, InputError
from orchestrator.modeling.builder import build_model
from orchestrator.modeling.catalog import describe
from orchestrator.modeling.component import (
    EncoderConfig,
    decoders,
    embeddings,
    encoders,
    target_embeddings,
    targets,
)
from orchestrator.modeling.config import ModelConfig
from tests.unit.modeling.small import make_batch, make_model

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


OTHER_KINDS = '''
from typing import Literal

import torch
from torch import nn

from orchestrator.modeling.component import ComponentConfig, DecoderConfig, EmbeddingConfig
from orchestrator.modeling.embeddings.stack import EmbeddingPart
from orchestrator.modeling.interfaces import Decoder
from orchestrator.modeling.targets.configs import ClsConfig
from orchestrator.modeling.targets.sequence import ClsTarget


class Shift(EmbeddingPart):
    class Config(EmbeddingConfig):
        """Add a learned vector."""

        type: Literal["shift"] = "shift"

    def __init__(self, config, dimensions):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(dimensions.hidden_size))

    def forward(self, batch, total):
        return self.weight[None, None]


class Copy(Decoder):
    class Config(DecoderConfig):
        """Return the target-side input."""

        type: Literal["copy"] = "copy"

    def __init__(self, config, dimensions):
        super().__init__()

    def forward(self, hidden, mask, memory, memory_mask):
        return hidden


class Grade(ClsTarget):
    class Config(ClsConfig):
        """Classify in five grades."""

        type: Literal["grade"] = "grade"
        num_labels: int = 5
'''


@pytest.fixture
def other_kinds(tmp_path, monkeypatch):
    """An installed distribution with an embedding part, a decoder and a target."""
    (tmp_path / "other_kinds.py").write_text(OTHER_KINDS, encoding="utf-8")
    info = tmp_path / "other_kinds-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: other-kinds\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[orchestrator.components]\n"
        "embedding.shift = other_kinds:Shift\n"
        "decoder.copy = other_kinds:Copy\n"
        "target.grade = other_kinds:Grade\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    for registry, name in ((embeddings, "shift"), (decoders, "copy"), (targets, "grade")):
        registry._entries.pop(name, None)
    sys.modules.pop("other_kinds", None)


def test_entry_points_work_for_every_kind_of_component(other_kinds):
    model = make_model(
        embedding={"parts": ["word", "shift"]},
        encoder="transformer",
        target_embedding={"parts": ["word", "shift"]},
        decoder="copy",
        target="grade",
    )
    batch = make_batch()
    batch |= {f"decoder_{key}": batch[key] for key in ("input_ids", "attention_mask")}
    assert model.predict(batch)["grade"].shape == (4, 5)


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
