"""DINOv2 with and without registers against transformers' classes, on images of other sizes too."""

import pytest
import torch
from transformers import (
    Dinov2Config,
    Dinov2ForImageClassification,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersForImageClassification,
    Dinov2WithRegistersModel,
)

from orchestrator.errors import InputError
from orchestrator.modeling.huggingface.classes import find_architecture
from orchestrator.modeling.huggingface.values import Values

from .harness import (
    LAYERS,
    Case,
    check_outputs_loss_and_gradients,
    check_there_and_back,
    close,
    ours_from,
    randomize,
)
from .test_vision import LABELS, PATCH, SIDE, answers, pixels

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "mlp_ratio": 2,
    "image_size": SIDE,
    "patch_size": PATCH,
    "layerscale_value": 0.5,
}
CLASSES = {
    "plain": (Dinov2Config, Dinov2ForImageClassification, Dinov2Model, {}),
    "giant": (
        Dinov2Config,
        Dinov2ForImageClassification,
        Dinov2Model,
        {"use_swiglu_ffn": True, "use_mask_token": False, "qkv_bias": False},
    ),
    "registers": (
        Dinov2WithRegistersConfig,
        Dinov2WithRegistersForImageClassification,
        Dinov2WithRegistersModel,
        {"num_register_tokens": 3},
    ),
    "giant_registers": (
        Dinov2WithRegistersConfig,
        Dinov2WithRegistersForImageClassification,
        Dinov2WithRegistersModel,
        {"num_register_tokens": 1, "use_swiglu_ffn": True},
    ),
}
OTHER = [(SIDE, SIDE), (16, 16), (8, 20), (4, 8)]


def classifier(name, attention, size=(SIDE, SIDE)):
    config_class, cls, _, options = CLASSES[name]
    config = config_class(**SIZES, **options, num_labels=3, attn_implementation=attention)
    given = pixels(*size)
    return Case(
        cls(config),
        given | {"labels": LABELS},
        given | {"labels.cls": LABELS},
        {"cls": lambda o: o.logits},
        untrained=("embedding.masked_patch.mask_token",),
    )


def body(name, size=(SIDE, SIDE)):
    config_class, _, cls, options = CLASSES[name]
    given = pixels(*size)
    patches = (size[0] // PATCH) * (size[1] // PATCH)
    hidden = torch.rand(4, patches, generator=torch.Generator().manual_seed(3)) < 0.4
    ours = given | {"masked_positions": hidden}
    theirs = cls(config_class(**SIZES, **options))
    masks = options.get("use_mask_token", True)
    masked = {"bool_masked_pos": hidden} if masks else {}
    return Case(
        theirs, given | masked, ours if masks else given, {"vector": lambda o: o.pooler_output}
    )


CASES = {
    **{name: lambda a, n=name: classifier(n, a) for name in CLASSES},
    "multilabel": lambda a: answers(
        Dinov2ForImageClassification, Dinov2Config(**SIZES, num_labels=3), "multilabel"
    ),
}
CASES = {f"dinov2_{name}": build for name, build in CASES.items()}


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("size", OTHER)
@pytest.mark.parametrize("name", list(CLASSES))
def test_outputs_loss_and_gradients_equal_the_reference(name, size, attention, tmp_path):
    check_outputs_loss_and_gradients(classifier(name, attention, size), tmp_path, attention)


@pytest.mark.parametrize("size", OTHER)
@pytest.mark.parametrize("name", list(CLASSES))
def test_bodies_equal_the_reference(name, size, tmp_path):
    case = body(name, size)
    randomize(case.theirs.eval())
    case.theirs.save_pretrained(tmp_path)
    _, ours = ours_from(tmp_path)
    expected = case.theirs(**case.their_inputs)
    close(ours.encode(case.batch), expected.last_hidden_state, "hidden")
    close(ours.predict(case.batch)["vector"], expected.pooler_output, "vector")


@pytest.mark.parametrize("name", list(CASES))
def test_import_and_export_are_inverse(name, tmp_path):
    case = CASES[name]("sdpa")
    case.untrained = ()
    check_there_and_back(case, tmp_path)


@pytest.mark.parametrize("name", list(CLASSES))
def test_import_and_export_of_bodies_are_inverse(name, tmp_path):
    check_there_and_back(body(name), tmp_path)


def test_other_options_are_refused():
    refused = {"drop_path_rate": 0.1, "image_size": [12, 16]}
    for key, value in refused.items():
        theirs = Dinov2Config(**SIZES | {key: value}).to_dict()
        with pytest.raises(InputError, match=key):
            find_architecture("Dinov2Model").model_config(Values(theirs))
