"""Image models against transformers' classes: ViT on other image sizes, DeiT, BEiT."""

import pytest
import torch
import torch.nn.functional as F
from transformers import (
    BeitConfig,
    BeitForImageClassification,
    BeitForMaskedImageModeling,
    DeiTConfig,
    DeiTForImageClassification,
    DeiTForImageClassificationWithTeacher,
    DeiTModel,
    ViTConfig,
    ViTForImageClassification,
    ViTModel,
)

from orchestrator.config import validate_config
from orchestrator.errors import InputError
from orchestrator.modeling.builder import build_model
from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.huggingface.classes import find_architecture
from orchestrator.modeling.huggingface.values import Values

from .harness import (
    BATCH,
    LAYERS,
    Case,
    check_outputs_loss_and_gradients,
    check_there_and_back,
    close,
    ours_from,
    randomize,
)

SIDE, PATCH, CODES = 12, 4, 53
PATCHES = (SIDE // PATCH) ** 2
SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "image_size": SIDE,
    "patch_size": PATCH,
}
LABELS = torch.tensor([0, 2, 1, 1])


def pixels(height=SIDE, width=SIDE):
    generator = torch.Generator().manual_seed(9)
    return {"pixel_values": torch.randn(BATCH, 3, height, width, generator=generator)}


def classifier(theirs):
    return Case(
        theirs,
        pixels() | {"labels": LABELS},
        pixels() | {"labels.cls": LABELS},
        {"cls": lambda o: o.logits},
    )


def deit(attention):
    config = DeiTConfig(**SIZES, num_labels=3, attn_implementation=attention)
    return classifier(DeiTForImageClassification(config))


def deit_with_teacher(attention):
    config = DeiTConfig(**SIZES, num_labels=3, attn_implementation=attention)
    taught = torch.tensor([1, 2, 0, 1])
    return Case(
        DeiTForImageClassificationWithTeacher(config),
        pixels(),
        pixels() | {"labels.cls": LABELS, "labels.distillation": taught},
        {"cls": lambda o: o.cls_logits, "distillation": lambda o: o.distillation_logits},
        loss=lambda o: (
            (F.cross_entropy(o.cls_logits, LABELS) + F.cross_entropy(o.distillation_logits, taught))
            / 2
        ),
    )


def beit_config(attention, **options):
    return BeitConfig(**SIZES, vocab_size=CODES, attn_implementation=attention, **options)


def beit_pretraining(attention, **options):
    config = beit_config(attention, use_mask_token=True, **options)
    generator = torch.Generator().manual_seed(4)
    masked = torch.rand(BATCH, PATCHES, generator=generator) < 0.4
    codes = torch.randint(0, CODES, (BATCH, PATCHES), generator=generator)
    first = torch.full((BATCH, 1), -100)
    labels = torch.cat([first, codes.masked_fill(~masked, -100)], dim=1)
    return Case(
        BeitForMaskedImageModeling(config),
        pixels() | {"bool_masked_pos": masked, "labels": codes[masked]},
        pixels() | {"masked_positions": masked, "labels.mim": labels},
        {"mim": lambda o: F.pad(o.logits, (0, 0, 1, 0))},
        {"mim": (torch.arange(1 + PATCHES) > 0).expand(BATCH, -1)},
    )


def beit_classifier(attention):
    config = beit_config(attention, num_labels=3, use_relative_position_bias=True)
    return classifier(BeitForImageClassification(config))


def answers(cls, config, kind):
    """Several labels, or numbers, in place of classes."""
    labels = torch.randn((BATCH, 3), generator=torch.Generator().manual_seed(2))
    labels = (labels > 0).float() if kind == "multilabel" else labels
    config.problem_type = {"multilabel": "multi_label_classification"}.get(kind, kind)
    return Case(
        cls(config),
        pixels() | {"labels": labels},
        pixels() | {f"labels.{kind}": labels},
        {kind: lambda o: o.logits},
    )


def vit_answers(attention, kind):
    config = ViTConfig(**SIZES, num_labels=3, attn_implementation=attention)
    return answers(ViTForImageClassification, config, kind)


def deit_answers(attention, kind):
    config = DeiTConfig(**SIZES, num_labels=3, attn_implementation=attention)
    return answers(DeiTForImageClassification, config, kind)


def beit_answers(attention, kind):
    config = beit_config(attention, num_labels=3, use_relative_position_bias=True)
    return answers(BeitForImageClassification, config, kind)


