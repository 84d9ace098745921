"""Options of blocks: both attention kernels agree; windows and prefixes against plain loops."""

import pytest
import torch
import torch.nn.functional as F
from transformers.models.phi3.modeling_phi3 import apply_rotary_pos_emb

from orchestrator.errors import ConfigError
from orchestrator.modeling.component import Dimensions
from orchestrator.modeling.interfaces import all_real
from orchestrator.modeling.layers.attention import Attention, AttentionMask, attention_mask
from orchestrator.modeling.layers.block_options import BlockOptions, RotaryConfig
from orchestrator.modeling.layers.relative_positions import AlibiBias, rotate, rotation

from .small import LENGTH, VOCAB, WIDTH, make_batch, make_model

BASE = {"type": "transformer", "num_heads": 4, "num_layers": 2}
T5, ALIBI = {"type": "t5", "buckets": 8, "max_distance": 6}, {"type": "alibi"}
OPTIONS = {
    "plain": {},
    "pre_rms_gated": {"norm_position": "pre", "norm": "rms", "feed_forward": "gated"},
    "causal": {"mask": "causal"},
    "prefix": {"mask": "prefix"},
    "window": {"window": 3},
    "causal_window": {"mask": "causal", "window": 2},
    "window_later": {"mask": "causal", "window": 2, "window_from": 1},
    "prefix_window": {"mask": "prefix", "window": 3},
    "window_pattern": {
        "window": 3,
        "window_layers": [1],
        "rotary": {"theta": 100.0},
        "window_rotary": {"theta": 10.0},
        "norm_position": "pre",
        "norm_bias": False,
        "first_norm": False,
    },
    "feed_forward_bias": {"feed_forward": "gated", "feed_forward_bias": ["down"]},
    "rotary_pattern": {"mask": "causal", "rotary": {}, "rotary_layers": [0]},
    "t5": {"position_bias": T5, "attention_scale": 1.0},
    "t5_causal_window": {"position_bias": T5, "mask": "causal", "window": 3},
    "alibi": {"position_bias": ALIBI, "mask": "causal"},
    "alibi_both_sides": {"position_bias": ALIBI},
    "alibi_prefix": {"position_bias": ALIBI, "mask": "prefix", "num_heads": 8},
    "disentangled": {"position_bias": {"type": "disentangled", "max_distance": 5}},
    "disentangled_convolution": {
        "position_bias": {"type": "disentangled", "buckets": 4, "max_distance": 6, "norm": True},
        "convolution": {"activation": "gelu"},
        "window": 4,
    },
    "patches": {"position_bias": {"type": "patches", "rows": 1, "columns": LENGTH - 1}},
    "rotary": {"rotary": {}, "mask": "causal"},
    "rotary_pairs_grouped": {"rotary": {"layout": "pairs"}, "num_kv_heads": 1},
    "rotary_share": {"rotary": {"share": 0.5}, "head_size": 8},
    "query_key_norm": {"query_key_norm": "head", "num_kv_heads": 2, "rotary": {}},
    "query_key_norm_projection": {"query_key_norm": "projection", "norm": "rms"},
    "norms_on_both_sides": {"norm_position": "both", "norm": "rms_offset"},
    "norms_of_outputs": {"norm_position": "output", "norm": "rms"},
    "longrope": {
        "rotary": {
            "scaling": {
                "type": "longrope",
                "short_factor": [1.0, 1.5],
                "long_factor": [2.0, 3.0],
                "original_max_position_embeddings": 7,
                "factor": 2.0,
            }
        }
    },
    "grouped_t5": {"num_kv_heads": 2, "position_bias": T5, "mask": "causal"},
    "grouped_window_prefix": {"num_kv_heads": 2, "window": 3, "mask": "prefix"},
    "experts": {"experts": {"num_experts": 4}, "feed_forward": "gated", "mask": "causal"},
    "free_head_size": {"head_size": 6, "attention_bias": ["query", "value"]},
    "layer_scale": {"layer_scale": 0.1, "norm_position": "pre"},
}
TOLERANCE = {"atol": 1e-5, "rtol": 0}


