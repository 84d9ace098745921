"""Generation: caches, rows that do not disturb one another, beams against enumeration, refusals."""

import itertools

import pytest
import torch

from orchestrator.errors import ConfigError, InputError
from orchestrator.modeling.generation.config import GenerationConfig
from orchestrator.modeling.generation.continuation import Continuation
from orchestrator.modeling.generation.generate import generate

from .small import LENGTH, VOCAB, make_model

EOS, NEW = 3, 6
BLOCKS = {"type": "transformer", "num_heads": 2, "dropout": 0.0}
PLAIN = {"layernorm": False, "dropout": 0.1}
SIZES = {"max_position_embeddings": LENGTH + NEW, "initializer_range": 0.7}


def language_model(encoder="transformer", parts=("word", "pos"), **options):
    encoder = BLOCKS | {"mask": "causal"} | options if encoder == "transformer" else encoder
    embedding = PLAIN | {"parts": list(parts)}
    return make_model(embedding=embedding, encoder=encoder, target="lm", **SIZES)


def encoder_decoder(parts=("word", "pos"), **options):
    side = PLAIN | {"parts": list(parts)}
    blocks = BLOCKS | options
    return make_model(
        embedding=side,
        encoder=blocks,
        target_embedding=side,
        decoder=blocks,
        target="lm",
        **SIZES,
    )


LONG = {
    "type": "longrope",
    "short_factor": [1.0, 1.1, 1.2, 1.3],
    "long_factor": [2.0, 3.0, 5.0, 9.0],
    "original_max_position_embeddings": 7,
    "factor": 2.0,
}
"""Keys in the cache are turned again when a text grows beyond 7 tokens."""
T5 = {"norm": "rms", "norm_position": "pre", "position_bias": {"type": "t5", "buckets": 8}}
MODELS = {
    "gpt2": language_model,
    "rotary": lambda: language_model(parts=["word"], rotary={}, num_kv_heads=1),
    "alibi": lambda: language_model(parts=["word"], position_bias={"type": "alibi"}),
    "window": lambda: language_model(parts=["word"], rotary={}, window=3),
    "longrope": lambda: language_model(parts=["word"], rotary={"theta": 9.0, "scaling": LONG}),
    "prefix": lambda: language_model(mask="prefix"),
    "segments": lambda: language_model(parts=["word", "pos", "seg"]),
    "gru": lambda: language_model("gru", ["word"]),
    "gatedcnn": lambda: language_model("gatedcnn", ["word"]),
    "seq2seq": encoder_decoder,
    "t5": lambda: encoder_decoder(["word"], **T5),
    "waves": lambda: encoder_decoder(["word", "sinusoidalpos"]),
}


def prompts(side="left"):
    """Return 3 texts of 5, 3 and 4 tokens."""
    mask = (torch.arange(5) < torch.tensor([5, 3, 4])[:, None]).long()
    ids = torch.randint(4, VOCAB, (3, 5), generator=torch.Generator().manual_seed(2)) * mask
    kinds = torch.tensor([[0, 0, 0, 1, 1], [0, 1, 1, 0, 0], [1, 1, 1, 1, 0]]) * mask
    if side == "left":
        order = mask.argsort(dim=1, stable=True)
        mask, ids, kinds = (each.gather(1, order) for each in (mask, ids, kinds))
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": kinds}


def rows_of(batch, row):
    real = batch["attention_mask"][row].bool()
    return {key: value[row : row + 1, real] for key, value in batch.items()}


def up_to_end(tokens):
    return [row[: row.index(EOS) + 1] if EOS in row else row for row in tokens.tolist()]


def write(model, batch, cached=True, **options):
    config = GenerationConfig(max_new_tokens=NEW, eos_token_ids=(EOS,), **options)
    return generate(model, batch, config, cached=cached)


@pytest.mark.parametrize("name", list(MODELS))
def test_logits_with_and_without_cache_are_equal_at_every_step(name):
    model = MODELS[name]()
    kept, fresh = (
        Continuation(model, prompts(), start=1, target="lm", cached=cached)
        for cached in (True, False)
    )
    logits, again = kept.start(), fresh.start()
    for _ in range(NEW):
        torch.testing.assert_close(logits, again, atol=1e-4, rtol=1e-4)
        token = logits.argmax(-1)
        logits, again = kept.extend(token), fresh.extend(token)


# the longest row of a batch decides how LongRoPE turns all of them, as in transformers
@pytest.mark.parametrize("name", [name for name in MODELS if name != "longrope"])
@pytest.mark.parametrize("options", [{}, {"num_beams": 3, "num_return_sequences": 2}])
def test_a_row_gets_what_it_gets_alone_wherever_padding_is(name, options):
    model = MODELS[name]()
    count = options.get("num_return_sequences", 1)
    beside = up_to_end(write(model, prompts("right"), **options).tokens)
    if name not in ENCODERS_THAT_COUNT_PADDING:
        assert up_to_end(write(model, prompts("left"), **options).tokens) == beside
    for row in range(3):
        alone = up_to_end(write(model, rows_of(prompts(), row), **options).tokens)
        assert alone == beside[row * count : (row + 1) * count]


ENCODERS_THAT_COUNT_PADDING = ("seq2seq", "waves")


