"""Embedding parts against NumPy and against their definitions."""

import numpy as np
import pytest
import torch

from orchestrator.errors import InputError

from .small import LENGTH, VOCAB, WIDTH, make_batch, make_model


def stack(*parts, layernorm=False, **raw):
    embedding = {"parts": list(parts), "layernorm": layernorm, "dropout": 0.0}
    return make_model(embedding=embedding, encoder="gru", **raw).embedding


def test_word_is_a_row_of_the_table_and_may_be_scaled():
    batch = make_batch()
    plain, _ = stack("word")(batch)
    embedding = stack({"type": "word", "scale": True})
    torch.testing.assert_close(
        embedding(batch)[0], embedding.word.weight[batch["input_ids"]] * WIDTH**0.5
    )
    assert plain.shape == (4, LENGTH, WIDTH)


def waves(layout):
    """Vaswani et al. 2017, section 3.5, in float64 loops."""
    table = np.zeros((LENGTH, WIDTH))
    for position in range(LENGTH):
        for pair in range(WIDTH // 2):
            angle = position / 10000 ** (2 * pair / WIDTH)
            sine, cosine = (2 * pair, 2 * pair + 1)
            if layout == "halves":
                sine, cosine = pair, WIDTH // 2 + pair
            table[position, sine], table[position, cosine] = np.sin(angle), np.cos(angle)
    return torch.tensor(table, dtype=torch.float32)


@pytest.mark.parametrize("layout", ["interleaved", "halves"])
def test_sinusoids_follow_the_formula(layout):
    batch = make_batch()
    embedding = stack("word", {"type": "sinusoidalpos", "layout": layout})
    added = embedding(batch)[0] - embedding.word.weight[batch["input_ids"]]
    torch.testing.assert_close(added, waves(layout).expand_as(added), atol=1e-6, rtol=0)


def test_the_longest_wave_may_be_exact_and_padding_get_none():
    """The formula of fairseq's and tensor2tensor's sinusoids, in float64; padding id 1."""
    batch = make_batch()
    options = {"layout": "halves", "spacing": "tensor2tensor", "offset": 2, "pad_aware": True}
    embedding = stack("word", {"type": "sinusoidalpos", **options})
    added = embedding(batch)[0] - embedding.word.weight[batch["input_ids"]]
    steps = np.log(10000) / (WIDTH // 2 - 1)
    numbers = np.array([0, 0, 0, 2, 3, 4, 5, 6])
    angles = numbers[:, None] * np.exp(-steps * np.arange(WIDTH // 2))
    expected = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
    expected[:3] = 0.0
    expected = torch.tensor(expected, dtype=torch.float32)
    torch.testing.assert_close(added[2], expected, atol=1e-6, rtol=0)


def test_stored_waves_are_a_table_that_is_not_trained():
    batch = make_batch()
    computed = stack("word", {"type": "sinusoidalpos", "layout": "halves"})
    stored = stack("word", {"type": "sinusoidalpos", "layout": "halves", "stored": True})
    assert stored.sinusoidalpos.weight.shape == (LENGTH, WIDTH)
    assert not stored.sinusoidalpos.weight.requires_grad
    stored.word.weight.data.copy_(computed.word.weight)
    assert torch.equal(stored(batch)[0], computed(batch)[0])


def test_positions_may_have_an_offset_and_count_real_tokens_only():
    batch = make_batch()
    embedding = stack("word", {"type": "pos", "offset": 2, "pad_aware": True})
    assert embedding.pos.weight.shape == (LENGTH + 2, WIDTH)
    added = embedding(batch)[0] - embedding.word.weight[batch["input_ids"]]
    left_padded = [1, 1, 1, 2, 3, 4, 5, 6]  # transformers' RoBERTa with padding id 1
    torch.testing.assert_close(added[2], embedding.pos.weight[left_padded], atol=1e-6, rtol=0)
    torch.testing.assert_close(added[0], embedding.pos.weight[2:], atol=1e-6, rtol=0)


def test_given_position_ids_are_used():
    batch = make_batch()
    embedding = stack("word", "pos")
    order = torch.arange(LENGTH).flip(0).expand(4, -1)
    added = embedding(batch | {"position_ids": order})[0]
    added = added - embedding.word.weight[batch["input_ids"]]
    torch.testing.assert_close(
        added, embedding.pos.weight.flip(0).expand_as(added), atol=1e-6, rtol=0
    )


def test_without_token_types_everything_is_segment_0():
    batch = make_batch()
    embedding = stack("word", "seg")
    del batch["token_type_ids"]
    zeros = batch | {"token_type_ids": torch.zeros(4, LENGTH, dtype=torch.long)}
    assert torch.equal(embedding(batch)[0], embedding(zeros)[0])


def test_patches_are_projected_in_reading_order_after_the_class_token():
    embedding = stack({"type": "patch", "image_size": 4, "patch_size": 2, "channels": 1})
    image = torch.randn(1, 1, 4, 4)
    found, mask = embedding({"pixel_values": image})
    part = embedding.patch
    corners = [(0, 0), (0, 2), (2, 0), (2, 2)]
    expected = [part.class_token]
    for top, left in corners:
        piece = image[0, :, top : top + 2, left : left + 2].flatten()
        expected.append(part.projection.weight.flatten(1) @ piece + part.projection.bias)
    torch.testing.assert_close(found[0], torch.stack(expected), atol=1e-6, rtol=0)
    assert mask.shape == (1, 5)
    assert mask.all()


def test_parts_are_summed_then_normalized():
    batch = make_batch()
    embedding = stack("word", "pos", "seg", layernorm=True)
    hidden, mask = embedding(batch)
    torch.testing.assert_close(hidden.mean(-1), torch.zeros(4, LENGTH), atol=1e-6, rtol=0)
    assert torch.equal(mask, batch["attention_mask"].bool())


LONG = torch.ones(1, LENGTH + 1, dtype=torch.long)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (dict.fromkeys(["input_ids", "attention_mask"], LONG), "the model has 8"),
        ({"attention_mask": torch.ones(4, 3)}, r"attention_mask is \[4, 3\]"),
    ],
)
def test_a_batch_that_does_not_fit_is_refused(change, text):
    with pytest.raises(InputError, match=text):
        stack("word", "pos")(make_batch() | change)


def test_missing_input_names_what_there_is():
    with pytest.raises(InputError, match="reads input_ids; the batch has pixel_values"):
        stack("word")({"pixel_values": torch.zeros(1, 3, 8, 8)})


def test_images_of_another_size_are_refused():
    embedding = stack({"type": "patch", "image_size": 4, "patch_size": 2})
    with pytest.raises(InputError, match="pixel_values"):
        embedding({"pixel_values": torch.zeros(1, 3, 8, 8)})


def test_ids_cover_the_whole_vocabulary():
    assert stack("word").word.weight.shape == (VOCAB, WIDTH)
