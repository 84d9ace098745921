"""Disentangled attention against plain loops, buckets against transformers, and refusals."""

import pytest
import torch
import torch.nn.functional as F
from transformers.models.deberta_v2.modeling_deberta_v2 import make_log_bucket_position

from orchestrator.config import validate_config
from orchestrator.errors import ConfigError
from orchestrator.modeling.builder import build_model
from orchestrator.modeling.component import Dimensions
from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.cost import training_flops
from orchestrator.modeling.interfaces import all_real
from orchestrator.modeling.layers.attention import AttentionMask
from orchestrator.modeling.layers.bias_options import DisentangledConfig
from orchestrator.modeling.layers.block_options import BlockOptions
from orchestrator.modeling.layers.convolution import build_convolution
from orchestrator.modeling.layers.disentangled import (
    DisentangledAttention,
    bucket,
    build_position_vectors,
)

from .small import LENGTH, VOCAB, WIDTH, make_batch, make_config, make_model

BIAS = {"type": "disentangled", "max_distance": 6}
SIZES = Dimensions(
    hidden_size=WIDTH,
    vocab_size=VOCAB,
    max_position_embeddings=LENGTH,
    type_vocab_size=2,
    pad_token_id=0,
)
KINDS = {
    "plain": {},
    "buckets": {"buckets": 4, "max_distance": 8},
    "near": {"max_distance": 3},
    "content_only": {"position_to_content": False},
    "position_only": {"content_to_position": False},
    "shared": {"shared_projections": True, "norm": True},
}


def parts(kind, **options):
    """Return attention and vectors of distances with random parameters."""
    torch.manual_seed(4)
    bias = DisentangledConfig.model_validate(BIAS | KINDS[kind])
    blocks = BlockOptions(num_heads=2, position_bias=bias, dropout=0.0, **options)
    module, vectors = DisentangledAttention(blocks, SIZES), build_position_vectors(blocks, SIZES)
    with torch.no_grad():
        for parameter in [*module.parameters(), *vectors.parameters()]:
            parameter.copy_(torch.randn(parameter.shape) * 0.4)
    return module, vectors


def by_loops(module, vectors, x, real):
    """The formula of the paper, one pair of positions at a time."""
    bias, size = vectors.config, module.head_size
    table = vectors.weight if vectors.norm is None else vectors.norm(vectors.weight)
    of_keys = module.key if module.position_key is None else module.position_key
    of_queries = module.query if module.position_query is None else module.position_query
    terms = 1 + bias.content_to_position + bias.position_to_content
    rows = []
    for row in range(len(x)):
        for i in range(x.shape[1]):
            readable = [j for j in range(x.shape[1]) if real[row, j]]
            scores = []
            for j in readable:
                d = torch.tensor([i - j])
                if bias.buckets is not None:
                    d = make_log_bucket_position(d, bias.buckets, bias.max_distance).long()
                distance = table[(d + bias.span).clamp(0, 2 * bias.span - 1)][0]
                q, k = (
                    layer(x[row, n]).view(2, size)
                    for layer, n in ((module.query, i), (module.key, j))
                )
                score = (q * k).sum(-1)
                if bias.content_to_position:
                    score = score + (q * of_keys(distance).view(2, size)).sum(-1)
                if bias.position_to_content:
                    score = score + (k * of_queries(distance).view(2, size)).sum(-1)
                scores.append(score / (terms * size) ** 0.5)
            if readable:
                values = module.value(x[row, readable]).view(-1, 2, size)
                weights = torch.stack(scores, 1).softmax(-1)
                rows.append(torch.einsum("hk,khd->hd", weights, values).flatten())
            else:
                rows.append(torch.zeros(WIDTH))
    return module.output(torch.stack(rows).view(x.shape))


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", list(KINDS))
def test_scores_equal_the_formula_one_pair_at_a_time(kind, kernel):
    module, vectors = parts(kind, attention=kernel)
    x = torch.randn(3, LENGTH, WIDTH)
    real = make_batch()["attention_mask"][:3].bool()
    real[0] = False  # a sequence without any real position
    mask = AttentionMask(real[:, None, None, :], distances=vectors(LENGTH))
    found = module(x, mask)
    torch.testing.assert_close(found, by_loops(module, vectors, x, real), atol=1e-5, rtol=0)
    found.square().sum().backward()
    for parameter in [*module.parameters(), *vectors.parameters()]:
        assert parameter.grad.isfinite().all()
        assert parameter.grad.abs().sum() > 0


@pytest.mark.parametrize(("buckets", "longest"), [(4, 4), (8, 16), (256, 512), (32, 3000)])
def test_buckets_are_those_of_transformers(buckets, longest):
    distance = torch.arange(-4000, 4001)
    theirs = make_log_bucket_position(distance, buckets, longest).long()
    assert torch.equal(bucket(distance, buckets, longest), theirs)


def test_only_rows_that_a_sequence_reaches_are_projected():
    _, vectors = parts("plain")
    for length, rows in ((1, 1), (2, 3), (4, 7), (7, 12), (50, 12)):
        found = vectors(length)
        assert found.vectors.shape == (rows, WIDTH)
        assert found.rows.shape == (length, length)
        assert torch.equal(found.vectors[found.rows[0, 0]], vectors.weight[6])


