"""Pictures, sounds and texts that belong together: from a source to batches."""

import json
from io import BytesIO
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from orchestrator.data.corpora.examples_corpus import open_examples, prepare_examples
from orchestrator.data.media.images import read_image
from orchestrator.data.media.inputs import ModelInputs, PictureInput, SoundInput
from orchestrator.data.media.patch_codes import Codebook, patches_of
from orchestrator.data.processors.example_processor import ExampleProcessor
from orchestrator.data.processors.text import TextProcessor
from orchestrator.data.samples.base import SampleInputs, build_samples
from orchestrator.data.samples.kinds import (
    CropConfig,
    ImageTextConfig,
    MaskedPatchesConfig,
    SpecAugmentConfig,
    TextPairsConfig,
    TranscriptsConfig,
)
from orchestrator.data.samples.masked_patches import BlockMasking
from orchestrator.data.sources.morse import CODES, RATE, keying, synthesize
from orchestrator.data.sources.opening import list_entries, split_entries
from orchestrator.data.spec import PAD, SEP, CorpusConfig, DatasetSpec
from orchestrator.data.steps import StepSource
from orchestrator.errors import InputError, IntegrityError


def new_samples(config, *inputs):
    return build_samples(config, SampleInputs(*inputs))


SHARED = Path(__file__).parents[4] / "shared" / "data"
PICTURE = PictureInput(side=8, channels=1, patch_size=2, tokens=1)
SCENE = PictureInput(side=16, channels=1, patch_size=4, tokens=1)
SOUND = SoundInput("speech2text", 8, (5, 5), (2, 2), 200)
WAVE = SoundInput("wav2vec2", 0, (10, 3), (5, 2), 10_000)
AUGMENT = SpecAugmentConfig(frequency_width=3, time_width=4)


def corpus_config(source, **options):
    data = {"source": source, **options}
    tokenizer = {"type": "characters", "vocab_size": 300}
    return CorpusConfig.model_validate({"data": data, "tokenizer": tokenizer, "block_size": 16})


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """One corpus of each kind of examples: config of the samples and the corpus."""
    cache = tmp_path_factory.mktemp("examples")
    (cache / "pairs.jsonl").write_text(
        "\n".join(json.dumps({"text": f"how is {n}", "text_b": f"{n} is well"}) for n in range(40))
    )
    cases = {
        "mim": ("builtin:digits", MaskedPatchesConfig(), ModelInputs(PICTURE, codes=12)),
        "clr": ("builtin:digit_scenes", ImageTextConfig(), ModelInputs(SCENE)),
        "itm": ("builtin:digit_scenes", ImageTextConfig(crop=CropConfig()), ModelInputs(SCENE)),
        "pairs": (f"files:{cache}/pairs.jsonl", TextPairsConfig(), ModelInputs()),
        "lm": (
            "builtin:morse",
            TranscriptsConfig(rate=RATE, augment=AUGMENT),
            ModelInputs(None, SOUND),
        ),
        "ctc": (
            "builtin:morse",
            TranscriptsConfig(rate=4000),
            ModelInputs(None, WAVE, aligned=True),
        ),
    }
    return {
        name: (
            samples,
            prepare_examples(corpus_config(source, max_rows=40), samples, inputs, cache),
        )
        for name, (source, samples, inputs) in cases.items()
    }


TARGETS = {
    "mim": {"mim": "codes"},
    "clr": {"clr": "match"},
    "itm": {"itm": "match", "mlm": "words"},
    "pairs": {"clr": "match"},
    "lm": {"lm": "text"},
    "ctc": {"ctc": "text"},
}


def texts_of(examples):
    return examples.text(np.arange(len(examples)))


def samples_of(made, name, split="train", seed=3):
    config, corpus = made[name]
    data = getattr(corpus, split)
    return new_samples(config, data, corpus.processor, TARGETS[name], seed)


@pytest.mark.parametrize("name", TARGETS)
def test_a_sample_depends_on_seed_epoch_and_number_alone(made, name):
    samples = samples_of(made, name)
    assert samples.parts == (len(samples),)
    epochs = np.asarray([2, 0, 5, 1])
    whole = samples.collate(np.asarray([5, 3, 8, 1]), epochs)
    alone = samples_of(made, name).collate(np.asarray([8]), 5)
    assert {f"labels.{each}" for each in TARGETS[name].values()} <= whole.keys()
    for key, value in alone.items():
        same = tuple(slice(0, size) for size in value.shape[1:])
        if not key.endswith(("labels.words", "input_values")):  # these end where the batch ends
            assert (whole[key][(2, *same)] == value[0]).all(), key


