"""Our assemblies against transformers' classes: same weights, same batch, same numbers.

Every parameter is random (default values hide bugs: zero biases, unit norms), rows are padded on
the right and on the left, and outputs, losses and all gradients must agree to 1e-5 in fp32.
"""

import pytest
import torch
from transformers import (
    BertConfig,
    BertForPreTraining,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    ViTConfig,
    ViTForImageClassification,
)

from orchestrator.config import validate_config
from orchestrator.modeling.builder import build_model
from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.huggingface import bert, gpt2, llama, vit
from orchestrator.modeling.huggingface.keys import to_ours, to_theirs

TOLERANCE = 1e-5
BATCH, LENGTH, VOCAB, LAYERS = 4, 12, 61, 2

torch.set_num_threads(1)


def bert_reference(attention):
    config = BertConfig(
        vocab_size=VOCAB,
        hidden_size=32,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=16,
        attn_implementation=attention,
    )
    return bert, BertForPreTraining(config)


def gpt2_reference(attention):
    config = GPT2Config(
        vocab_size=VOCAB,
        n_embd=32,
        n_layer=LAYERS,
        n_head=4,
        n_positions=16,
        attn_implementation=attention,
    )
    return gpt2, GPT2LMHeadModel(config)


def llama_reference(attention, kv_heads):
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=32,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=kv_heads,
        intermediate_size=48,
        max_position_embeddings=16,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 500.0},
        attn_implementation=attention,
    )
    return llama, LlamaForCausalLM(config)


def vit_reference(attention):
    config = ViTConfig(
        hidden_size=32,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        intermediate_size=48,
        image_size=12,
        patch_size=4,
        num_labels=3,
        attn_implementation=attention,
    )
    return vit, ViTForImageClassification(config)


REFERENCES = {
    "bert": bert_reference,
    "gpt2": gpt2_reference,
    "llama": lambda attention: llama_reference(attention, 4),
    "llama_grouped": lambda attention: llama_reference(attention, 2),
    "vit": vit_reference,
}


def randomise(model):
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            centre = float(parameter.mean())
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.15 + centre)


def padded_batch(side):
    generator = torch.Generator().manual_seed(5)
    ids = torch.randint(1, VOCAB, (BATCH, LENGTH), generator=generator)
    lengths = torch.tensor([LENGTH, 7, 3, 10])
    mask = (torch.arange(LENGTH) < lengths[:, None]).long()
    mask = mask if side == "right" else mask.flip(1)
    segments = torch.randint(0, 2, (BATCH, LENGTH), generator=generator)
    return {"input_ids": ids * mask, "attention_mask": mask, "token_type_ids": segments}


def images():
    generator = torch.Generator().manual_seed(9)
    return {"pixel_values": torch.randn(BATCH, 3, 12, 12, generator=generator)}


def token_labels(batch, share):
    generator = torch.Generator().manual_seed(7)
    chosen = torch.rand(BATCH, LENGTH, generator=generator) < share
    labels = torch.randint(1, VOCAB, (BATCH, LENGTH), generator=generator)
    return torch.where(chosen & batch["attention_mask"].bool(), labels, -100)


def run_theirs(family, model, batch):
    """Return logits by our target names, the loss, and both label sets."""
    if family is bert:
        labels, pairs = token_labels(batch, 0.4), torch.tensor([0, 1, 1, 0])
        output = model(**batch, labels=labels, next_sentence_label=pairs)
        logits = {"mlm": output.prediction_logits, "sp": output.seq_relationship_logits}
        return logits, output.loss, {"labels.mlm": labels, "labels.sp": pairs}
    if family is vit:
        labels = torch.tensor([0, 2, 1, 1])
        output = model(**batch, labels=labels)
        return {"cls": output.logits}, output.loss, {"labels.cls": labels}
    own = {key: batch[key] for key in ("input_ids", "attention_mask")}
    labels = token_labels(batch, 1.1)
    labels[:, 1:][batch["attention_mask"][:, :-1] == 0] = -100  # nothing is predicted from padding
    output = model(**own, labels=labels)
    shifted = torch.cat([labels[:, 1:], torch.full((BATCH, 1), -100)], dim=1)
    return {"lm": output.logits}, output.loss, {"labels.lm": shifted}


def build_ours(family, theirs, attention):
    raw = family.model_config(theirs.config.to_dict())
    raw["encoder"]["attention"] = attention
    ours = build_model(validate_config(ModelConfig, raw, "parity")).eval()
    state = to_ours(family.TABLE, dict(theirs.state_dict()), num_layers=LAYERS, ignored=family.TIED)
    missing, unexpected = ours.load_state_dict(state, strict=False)
    assert set(missing) == set(ours.tied_names())
    assert not unexpected
    return ours


def mean_loss(result):
    names = [key.removeprefix("loss.") for key in result if key.startswith("loss.")]
    return sum(result[f"loss.{name}"] / result[f"count.{name}"] for name in names)


# BERT's pooler reads column 0, which is padding when rows are padded on the left.
ONE_SIDED = ("bert", "vit")
CASES = [(name, "right") for name in REFERENCES]
CASES += [(name, "left") for name in REFERENCES if name not in ONE_SIDED]


@pytest.mark.parametrize(("name", "side"), CASES)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_outputs_loss_and_gradients_equal_the_reference(name, attention, side):
    family, theirs = REFERENCES[name](attention)
    theirs.eval()
    randomise(theirs)
    ours = build_ours(family, theirs, attention)
    batch = images() if family is vit else padded_batch(side)
    expected, their_loss, labels = run_theirs(family, theirs, batch)

    found = ours.predict(batch)
    for target, logits in expected.items():
        where = batch["attention_mask"].bool() if logits.dim() == 3 else slice(None)
        torch.testing.assert_close(found[target][where], logits[where], atol=TOLERANCE, rtol=0)

    loss = mean_loss(ours(batch | labels))
    torch.testing.assert_close(loss, their_loss, atol=TOLERANCE, rtol=0)
    loss.backward()
    their_loss.backward()
    own = dict(theirs.named_parameters())
    gradients = {key: parameter.grad for key, parameter in own.items()}
    converted = to_ours(family.TABLE, gradients, num_layers=LAYERS)
    for key, parameter in ours.named_parameters():
        torch.testing.assert_close(
            parameter.grad, converted[key], atol=TOLERANCE, rtol=0, msg=lambda m, k=key: f"{k}: {m}"
        )
    assert set(converted) == {key for key, _ in ours.named_parameters()}


@pytest.mark.parametrize("name", list(REFERENCES))
def test_names_convert_there_and_back_bitwise(name):
    family, theirs = REFERENCES[name]("eager")
    randomise(theirs)
    state = {k: v for k, v in theirs.state_dict().items() if k not in family.TIED}
    back = to_theirs(
        family.TABLE, to_ours(family.TABLE, state, num_layers=LAYERS), num_layers=LAYERS
    )
    assert back.keys() == state.keys()
    for key, tensor in state.items():
        assert torch.equal(back[key], tensor), key
