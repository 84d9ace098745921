"""Bodies alone against transformers' classes: states, vector, gradients, there and back.

Encoders of T5 and mT5, towers of CLIP and SigLIP, ViT, DeiT and BEiT with and without a pooler,
wav2vec 2.0 and HuBERT.
"""

import pytest
import torch
from transformers import (
    BeitConfig,
    BeitModel,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPVisionConfig,
    CLIPVisionModel,
    CLIPVisionModelWithProjection,
    DeiTConfig,
    DeiTModel,
    HubertConfig,
    HubertModel,
    MT5Config,
    MT5EncoderModel,
    SiglipTextConfig,
    SiglipTextModel,
    SiglipVisionConfig,
    SiglipVisionModel,
    T5Config,
    T5EncoderModel,
    ViTConfig,
    ViTModel,
    Wav2Vec2Config,
    Wav2Vec2Model,
)

from orchestrator.modeling.huggingface.folder import open_source
from tests.support.checkpoints import read_tensors

from .harness import (
    BATCH,
    LAYERS,
    VOCAB,
    Case,
    check_there_and_back,
    close,
    ours_from,
    padded_batch,
    randomize,
)
from .test_multimodal import END, IMAGES, TEXT, clip
from .test_multimodal import pixels as images
from .test_speech import CONVOLUTIONS, LENGTHS, STABLE, frames_mask
from .test_vision import SIZES, pixels

T5 = {
    "vocab_size": VOCAB,
    "d_model": 32,
    "d_kv": 6,
    "d_ff": 48,
    "num_layers": LAYERS,
    "num_heads": 4,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 10,
}


def pooled(output):
    return output.pooler_output


def text_case(theirs, batch, get=None, twin=""):
    vector = {} if get is None else {"vector": get}
    return Case(theirs, batch, batch, vector, twin=twin)


def t5(cls, config, twin=""):
    batch = padded_batch("left")
    del batch["token_type_ids"]
    return text_case(cls(config), batch, twin=twin)


def clip_text(cls, get, **options):
    batch = dict(clip("sdpa", "right").batch)
    own = {name: batch[name] for name in ("input_ids", "attention_mask")}
    return text_case(cls(CLIPTextConfig(**TEXT, eos_token_id=END, **options)), own, get)


def siglip_text():
    batch = {"input_ids": padded_batch("left", pad=1)["input_ids"]}
    config = SiglipTextConfig(**TEXT, projection_size=20, hidden_act="gelu_pytorch_tanh")
    return text_case(SiglipTextModel(config), batch, pooled)


def of_images(theirs, get=None):
    given = {"pixel_values": images()}
    return text_case(theirs, given, get)


def of_pixels(theirs, get=pooled):
    return text_case(theirs, pixels(), get)


def sound(theirs, twin=""):
    mask = frames_mask(LENGTHS)
    generator = torch.Generator().manual_seed(5)
    given = {"input_values": torch.randn(mask.shape, generator=generator) * mask}
    given["attention_mask"] = mask
    return text_case(theirs, given, twin=twin)


