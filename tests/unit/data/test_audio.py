"""Features of sound against transformers' feature extractors; SpecAugment; files."""

import json
from functools import partial

import numpy as np
import pytest
import soundfile
from transformers import (
    AutoFeatureExtractor,
    Speech2TextFeatureExtractor,
    Wav2Vec2FeatureExtractor,
    WhisperFeatureExtractor,
)

from orchestrator.data.media.audio import AudioProcessor, read_sound, resampled
from orchestrator.data.media.augmentation import mask_spectrograms
from orchestrator.data.media.inputs import SpecAugmentConfig
from orchestrator.data.media.spectrograms import kaldi_bands, kaldi_fbank, slaney_bands
from orchestrator.errors import InputError

RATE = 16000
TOLERANCE = 1e-4


def sound(count, seed=0, loudness=0.2):
    """Voices: a few harmonics that glide, and noise."""
    rng = np.random.default_rng(seed)
    time = np.arange(count) / RATE
    tones = sum(np.sin(2 * np.pi * f * time * (1 + 0.1 * time)) / f**0.5 for f in (110, 330, 2500))
    return (loudness * (tones / 3 + 0.1 * rng.standard_normal(count))).astype(np.float32)


SOUNDS = [sound(16000, 1), sound(7777, 2, 0.9), sound(400, 3), np.zeros(4000, np.float32) + 0.01]


@pytest.mark.parametrize("bins", [80, 40])
def test_kaldi_features_are_those_of_speech2text(bins):
    theirs = Speech2TextFeatureExtractor(feature_size=bins, num_mel_bins=bins)
    for each in SOUNDS:
        expected = theirs._extract_fbank_features(each)
        found = kaldi_fbank(each, RATE, bins)
        assert found.shape == expected.shape
        assert np.abs(found - expected).max() < TOLERANCE


@pytest.mark.parametrize("normalize_vars", [True, False])
def test_batches_are_those_of_speech2text(normalize_vars):
    theirs = Speech2TextFeatureExtractor(normalize_vars=normalize_vars)
    rows = [sound(16000, 1), sound(7777, 2), sound(3000, 5)]
    expected = theirs(rows, sampling_rate=RATE, padding=True, return_tensors="np")
    found = AudioProcessor(normalize_vars=normalize_vars).arrays(rows)
    assert np.array_equal(found["attention_mask"], expected["attention_mask"])
    assert np.abs(found["input_features"] - expected["input_features"]).max() < TOLERANCE
    assert found["input_features"].dtype == np.float32


@pytest.mark.parametrize("bins", [80, 128])
def test_whisper_features(bins):
    theirs = WhisperFeatureExtractor(feature_size=bins, chunk_length=2)
    rows = [sound(16000, 1), sound(40000, 2), sound(50, 3)]
    expected = theirs(rows, sampling_rate=RATE, return_tensors="np")["input_features"]
    found = AudioProcessor("whisper", bins, seconds=2).arrays(rows)
    assert set(found) == {"input_features"}
    assert np.abs(found["input_features"].transpose(0, 2, 1) - expected).max() < TOLERANCE


@pytest.mark.parametrize(("normalize", "mask"), [(True, True), (True, False), (False, True)])
def test_wav2vec2_normalization(normalize, mask):
    theirs = Wav2Vec2FeatureExtractor(do_normalize=normalize, return_attention_mask=mask)
    rows = SOUNDS[:3]
    expected = theirs(
        rows, sampling_rate=RATE, padding=True, return_attention_mask=True, return_tensors="np"
    )
    found = AudioProcessor("wav2vec2", normalize=normalize, mask=mask).arrays(rows)
    assert np.abs(found["input_values"] - expected["input_values"]).max() < TOLERANCE
    assert ("attention_mask" in found) == mask
    if mask:
        assert np.array_equal(found["attention_mask"], expected["attention_mask"])


def test_bands_cover_the_range_once():
    assert np.allclose(kaldi_bands(RATE, 80)[3:-9].sum(axis=1), 1.0, atol=1e-6)
    peak_hz = slaney_bands(RATE, 80).argmax(axis=0) * RATE / 400
    assert (np.diff(peak_hz) >= 0).all()
    assert peak_hz[-1] < 8000