@pytest.mark.parametrize(
    ("name", "key"),
    [("mim", "masked_positions"), ("itm", "pixel_values"), ("lm", "input_features")],
)
def test_training_changes_with_the_epoch_and_the_seed_validation_does_not(made, name, key):
    rows = np.arange(3)
    first, second = (samples_of(made, name).collate(rows, epoch)[key] for epoch in (0, 1))
    other = samples_of(made, name, seed=4).collate(rows, 0)[key]
    assert (first != second).any()
    assert (first != other).any()
    if key != "masked_positions":
        still = samples_of(made, name, "validation")
        assert (still.collate(rows, 0)[key] == still.collate(rows, 1)[key]).all()


def test_two_ranks_share_what_one_reads(made):
    source = StepSource(samples_of(made, "clr"), 8, 4, 1)
    (alone,) = (np.concatenate([b["second.pixel_values"] for b in source.window(3)]),)
    both = [source.window(3, rank, 2)[0]["second.pixel_values"] for rank in range(2)]
    assert (alone == np.concatenate(both)).all()


def test_a_corpus_is_made_once_and_damage_is_found(made, tmp_path):
    config, samples, inputs = corpus_config("builtin:digits", max_rows=30), *made_inputs()
    corpus = prepare_examples(config, samples, inputs, tmp_path)
    assert prepare_examples(config, samples, inputs, tmp_path).path == corpus.path
    (corpus.path / "train.arrow").write_bytes(b"?")
    with pytest.raises(IntegrityError, match=r"train\.arrow"):
        open_examples(corpus.path)
    assert len(prepare_examples(config, samples, inputs, tmp_path).train) == 27


def made_inputs():
    return MaskedPatchesConfig(), ModelInputs(PICTURE, codes=8)


def test_codes_are_asked_for_where_patches_are_hidden(made):
    batch = samples_of(made, "mim", "validation").collate(np.arange(4), 0)
    hidden, labels = batch["masked_positions"].numpy(), batch["labels.codes"].numpy()
    assert (labels[:, 0] == -100).all()  # the class token
    assert ((labels[:, 1:] >= 0) == hidden).all()
    assert (hidden.sum(1) == round(0.4 * 16)).all()
    codebook = made["mim"][1].processor.codebook
    pixels = batch["pixel_values"].numpy()
    patches = patches_of(pixels, 2)
    assert (patches[1, 5].reshape(2, 2) == pixels[1, 0, 2:4, 2:4]).all()
    nearest = ((patches[:, :, None] - codebook.centers) ** 2).sum(-1).argmin(-1)
    assert (labels[:, 1:][hidden] == nearest[hidden]).all()


def test_codes_need_as_many_patches():
    with pytest.raises(InputError, match="3 different patches cannot have num_codes 5"):
        Codebook.fit(np.repeat(np.eye(3, dtype=np.float32), 4, axis=0), 5, 1)


def test_hidden_patches_are_blocks_of_a_constant_number():
    rule = BlockMasking(grid=14)
    hidden = rule.choose(np.arange(40), 0, 1)
    assert (hidden.sum(1) == 78).all()
    grids = hidden.reshape(40, 14, 14)
    together = (grids[:, 1:] & grids[:, :-1]).sum() / grids.sum()
    single = np.random.default_rng(0).permuted(hidden, axis=1).reshape(40, 14, 14)
    assert together > 0.7
    assert (single[:, 1:] & single[:, :-1]).sum() / single.sum() < 0.45
    assert (BlockMasking(grid=2, share=0.1).choose(np.arange(9), 0, 1).sum(1) == 1).all()


