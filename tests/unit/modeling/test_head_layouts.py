"""Options of heads and of registers that belong together, and what is refused."""

import pytest
import torch

from orchestrator.config import validate_config
from orchestrator.errors import ConfigError
from orchestrator.modeling.builder import build_model
from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.targets.sequence import pool

WORDS = {"hidden_size": 8, "vocab_size": 20, "encoder": {"type": "transformer", "num_heads": 2}}
PATCH = {"type": "patch", "image_size": 8, "patch_size": 4}
IMAGES = {
    "hidden_size": 8,
    "max_position_embeddings": 5,
    "embedding": {"parts": [PATCH, "pos"], "layernorm": False, "dropout": 0.0, "registers": 2},
    "encoder": {"type": "transformer", "num_heads": 2, "dropout": 0.0},
}


def changed(base, **embedding):
    return base | {"embedding": base.get("embedding", {}) | embedding}


REFUSED = {
    "hidden_size": WORDS | {"target": {"type": "cls", "hidden_size": 4}},
    "hidden_activation": WORDS | {"target": {"type": "cls", "hidden_activation": "gelu"}},
    "projection_bias": WORDS | {"target": {"type": "vector", "projection_bias": True}},
    "stands alone": WORDS
    | {"target": {"type": "vector", "hidden": True, "attention": {"num_heads": 2}}},
    "does not divide": WORDS | {"target": {"type": "vector", "attention": {"num_heads": 3}}},
    "last_token is for": IMAGES | {"target": {"type": "cls", "pooling": "last_token"}},
    "follow the class token": changed(WORDS, registers=2),
    "Leave size out": changed(IMAGES, size=4),
    "mim counts patches": IMAGES | {"target": {"type": "mim"}},
    "antialias": changed(IMAGES, parts=[PATCH | {"antialias": True}, "pos"]),
}


@pytest.mark.parametrize("message", list(REFUSED))
def test_options_that_do_not_fit_are_refused(message):
    with pytest.raises(ConfigError, match=message):
        validate_config(ModelConfig, REFUSED[message], "test")


def test_the_last_token_is_neither_padding_nor_hidden_by_the_mask():
    head = {"type": "cls", "pooling": "last_token", "output_bias": False, "dropout": 0.0}
    config = validate_config(ModelConfig, WORDS | {"pad_token_id": 3, "target": head}, "test")
    model = build_model(config).eval()
    ids = torch.tensor([[5, 6, 7, 3, 3], [5, 6, 3, 9, 9], [3, 3, 3, 3, 3]])
    mask = torch.tensor([[1, 1, 1, 1, 0], [1, 1, 1, 1, 0], [1, 1, 1, 1, 1]])
    batch = {"input_ids": ids, "attention_mask": mask}
    hidden = model.encode(batch)
    expected = hidden[torch.arange(3), torch.tensor([2, 3, 0])]
    assert torch.equal(model.predict(batch)["cls"], expected @ model.targets["cls"].output.weight.T)


def test_registers_follow_the_class_token_and_are_no_patches():
    target = {"type": "cls", "pooling": "first_rest", "dropout": 0.0}
    config = validate_config(ModelConfig, IMAGES | {"target": target}, "test")
    model = build_model(config).eval()
    batch = {"pixel_values": torch.randn(2, 3, 8, 8)}
    embedded, mask = model.embedding(batch)
    assert embedded.shape == (2, 1 + 2 + 4, 8)
    assert mask.all()
    assert torch.equal(embedded[0, 1:3], model.embedding.registers)
    hidden = model.encode(batch)
    read = torch.cat([hidden[:, 0], hidden[:, 3:].mean(1)], dim=1)
    torch.testing.assert_close(pool(hidden, mask, "first_rest", 2), read)
    torch.testing.assert_close(model.predict(batch)["cls"], model.targets["cls"].output(read))
