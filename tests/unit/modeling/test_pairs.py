"""Models of two streams: what they read, how they are wired, their losses by the formulas."""

import math

import pytest
import torch
import torch.nn.functional as F

from orchestrator.config import json_schema, validate_config
from orchestrator.errors import ConfigError, InputError
from orchestrator.modeling.builder import build_model
from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.cost import activation_bytes, count_parameters
from orchestrator.modeling.interfaces import Streams

from .pairs import STACK, TRANSFORMER, image_text_config, pair_batch, pair_config

PROJECTED = {"type": "clr", "projection_size": 6}
TIED = {"embedding": {"tie": True}, "encoder": {"tie": True}}


def labels(*values):
    return {"labels.clr": torch.tensor(values)}


def test_a_text_and_an_image_of_other_width_become_vectors_of_one_size():
    model = build_model(image_text_config(PROJECTED)).eval()
    batch = {key: value for key, value in pair_batch().items() if not key.startswith("second.")}
    batch["second.pixel_values"] = torch.randn(4, 3, 8, 8)
    hidden = model.encode(batch)
    assert [each.shape for each in hidden] == [(4, 8, 16), (4, 5, 12)]
    pooled = model.pool(hidden, batch)
    assert isinstance(pooled, Streams)
    torch.testing.assert_close(pooled.first[1], hidden.first[1, :5].mean(0))
    torch.testing.assert_close(pooled.second[1], hidden.second[1].mean(0))
    vectors = model.targets["clr"].vectors(*model.read(batch))
    assert [each.shape for each in vectors] == [(4, 6), (4, 6)]
    torch.testing.assert_close(vectors.second.norm(dim=1), torch.ones(4))


def test_streams_do_not_see_each_other():
    model = build_model(pair_config("clr")).eval()
    batch = pair_batch()
    other = batch | {"second.input_ids": batch["second.input_ids"].flip(0)}
    assert torch.equal(model.encode(batch).first, model.encode(other).first)
    assert not torch.equal(model.encode(batch).second, model.encode(other).second)


def test_tied_streams_are_one_encoder():
    tied, free = (count_parameters(pair_config("siamese", **x)).by_part for x in (TIED, {}))
    assert free["encoder"] == 2 * tied["encoder"]
    assert free["embedding"] == 2 * tied["embedding"]
    model = build_model(pair_config("siamese", **TIED)).eval()
    first = {key: value for key, value in pair_batch().items() if not key.startswith("second.")}
    hidden = model.encode(first | {f"second.{key}": value for key, value in first.items()})
    assert torch.equal(hidden.first, hidden.second)


def test_a_batch_without_a_second_stream_is_refused():
    model = build_model(pair_config("clr"))
    only = {key: value for key, value in pair_batch().items() if not key.startswith("second.")}
    with pytest.raises(
        InputError, match=r"two streams; the batch has input_ids.*second\.input_ids"
    ):
        model.encode(only)


@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
def test_rows_without_a_pair_are_left_out(loss):
    model = build_model(pair_config({"type": "clr", "loss": loss})).eval()
    batch = pair_batch()
    some = {key: value[[0, 2, 3]] for key, value in batch.items()}
    found = model(batch | labels(1, -100, 1, 1))
    expected = model(some | labels(1, 1, 1))
    torch.testing.assert_close(found["loss.clr"], expected["loss.clr"])
    assert found["count.clr"] == 3 == model.count_labels(batch | labels(1, -100, 1, 1))["clr"]
    assert found["correct.clr"] == expected["correct.clr"]
    none = model(batch | labels(-100, -100, -100, -100))
    assert (none["loss.clr"], none["count.clr"], none["correct.clr"]) == (0, 0, 0)


def test_losses_by_their_formulas():
    """CLIP, figure 3; SigLIP, algorithm 1, written out pair by pair in fp64."""
    batch = pair_batch() | labels(1, 1, 1, 1)
    for loss in ("softmax", "sigmoid"):
        torch.manual_seed(3)
        model = build_model(pair_config(PROJECTED | {"loss": loss})).eval()
        first, second = model.targets["clr"].vectors(*model.read(batch))
        scale = {"softmax": 1 / 0.07, "sigmoid": 10.0}[loss]
        logits = (first.double() @ second.double().T * scale).tolist()
        expected = 0.0
        for i in range(4):
            if loss == "softmax":
                row, column = logits[i], [line[i] for line in logits]
                both = (math.log(sum(map(math.exp, values))) for values in (row, column))
                expected += (sum(both) - 2 * logits[i][i]) / 2
            else:
                signs = [1 if i == j else -1 for j in range(4)]
                z = (sign * (logits[i][j] - 10.0) for j, sign in enumerate(signs))
                expected += sum(math.log1p(math.exp(-value)) for value in z)
        found = model(batch)
        assert found["loss.clr"].item() == pytest.approx(expected, rel=1e-5)
        nearest = torch.tensor(logits).argmax(1)
        assert found["correct.clr"] == (nearest == torch.arange(4)).sum()