CASES = {
    "vit_multilabel": lambda attention: vit_answers(attention, "multilabel"),
    "vit_regression": lambda attention: vit_answers(attention, "regression"),
    "deit_multilabel": lambda attention: deit_answers(attention, "multilabel"),
    "beit_multilabel": lambda attention: beit_answers(attention, "multilabel"),
    "beit_regression": lambda attention: beit_answers(attention, "regression"),
    "deit": deit,
    "deit_with_teacher": deit_with_teacher,
    "beit": lambda attention: beit_pretraining(attention, use_relative_position_bias=True),
    "beit_shared": lambda a: beit_pretraining(a, use_shared_relative_position_bias=True),
    "beit_absolute": lambda a: beit_pretraining(
        a, use_absolute_position_embeddings=True, layer_scale_init_value=0.0
    ),
    "beit_classifier": beit_classifier,
}


@pytest.mark.parametrize("name", list(CASES))
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_outputs_loss_and_gradients_equal_the_reference(name, attention, tmp_path):
    check_outputs_loss_and_gradients(CASES[name](attention), tmp_path, attention)


@pytest.mark.parametrize("name", list(CASES))
def test_import_and_export_are_inverse(name, tmp_path):
    check_there_and_back(CASES[name]("sdpa"), tmp_path)


REFUSED = [
    (ViTConfig(image_size=[12, 16]), ViTForImageClassification, "image_size: .* only squares"),
    (ViTConfig(qkv_bias=False), ViTForImageClassification, "qkv_bias: False"),
    (ViTConfig(pooler_act="relu"), ViTModel, "pooler_act: 'relu'"),
    (BeitConfig(use_mean_pooling=False), BeitForImageClassification, "use_mean_pooling: False"),
    (
        BeitConfig(use_relative_position_bias=True, use_shared_relative_position_bias=True),
        BeitForImageClassification,
        "only one of them",
    ),
]


@pytest.mark.parametrize(("theirs", "cls", "message"), REFUSED)
def test_options_without_counterpart_are_refused(theirs, cls, message):
    with pytest.raises(InputError, match=message):
        find_architecture(cls.__name__).model_config(Values(theirs.to_dict()))


def test_sizes_given_twice_are_read():
    theirs = ViTConfig(image_size=[12, 12], patch_size=[4, 4]).to_dict()
    ours = find_architecture("ViTForImageClassification").model_config(Values(theirs))
    assert ours.embedding.parts[0].image_size == 12
    assert ours.max_position_embeddings == 10


BARE = {
    "vit": lambda: ViTModel(ViTConfig(**SIZES)),
    "deit": lambda: DeiTModel(DeiTConfig(**SIZES)),
}


@pytest.mark.parametrize("name", list(BARE))
def test_bodies_with_their_pooler_equal_the_reference(name, tmp_path):
    case = Case(BARE[name](), pixels(), pixels(), {"vector": lambda o: o.pooler_output})
    check_there_and_back(case, tmp_path)
    _, ours = ours_from(tmp_path / "first")
    expected = case.theirs(**pixels())
    close(ours.encode(pixels()), expected.last_hidden_state, "hidden")
    close(ours.predict(pixels())["vector"], expected.pooler_output, "vector")


FAMILIES = {
    "vit": lambda: ViTForImageClassification(ViTConfig(**SIZES, num_labels=3)),
    "deit": lambda: DeiTForImageClassification(DeiTConfig(**SIZES, num_labels=3)),
}


@pytest.mark.parametrize("name", list(FAMILIES))
@pytest.mark.parametrize("size", [(16, 16), (8, 20), (SIDE, SIDE), (4, 36)])
def test_images_of_other_sizes_equal_the_reference(name, size, tmp_path):
    theirs = FAMILIES[name]().eval()
    randomize(theirs)
    theirs.save_pretrained(tmp_path)
    source, fixed = ours_from(tmp_path)
    raw = source.config.model_dump()
    raw["embedding"]["parts"][0]["interpolate"] = True
    ours = build_model(validate_config(ModelConfig, raw, "parity")).eval()
    ours.load_state_dict(fixed.state_dict())
    expected = theirs(**pixels(*size), labels=LABELS, interpolate_pos_encoding=True)
    result = ours(pixels(*size) | {"labels.cls": LABELS})
    close(ours.predict(pixels(*size))["cls"], expected.logits, "logits")
    close(result["loss.cls"] / BATCH, expected.loss, "loss")
    expected.loss.backward()
    (result["loss.cls"] / BATCH).backward()
    table = next(p for n, p in theirs.named_parameters() if n.endswith("position_embeddings"))
    close(ours.embedding.pos.weight.grad, table.grad[0], "gradient of the positions")
    if size != (SIDE, SIDE):
        with pytest.raises(InputError, match="Resize the images"):
            fixed.predict(pixels(*size))
