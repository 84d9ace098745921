"""Graphs of image and sound encoders against torch."""

import numpy as np
import pytest

from orchestrator.errors import InputError
from orchestrator.quantization.emission.model import emit

from .models import EncoderGraph, encoded, model_config, random_model, state_of

BEGIN = {"type": "patch", "image_size": 12, "patch_size": 4}
PRE = {"norm_position": "pre", "norm_eps": 1e-12}
PATCHES = {"rows": 3, "columns": 3}


def blocks(**options):
    return {
        "type": "transformer",
        "num_layers": 2,
        "num_heads": 4,
        "intermediate_size": 40,
    } | options


def image(encoder, *parts, **embedding):
    return encoder, {"parts": parts, "layernorm": False} | embedding


IMAGES = {
    "vit": image(blocks(**PRE), BEGIN, "pos"),
    "deit": image(blocks(**PRE), BEGIN | {"distillation_token": True}, "pos"),
    "beit": image(
        blocks(
            **PRE, attention_bias=("query", "value", "output"), layer_scale=0.1, final_norm=False,
            position_bias={"type": "patches", **PATCHES},
        ),
        BEGIN | {"type": "masked_patch"},
    ),
    "beit, shared bias": image(
        blocks(**PRE, position_bias={"type": "patches", "shared": True, **PATCHES}), BEGIN
    ),
    "dinov2": image(
        blocks(**PRE, layer_scale=1.0), BEGIN | {"interpolate": True}, "pos",
        max_position_embeddings=10,
    ),
    "dinov2 with registers": image(
        blocks(**PRE, layer_scale=1.0, feed_forward="gated", activation="silu"),
        BEGIN | {"interpolate": True, "antialias": True}, "pos",
        registers=4, max_position_embeddings=10,
    ),
    "clip": image(
        blocks(**PRE, activation="quick_gelu"), BEGIN | {"bias": False}, "pos", layernorm=True
    ),
    "siglip": image(
        blocks(**PRE, activation="gelu_tanh"), BEGIN | {"class_token": False}, "pos"
    ),
}  # fmt: skip
WAVE = {"type": "waveform", "channels": [16, 16, 16], "kernels": [10, 3, 2], "strides": [5, 2, 2]}
AROUND = {"type": "convpos", "kernel_size": 8, "groups": 4}
STORED = {
    "type": "sinusoidalpos", "stored": True, "spacing": "tensor2tensor", "layout": "halves",
}  # fmt: skip
MEL = {"type": "speech", "mel_bins": 10}
SOUNDS = {
    "wav2vec2": ("input_values", blocks(), [WAVE | {"mask_vector": True}, AROUND]),
    "hubert large": (
        "input_values", blocks(norm_position="pre"),
        [WAVE | {"norm": "layer", "bias": True}, AROUND | {"kernel_size": 7}],
    ),
    "whisper": (
        "input_features", blocks(norm_position="pre"),
        [
            MEL | {"kernels": [3, 3], "strides": [1, 2], "activation": "gelu"},
            STORED,
        ],
    ),
    "speech2text": (
        "input_features", blocks(norm_position="pre"),
        [MEL | {"scale": True}, {"type": "sinusoidalpos", "offset": 2, "pad_aware": True}],
    ),
}  # fmt: skip


def make_image(name):
    encoder, embedding = IMAGES[name]
    config = model_config(encoder, width=32, heads=(), **embedding)
    return config, random_model(config, 0.15)


def pictures(side=12, rows=3):
    rng = np.random.default_rng(4)
    return {"pixel_values": rng.standard_normal((rows, 3, side, side)).astype(np.float32)}


def check(found, expected):
    (hidden, mask), (wanted, real) = found, expected
    assert np.array_equal(mask, real)
    error = np.abs(hidden[mask] - wanted[mask]).max() / max(1.0, np.abs(wanted).max())
    assert error <= 1e-5


@pytest.mark.parametrize("name", IMAGES)
def test_hidden_states_of_images_equal_those_of_torch(name):
    config, model = make_image(name)
    graph = EncoderGraph(config, state_of(model))
    assert graph.units[0].name.endswith("patch.projection")
    check(graph.run(pictures()), encoded(model, pictures()))
    alone = {key: values[:1] for key, values in pictures().items()}
    assert np.array_equal(graph.run(alone)[0], graph.run(pictures())[0][:1])


@pytest.mark.parametrize("side", [8, 20])
@pytest.mark.parametrize("name", ["dinov2", "dinov2 with registers"])
def test_positions_are_interpolated_for_images_of_other_sizes(name, side):
    config, model = make_image(name)
    check(EncoderGraph(config, state_of(model)).run(pictures(side)), encoded(model, pictures(side)))


@pytest.mark.parametrize("name", SOUNDS)
def test_hidden_states_of_sounds_equal_those_of_torch(name):
    key, encoder, parts = SOUNDS[name]
    config = model_config(encoder, width=32, heads=(), parts=parts, layernorm=key == "input_values")
    model, rng = random_model(config, 0.15), np.random.default_rng(4)
    length = 300 if key == "input_values" else 60
    mask = np.arange(length) < np.asarray([length, length - 23, length // 2])[:, None]
    shape = mask.shape if key == "input_values" else (*mask.shape, 10)
    batch = {key: rng.standard_normal(shape).astype(np.float32), "attention_mask": mask.astype(int)}
    check(EncoderGraph(config, state_of(model)).run(batch), encoded(model, batch))


def test_a_text_and_an_image_are_one_sequence():
    part = {"type": "word_patch", "image": {"parts": [BEGIN, "pos"], "layernorm": False}}
    config = model_config(blocks(**PRE), width=32, heads=(), parts=[part], layernorm=False)
    model, rng = random_model(config, 0.15), np.random.default_rng(4)
    mask = (np.arange(9) < np.asarray([9, 4, 6])[:, None]).astype(int)
    words = rng.integers(1, 50, mask.shape), rng.integers(0, 2, mask.shape)
    batch = dict(zip(("input_ids", "token_type_ids"), words, strict=True)) | {
        "attention_mask": mask
    }
    check(
        EncoderGraph(config, state_of(model)).run(batch | pictures()),
        encoded(model, batch | pictures()),
    )


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"encoder": blocks(experts={"num_experts": 2})}, "experts"),
        ({"encoder": blocks(mask="prefix")}, "prefix"),
        (
            {
                "encoder": {"type": "dual", "first": blocks()},
                "parts": ("dual",),
                "layernorm": False,
                "dropout": 0.0,
            },
            "two streams",
        ),
    ],
)
def test_what_has_no_graph_is_refused_with_the_reason(options, named):
    config = model_config(**{"heads": ()} | options)
    with pytest.raises(InputError, match=rf"{named}.* cannot be a graph: "):
        emit(config, {})