def test_temperature_starts_as_published_and_stays_below_its_limit():
    clip = build_model(pair_config("clr")).targets["clr"].temperature
    assert float(clip.scale.exp()) == pytest.approx(1 / 0.07)
    assert clip.bias is None
    siglip = build_model(pair_config({"type": "clr", "loss": "sigmoid"})).targets["clr"].temperature
    assert (float(siglip.scale.exp()), float(siglip.bias)) == (pytest.approx(10.0), -10.0)
    with torch.no_grad():
        clip.scale.fill_(7.0)
        siglip.scale.fill_(7.0)
    similarity = torch.ones(2)
    torch.testing.assert_close(clip.eval()(similarity), torch.full((2,), math.exp(7.0)))
    torch.testing.assert_close(siglip(similarity), torch.full((2,), math.exp(7.0) - 10.0))
    clip.train()
    torch.testing.assert_close(clip(similarity), torch.full((2,), 100.0))
    (-clip(similarity)).sum().backward()  # wants to grow: held
    assert clip.scale.grad.item() == 0.0
    clip(similarity).sum().backward()  # wants to shrink: free
    assert clip.scale.grad.item() == pytest.approx(200.0)


def test_features_of_pairs():
    target = {
        "type": "siamese",
        "features": ["product", "difference", "first", "second"],
        "pooling": "max",
        "num_labels": 3,
    }
    model = build_model(pair_config(target)).eval()
    batch = pair_batch()
    u, v = model.pool(model.encode(batch), batch, "max")
    read = torch.cat([u * v, (u - v).abs(), u, v], dim=1)
    output = model.targets["siamese"].output
    expected = F.linear(read, output.weight, output.bias)
    torch.testing.assert_close(model.predict(batch)["siamese"], expected)


def problems(config):
    with pytest.raises(ConfigError) as error:
        config()
    return str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoder": {"type": "transformer"}}, "encoder.type: 'transformer': the embedding makes"),
        ({"target": "cls"}, "target.0.type: 'cls' reads one, but the embedding makes two"),
        ({"target": []}, None),
        ({"second": {"hidden_size": 12}}, "the streams end with widths 16 and 12"),
        (
            {"second": {"hidden_size": 12}, "target": "siamese"},
            "needs streams of equal width, found 16, 12",
        ),
    ],
)
def test_two_streams_everywhere_or_nowhere(changes, message):
    raw = pair_config("clr").model_dump() | changes
    if message is None:
        assert validate_config(ModelConfig, raw, "test").target == ()
    else:
        assert message in problems(lambda: validate_config(ModelConfig, raw, "test"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layernorm": True}, "embedding.layernorm: must be false beside `dual`"),
        ({"dropout": 0.1}, "embedding.dropout: 0.1 must be 0 beside `dual`"),
        ({"size": 8}, "embedding.size: 8 must be null beside `dual`"),
        (
            {"parts": [{"type": "dual", "first": STACK}, "seg"]},
            "`dual` stands alone, found seg beside it",
        ),
        (
            {"parts": [{"type": "dual", "first": {"parts": ["dual"]}}]},
            "embedding.parts.0.first.parts: is a single stream",
        ),
        (
            {"parts": [{"type": "dual", "first": STACK, "second": STACK, "tie": True}]},
            "embedding.parts.0.second: must be null if tied",
        ),
    ],
)
def test_a_dual_embedding_stands_alone(options, message):
    raw = pair_config("clr").model_dump()
    raw["embedding"] |= options
    assert message in problems(lambda: validate_config(ModelConfig, raw, "test"))


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ({"logit_bias": -1.0}, "target.0.logit_bias: is for the sigmoid loss"),
        ({"first": {"projection": False}, "projection_size": 6}, "projection_size: is not used"),
        ({"first": {"projection": False, "bias": True}}, "first.bias: needs a projection"),
        (
            {"first": {"pooling": {"type": "attention", "num_heads": 3}}},
            "first.pooling.num_heads: 3 does not divide",
        ),
    ],
)
def test_unused_options_of_a_contrast_are_problems(target, message):
    assert message in problems(lambda: pair_config({"type": "clr"} | target))


def test_one_stream_and_sizes_of_a_second_do_not_fit():
    raw = {"vocab_size": 40, "encoder": "transformer", "second": {"hidden_size": 8}}
    message = problems(lambda: validate_config(ModelConfig, raw, "test"))
    assert "second: sets sizes of a second stream, but the embedding makes one stream" in message
    raw = {"vocab_size": 40, "encoder": "dual"}
    assert "encoder.type: 'dual'" in problems(lambda: validate_config(ModelConfig, raw, "test"))


def test_memory_of_two_streams_is_that_of_both():
    one = pair_config([], encoder={"first": TRANSFORMER | {"num_layers": 1}})
    two = pair_config([], encoder={"first": TRANSFORMER | {"num_layers": 2}})
    small, large = (activation_bytes(config, batch_size=2, length=8) for config in (one, two))
    assert large < 2 * small
    for checkpointing in (False, True):
        both = activation_bytes(two, batch_size=2, length=8, checkpointing=checkpointing)
        raw = {"vocab_size": 40, "hidden_size": 16, "encoder": TRANSFORMER | {"num_layers": 2}}
        single = activation_bytes(
            validate_config(ModelConfig, raw, "test"),
            batch_size=2,
            length=8,
            checkpointing=checkpointing,
        )
        assert both == 2 * single


def test_the_schema_describes_parts_within_parts():
    schema = json_schema(ModelConfig)
    assert "DualEmbeddingConfig" in str(schema)
    assert "DualEncoderConfig" in str(schema)
