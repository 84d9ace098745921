"""Models of two inputs against transformers' classes: CLIP, SigLIP, ViLT, siamese BERT."""

import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import yaml
from transformers import (
    BertConfig,
    BertModel,
    CLIPConfig,
    CLIPModel,
    SiglipConfig,
    SiglipModel,
    ViltConfig,
    ViltForImageAndTextRetrieval,
    ViltForMaskedLM,
)

import orchestrator
from orchestrator.config import validate_config
from orchestrator.errors import InputError
from orchestrator.modeling.builder import build_model
from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.huggingface.classes import architecture_of, find_architecture
from orchestrator.modeling.huggingface.folder import open_source
from orchestrator.modeling.huggingface.values import Values
from tests.support.checkpoints import read_tensors

from .harness import (
    BATCH,
    LAYERS,
    LENGTH,
    VOCAB,
    Case,
    check_outputs_loss_and_gradients,
    check_there_and_back,
    close,
    ours_from,
    padded_batch,
    randomize,
    token_labels,
)

SIDE, PATCH, END = 12, 4, VOCAB - 1
TEXT = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 16,
}
IMAGES = {
    "hidden_size": 24,
    "num_hidden_layers": LAYERS + 1,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "image_size": SIDE,
    "patch_size": PATCH,
}


def pixels():
    generator = torch.Generator().manual_seed(9)
    return torch.randn(BATCH, 3, SIDE, SIDE, generator=generator)


def pair_case(theirs, text):
    return Case(
        theirs,
        text | {"pixel_values": pixels(), "return_loss": True},
        text | {"second.pixel_values": pixels(), "labels.clr": torch.ones(BATCH).long()},
        {"clr": lambda o: o.logits_per_text},
    )


def clip(attention, side, end=END):
    """Texts that end with the end token, on the last real position."""
    batch = padded_batch(side, vocab=END, pad=1)
    mask, ids = batch["attention_mask"], batch["input_ids"]
    last = (mask * torch.arange(1, LENGTH + 1)).argmax(1)
    ids[torch.arange(BATCH), last] = END
    config = CLIPConfig(
        text_config=TEXT | {"eos_token_id": end},
        vision_config=IMAGES,
        projection_dim=20,
        attn_implementation=attention,
    )
    return pair_case(CLIPModel(config), {"input_ids": ids, "attention_mask": mask})


def siglip(attention, side):
    """Texts padded to one length without a mask, or on the left with one."""
    batch = padded_batch("left", pad=1)
    text = {"input_ids": batch["input_ids"]}
    if side == "left":
        text["attention_mask"] = batch["attention_mask"]
    config = SiglipConfig(
        text_config=TEXT | {"projection_size": IMAGES["hidden_size"]},
        vision_config=IMAGES,
        attn_implementation=attention,
    )
    return pair_case(SiglipModel(config), text)


PAIRS = {"clip": clip, "siglip": siglip}


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("name", list(PAIRS))
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_outputs_loss_and_gradients_equal_the_reference(name, attention, side, tmp_path):
    check_outputs_loss_and_gradients(PAIRS[name](attention, side), tmp_path, attention)


@pytest.mark.parametrize("name", list(PAIRS))
def test_import_and_export_are_inverse(name, tmp_path):
    check_there_and_back(PAIRS[name]("sdpa", "left"), tmp_path)


def test_an_end_token_given_as_the_largest_id_is_the_same(tmp_path):
    case = clip("sdpa", "right", end=2)
    check_outputs_loss_and_gradients(case, tmp_path)
    check_there_and_back(case, tmp_path)


@pytest.mark.parametrize("name", list(PAIRS))
def test_the_vectors_of_both_streams_equal_the_reference(name, tmp_path):
    case = PAIRS[name]("sdpa", "left")
    randomize(case.theirs.eval())
    case.theirs.save_pretrained(tmp_path)
    _, ours = ours_from(tmp_path)
    expected = case.theirs(**case.their_inputs)
    first, second = ours.targets["clr"].vectors(*ours.read(case.batch))
    close(first, expected.text_embeds, "text")
    close(second, expected.image_embeds, "image")
    close(ours.predict(case.batch)["clr"].T, expected.logits_per_image, "logits_per_image")


REFUSED = [
    ("CLIPModel", CLIPConfig(text_config=TEXT | {"eos_token_id": 7}), "eos_token_id: 7"),
    (
        "SiglipModel",
        SiglipConfig(text_config=TEXT, vision_config=IMAGES | {"vision_use_head": False}),
        "vision_use_head: False",
    ),
    ("ViltForMaskedLM", ViltConfig(modality_type_vocab_size=3), "modality_type_vocab_size: 3"),
    ("ViltForMaskedLM", ViltConfig(max_image_length=200), "max_image_length: 200"),
]


@pytest.mark.parametrize(("name", "theirs", "message"), REFUSED)
def test_options_without_counterpart_are_refused(name, theirs, message):
    with pytest.raises(InputError, match=message):
        find_architecture(name).model_config(Values(theirs.to_dict()))


def test_the_page_of_models_builds_clip():
    """Values left out there stand for CLIP's own values."""
    page = Path(orchestrator.__file__).parents[1] / "docs/models.md"
    text = page.read_text(encoding="utf-8")
    example = next(
        e for e in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL) if "clr, first" in e
    )
    config = validate_config(ModelConfig, yaml.safe_load(example), "models.md")
    assert architecture_of(config).name == "CLIPModel"
    theirs = architecture_of(config).their_config(config)
    assert {key: theirs["vision_config"][key] for key in ("patch_size", "intermediate_size")} == {
        "patch_size": 32,
        "intermediate_size": 3072,
    }