WAVES = CONVOLUTIONS | {"num_conv_pos_embeddings": 8}
FUSED = {"hidden_act": "gelu_pytorch_tanh"}
BEIT = SIZES | {"use_relative_position_bias": True}
CASES = {
    "t5": lambda: t5(T5EncoderModel, T5Config(**T5)),
    "mt5": lambda: t5(
        MT5EncoderModel, MT5Config(**T5, feed_forward_proj="gated-gelu"), twin="T5EncoderModel"
    ),
    "clip_text": lambda: clip_text(CLIPTextModel, pooled),
    "clip_text_projected": lambda: clip_text(
        CLIPTextModelWithProjection, lambda o: o.text_embeds, projection_dim=20
    ),
    "clip_image": lambda: of_images(CLIPVisionModel(CLIPVisionConfig(**IMAGES)), pooled),
    "clip_image_projected": lambda: of_images(
        CLIPVisionModelWithProjection(CLIPVisionConfig(**IMAGES, projection_dim=20)),
        lambda o: o.image_embeds,
    ),
    "siglip_text": siglip_text,
    "siglip_image": lambda: of_images(
        SiglipVisionModel(SiglipVisionConfig(**IMAGES, **FUSED)), pooled
    ),
    "siglip_image_headless": lambda: of_images(
        SiglipVisionModel(SiglipVisionConfig(**IMAGES, **FUSED, vision_use_head=False))
    ),
    "vit_headless": lambda: of_pixels(ViTModel(ViTConfig(**SIZES), add_pooling_layer=False), None),
    "deit_headless": lambda: of_pixels(
        DeiTModel(DeiTConfig(**SIZES), add_pooling_layer=False), None
    ),
    "beit": lambda: of_pixels(BeitModel(BeitConfig(**BEIT))),
    "beit_masked": lambda: of_pixels(BeitModel(BeitConfig(**BEIT, use_mask_token=True))),
    "beit_headless": lambda: of_pixels(
        BeitModel(BeitConfig(**BEIT), add_pooling_layer=False), None
    ),
    "wav2vec2": lambda: sound(Wav2Vec2Model(Wav2Vec2Config(**WAVES))),
    "wav2vec2_stable": lambda: sound(Wav2Vec2Model(Wav2Vec2Config(**WAVES, **STABLE))),
    "hubert": lambda: sound(HubertModel(HubertConfig(**WAVES)), twin="Wav2Vec2Model"),
}
UNTRAINED = ("mask_vector", "mask_token")
"""Ends of names of what these passes do not read."""


def weighted(tensor):
    generator = torch.Generator().manual_seed(13)
    return (tensor * torch.randn(tensor.shape, generator=generator)).sum() / BATCH


@pytest.mark.parametrize("name", list(CASES))
def test_states_vector_and_gradients_equal_the_reference(name, tmp_path):
    case = CASES[name]()
    theirs = case.theirs.eval()
    randomize(theirs)
    theirs.save_pretrained(tmp_path / "weights")
    _, ours = ours_from(tmp_path / "weights")
    assert set(ours.targets) == set(case.logits)
    output = theirs(**case.their_inputs)
    hidden, mask = ours.read(case.batch)
    close(hidden[mask], output.last_hidden_state[mask], "hidden")
    loss, their_loss = weighted(hidden[mask]), weighted(output.last_hidden_state[mask])
    for get in case.logits.values():
        vector = ours.predict(case.batch)["vector"]
        close(vector, get(output), "vector")
        loss, their_loss = loss + weighted(vector), their_loss + weighted(get(output))
    loss.backward()
    their_loss.backward()
    with torch.no_grad():
        for parameter in theirs.parameters():
            gradient = parameter.grad
            parameter.copy_(torch.zeros(()) if gradient is None else gradient)
    theirs.save_pretrained(tmp_path / "gradients")
    expected = read_tensors(open_source(tmp_path / "gradients"))
    for key, parameter in ours.named_parameters():
        if not key.endswith(UNTRAINED):
            scale = max(1.0, float(expected[key].abs().max()))
            close(parameter.grad / scale, expected[key] / scale, key)


@pytest.mark.parametrize("name", [n for n in CASES if "headless" not in n])
def test_import_and_export_are_inverse(name, tmp_path):
    check_there_and_back(CASES[name](), tmp_path)


def test_older_names_of_a_tower_are_read(tmp_path):
    """Files of transformers 4 have ``text_model.`` in front of every name."""
    from safetensors.torch import load_file, save_file

    CASES["clip_text"]().theirs.save_pretrained(tmp_path)
    expected = read_tensors(open_source(tmp_path))
    file = tmp_path / "model.safetensors"
    longer = {f"text_model.{name}": tensor for name, tensor in load_file(file).items()}
    save_file(longer, file, metadata={"format": "pt"})
    found = read_tensors(open_source(tmp_path))
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