def test_scenes_show_what_their_captions_say():
    entries = list_entries(DatasetSpec(source="builtin:digit_scenes", max_rows=60), ("picture",))
    splits = split_entries(DatasetSpec(), entries)
    assert [len(splits[name]) for name in ("train", "validation")] == [54, 6]
    digits = {name: {i for e in found for i in e.place} for name, found in splits.items()}
    assert not digits["train"] & digits["validation"]
    from orchestrator.data.sources.digits import NAMES, digit_pixels, read_digits

    rows = read_digits()
    pixels = digit_pixels(rows)
    for entry in splits["train"][:9]:
        picture = np.asarray(read_image(BytesIO(entries.read(entry))))
        words = [word.strip(",") for word in entry.text.split()]
        named = [NAMES.index(word) for word in words if word.strip(",") in NAMES]
        assert sorted(named) == sorted(rows.labels[list(entry.place)])
        for number, digit in enumerate(entry.place):
            top, left = 8 * (number // 2), 8 * (number % 2)
            assert (picture[top : top + 8, left : left + 8] == pixels[digit]).all()


def test_mismatched_captions_are_other_ones_and_hide_no_words(made):
    samples = samples_of(made, "itm")
    texts = texts_of(made["itm"][1].train)
    assert len(set(texts)) > 30
    rows = np.arange(36)
    batch = samples.collate(rows, 0)
    matched = batch["labels.match"].numpy() == 1
    assert 0.2 < matched.mean() < 0.8
    words = batch["labels.words"].numpy()
    assert words.shape[1] == batch["input_ids"].shape[1] + 1 + 16
    assert ((words >= 0).any(1) == matched).all()
    assert (words[:, -17:] == -100).all()


def test_pairs_of_texts_go_into_two_streams(made):
    batch = samples_of(made, "pairs").collate(np.arange(3), 0)
    corpus = made["pairs"][1]
    decode = corpus.processor.text.decode
    for row in range(3):
        assert "".join(decode(batch["input_ids"][row].tolist()).split()) == "".join(
            texts_of(corpus.train)[row].split()
        )
        number = texts_of(corpus.train)[row].removeprefix("how is ")
        assert decode(batch["second.input_ids"][row].tolist()).replace(" ", "") == f"{number}iswell"


def test_a_decoder_writes_the_text_and_ends_it(made):
    corpus = made["lm"][1]
    batch = samples_of(made, "lm").collate(np.arange(3), 0)
    for row in range(3):
        real = batch["decoder_attention_mask"][row].bool()
        given, labels = (batch[key][row][real] for key in ("decoder_input_ids", "labels.text"))
        assert given[0] == labels[-1] == SEP
        assert (given[1:] == labels[:-1]).all()
        assert corpus.processor.text.decode(labels[:-1].tolist()) == texts_of(corpus.train)[row]
        assert (batch["decoder_input_ids"][row][~real] == PAD).all()
        assert (batch["labels.text"][row][~real] == -100).all()


def test_morse_is_as_the_standard_says():
    assert "".join("01"[unit] for unit in keying("sos a")) == (
        "000" "10101" "000" "1110111" "0111" "000" "10101" "0000000" "10111" "000"
    )  # fmt: skip
    assert sorted(CODES) == [chr(letter) for letter in range(ord("a"), ord("z") + 1)]
    assert len(set(CODES.values())) == 26
    sound = synthesize("e", 0.05, 1000.0, 0.5)
    assert len(sound) == 7 * 400
    spectrum = np.abs(np.fft.rfft(sound))
    assert abs(np.fft.rfftfreq(len(sound), 1 / RATE)[spectrum.argmax()] - 1000) < 10
    assert 0.45 < np.abs(sound).max() <= 0.5


@pytest.fixture
def folder(tmp_path):
    """Pictures with a table: two good ones, and each way of being wrong."""
    for name, level in (("a.png", 9), ("b.png", 200), ("c.png", 90)):
        Image.new("RGB", (20, 12), (level, 50, 60)).save(tmp_path / name)
    (tmp_path / "broken.png").write_bytes(b"\x89PNG no picture")
    lines = ["a dark one\ta.png", "a light one\tb.png", "another\tc.png", "\ta.png"]
    lines += ["gone\tmissing.png", "broken\tbroken.png"]
    (tmp_path / "captions.tsv").write_text("\n".join(["text\tpath", *lines]))
    return tmp_path


def test_broken_rows_are_left_out_by_reason(folder, tmp_path, caplog):
    inputs = ModelInputs(PictureInput(8, 3, 4))
    config = corpus_config(f"files:{folder}", validation_fraction=0.3)
    corpus = prepare_examples(config, ImageTextConfig(), inputs, tmp_path / "cache")
    reasons = {"empty text": 1, "picture missing": 1, "picture unreadable": 1}
    assert corpus.manifest.rejected == reasons
    assert "examples_left_out" in caplog.text
    assert corpus.documents == 3
    batch = new_samples(
        ImageTextConfig(), corpus.train, corpus.processor, {"clr": "clr"}, 1
    ).collate(np.arange(1), 0)
    assert batch["second.pixel_values"].shape == (1, 3, 8, 8)


def test_recordings_are_brought_to_the_rate_and_bounded(tmp_path):
    good = [(0.5, 16000), (0.6, 8000), *[(0.4, 8000)] * 6]
    for index, (seconds, rate) in enumerate([*good, (3, 8000)]):
        wave = np.sin(np.arange(int(seconds * rate)) / 5)
        soundfile.write(tmp_path / f"{index % 2}_{index}.wav", wave, rate)
    (tmp_path / "1_x.wav").write_bytes(b"RIFF")
    soundfile.write(tmp_path / "nobody.wav", np.zeros(9000), 8000)
    soundfile.write(tmp_path / "1_short.wav", np.zeros(150), 8000)
    config = corpus_config(f"files:{tmp_path}", name_pattern=r"^(\d+)_", validation_fraction=0.4)
    samples = TranscriptsConfig(rate=8000, max_seconds=2)
    inputs = ModelInputs(None, SOUND)
    corpus = prepare_examples(config, samples, inputs, tmp_path / "cache")
    assert corpus.manifest.rejected == {
        "name without a text": 1,
        "sound longer than max_seconds": 1,
        "sound too short": 1,
        "sound unreadable": 1,
    }
    lengths = [
        len(s)
        for part in (corpus.train, corpus.validation)
        for s in part.sounds(np.arange(len(part)))
    ]
    assert sorted(lengths) == [*[3200] * 6, 4000, 4800]


def test_text_without_room_or_column_is_said(folder):
    for options, words in (
        ({"media_column": "pixels"}, "no column 'pixels'"),
        ({"text_column": "title"}, "no column 'title'"),
    ):
        with pytest.raises(InputError, match=words):
            list_entries(DatasetSpec(source=f"files:{folder}", **options), ("picture", "text"))
    (folder / "captions.tsv").unlink()
    with pytest.raises(InputError, match="without texts"):
        list_entries(DatasetSpec(source=f"files:{folder}"), ("picture", "text"))
    with pytest.raises(InputError, match="no sounds"):
        list_entries(DatasetSpec(source=f"files:{folder}"), ("sound",))
    assert len(list_entries(DatasetSpec(source=f"files:{folder}"), ("picture",)).found) == 4


def test_processors_open_where_they_were_saved(made, tmp_path):
    for name in TARGETS:
        corpus = made[name][1]
        corpus.processor.save(tmp_path / name)
        again = ExampleProcessor.load(tmp_path / name, corpus.train.inputs)
        assert (again.picture, again.sound) == (corpus.processor.picture, corpus.processor.sound)
        if corpus.processor.text is not None:
            text = TextProcessor.load(tmp_path / name)
            assert text.encode(["a b"]) == corpus.processor.text.encode(["a b"])
            assert text.max_length == 16
        if corpus.processor.codebook is not None:
            assert (again.codebook.centers == corpus.processor.codebook.centers).all()


def test_ctc_leaves_out_sounds_with_fewer_positions_than_letters(made, tmp_path):
    corpus = made["ctc"][1]
    assert corpus.documents == 40
    narrow = ModelInputs(None, SoundInput("wav2vec2", 0, (4000,), (4000,), 99), aligned=True)
    with pytest.raises(InputError, match="sound too short"):
        prepare_examples(
            corpus_config("builtin:morse", max_rows=40), made["ctc"][0], narrow, tmp_path
        )


def test_letters_are_single_tokens(made):
    text = made["lm"][1].processor.text
    assert text.vocab_size < 64
    assert [len(ids) for ids in text.encode(["array", "of it"])] == [5, 4]
    assert all(a != b for a, b in pairwise(text.encode(["aa"])[0]))  # first of a word, and not


def test_spoken_digits(tmp_path):
    folder = SHARED / "fsdd_speakers_a" / "recordings"
    if not folder.is_dir():
        pytest.skip(f"no data at {folder}")
    config = corpus_config(f"files:{folder}", name_pattern=r"^(\d)_", max_rows=60)
    corpus = prepare_examples(
        config, TranscriptsConfig(rate=8000), ModelInputs(None, SOUND), tmp_path
    )
    assert corpus.manifest.rejected == {}
    assert corpus.documents == 60
    assert set(texts_of(corpus.train)) == set("0123456789")
    batch = new_samples(
        TranscriptsConfig(rate=8000), corpus.train, corpus.processor, {"lm": "lm"}, 1
    ).collate(np.arange(4), 0)
    assert batch["input_features"].isfinite().all()