PATCHES = (SIDE // PATCH) ** 2
VILT = ViltConfig(**TEXT, image_size=SIDE, patch_size=PATCH)


def vilt_mlm(side):
    """Their patches come in another order each time; what the text's vectors read does not."""
    batch = padded_batch(side) | {"pixel_values": pixels()}
    labels = token_labels(batch["attention_mask"])
    everywhere = F.pad(labels, (0, 1 + PATCHES), value=-100)
    where = F.pad(batch["attention_mask"], (0, 1 + PATCHES)).bool()
    return Case(
        ViltForMaskedLM(VILT),
        batch | {"labels": labels},
        batch | {"labels.mlm": everywhere},
        {"mlm": lambda o: F.pad(o.logits, (0, 0, 0, 1 + PATCHES))},
        {"mlm": where},
        untrained=("targets.vector.dense.weight", "targets.vector.dense.bias"),
    )


def vilt_retrieval(side):
    batch = padded_batch(side) | {"pixel_values": pixels()}
    labels = torch.tensor([1, 0, 0, 1])
    return Case(
        ViltForImageAndTextRetrieval(VILT),
        batch,
        batch | {"labels.itm": labels},
        {"itm": lambda o: o.logits},
        loss=lambda o: F.binary_cross_entropy_with_logits(o.logits[:, 0], labels.float()),
    )


# The pooler reads column 0 there, which is padding when rows are padded on the left.
VILTS = [(vilt_mlm, "right"), (vilt_mlm, "left"), (vilt_retrieval, "right")]


@pytest.mark.parametrize(("case", "side"), VILTS)
def test_text_and_image_in_one_sequence_equal_the_reference(case, side, tmp_path):
    check_outputs_loss_and_gradients(case(side), tmp_path, "eager")


@pytest.mark.parametrize("case", [vilt_mlm, vilt_retrieval])
def test_import_and_export_of_one_sequence_are_inverse(case, tmp_path):
    check_there_and_back(case("right"), tmp_path)


SIAMESE = {
    "embedding": {
        "parts": [
            {
                "type": "dual",
                "first": {"parts": ["word", "pos", "seg"], "norm_eps": 1e-12},
                "tie": True,
            }
        ],
        "layernorm": False,
        "dropout": 0.0,
    },
    "encoder": {
        "type": "dual",
        "first": {
            "type": "transformer",
            "num_layers": LAYERS,
            "num_heads": 4,
            "intermediate_size": 48,
            "norm_eps": 1e-12,
        },
        "tie": True,
    },
    "target": {"type": "siamese", "num_labels": 3},
}


def mean_of_real(hidden, mask):
    return (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)


def siamese_name(name):
    """Name of a parameter of one encoder in the siamese model."""
    part, rest = name.split(".", 1)
    return f"embedding.dual.first.{rest}" if part == "embedding" else f"encoder.first.{rest}"


def bert_tensors(folder):
    found = read_tensors(open_source(folder))
    return {siamese_name(n): t for n, t in found.items() if not n.startswith("targets.")}


def test_siamese_pooling_equals_two_runs_of_bert(tmp_path):
    theirs = BertModel(BertConfig(**TEXT)).eval()
    randomize(theirs)
    theirs.save_pretrained(tmp_path / "weights")
    sizes = {key: TEXT[key] for key in ("vocab_size", "hidden_size", "max_position_embeddings")}
    ours = build_model(validate_config(ModelConfig, sizes | SIAMESE, "parity")).eval()
    missing, unexpected = ours.load_state_dict(bert_tensors(tmp_path / "weights"), strict=False)
    assert set(missing) == {"targets.siamese.output.weight", "targets.siamese.output.bias"}
    assert not unexpected

    first, second = padded_batch("right"), padded_batch("left", first=30)
    labels, output = torch.tensor([0, 2, 1, 1]), ours.targets["siamese"].output
    u, v = (
        mean_of_real(theirs(**batch).last_hidden_state, batch["attention_mask"])
        for batch in (first, second)
    )
    logits = F.linear(torch.cat([u, v, (u - v).abs()], 1), output.weight, output.bias)
    batch = first | {f"second.{key}": value for key, value in second.items()}
    close(ours.predict(batch)["siamese"], logits, "logits")
    loss = F.cross_entropy(logits, labels)
    loss.backward()
    head = output.weight.grad.clone(), output.bias.grad.clone()
    ours.zero_grad()
    result = ours(batch | {"labels.siamese": labels})["loss.siamese"] / BATCH
    result.backward()
    close(result, loss, "loss")
    close(output.weight.grad, head[0], "classifier")
    close(output.bias.grad, head[1], "bias of the classifier")
    with torch.no_grad():
        for parameter in theirs.parameters():
            gradient = parameter.grad
            parameter.copy_(torch.zeros(()) if gradient is None else gradient)
    theirs.save_pretrained(tmp_path / "gradients")
    parameters = dict(ours.named_parameters())
    for name, expected in bert_tensors(tmp_path / "gradients").items():
        close(parameters[name].grad, expected, name)
