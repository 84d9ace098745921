import numpy as np
import pytest
import torch

from orchestrator.data.rows.rows import Rows
from orchestrator.data.samples.block_samples import BilmSamples, LmSamples, MlmSamples
from orchestrator.data.samples.labelled_samples import ClsSamples
from orchestrator.data.spec import CLS, MASK, PAD, SEP
from orchestrator.data.steps import StepSource
from orchestrator.errors import InputError

EVERY = np.arange(40)


class FakeProcessor:
    continues = np.zeros(100, dtype=bool)


def test_language_model_labels_are_the_next_tokens_of_the_stream(blocks, stream):
    batch = LmSamples(blocks).collate(EVERY, 0)
    labels = batch["labels.lm"].numpy().ravel()
    after = np.append(stream[1:], PAD)
    expected = np.where(np.isin(after, [CLS, PAD]), -100, after)
    assert (labels == expected).all()
    # every token but the first of a document and the padding is asked for exactly once
    assert (labels != -100).sum() == (~np.isin(stream, [CLS, PAD])).sum()
    # the position after a document's end is never asked for padding (or anything else)
    assert (labels[stream == SEP] == -100).all()


def test_labels_do_not_depend_on_which_blocks_are_in_the_batch(blocks):
    samples = BilmSamples(blocks)
    whole = samples.collate(EVERY, 0)["labels.bilm"]
    for index in (0, 6, 7, 29, 39):
        assert (samples.collate(np.asarray([index]), 0)["labels.bilm"][0] == whole[index]).all()


def test_bidirectional_labels_look_both_ways_inside_a_document(blocks, stream):
    labels = BilmSamples(blocks).collate(EVERY, 0)["labels.bilm"].reshape(-1, 2).numpy()
    documents = np.cumsum(stream == CLS)
    for place in range(len(stream)):
        for side, other in ((0, place + 1), (1, place - 1)):
            inside = 0 <= other < len(stream) and stream[place] != PAD and stream[other] != PAD
            same = inside and documents[place] == documents[other]
            assert labels[place, side] == (stream[other] if same else -100)


def test_masked_batch_keeps_what_it_does_not_ask_for(blocks, stream):
    batch = MlmSamples(blocks, FakeProcessor(), seed=1).collate(EVERY, 0)
    ids = torch.as_tensor(stream).view(40, 16)
    labels = batch["labels.mlm"]
    assert (batch["attention_mask"] == (ids != PAD)).all()
    assert (batch["token_type_ids"] == 0).all()
    assert (torch.where(labels == -100, ids, labels) == ids).all()
    assert (batch["input_ids"] == MASK).any()
    assert {value.dtype for value in batch.values()} == {torch.int64}


def test_straddling_batch_masks_each_sample_by_its_own_epoch(blocks):
    samples = MlmSamples(blocks, FakeProcessor(), seed=1)
    source = StepSource(samples, 30, 30, seed=4)
    indices, epochs = source.indices(1)
    assert set(epochs) == {0, 1}
    batch = source.window(1)[0]
    for place in (0, 9, 10, 29):
        one = samples.collate(indices[place : place + 1], int(epochs[place]))
        assert (one["input_ids"][0] == batch["input_ids"][place]).all()


def test_class_rows_are_cut_to_the_longest_of_the_batch(processor):
    rows = Rows(["array shape", "a " * 20, "tensor"], None, np.asarray([0, 2, 1]))
    samples = ClsSamples(rows, processor, "topic", max_length=10)
    assert samples.collate(np.asarray([0, 2]), 0)["input_ids"].shape == (2, 4)
    batch = samples.collate(np.asarray([1, 0]), 0)
    assert batch["input_ids"].shape == (2, 10)
    assert batch["labels.topic"].tolist() == [2, 0]
    alone = processor(["array shape"], max_length=10)
    assert batch["input_ids"][1, :4].tolist() == alone["input_ids"][0].tolist()


def test_pairs_keep_their_segments(processor):
    rows = Rows(["array shape", "tensor"], ["value", "axis given"], np.asarray([0, 1]))
    batch = ClsSamples(rows, processor).collate(np.arange(2), 0)
    assert batch["token_type_ids"].tolist() == [[0, 0, 0, 0, 1, 1], [0, 0, 0, 1, 1, 1]]


def test_images_need_no_processor():
    images = np.random.default_rng(0).random((5, 1, 8, 8), dtype=np.float32)
    rows = Rows([], None, np.arange(5), images)
    batch = ClsSamples(rows, None).collate(np.asarray([3, 1]), 0)
    assert batch["pixel_values"].shape == (2, 1, 8, 8)
    assert (batch["pixel_values"][0].numpy() == images[3]).all()
    assert batch["labels.cls"].tolist() == [3, 1]


def test_rows_that_cannot_be_used_are_refused(processor):
    with pytest.raises(InputError, match="no rows"):
        ClsSamples(Rows([], None, np.zeros(0, dtype=np.int64)), processor)
    with pytest.raises(InputError, match="processor"):
        ClsSamples(Rows(["a"], None, np.zeros(1, dtype=np.int64)), None)
