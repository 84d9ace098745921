"""Sound: lengths after convolutions, what padding may change, CTC against its definition."""

import itertools
from dataclasses import replace

import pytest
import torch

from orchestrator.config import validate_config
from orchestrator.errors import ConfigError, InputError
from orchestrator.modeling.builder import build_model
from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.embeddings.speech import subsampled
from orchestrator.modeling.interfaces import first_frames
from orchestrator.modeling.targets.token_configs import CtcConfig
from orchestrator.modeling.targets.tokens import CtcTarget, transcribe

from .small import make_config, make_model

BINS = 5


@pytest.mark.parametrize("centered", [True, False])
def test_lengths_are_those_of_the_convolutions(centered):
    kernels, strides = (5, 3), (2, 3)
    for length in range(9, 40):
        x = torch.zeros(1, 1, length)
        for kernel, stride in zip(kernels, strides, strict=True):
            weight, around = torch.zeros(1, 1, kernel), kernel // 2 if centered else 0
            x = torch.nn.functional.conv1d(x, weight, stride=stride, padding=around)
        found = subsampled(torch.tensor([length]), kernels, strides, centered=centered)
        assert found.tolist() == [x.shape[2]]


def test_two_strides_of_two_follow_the_formula_for_every_length():
    """floor((floor((L - 1) / 2) + 1 - 1) / 2) + 1, not floor(L / 4)."""
    lengths = torch.arange(1, 30)
    found = subsampled(lengths, (5, 5), (2, 2), centered=True)
    assert found.tolist() == [((n - 1) // 2) // 2 + 1 for n in lengths.tolist()]


def test_first_frames():
    assert first_frames(torch.tensor([2, 0]), 3).tolist() == [[True, True, False], [False] * 3]


def speech(*others, **options):
    parts = [{"type": "speech", "mel_bins": BINS, "channels": 8, **options}, *others]
    return make_model(
        embedding={"parts": parts, "layernorm": False, "dropout": 0.0}, encoder="gru"
    ).embedding


def test_a_spectrogram_gets_the_mask_of_its_positions():
    embedding = speech("sinusoidalpos")
    mask = first_frames(torch.tensor([11, 9, 6]), 11).long()
    hidden, positions = embedding(
        {"input_features": torch.randn(3, 11, BINS), "attention_mask": mask}
    )
    assert hidden.shape[:2] == positions.shape == (3, 3)
    assert positions.sum(1).tolist() == [3, 3, 2]


def test_gelu_keeps_the_channels_and_strides_may_be_one():
    hidden, mask = speech(activation="gelu", kernels=[3, 3], strides=[1, 2])(
        {"input_features": torch.randn(2, 12, BINS)}
    )
    assert hidden.shape[1] == mask.shape[1] == 6


def test_scaled_sound_is_larger_by_the_root_of_the_width():
    plain, scaled = speech(), speech(scale=True)
    scaled.load_state_dict(plain.state_dict())
    batch = {"input_features": torch.randn(2, 12, BINS)}
    torch.testing.assert_close(scaled(batch)[0], plain(batch)[0] * 4.0)


@pytest.mark.parametrize(
    ("batch", "text"),
    [
        ({}, "found none"),
        ({"input_features": torch.zeros(1, BINS, 30)}, "frames, 5"),
        (
            {"input_features": torch.zeros(1, 30, BINS), "attention_mask": torch.ones(1, 8)},
            "must be equal",
        ),
    ],
)
def test_features_that_do_not_fit_are_refused(batch, text):
    with pytest.raises(InputError, match=text):
        speech()(batch)


def waveform(**options):
    sizes = {"channels": [6, 8], "kernels": [4, 3], "strides": [2, 2]}
    parts = [{"type": "waveform", **sizes, **options}]
    return make_model(
        embedding={"parts": parts, "layernorm": False, "dropout": 0.0}, encoder="gru"
    ).embedding


def test_hidden_frames_become_the_learned_vector():
    embedding = waveform(mask_vector=True)
    sound, hide = torch.randn(2, 20), torch.tensor([[0, 1, 0, 0], [1, 0, 0, 1]])
    plain, _ = embedding({"input_values": sound})
    hidden, _ = embedding({"input_values": sound, "masked_frames": hide})
    expected = embedding.waveform.mask_vector.expand_as(hidden)
    assert torch.equal(hidden[hide == 1], expected[hide == 1])
    assert torch.equal(hidden[hide == 0], plain[hide == 0])
    with pytest.raises(InputError, match="mask_vector"):
        waveform()({"input_values": sound, "masked_frames": hide})


def test_layer_norm_makes_rows_independent_of_the_padding():
    embedding = waveform(norm="layer")
    sound = torch.randn(1, 14)
    alone, _ = embedding({"input_values": sound})
    mask = first_frames(torch.tensor([14]), 20).long()
    padded = torch.nn.functional.pad(sound, (0, 6), value=9.0)
    beside, real = embedding({"input_values": padded, "attention_mask": mask})
    torch.testing.assert_close(beside[real], alone[0])


@pytest.mark.parametrize(
    ("part", "text"),
    [
        ({"type": "speech", "kernels": [4, 5]}, "must be odd"),
        ({"type": "speech", "strides": [2]}, "one for each convolution"),
        ({"type": "speech", "channels": 7}, "glu halves it"),
        ({"type": "waveform", "kernels": [3]}, "7 and 1 and 7 numbers"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(part, text):
    with pytest.raises(ConfigError, match=text):
        make_config(embedding={"parts": [part]})


def test_a_position_that_looks_ahead_cannot_stand_where_the_future_is_predicted():
    seen = {"parts": ["word", {"type": "convpos", "groups": 2}]}
    causal = {"type": "transformer", "mask": "causal"}
    with pytest.raises(ConfigError, match="later positions"):
        make_config(embedding=seen, encoder=causal, target="lm")
    with pytest.raises(ConfigError, match="later positions"):
        make_config(encoder="gru", target_embedding=seen, decoder="transformer", target="lm")


def test_words_or_labels_of_sound_need_a_vocabulary():
    raw = {"vocab_size": 0, "embedding": {"parts": [{"type": "waveform"}]}, "target": "ctc"}
    raw["encoder"] = "gru"
    config = validate_config(ModelConfig, raw, "test")
    with pytest.raises(ConfigError, match="vocab_size"):
        build_model(config)


FRAMES, VOCABULARY = 4, 3


def ctc_head():
    sizes = replace(make_config(encoder="gru").dimensions, vocab_size=VOCABULARY)
    head = CtcTarget(CtcConfig(), sizes)
    torch.nn.init.normal_(head.output.weight)
    return head


def probability(frames, labels):
    """Sum over all paths that become the labels (Graves et al. 2006, equation 3)."""
    total = 0.0
    for path in itertools.product(range(VOCABULARY), repeat=len(frames)):
        merged = [token for token, _ in itertools.groupby(path) if token != 0]
        if merged == labels:
            total += float(torch.stack([frames[i, t] for i, t in enumerate(path)]).prod())
    return total


def test_ctc_is_the_probability_of_all_alignments_wherever_padding_is():
    head = ctc_head()
    hidden = torch.randn(3, FRAMES, 16)
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0], [0, 1, 1, 1]]).bool()
    labels = torch.tensor([[1, 2], [2, -100], [1, 1]])
    found = head(hidden, mask, labels)
    expected = 0.0
    for row, wanted in enumerate([[1, 2], [2], [1, 1]]):
        frames = head.output(hidden[row][mask[row]]).softmax(-1)
        expected -= torch.tensor(probability(frames, wanted)).log()
    torch.testing.assert_close(found.loss, expected)
    assert found.terms == 5


def test_transcription_merges_repetitions_and_drops_blanks():
    paths = torch.tensor([[1, 1, 0, 1, 2, 2], [0, 0, 0, 0, 0, 0], [2, 1, 2, 1, 2, 1]])
    logits = torch.nn.functional.one_hot(paths, VOCABULARY).float()
    found = transcribe(logits, torch.tensor([6, 6, 3]), 0, 3)
    assert found.tolist() == [[1, 1, 2], [-100] * 3, [2, 1, 2]]
    assert transcribe(logits, torch.tensor([6, 6, 6]), 0, 3).tolist()[2] == [2, 1, 2]


def test_a_sequence_without_alignment_may_be_left_out():
    head = ctc_head()
    hidden, mask = torch.randn(1, FRAMES, 16), torch.tensor([[1, 0, 0, 0]]).bool()
    labels = torch.tensor([[1, 2]])
    assert head(hidden, mask, labels).loss.isinf()
    head.zero_infinity = True
    assert head(hidden, mask, labels).loss == 0