def pair(options):
    """The same encoder twice, with random parameters: fused and plain attention."""
    models = []
    for kernel in ("sdpa", "eager"):
        torch.manual_seed(3)
        encoder = BASE | OPTIONS[options] | {"attention": kernel}
        model = make_model(embedding={"parts": ["word", "pos"]}, encoder=encoder)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.2)
        models.append(model)
    return models


def batches():
    padded = make_batch() | {"prefix_mask": (torch.arange(LENGTH) < 3).long().expand(4, -1)}
    full = {k: v for k, v in padded.items() if k != "attention_mask"}
    packed = full | {"document_ids": (torch.arange(LENGTH) // 5).expand(4, -1)}
    return {"padded": padded, "full": full, "packed": packed}


@pytest.mark.parametrize("kind", ["padded", "full", "packed"])
@pytest.mark.parametrize("options", list(OPTIONS))
def test_plain_attention_equals_the_fused_kernel(options, kind):
    batch = batches()[kind]
    real = batch.get("attention_mask", torch.ones(4, LENGTH)).bool()
    results = []
    for model in pair(options):
        hidden = model.encode(batch)
        assert hidden.isfinite().all()
        hidden[real].square().sum().backward()
        gradients = {name: p.grad for name, p in model.named_parameters() if "seg" not in name}
        results.append((hidden[real].detach(), gradients))
    (fused, of_fused), (plain, of_plain) = results
    torch.testing.assert_close(fused, plain, **TOLERANCE)
    for name, gradient in of_fused.items():
        torch.testing.assert_close(gradient, of_plain[name], atol=1e-4, rtol=1e-4, msg=name)


SIZES = Dimensions(
    hidden_size=WIDTH,
    vocab_size=VOCAB,
    max_position_embeddings=LENGTH,
    type_vocab_size=2,
    pad_token_id=0,
)


def by_loops(module, x, may_read):
    """Attention one query at a time, over a list of the keys it may read."""
    heads, size = module.num_heads, module.head_size
    query, key, value = (
        layer(x).view(*x.shape[:2], heads, size)
        for layer in (module.query, module.key, module.value)
    )
    rows = []
    for row in range(x.shape[0]):
        for position in range(x.shape[1]):
            keys = [k for k in range(x.shape[1]) if may_read(row, position, k)]
            scores = torch.einsum("hd,khd->hk", query[row, position], key[row, keys]) / size**0.5
            mixed = torch.einsum("hk,khd->hd", scores.softmax(-1), value[row, keys])
            rows.append(mixed.flatten())
    return module.output(torch.stack(rows).view(*x.shape[:2], -1))


READS = {
    ("causal", 3): lambda q, k: q - 3 < k <= q,
    ("causal", 1): lambda q, k: k == q,
    ("causal", LENGTH + 5): lambda q, k: k <= q,
    ("bidirectional", 2): lambda q, k: abs(q - k) < 2,
    ("prefix", None): lambda q, k: k <= q or k < 3,
    ("prefix", 4): lambda q, k: abs(q - k) < 4 and (k <= q or k < 3),
}


@pytest.mark.parametrize(("order", "window"), list(READS))
def test_windows_and_prefixes_equal_plain_loops(order, window):
    module = Attention(BlockOptions(num_heads=2), SIZES)
    x = torch.randn(2, LENGTH, WIDTH)
    real = torch.ones(2, LENGTH, dtype=torch.bool)
    real[1, 6:] = False
    prefix = {"prefix_mask": (torch.arange(LENGTH) < 3).long().expand(2, -1)}
    mask = attention_mask(real, order=order, window=window, batch=prefix)
    reads = READS[order, window]
    expected = by_loops(
        module, x, lambda row, q, k: k == q if not real[row, q] else real[row, k] and reads(q, k)
    )
    found = module(x, mask)
    torch.testing.assert_close(found[real], expected[real], **TOLERANCE)


def test_each_block_has_its_own_window_and_rotary_positions():
    """Against the blocks one by one, each with the mask and the angles that its number asks for."""
    thetas = {False: RotaryConfig(theta=50.0), True: RotaryConfig(theta=5.0)}
    options = {
        "num_layers": 5,
        "window": 3,
        "window_layers": [1, 2, 4],
        "rotary": thetas[False].model_dump(),
        "window_rotary": thetas[True].model_dump(),
        "rotary_layers": [0, 1, 3, 4],
        "norm_position": "pre",
        "first_norm": False,
    }
    model = make_model(embedding={"parts": ["word"]}, encoder=BASE | options, initializer_range=0.5)
    batch = make_batch()
    real = batch["attention_mask"].bool()
    positions = torch.arange(LENGTH)[None]
    hidden, _ = model.embedding(batch)
    for block, layer in enumerate(model.encoder.layers):
        near = block in options["window_layers"]
        mask = attention_mask(real, order="bidirectional", window=3 if near else None)
        angles = rotation(thetas[near], positions, WIDTH // 4, torch.float32)
        normed = hidden if block == 0 else layer.norm1(hidden)
        turned = angles if block in options["rotary_layers"] else None
        hidden = hidden + layer.attention(normed, mask, rotation=turned)
        hidden = hidden + layer.feed_forward(layer.norm2(hidden))
    expected = model.encoder.norm(hidden)
    assert not [*model.encoder.layers[0].norm1.parameters()]
    torch.testing.assert_close(model.encode(batch)[real], expected[real], **TOLERANCE)


def test_norms_without_a_bias_have_none_anywhere():
    encoder = BASE | {"norm_bias": False, "norm_position": "pre"}
    decoder = {"num_layers": 1, "num_heads": 4, "norm_bias": False, "norm_position": "pre"}
    model = make_model(
        encoder=encoder,
        decoder={"type": "transformer", **decoder},
        target_embedding={"parts": ["word"]},
        target="lm",
    )
    for part in (model.encoder, model.decoder):
        norms = [each for each in part.modules() if isinstance(each, torch.nn.LayerNorm)]
        assert len(norms) > 3
        assert all(each.bias is None for each in norms)


def test_a_prefix_language_model_equals_one_with_an_explicit_mask():
    """UniLM: `lm` on `mask: prefix`, labels after the prefix; prefixes differ from row to row."""
    encoder = BASE | {"mask": "prefix"}
    model = make_model(embedding={"parts": ["word", "pos"]}, encoder=encoder, target="lm")
    ids, lengths = torch.randint(1, VOCAB, (3, LENGTH)), torch.tensor([2, 5, 3])
    prefix = torch.arange(LENGTH) < lengths[:, None]
    allowed = torch.zeros(3, 1, LENGTH, LENGTH, dtype=torch.bool)
    for row, length in enumerate(lengths):
        for query in range(LENGTH):
            for key in range(LENGTH):
                allowed[row, 0, query, key] = key <= query or key < length
    # the last token of the prefix predicts the first one after it
    labels = torch.where(torch.arange(LENGTH) >= lengths[:, None] - 1, ids.roll(-1, 1), -100)
    labels[:, -1] = -100
    found = model({"input_ids": ids, "prefix_mask": prefix.long(), "labels.lm": labels})

    hidden, _ = model.embedding({"input_ids": ids})
    for layer in model.encoder.layers:
        hidden = layer(hidden, AttentionMask(allowed))
    logits = F.linear(hidden, model.embedding.word.weight)
    expected = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")
    torch.testing.assert_close(found["loss.lm"], expected)
    assert found["count.lm"] == sum(LENGTH - length for length in lengths)


def test_nothing_after_the_prefix_is_seen_before_it():
    model = make_model(encoder=BASE | {"mask": "prefix"})
    batch = {"input_ids": torch.randint(1, VOCAB - 1, (1, LENGTH))}
    batch["prefix_mask"] = (torch.arange(LENGTH) < 4).long()[None]
    before = model.encode(batch)
    for changed, seen_from in ((2, 0), (6, 6)):
        other = batch["input_ids"].clone()
        other[0, changed] += 1
        after = model.encode(batch | {"input_ids": other})
        same = (before == after).all(-1)[0]
        assert same[:seen_from].all()
        assert not same[seen_from:].any()


def test_a_batch_without_padding_needs_no_explicit_mask_on_any_device():
    """On an accelerator, reading a mask would wait; a fused causal kernel wants none."""
    full = all_real(2, LENGTH, torch.device("meta"))
    assert attention_mask(full, order="causal") == AttentionMask(None, causal=True)
    assert attention_mask(full, order="bidirectional") == AttentionMask(None)
    given = torch.ones(2, LENGTH, dtype=torch.bool, device="meta")
    assert attention_mask(given, order="causal").allowed is not None


def test_alibi_falls_with_distance_on_both_sides():
    """Press et al. 2022: for 8 heads the slopes are 1/2, 1/4, ..., 1/256."""
    bias = AlibiBias(8)(torch.arange(3, 5), torch.arange(5))[0]
    distance = torch.tensor([[3.0, 2, 1, 0, 1], [4, 3, 2, 1, 0]])
    for head in range(8):
        assert torch.equal(bias[head], -(0.5 ** (head + 1)) * distance)


MISTAKES = {
    "window_from: no block has a window": {"window_from": 1},
    "window_from: no block has": {"window": 3, "window_from": 2},
    "window_from: window_layers names the blocks": {
        "window": 3,
        "window_from": 1,
        "window_layers": [1],
    },
    "window_layers: there is no window": {"window_layers": [1]},
    r"window_layers: \[0, 2\] must be ascending numbers of blocks, from 0 to 1": {
        "window": 3,
        "window_layers": [0, 2],
    },
    r"window_layers: \[1, 0\] must be ascending": {"window": 3, "window_layers": [1, 0]},
    "rotary_layers: there is no rotary": {"rotary_layers": [1]},
    r"rotary_layers: \[1, 1\] must be ascending": {"rotary": {}, "rotary_layers": [1, 1]},
    "rotary_layers: .* at least 1": {"rotary": {}, "rotary_layers": []},
    "window_rotary: needs `window` and `rotary`": {"rotary": {}, "window_rotary": {}},
    "first_norm: is for pre-norm blocks that share no weights": {"first_norm": False},
    "first_norm: is for pre-norm blocks that": {
        "norm_position": "pre",
        "shared_layers": True,
        "first_norm": False,
    },
    "first_norm: is for pre-norm": {"norm_position": "output", "first_norm": False},
    "feed_forward_bias: there is no gate": {"feed_forward_bias": ["gate"]},
    "feed_forward_bias: experts have no biases": {"experts": {}, "feed_forward_bias": ["up"]},
    "norm_bias: RMSNorm never has a bias": {"norm": "rms", "norm_bias": False},
    "norm_bias: RMSNorm never has": {"norm": "rms_offset", "norm_bias": False},
    "rotary: head size 3 is odd": {"rotary": {}, "head_size": 3},
    "window_rotary.share: 0.4 of head size 8 is 3 channels": {
        "rotary": {},
        "window": 3,
        "window_rotary": {"share": 0.4},
        "head_size": 8,
    },
    "rotary.scaling.short_factor: 1 factors for 2 pairs": {
        "rotary": {
            "scaling": {
                "type": "longrope",
                "short_factor": [1.0],
                "long_factor": [2.0, 3.0],
                "original_max_position_embeddings": 7,
                "factor": 2.0,
            }
        }
    },
    "rotary.share: 0.4 of head size 8 is 3 channels": {"rotary": {"share": 0.4}, "head_size": 8},
    "rotary.scaling.factor: 0.5 is not allowed": {
        "rotary": {"scaling": {"type": "linear", "factor": 0.5}}
    },
    "rotary.scaling.original_max_position_embeddings: is required": {
        "rotary": {"scaling": {"type": "yarn", "factor": 2.0}}
    },
}


@pytest.mark.parametrize("message", list(MISTAKES))
def test_options_that_do_not_fit_are_refused(message):
    with pytest.raises(ConfigError, match=message):
        make_model(encoder=BASE | MISTAKES[message])


def test_a_share_of_a_head_is_rotated():
    """Phi-3's own function, also with neighbors turned together, as in GPT-J."""
    q, k = torch.randn(2, 2, 3, LENGTH, 10).unbind()
    angles = rotation(RotaryConfig(share=0.6), torch.arange(LENGTH)[None], 10, torch.float32)
    assert angles.cos.shape[-1] == 6
    expected = apply_rotary_pos_emb(q, k, angles.cos[:, 0], angles.sin[:, 0])
    for found, other in zip((rotate(q, angles), rotate(k, angles)), expected, strict=True):
        assert torch.equal(found, other)
    halves, pairs = q[..., :6], q[..., [0, 3, 1, 4, 2, 5]]
    neighbors = RotaryConfig(share=0.6, layout="pairs")
    turned = rotation(neighbors, torch.arange(LENGTH)[None], 10, torch.float32)
    found = rotate(torch.cat([pairs, q[..., 6:]], -1), turned)
    torch.testing.assert_close(
        found[..., [0, 2, 4, 1, 3, 5]], rotate(halves, angles), atol=1e-6, rtol=0
    )
    assert torch.equal(found[..., 6:], q[..., 6:])


def test_soft_capping_computes_attention_by_its_formula():
    """No fused kernel limits scores, whatever `attention` says; the estimate counts the scores."""
    plain, capped = BlockOptions(num_heads=2), BlockOptions(num_heads=2, attention_softcap=2.0)
    module, uncapped = Attention(capped, SIZES), Attention(plain, SIZES)
    assert module.eager
    uncapped.load_state_dict(module.state_dict())
    x = torch.randn(2, LENGTH, WIDTH) * 9
    mask = attention_mask(torch.ones(2, LENGTH, dtype=torch.bool), order="causal")
    scores = torch.einsum(
        "bshd,bthd->bhst",
        *(layer(x).view(2, LENGTH, 2, -1) for layer in (module.query, module.key)),
    )
    scores = 2.0 * (scores / (WIDTH / 2) ** 0.5 / 2.0).tanh()
    scores = scores.masked_fill(torch.ones(LENGTH, LENGTH).triu(1).bool(), -torch.inf)
    value = module.value(x).view(2, LENGTH, 2, -1)
    mixed = torch.einsum("bhst,bthd->bshd", scores.softmax(-1), value)
    torch.testing.assert_close(module(x, mask), module.output(mixed.flatten(2)), **TOLERANCE)
    assert not torch.allclose(module(x, mask), uncapped(x, mask), atol=0.01)
    found, fused = (each.saved_activations_of_blocks(SIZES, LENGTH) for each in (capped, plain))
    eager = BlockOptions(num_heads=2, attention="eager")
    assert found == eager.saved_activations_of_blocks(SIZES, LENGTH) > fused


@pytest.mark.parametrize(
    "option",
    [
        {"query_key_norm": "head"},
        {"attention_softcap": 5.0},
        {"norm_position": "both"},
        {"norm_position": "output"},
    ],
)
def test_a_decoder_refuses_what_only_encoders_have(option):
    decoder = {"type": "transformer", "num_heads": 4} | option
    name = next(iter(option))
    with pytest.raises(ConfigError, match=rf"decoder\.{name}: .*is for encoders"):
        make_model(encoder=BASE, decoder=decoder, target_embedding={"parts": ["word"]}, target="lm")


def test_experts_of_a_shared_block_are_not_balanced():
    encoder = BASE | {"experts": {"num_experts": 4}, "shared_layers": True}
    with pytest.raises(ConfigError, match="sees one pass of a shared block"):
        make_model(encoder=encoder, target=["mlm", "balance"])
