"""Chunks of a long sequence against the mask over all pairs, and what they save."""

import pytest
import torch

from orchestrator.modeling.component import Dimensions
from orchestrator.modeling.cost import activation_bytes, training_flops
from orchestrator.modeling.layers.attention import Attention, attention_mask
from orchestrator.modeling.layers.block_options import BlockOptions
from orchestrator.modeling.layers.chunk_sizes import chunk_of

from .small import VOCAB, WIDTH, make_config, make_model

SIZES = Dimensions(
    hidden_size=WIDTH,
    vocab_size=VOCAB,
    max_position_embeddings=512,
    type_vocab_size=2,
    pad_token_id=0,
)


def padding(length, how):
    mask = torch.ones(3, length, dtype=torch.bool)
    if how == "padded":
        mask[1, length // 3 :] = False
        mask[2, : length // 2] = False
    return mask


@pytest.mark.parametrize("how", ["full", "padded", "packed"])
@pytest.mark.parametrize("order", ["bidirectional", "causal"])
@pytest.mark.parametrize(
    ("length", "window"), [(201, 1), (192, 3), (384, 65), (400, 65), (611, 80)]
)
@pytest.mark.parametrize("options", [{}, {"num_kv_heads": 1}, {"attention": "eager"}])
def test_chunks_answer_like_a_mask_over_all_pairs(options, length, window, order, how):
    module = Attention(BlockOptions(num_heads=4, **options), SIZES)
    real = padding(length, how)
    documents = (torch.arange(length) // 70).expand(3, -1) + torch.tensor([[0], [1], [5]])
    batch = {"document_ids": documents} if how == "packed" else None
    results = []
    for chunked in (False, True):
        x = torch.randn(3, length, WIDTH, generator=torch.Generator().manual_seed(1))
        x.requires_grad_()
        mask = attention_mask(real, order=order, window=window, batch=batch, chunked=chunked)
        assert (mask.chunks is not None) == chunked
        answer = module(x, mask)
        assert answer.isfinite().all()
        module.zero_grad()
        answer[real].square().sum().backward()
        results.append((answer[real].detach(), x.grad, module.key.weight.grad))
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("window", "length", "both_sides", "size"),
    [
        (65, 383, True, None),
        (65, 384, True, 64),
        (65, 255, False, None),
        (65, 256, False, 64),
        (201, 8192, True, 200),
        (4096, 8192, False, None),
    ],
)
def test_a_sequence_is_cut_from_twice_the_keys_of_a_chunk(window, length, both_sides, size):
    assert chunk_of(window, length, both_sides=both_sides) == size


@pytest.mark.parametrize(
    ("encoder", "changed"),
    [
        ({"position_bias": {"type": "alibi"}}, range(198, 203)),
        ({"mask": "prefix"}, range(200, 203)),
    ],
)
def test_biases_and_prefixes_are_read_over_all_pairs(encoder, changed):
    options = {"type": "transformer", "num_heads": 2, "num_layers": 1, "window": 3} | encoder
    model = make_model(max_position_embeddings=256, embedding={"parts": ["word"]}, encoder=options)
    ids = torch.randint(1, VOCAB, (1, 256))
    before = model.encode({"input_ids": ids})
    ids = ids.clone()
    ids[0, 200] = ids[0, 200] % (VOCAB - 1) + 1
    after = model.encode({"input_ids": ids})
    assert (after != before).any(-1)[0].nonzero()[:, 0].tolist() == list(changed)


@pytest.mark.parametrize(("mask", "keys"), [("causal", 9), ("bidirectional", 17)])
def test_operations_of_a_window_do_not_grow_with_the_length(mask, keys):
    def flops(length, **options):
        encoder = {"type": "transformer", "num_layers": 3, "num_heads": 2, "mask": mask} | options
        return training_flops(make_config(encoder=encoder, max_position_embeddings=900), length)

    near = {"window": 9, "window_layers": [0, 2]}
    assert flops(800, **near) - flops(400, **near) == 12 * WIDTH * 400
    assert flops(800) - flops(800, **near) == 12 * WIDTH * 2 * (800 - keys)
    assert flops(8, **near) == flops(8)


def test_memory_of_chunks_is_in_the_estimate():
    encoder = {"type": "transformer", "num_layers": 3, "window": 40, "window_layers": [0, 1]}
    config = make_config(
        embedding={"parts": ["word"]}, encoder=encoder, max_position_embeddings=512
    )
    extra = {
        length: activation_bytes(config, batch_size=1, length=length) / length
        for length in (283, 284)
    }
    assert extra[284] - extra[283] == 2 * round((2 * 78 / 64 + 1) * WIDTH) * 4
