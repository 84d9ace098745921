"""Reading a sequence piece by piece, with a cache, equals reading it at once."""

import pytest
import torch

from orchestrator.errors import InputError
from orchestrator.modeling.layers.cache import Cache

from .small import LENGTH, VOCAB, make_model

BLOCK = {"type": "transformer", "num_heads": 4, "mask": "causal", "norm_position": "pre"}
WORDS = {"parts": ["word"], "layernorm": False}
PADDED = {"parts": ["word", {"type": "pos", "pad_aware": True, "offset": 1}]}
YARN = {"type": "yarn", "factor": 2.0, "original_max_position_embeddings": 4}
MODELS = {
    "learned": {"embedding": {"parts": ["word", "pos"]}},
    "learned_pad_aware": {"embedding": PADDED},
    "sinusoidal": {"embedding": {"parts": ["word", "sinusoidalpos"]}},
    "rotary": {"embedding": WORDS, "encoder": {"rotary": {}}},
    "rotary_pairs": {"embedding": WORDS, "encoder": {"rotary": {"layout": "pairs"}}},
    "rotary_yarn": {"embedding": WORDS, "encoder": {"rotary": {"scaling": YARN}}},
    "alibi": {"embedding": WORDS, "encoder": {"position_bias": {"type": "alibi"}}},
    "t5": {"embedding": WORDS, "encoder": {"position_bias": {"type": "t5", "buckets": 4}}},
    "window": {"embedding": WORDS, "encoder": {"rotary": {}, "window": 3}},
    "window_later": {
        "embedding": WORDS,
        "encoder": {"rotary": {}, "window": 3, "window_from": 1},
    },
    "patterns": {
        "embedding": WORDS,
        "encoder": {
            "num_layers": 4,
            "rotary": {},
            "rotary_layers": [0, 1, 3],
            "window": 3,
            "window_layers": [1, 2],
            "window_rotary": {"theta": 20.0},
            "first_norm": False,
        },
    },
    "grouped": {"embedding": WORDS, "encoder": {"rotary": {}, "num_kv_heads": 2}},
    "experts": {"embedding": WORDS, "encoder": {"rotary": {}, "experts": {"num_experts": 4}}},
    "shared": {"embedding": WORDS, "encoder": {"rotary": {}, "shared_layers": True}},
    "post": {"embedding": {"parts": ["word", "pos"]}, "encoder": {"norm_position": "post"}},
    "eager": {"embedding": {"parts": ["word", "pos"]}, "encoder": {"attention": "eager"}},
    "segments": {"embedding": {"parts": ["word", "pos", "seg"]}},
}
PADDING = {"none": (0, 0, 0), "left": (0, 3, 6)}


def model_of(name):
    raw = MODELS[name]
    model = make_model(
        embedding=raw["embedding"], encoder=BLOCK | raw.get("encoder", {}), target="lm"
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


def batch_of(padding):
    mask = torch.ones(3, LENGTH, dtype=torch.long)
    for row, count in enumerate(PADDING[padding]):
        mask[row, :count] = 0
    return {"input_ids": torch.randint(1, VOCAB, (3, LENGTH)) * mask, "attention_mask": mask}


def read_in_pieces(model, batch, ends, *, with_mask=True):
    cache, pieces, start = Cache(), [], 0
    for end in ends:
        piece = {"input_ids": batch["input_ids"][:, start:end]}
        if with_mask:
            piece["attention_mask"] = batch["attention_mask"][:, :end]
        pieces.append(model.advance(piece, cache))
        start = end
        assert cache.length == end
    return torch.cat(pieces, dim=1)


@pytest.mark.parametrize("padding", list(PADDING))
@pytest.mark.parametrize("name", list(MODELS))
def test_pieces_equal_the_whole(name, padding):
    model, batch = model_of(name), batch_of(padding)
    real = batch["attention_mask"].bool()
    expected = model.encode(batch)[real]
    for ends in (range(1, LENGTH + 1), (3, 4, LENGTH), (LENGTH,)):
        found = read_in_pieces(model, batch, ends)[real]
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["learned", "learned_pad_aware", "sinusoidal", "rotary", "t5"])
def test_pieces_need_no_mask_where_nothing_is_padded(name):
    model, batch = model_of(name), batch_of("none")
    found = read_in_pieces(model, batch, (2, 3, LENGTH), with_mask=False)
    torch.testing.assert_close(found, model.encode(batch), atol=1e-5, rtol=0)


def test_a_prefix_is_read_at_once_and_then_continued():
    model = make_model(
        embedding={"parts": ["word", "pos"]}, encoder=BLOCK | {"mask": "prefix"}, target="lm"
    )
    batch = batch_of("none")
    prefix = (torch.arange(LENGTH) < 4).long().expand(3, -1)
    expected = model.encode(batch | {"prefix_mask": prefix})
    cache, pieces, start = Cache(), [], 0
    for end in (4, 5, LENGTH):
        piece = {"input_ids": batch["input_ids"][:, start:end], "prefix_mask": prefix[:, :end]}
        pieces.append(model.advance(piece, cache))
        start = end
    torch.testing.assert_close(torch.cat(pieces, dim=1), expected, atol=1e-5, rtol=0)


def test_a_sequence_does_not_grow_beyond_the_positions_of_the_model():
    model, batch = model_of("learned"), batch_of("none")
    cache = Cache()
    model.advance(batch, cache)
    with pytest.raises(InputError, match=f"has {LENGTH + 1} positions; the model has {LENGTH}"):
        model.advance({"input_ids": batch["input_ids"][:, :1]}, cache)


def test_rows_of_the_cache_can_be_chosen():
    """Beam search goes on from some rows, some of them twice."""
    model, batch = model_of("rotary"), batch_of("left")
    rows = torch.tensor([2, 0, 2])
    cache = Cache()
    model.advance({k: v[:, :5] for k, v in batch.items()}, cache)
    cache.select(rows)
    chosen = {k: v[rows] for k, v in batch.items()}
    piece = {"input_ids": chosen["input_ids"][:, 5:], "attention_mask": chosen["attention_mask"]}
    found = model.advance(piece, cache)
    real = chosen["attention_mask"][:, 5:].bool()
    expected = model.encode(chosen)[:, 5:]
    torch.testing.assert_close(found[real], expected[real], atol=1e-5, rtol=0)