def test_nothing_of_the_size_of_all_pairs_and_the_width_is_made():
    """The largest tensor that the backward pass keeps: scores of all heads."""
    length, width, heads = 64, 32, 2
    sizes = {"vocab_size": VOCAB, "hidden_size": width, "max_position_embeddings": length}
    encoder = {"type": "transformer", "num_heads": heads, "num_layers": 1, "position_bias": BIAS}
    model = build_model(validate_config(ModelConfig, sizes | {"encoder": encoder}, "test"))
    largest = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: (largest.append(tensor.untyped_storage().nbytes()), tensor)[1],
        lambda tensor: tensor,
    ):
        model.encode({"input_ids": torch.randint(1, VOCAB, (1, length))})
    assert max(largest) <= 8 * heads * length * length < 4 * length * length * width


def test_a_convolution_reads_no_padding():
    options = {"convolution": {"kernel_size": 5, "groups": 2, "activation": "gelu"}}
    model = make_model(encoder={"type": "transformer", "num_heads": 2, **options})
    batch = make_batch()
    with torch.no_grad():
        expected = model.encode(batch)
        batch["input_ids"] = torch.where(batch["attention_mask"].bool(), batch["input_ids"], 7)
        found = model.encode(batch)
    real = batch["attention_mask"].bool()
    torch.testing.assert_close(found[real], expected[real], atol=1e-6, rtol=0)


def test_a_convolution_stands_beside_the_first_block():
    options = {"num_heads": 2, "num_layers": 2, "convolution": {}, "norm_eps": 1e-3}
    model = make_model(encoder={"type": "transformer", "dropout": 0.0, **options})
    blocks, convolution = model.encoder.layers, model.encoder.convolution
    batch = {"input_ids": make_batch()["input_ids"][:1]}
    embedded, _ = model.embedding(batch)
    local = convolution.layer(embedded.transpose(1, 2)).transpose(1, 2).tanh()
    first = blocks[0](embedded, AttentionMask(None)) + local
    normed = F.layer_norm(first, (WIDTH,), convolution.norm.weight, convolution.norm.bias, 1e-3)
    expected = blocks[1](normed, AttentionMask(None))
    torch.testing.assert_close(model.encode(batch), expected, atol=1e-6, rtol=0)
    assert build_convolution(BlockOptions(), None, SIZES) is None
    assert all_real(1, LENGTH, embedded.device).all()


def test_an_embedding_can_be_projected_before_its_norm():
    embedding = {"parts": ["word"], "size": 6, "projection": "first", "norm_eps": 1e-4}
    model = make_model(embedding=embedding, encoder={"type": "transformer", "num_heads": 2})
    ids = make_batch()["input_ids"]
    table, stack = model.embedding.word.weight, model.embedding
    assert stack.projection.bias is None
    wide = table[ids] @ stack.projection.weight.T
    expected = F.layer_norm(wide, (WIDTH,), stack.norm.weight, stack.norm.bias, 1e-4)
    torch.testing.assert_close(stack({"input_ids": ids})[0], expected, atol=1e-6, rtol=0)


MISTAKES = {
    "position_bias.content_to_position: and position_to_content are false": {
        "position_bias": BIAS | {"content_to_position": False, "position_to_content": False}
    },
    "position_bias.buckets: 10: half of them reach max_distance": {
        "position_bias": BIAS | {"buckets": 10}
    },
    "position_bias: distances have two sides": {"position_bias": BIAS, "mask": "causal"},
    "rotary: is not for disentangled": {"position_bias": BIAS, "rotary": {}},
    "num_kv_heads: is not for disentangled": {"position_bias": BIAS, "num_kv_heads": 1},
    "query_key_norm: is not for disentangled": {"position_bias": BIAS, "query_key_norm": "head"},
    "attention_softcap: is not for disentangled": {"position_bias": BIAS, "attention_softcap": 9.0},
    "convolution: reads both sides": {"convolution": {}, "mask": "prefix"},
    "convolution.kernel_size: 4 is even": {"convolution": {"kernel_size": 4}},
    "convolution.groups: 3 does not divide hidden_size": {"convolution": {"groups": 3}},
}


@pytest.mark.parametrize("message", list(MISTAKES))
def test_options_that_do_not_fit_are_refused(message):
    with pytest.raises(ConfigError, match=message):
        make_model(encoder={"type": "transformer", "num_heads": 2} | MISTAKES[message])


def test_a_decoder_and_an_embedding_without_a_size_are_refused():
    encoder = {"type": "transformer", "num_heads": 2}
    with pytest.raises(ConfigError, match="disentangled attention is for encoders"):
        make_model(
            encoder=encoder,
            decoder=encoder | {"position_bias": BIAS},
            target_embedding={"parts": ["word"]},
            target="lm",
        )
    with pytest.raises(ConfigError, match=r"embedding\.projection: there is none without size"):
        make_model(encoder=encoder, embedding={"parts": ["word"], "projection": "first"})


def test_operations_count_products_with_distances_but_not_their_projection():
    def flops(**options):
        encoder = {"type": "transformer", "num_heads": 2, "num_layers": 3} | options
        return training_flops(make_config(encoder=encoder), LENGTH)

    terms, rows = 2, 12
    assert flops(position_bias=BIAS) - flops() == 6 * 3 * terms * rows * WIDTH