@pytest.mark.parametrize(
    "processor",
    [
        AudioProcessor(normalize_vars=False, mel_bins=40),
        AudioProcessor("whisper", 128, seconds=4),
        AudioProcessor("wav2vec2", mask=True),
    ],
)
def test_saved_settings_open_here_and_in_transformers(processor, tmp_path):
    processor.save(tmp_path)
    assert AudioProcessor.load(tmp_path) == processor
    theirs = AutoFeatureExtractor.from_pretrained(tmp_path)
    options = {"return_attention_mask": True} if processor.kind == "wav2vec2" else {}
    padding = {} if processor.kind == "whisper" else {"padding": True}
    rows = SOUNDS[:2]
    expected = theirs(rows, sampling_rate=RATE, return_tensors="np", **padding, **options)
    for name, array in processor.arrays(rows).items():
        wanted = expected[name]
        wanted = wanted.transpose(0, 2, 1) if processor.kind == "whisper" else wanted
        assert np.abs(array - wanted).max() < TOLERANCE
    theirs.save_pretrained(tmp_path / "again")
    assert AudioProcessor.load(tmp_path / "again") == processor


def test_a_batch_of_tensors_is_ready_for_a_model():
    batch = AudioProcessor()(SOUNDS[:2])
    assert batch["input_features"].shape == (2, 98, 80)
    assert batch["attention_mask"].sum(1).tolist() == [98, 47]


@pytest.mark.parametrize("kind", ["wav", "flac"])
def test_files_are_read_as_one_channel(kind, tmp_path):
    stereo = np.stack([sound(4000, 1), sound(4000, 2)], axis=1)
    path = tmp_path / f"sound.{kind}"
    soundfile.write(path, stereo, RATE, subtype="PCM_16")
    found = read_sound(path)
    assert found.dtype == np.float32
    assert np.abs(found - stereo.mean(axis=1)).max() < 2 / 2**15


def test_another_rate_is_refused_or_converted(tmp_path):
    path = tmp_path / "tone.wav"
    time = np.arange(22050) / 22050
    soundfile.write(path, 0.5 * np.sin(2 * np.pi * 440 * time), 22050)
    with pytest.raises(InputError, match="22050 samples per second, the model reads 16000"):
        read_sound(path)
    found = read_sound(path, resample=True)
    expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(16000) / RATE)
    assert len(found) == 16000
    assert np.abs(found - expected)[200:-200].max() < 1e-3
    assert len(resampled(found, 16000, 8000)) == 8000


def test_bad_files_and_recordings_are_refused(tmp_path):
    (tmp_path / "noise.wav").write_bytes(b"RIFF no sound")
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), RATE)
    for name in ("noise.wav", "empty.wav", "missing.wav"):
        with pytest.raises(InputError, match=name):
            read_sound(tmp_path / name)
    with pytest.raises(InputError, match="shorter than one frame"):
        AudioProcessor().arrays([np.zeros(399)])
    with pytest.raises(InputError, match="one channel"):
        AudioProcessor().arrays([np.zeros((2, 400))])
    with pytest.raises(InputError, match="one channel"):
        AudioProcessor().arrays([])


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"feature_extractor_type": "ClapFeatureExtractor"}, "'ClapFeatureExtractor'; supported"),
        ({"feature_extractor_type": "WhisperFeatureExtractor", "dither": 1.0}, "dither is 1.0"),
    ],
)
def test_other_settings_are_refused(values, match, tmp_path):
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(values))
    with pytest.raises(InputError, match=match):
        AudioProcessor.load(tmp_path)


def test_augmentation_depends_on_seed_epoch_and_sample_alone():
    rng = np.random.default_rng(0)
    features = rng.standard_normal((3, 120, 80)).astype(np.float32)
    lengths, samples = np.asarray([120, 60, 5]), np.asarray([4, 7, 9])
    augment = partial(mask_spectrograms, SpecAugmentConfig())
    whole = augment(features, lengths, samples, 2, seed=1)
    order = np.asarray([2, 0])
    part = augment(features[order], lengths[order], samples[order], np.asarray([2, 2]), seed=1)
    assert np.array_equal(part, whole[order])
    assert not np.array_equal(augment(features, lengths, samples, 3, seed=1), whole)
    assert not np.array_equal(augment(features, lengths, samples, 2, seed=2), whole)


def test_augmentation_hides_bands_and_stretches_within_the_recording():
    features = np.random.default_rng(0).standard_normal((200, 90, 80)).astype(np.float32)
    lengths = np.full(200, 70)
    augment = partial(mask_spectrograms, SpecAugmentConfig(time_share=0.2))
    changed = augment(features, lengths, np.arange(200), 0, seed=3) != features
    assert not changed[:, 70:].any()
    bins = changed[:, :70].all(axis=1).sum(axis=1)
    frames = changed[:, :70].all(axis=2).sum(axis=1)
    assert bins.max() <= 2 * 27
    assert frames.max() <= 2 * 14
    assert bins.mean() > 10
    assert frames.mean() > 5
    nothing = partial(mask_spectrograms, SpecAugmentConfig(frequency_masks=0, time_masks=0))
    assert np.array_equal(nothing(features, lengths, np.arange(200), 0, 3), features)
