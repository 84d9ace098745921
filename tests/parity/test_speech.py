"""Speech2Text, Whisper, wav2vec 2.0 and HuBERT against transformers' classes."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    HubertConfig,
    HubertForCTC,
    HubertForSequenceClassification,
    Speech2TextConfig,
    Speech2TextForConditionalGeneration,
    Wav2Vec2Config,
    Wav2Vec2ForCTC,
    Wav2Vec2ForSequenceClassification,
    WhisperConfig,
    WhisperForConditionalGeneration,
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
    token_labels,
)

BINS, START, PAD, TARGET_LENGTH = 10, 2, 1, 9
TWO_SIDED = {
    "vocab_size": VOCAB,
    "d_model": 32,
    "encoder_layers": LAYERS,
    "decoder_layers": LAYERS,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 40,
    "max_target_positions": 16,
}


def frames_mask(lengths):
    return (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()


def target_side():
    """Return decoder inputs, their mask and labels; padded on the right."""
    mask = frames_mask([TARGET_LENGTH, 4, 6, 2])
    labels = token_labels(mask, 1.1)
    labels = torch.where(labels == PAD, START + 1, labels)  # theirs never train the padding row
    ids = torch.cat([torch.full((BATCH, 1), START), labels[:, :-1]], 1)
    return torch.where(mask.bool(), ids, PAD), mask, labels


def spectrograms(frames):
    generator = torch.Generator().manual_seed(5)
    return torch.randn(BATCH, frames, BINS, generator=generator)


def speech2text(attention, **options):
    del attention
    config = Speech2TextConfig(
        **TWO_SIDED,
        max_source_positions=60,
        conv_channels=24,
        input_feat_per_channel=BINS,
        attn_implementation="eager",  # theirs has no other
        **options,
    )
    mask = frames_mask([39, 22, 17, 31])  # no length is a multiple of four
    sound = {"input_features": spectrograms(39) * mask[..., None], "attention_mask": mask}
    ids, target_mask, labels = target_side()
    given = sound | {"decoder_input_ids": ids, "decoder_attention_mask": target_mask}
    return Case(
        Speech2TextForConditionalGeneration(config),
        given | {"labels": labels},
        given | {"labels.lm": labels},
        {"lm": lambda o: o.logits},
        {"lm": target_mask.bool()},
    )


def whisper(attention):
    config = WhisperConfig(
        **TWO_SIDED,
        max_source_positions=13,
        num_mel_bins=BINS,
        pad_token_id=PAD,
        bos_token_id=0,
        eos_token_id=START,
        decoder_start_token_id=START,
        attn_implementation=attention,
    )
    features = spectrograms(26)
    ids, mask, labels = target_side()
    words = {"decoder_input_ids": ids, "decoder_attention_mask": mask}
    return Case(
        WhisperForConditionalGeneration(config),
        words | {"input_features": features.transpose(1, 2), "labels": labels},
        words | {"input_features": features, "labels.lm": labels},
        {"lm": lambda o: o.logits},
        {"lm": mask.bool()},
        ("embedding.sinusoidalpos.weight",),
    )


def ctc(theirs, lengths):
    generator = torch.Generator().manual_seed(5)
    mask = frames_mask(lengths)
    sound = torch.randn(mask.shape, generator=generator) * mask
    labels = torch.randint(1, VOCAB, (BATCH, 3), generator=generator)
    labels[1, 2] = labels[2, 1:] = -100
    given = {"input_values": sound, "attention_mask": mask}
    frames = theirs._get_feat_extract_output_lengths(torch.tensor(lengths)).tolist()
    return Case(
        theirs,
        given | {"labels": labels},
        given | {"labels.ctc": labels},
        {"ctc": lambda o: o.logits},
        {"ctc": frames_mask(frames).bool()},
        ("embedding.waveform.mask_vector",),
        twin="Wav2Vec2ForCTC",
        loss=lambda output: output.loss / (labels >= 0).sum(),  # theirs is a sum
    )


CONVOLUTIONS = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "conv_dim": (16, 12, 16),
    "conv_stride": (5, 2, 2),
    "conv_kernel": (10, 3, 2),
    "num_conv_pos_embedding_groups": 4,
}
LENGTHS = [253, 170, 141, 200]


def wav2vec2(attention, **options):
    kernel = {"num_conv_pos_embeddings": 8}
    config = Wav2Vec2Config(**CONVOLUTIONS | kernel | options, attn_implementation=attention)
    return ctc(Wav2Vec2ForCTC(config), LENGTHS)


def hubert(attention, **options):
    kernel = {"num_conv_pos_embeddings": 7}
    config = HubertConfig(**CONVOLUTIONS | kernel | options, attn_implementation=attention)
    return ctc(HubertForCTC(config), LENGTHS)


def classifier(cls, config_class, twin=""):
    """One class for a recording: a linear layer, the mean over real frames, the output layer."""

    def case(attention):
        kernel = {"num_conv_pos_embeddings": 8, "classifier_proj_size": 20, "num_labels": 3}
        config = config_class(**CONVOLUTIONS | kernel, attn_implementation=attention)
        mask = frames_mask(LENGTHS)
        generator = torch.Generator().manual_seed(5)
        sound = torch.randn(mask.shape, generator=generator) * mask
        given = {"input_values": sound, "attention_mask": mask}
        labels = torch.tensor([0, 2, 1, 1])
        return Case(
            cls(config),
            given | {"labels": labels},
            given | {"labels.cls": labels},
            {"cls": lambda o: o.logits},
            untrained=("embedding.waveform.mask_vector",),
            twin=twin,
        )

    return case


STABLE = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}
CASES = {
    "speech2text": speech2text,
    "speech2text_three": lambda attention: speech2text(
        attention, num_conv_layers=3, conv_kernel_sizes=(5, 3, 5), scale_embedding=False
    ),
    "whisper": whisper,
    "wav2vec2": wav2vec2,
    "wav2vec2_stable": lambda attention: wav2vec2(attention, mask_time_prob=0.0, **STABLE),
    "hubert": hubert,
    "hubert_stable": lambda attention: hubert(attention, **STABLE),
    "wav2vec2_classifier": classifier(Wav2Vec2ForSequenceClassification, Wav2Vec2Config),
    "hubert_classifier": classifier(
        HubertForSequenceClassification, HubertConfig, twin="Wav2Vec2ForSequenceClassification"
    ),
}


@pytest.mark.parametrize("name", list(CASES))
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_outputs_loss_and_gradients_equal_the_reference(name, attention, tmp_path):
    check_outputs_loss_and_gradients(CASES[name](attention), tmp_path, attention)


@pytest.mark.parametrize("name", list(CASES))
def test_import_and_export_are_inverse(name, tmp_path):
    check_there_and_back(CASES[name]("sdpa"), tmp_path)


def test_older_names_of_the_positions_kernel_are_read(tmp_path):
    """Released wav2vec 2.0 checkpoints were made before torch renamed normalized weights."""
    wav2vec2("sdpa").theirs.save_pretrained(tmp_path)
    expected = read_tensors(open_source(tmp_path))
    file = tmp_path / "model.safetensors"
    renamed = {
        name.replace("parametrizations.weight.original0", "weight_g").replace(
            "parametrizations.weight.original1", "weight_v"
        ): tensor
        for name, tensor in load_file(file).items()
    }
    assert "wav2vec2.encoder.pos_conv_embed.conv.weight_g" in renamed
    save_file(renamed, file, metadata={"format": "pt"})
    found = read_tensors(open_source(tmp_path))
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