def test_rows_that_have_ended_are_padded_and_score_no_further():
    model = language_model()
    found = write(model, prompts())
    free = generate(model, prompts(), GenerationConfig(max_new_tokens=NEW))
    ends = int(free.tokens[0, 1])
    config = GenerationConfig(max_new_tokens=NEW, eos_token_ids=(ends, VOCAB - 1))
    cut = generate(model, prompts(), config)
    where = int((cut.tokens[0] == ends).nonzero()[0])
    assert (cut.tokens[0, where + 1 :] == model.config.pad_token_id).all()
    assert cut.tokens[0, : where + 1].tolist() == free.tokens[0, : where + 1].tolist()
    assert found.scores.shape == (3,)
    assert cut.scores[0] > free.scores[0]


def enumerate_best(model, batch, penalty, vocabulary, new):
    """Return the best sequence among all that there are, by its score."""
    best = (-float("inf"), [])
    for length in range(1, new + 1):
        for tail in itertools.product(range(vocabulary), repeat=length):
            if EOS in tail[:-1] or (length < new and tail[-1] != EOS):
                continue
            ids = torch.cat([batch["input_ids"], torch.tensor([tail])], 1)
            logits = model.predict({"input_ids": ids})["lm"].log_softmax(-1)[0, -length - 1 : -1]
            score = float(logits.gather(1, torch.tensor(tail)[:, None]).sum()) / length**penalty
            best = max(best, (score, list(tail)))
    return best


@pytest.mark.parametrize("penalty", [0.0, 1.0, -0.5])
def test_with_enough_beams_the_best_sequence_of_all_is_found(penalty):
    vocabulary, new = 5, 3
    embedding = PLAIN | {"parts": ["word", "pos"]}
    model = make_model(
        vocab_size=vocabulary,
        embedding=embedding,
        encoder=BLOCKS | {"mask": "causal"},
        target="lm",
        initializer_range=0.7,
    )
    batch = {"input_ids": torch.tensor([[1, 4, 2]])}
    score, tokens = enumerate_best(model, batch, penalty, vocabulary, new)
    config = GenerationConfig(
        max_new_tokens=new,
        eos_token_ids=(EOS,),
        num_beams=vocabulary**new,
        length_penalty=penalty,
        early_stopping="never",
    )
    found = generate(model, batch, config)
    assert up_to_end(found.tokens) == [tokens]
    torch.testing.assert_close(found.scores, torch.tensor([score]), atol=1e-5, rtol=0)


def test_sampling_follows_its_seed_and_its_filters():
    model = language_model()
    options = {"sample": True, "num_return_sequences": 4, "temperature": 2.0}
    first, again = (write(model, prompts(), seed=1, **options).tokens for _ in range(2))
    assert first.shape[0] == 12
    assert torch.equal(first, again)
    assert not torch.equal(first, write(model, prompts(), seed=2, **options).tokens)
    greedy = write(model, prompts()).tokens
    assert torch.equal(write(model, prompts(), sample=True, top_k=1).tokens, greedy)
    assert torch.equal(write(model, prompts(), sample=True, top_p=1e-6).tokens, greedy)


def test_drawn_tokens_have_the_model_s_probabilities():
    model = language_model()
    batch = rows_of(prompts(), 0)
    expected = model.predict(batch)["lm"][0, -1].softmax(-1)
    config = GenerationConfig(max_new_tokens=1, sample=True, num_return_sequences=20000)
    drawn = generate(model, batch, config).tokens[:, 0].bincount(minlength=VOCAB) / 20000
    assert (drawn - expected).abs().max() < 0.02


def test_a_decoder_may_be_given_its_first_tokens():
    model = encoder_decoder()
    first = torch.tensor([[1, 9], [1, 12], [1, 9]])
    given = generate(
        model, prompts() | {"decoder_input_ids": first}, GenerationConfig(max_new_tokens=2)
    )
    follows = model.predict(prompts() | {"decoder_input_ids": first})["lm"][:, -1].argmax(-1)
    assert torch.equal(given.tokens[:, 0], follows)


def test_dropout_is_off_while_writing_and_on_again_afterwards():
    model = language_model()
    expected = write(model, prompts()).tokens
    model.train()
    assert torch.equal(write(model, prompts()).tokens, expected)
    assert model.training


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"sample": True, "num_beams": 2}, "cannot be combined"),
        ({"num_return_sequences": 2}, "more than num_beams"),
        ({"top_k": 4}, "no effect without sample"),
        ({"length_penalty": 2.0}, "no effect without num_beams"),
        ({"early_stopping": "never"}, "no effect without num_beams"),
    ],
)
def test_options_that_would_not_be_used_are_refused(options, text):
    with pytest.raises(ConfigError, match=text):
        generate(language_model(), prompts(), GenerationConfig(**options))


def test_a_model_that_cannot_write_is_refused():
    classifier = make_model(embedding=PLAIN | {"parts": ["word"]}, encoder="gru", target="cls")
    with pytest.raises(InputError, match="predicts the next token; the model has none"):
        write(classifier, prompts())
    with pytest.raises(InputError, match="no text to continue"):
        write(language_model(), {"pixel_values": torch.zeros(1)})


def test_a_text_that_would_outgrow_the_positions_is_refused_before_the_work():
    with pytest.raises(InputError, match="Set max_new_tokens to 10"):
        generate(language_model(), prompts(), GenerationConfig(max_new_tokens=11))
    assert generate(language_model(), prompts(), GenerationConfig(max_new_tokens=10))
