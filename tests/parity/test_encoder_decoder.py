"""T5, BART, PEGASUS and Marian against transformers' classes: outputs, loss, every gradient.

Labels stand at the decoder's positions on both sides: ``decoder_input_ids`` are given, shifted.
"""

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    MarianConfig,
    MarianMTModel,
    MT5Config,
    MT5ForConditionalGeneration,
    PegasusConfig,
    PegasusForConditionalGeneration,
    T5Config,
    T5ForConditionalGeneration,
)

from orchestrator.modeling.huggingface.folder import open_source
from tests.support.checkpoints import read_tensors

from .harness import (
    BATCH,
    LAYERS,
    VOCAB,
    Case,
    check_outputs_loss_and_gradients,
    check_there_and_back,
    close,
    mean_loss,
    ours_from,
    padded_batch,
    randomize,
    token_labels,
)

START = 2
TARGET_LENGTH = 9


def target_side(pad, length=TARGET_LENGTH):
    """Return decoder inputs, their mask and labels; padded on the right."""
    mask = (torch.arange(length) < torch.tensor([length, 4, 6, 2])[:, None]).long()
    labels = token_labels(mask, 1.1)
    labels = torch.where(labels == pad, START + 1, labels)  # theirs never train the padding row
    ids = torch.cat([torch.full((BATCH, 1), START), labels[:, :-1]], 1)
    return torch.where(mask.bool(), ids, pad), mask, labels


def case_of(theirs, side, untrained=()):
    pad = theirs.config.pad_token_id
    for name, buffer in theirs.named_buffers():
        if name == "final_logits_bias":
            buffer.copy_(torch.randn(buffer.shape, generator=torch.Generator().manual_seed(11)))
    batch = padded_batch(side, first=2, pad=pad)
    ids, mask, labels = target_side(pad)
    given = {key: batch[key] for key in ("input_ids", "attention_mask")}
    given |= {"decoder_input_ids": ids, "decoder_attention_mask": mask}
    return Case(
        theirs,
        given | {"labels": labels},
        given | {"labels.lm": labels},
        {"lm": lambda o: o.logits},
        {"lm": mask.bool()},
        untrained,
    )


def t5(attention, side, **options):
    sizes = {"d_model": 32, "d_kv": 6, "d_ff": 48, "num_layers": LAYERS, "num_heads": 4}
    buckets = {"relative_attention_num_buckets": 8, "relative_attention_max_distance": 10}
    config = T5Config(
        vocab_size=VOCAB, **sizes, **buckets, attn_implementation=attention, **options
    )
    return case_of(T5ForConditionalGeneration(config), side)


def t5_gated(attention, side):
    options = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
    case = t5(attention, side, num_decoder_layers=1, **options)
    # transformers 5 ties the output layer of a new v1.1; one that is read from a file is its own
    case.theirs.lm_head.weight = torch.nn.Parameter(torch.zeros(VOCAB, 32))
    return case


def mt5(attention, side):
    sizes = {"d_model": 32, "d_kv": 6, "d_ff": 48, "num_layers": LAYERS, "num_heads": 4}
    config = MT5Config(vocab_size=VOCAB, **sizes, attn_implementation=attention)
    case = case_of(MT5ForConditionalGeneration(config), side)
    case.theirs.lm_head.weight = torch.nn.Parameter(torch.zeros(VOCAB, 32))
    case.twin = "T5ForConditionalGeneration"
    return case


def two_sided(config_class, attention, **options):
    return config_class(
        vocab_size=VOCAB,
        d_model=32,
        encoder_layers=LAYERS,
        decoder_layers=LAYERS,
        encoder_attention_heads=4,
        decoder_attention_heads=2,
        encoder_ffn_dim=48,
        decoder_ffn_dim=40,
        attn_implementation=attention,
        **{"pad_token_id": 1, "max_position_embeddings": 16} | options,
    )


def bart(attention, side, **options):
    config = two_sided(BartConfig, attention, **options)
    return case_of(BartForConditionalGeneration(config), side, ("targets.lm.output.bias",))


def pegasus(attention, side):
    fixed = ("embedding.sinusoidalpos.weight", "target_embedding.sinusoidalpos.weight")
    config = two_sided(
        PegasusConfig,
        attention,
        pad_token_id=0,
        scale_embedding=True,
        activation_function="relu",
    )
    theirs = PegasusForConditionalGeneration(config)
    return case_of(theirs, side, ("targets.lm.output.bias", *fixed))


def marian(attention, side):
    config = two_sided(MarianConfig, attention, scale_embedding=True, activation_function="swish")
    return case_of(MarianMTModel(config), side, ("targets.lm.output.bias",))


CASES = {
    "mt5": mt5,
    "t5": t5,
    "t5_gated": t5_gated,
    "bart": bart,
    "bart_scaled": lambda attention, side: bart(attention, side, scale_embedding=True),
    "pegasus": pegasus,
    "marian": marian,
}


@pytest.mark.parametrize("name", list(CASES))
@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_outputs_loss_and_gradients_equal_the_reference(name, attention, side, tmp_path):
    case = CASES[name](attention, side)
    check_outputs_loss_and_gradients(case, tmp_path, attention)


@pytest.mark.parametrize("name", list(CASES))
def test_import_and_export_are_inverse(name, tmp_path):
    check_there_and_back(CASES[name]("sdpa", "right"), tmp_path)


def test_their_shifted_labels_are_decoder_inputs_here(tmp_path):
    """Given labels alone, theirs puts the start token before them; ours gets that as input."""
    case = t5("sdpa", "right", decoder_start_token_id=0)
    theirs = case.theirs.eval()
    randomize(theirs)
    theirs.save_pretrained(tmp_path)
    _, ours = ours_from(tmp_path)
    labels = case.batch["labels.lm"]
    text = {key: case.batch[key] for key in ("input_ids", "attention_mask")}
    start = torch.zeros(BATCH, 1, dtype=torch.long)
    shifted = torch.cat([start, labels[:, :-1].clamp(min=0)], 1)
    found = mean_loss(ours, text | {"decoder_input_ids": shifted, "labels.lm": labels})
    close(found, theirs(**text, labels=labels).loss, "loss")


@pytest.mark.parametrize("name", ["pegasus", "bart", "marian"])
def test_files_without_what_the_class_makes_itself_are_complete(name, tmp_path):
    """transformers 4 left the sine tables of PEGASUS out; a body alone has no logits bias."""
    theirs = CASES[name]("sdpa", "right").theirs
    theirs.final_logits_bias.zero_()
    theirs.save_pretrained(tmp_path)
    expected = read_tensors(open_source(tmp_path))
    made = (
        ("embed_positions.weight", "final_logits_bias") if name == "pegasus" else ("logits_bias",)
    )
    file = tmp_path / "model.safetensors"
    kept = {key: each for key, each in load_file(file).items() if not key.endswith(made)}
    save_file(kept, file, metadata={"format": "pt"})
    found = read_tensors(open_source(tmp_path))
    assert found.keys() == expected.keys()
    for key, tensor in expected.items():
        close(found[key], tensor, key)
