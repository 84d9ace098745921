"""A batch without padding reaches attention without a mask, whatever it holds, on any device.

Fused kernels take ``is_causal`` or nothing; an explicit mask sends them to slower ones, and asking
an accelerator whether a mask is full would wait for it.
"""

import pytest
import torch
import torch.nn.functional as F

from orchestrator.inference.models import TorchModel
from orchestrator.modeling.builder import build_model
from orchestrator.modeling.generation.continuation import Continuation
from orchestrator.modeling.layers.attention import known_full
from orchestrator.modeling.transfer import to_device
from tests.support.fake_device import without_autocast

from .pairs import image_text_config, pair_config
from .small import LENGTH, VOCAB, make_config
from .test_components import IMAGE, SOUND, make_sound, small

BLOCKS = small("transformer")
CAUSAL = {
    "embedding": {"parts": ["word"], "dropout": 0.0},
    "encoder": BLOCKS | {"mask": "causal"},
    "target": "lm",
}
T5 = {
    "encoder": BLOCKS,
    "target_embedding": {"parts": ["word", "pos"]},
    "decoder": BLOCKS,
    "target": "lm",
}
WHISPER = T5 | {"embedding": {"parts": [small("speech"), "sinusoidalpos"]}}


def text(name=""):
    ids = torch.randint(1, VOCAB, (4, LENGTH))
    return {f"{name}input_ids": ids, f"{name}attention_mask": torch.ones_like(ids)}


def sound(kind):
    found = make_sound(kind)
    return found | {"attention_mask": torch.ones_like(found["attention_mask"])}


def picture(name=""):
    return {f"{name}pixel_values": torch.randn(4, 3, IMAGE, IMAGE)}


def pictures():
    parts = [small("patch"), "pos"]
    return make_config(embedding={"parts": parts}, encoder=BLOCKS, target=small("cls"))


def heard():
    parts = [small("waveform"), small("convpos")]
    return make_config(
        embedding={"parts": parts}, encoder=BLOCKS, target="ctc", max_position_embeddings=SOUND
    )


KINDS = {
    "text": (lambda: make_config(encoder=BLOCKS, target="mlm"), text, [False]),
    "causal text": (lambda: make_config(**CAUSAL), text, [True]),
    "pairs": (lambda: pair_config("clr"), lambda: text() | text("second."), [False] * 2),
    "text and pictures": (
        lambda: image_text_config({"type": "clr", "projection_size": 8}),
        lambda: text() | picture("second."),
        [False] * 2,
    ),
    "encoder and decoder": (
        lambda: make_config(**T5),
        lambda: text() | text("decoder_"),
        [False, True, False],
    ),
    "pictures": (pictures, picture, [False]),
    "spectrograms": (
        lambda: make_config(**WHISPER, max_position_embeddings=SOUND),
        lambda: sound("speech") | text("decoder_"),
        [False, True, False],
    ),
    "waveforms": (heard, lambda: sound("waveform"), [False]),
}
"""Model, batch, and whether each attention of a block is causal."""


@pytest.fixture
def asked(monkeypatch):
    """Return what attention asks of the kernel, call by call."""
    without_autocast(monkeypatch)
    calls, kernel = [], F.scaled_dot_product_attention

    def spy(*args, **options):
        calls.append((options["attn_mask"], options["is_causal"]))
        return kernel(*args, **options)

    monkeypatch.setattr(F, "scaled_dot_product_attention", spy)
    return calls


@pytest.mark.parametrize("kind", list(KINDS))
def test_no_mask_is_asked_for(kind, asked):
    config, batch, causal = (each if isinstance(each, list) else each() for each in KINDS[kind])
    model = build_model(config).eval()
    names = [target.name for target in config.target]
    model.to("meta").predict(to_device(batch, "meta"), names)
    assert len(asked) >= len(causal)
    assert all(mask is None for mask, _ in asked)
    assert {flag for _, flag in asked} == set(causal)


def test_padding_still_asks_for_a_mask(asked):
    model = build_model(make_config(**WHISPER, max_position_embeddings=SOUND)).eval().to("meta")
    model.predict(to_device(make_sound("speech") | text("decoder_"), "meta"), ["lm"])
    assert [mask is None for mask, _ in asked].count(False) == 2 * len(asked) // 3


def test_a_prompt_is_read_without_a_mask(asked):
    model = build_model(make_config(**CAUSAL)).eval().to("meta")
    longer = Continuation(model, to_device(text(), "meta"), start=0, target="lm")
    longer.start()
    assert set(asked) == {(None, True)}
    asked.clear()
    longer.extend(torch.zeros(4, dtype=torch.int64, device="meta"))
    assert set(asked) == {(None, False)}  # one token reads everything before it


def test_prediction_and_writing_hand_over_no_mask():
    model = TorchModel(build_model(make_config(**CAUSAL)), "meta")
    given = {name: value.numpy() for name, value in text().items()}
    assert known_full(model._tensors(given)["attention_mask"])
    given["attention_mask"][1, 5:] = 0
    assert not known_full(model._tensors(given)["attention_mask"])
