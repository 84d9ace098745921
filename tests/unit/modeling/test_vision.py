"""Parts and options of image models: masks, other image sizes, poolings, stochastic depth."""

import pytest
import torch

from orchestrator.errors import ConfigError, InputError
from orchestrator.modeling.layers.feed_forward import DropPath, rates_of_layers
from orchestrator.modeling.targets.sequence import pool

from .small import make_batch, make_config, make_model

PATCH = {"type": "patch", "image_size": 8, "patch_size": 4}
CLS = {"type": "cls", "num_labels": 3}


def image_model(part, **options):
    parts = [part, "pos"]
    return (
        {"embedding": {"parts": parts, "layernorm": False}, "target": CLS}
        | {"encoder": "transformer"}
        | options
    )


def test_masked_patches_are_not_read():
    model = make_model(**image_model(PATCH | {"type": "masked_patch"}))
    pixels = torch.randn(2, 3, 8, 8)
    masked = torch.tensor([[True, False, False, False], [False, False, False, True]])
    batch = {"pixel_values": pixels, "masked_positions": masked}
    before = model.encode(batch)
    spoiled = pixels.clone()
    spoiled[0, :, :4, :4] = 9.0  # the first patch in reading order
    spoiled[1, :, 4:, 4:] = 9.0  # the last one
    assert torch.equal(before, model.encode(batch | {"pixel_values": spoiled}))
    assert not torch.equal(before, model.encode({"pixel_values": pixels}))


def test_a_mask_of_another_size_is_refused():
    model = make_model(**image_model(PATCH | {"type": "masked_patch"}))
    batch = {"pixel_values": torch.randn(2, 3, 8, 8), "masked_positions": torch.zeros(2, 5)}
    with pytest.raises(InputError, match=r"masked_positions is \[2, 5\].*\[2, 4\]"):
        model.encode(batch)


def test_images_of_other_sizes_are_read_only_if_positions_are_interpolated():
    fixed = make_model(**image_model(PATCH))
    free = make_model(**image_model(PATCH | {"interpolate": True}))
    free.load_state_dict(fixed.state_dict())
    usual = {"pixel_values": torch.randn(2, 3, 8, 8)}
    assert torch.equal(fixed.encode(usual), free.encode(usual))
    assert free.encode({"pixel_values": torch.randn(2, 3, 12, 20)}).shape[1] == 1 + 3 * 5
    for sizes in ((12, 20), (8, 10)):
        with pytest.raises(InputError, match=r"found \(3, "):
            fixed.encode({"pixel_values": torch.randn(2, 3, *sizes)})
    with pytest.raises(InputError, match="other multiples of 4"):
        free.encode({"pixel_values": torch.randn(2, 3, 8, 10)})


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (
            {"embedding": {"parts": [PATCH | {"interpolate": True}, "sinusoidalpos"]}},
            "embedding.parts.0.interpolate: needs a `pos` part",
        ),
        (
            image_model(PATCH | {"distillation_token": True, "class_token": False}),
            "distillation_token: follows the class token",
        ),
        (
            image_model(PATCH | {"interpolate": True})
            | {
                "encoder": {
                    "type": "transformer",
                    "position_bias": {"type": "patches", "rows": 2, "columns": 2},
                }
            },
            "is a table of 2 by 2 patches",
        ),
        (
            {"encoder": {"type": "transformer", "final_norm": False}, "target": CLS},
            "final_norm: is for pre-norm blocks",
        ),
        (
            {"encoder": {"type": "transformer", "shared_layers": True, "drop_path": 0.1}},
            "drop_path: grows from block to block",
        ),
    ],
)
def test_what_does_not_fit_is_a_problem(raw, message):
    with pytest.raises(ConfigError) as error:
        make_config(**raw)
    assert message in str(error.value)


def test_poolings_of_image_models():
    hidden, mask = torch.randn(2, 5, 3), torch.ones(2, 5).bool()
    mask[1, 3:] = False
    assert torch.equal(pool(hidden, mask, "second"), hidden[:, 1])
    expected = torch.stack([hidden[0, 1:].mean(0), hidden[1, 1:3].mean(0)])
    torch.testing.assert_close(pool(hidden, mask, "rest"), expected)


def test_stochastic_depth_keeps_the_mean_and_whole_samples():
    torch.manual_seed(0)
    layer, ones = DropPath(0.25), torch.ones(4000, 2, 3)
    dropped = layer(ones)
    kinds = dropped.flatten(1).unique(dim=0)
    torch.testing.assert_close(kinds, torch.tensor([[0.0] * 6, [4 / 3] * 6]))
    assert abs(float(dropped.mean()) - 1.0) < 0.03
    assert torch.equal(layer.eval()(ones), ones)
    assert rates_of_layers(0.3, 4) == pytest.approx([0.0, 0.1, 0.2, 0.3])
    assert rates_of_layers(0.3, 1) == [0.0]


TEXT_AND_IMAGE = {
    "type": "word_patch",
    "text": {"parts": ["word", "pos"]},
    "image": {"parts": [PATCH, "pos"], "layernorm": False},
}


def one_sequence(target, **changes):
    part = {"parts": [TEXT_AND_IMAGE | changes], "layernorm": False, "dropout": 0.0}
    return {"embedding": part, "encoder": "transformer", "target": target}


def test_text_and_image_are_one_sequence_with_one_mask():
    model = make_model(**one_sequence(["mlm", "itm"]))
    batch = make_batch() | {"pixel_values": torch.randn(4, 3, 8, 8)}
    hidden, mask = model.read(batch)
    assert hidden.shape[:2] == mask.shape == (4, 8 + 5)
    assert torch.equal(mask[:, :8], batch["attention_mask"].bool())
    assert mask[:, 8:].all()
    real = hidden[1, [*range(5), *range(8, 13)]]
    torch.testing.assert_close(model.pool(hidden, batch)[1], real.mean(0))
    other = batch | {"pixel_values": torch.randn(4, 3, 8, 8)}
    assert not torch.equal(hidden[:, 0], model.encode(other)[:, 0])
    assert model.targets["mlm"].output.weight is model.embedding.word_patch.text.word.weight
    with pytest.raises(InputError, match="4 texts and 3 images"):
        model.encode(batch | {"pixel_values": torch.randn(3, 3, 8, 8)})


def test_matching_by_classes_and_by_score():
    batch = make_batch() | {"pixel_values": torch.randn(4, 3, 8, 8)}
    batch["labels.itm"] = torch.tensor([1, -100, 0, 1])
    known = torch.tensor([0, 2, 3])
    for rank in (False, True):
        model = make_model(**one_sequence({"type": "itm", "rank": rank}))
        logits = model.predict(batch)["itm"][known].double()
        two = torch.cat([torch.zeros_like(logits), logits], 1) if rank else logits
        chances = two.softmax(1)[range(3), batch["labels.itm"][known]]
        found = model(batch)
        torch.testing.assert_close(found["loss.itm"].double(), -chances.log().sum())
        assert found["count.itm"] == 3
        assert found["correct.itm"] == (two.argmax(1) == batch["labels.itm"][known]).sum()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text": {"parts": [PATCH, "pos"]}}, "text.parts: reads no tokens"),
        ({"image": {"parts": ["word"]}}, "image.parts: reads no image"),
        ({"text": {"parts": ["word", "pos"], "size": 8}}, "text.size: must be null"),
    ],
)
def test_a_text_and_an_image_are_what_they_are_called(changes, message):
    with pytest.raises(ConfigError) as error:
        make_config(**one_sequence("itm", **changes))
    assert message in str(error.value)
