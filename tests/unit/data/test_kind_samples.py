"""Samples of answers, choices, pairs and prompts: what heads read, whatever the batch."""

import numpy as np
import pytest
import torch

from orchestrator.data.processors.readings import answer_ids, place_of, prompt_ids, read_windows
from orchestrator.data.processors.text import TextProcessor
from orchestrator.data.rows.labels import object_array
from orchestrator.data.rows.rows import Rows
from orchestrator.data.samples.prompts import PromptSamples
from orchestrator.data.samples.task_samples import AnswerSamples, ChoiceSamples, SimilarPairs
from orchestrator.data.spec import CLS, PAD, SEP
from orchestrator.errors import InputError
from orchestrator.modeling.component import Dimensions
from orchestrator.modeling.targets.answer_configs import ChoiceConfig, SimilarityConfig
from orchestrator.modeling.targets.answers import ChoiceTarget, SimilarityTarget

TEXT = "the quick brown fox jumps over the lazy dog while seven wizards quietly mix potions"
SIZES = Dimensions(
    hidden_size=8, vocab_size=10, max_position_embeddings=8, type_vocab_size=2, pad_token_id=0
)


@pytest.fixture(scope="module")
def processor():
    return TextProcessor.train([TEXT, TEXT.upper(), "who what"], 300, max_length=64)


def long_text(count):
    return " ".join(np.random.default_rng(count).choice(TEXT.split(), count))


def test_windows_cover_the_context_and_share_tokens(processor):
    context = long_text(60)
    (windows,) = read_windows(processor, ["who is it"], [context], 24, 6)
    assert len(windows) > 2
    seen = [set(reading.words[reading.words >= 0].tolist()) for _, reading in windows]
    assert set().union(*seen) == set(range(60))
    tokens = [[t for t, w in zip(e.ids, r.words, strict=True) if w >= 0] for e, r in windows]
    (whole,) = processor.encode([context])
    room = len(tokens[0])
    for number, part in enumerate(tokens):
        begin = number * (room - 6)
        assert part == whole[begin : begin + room]
    for encoding, reading in windows:
        assert len(encoding.ids) <= 24
        assert encoding.ids[:1] == [CLS]
        for (start, end), word in zip(reading.offsets, reading.words, strict=True):
            if word >= 0:
                assert context[start:end].lower() in context.split()[word]


def test_a_short_context_is_one_window_like_a_pair(processor):
    (windows,) = read_windows(processor, ["who is it"], [TEXT], 64)
    assert len(windows) == 1
    arrays = processor.arrays(["who is it"], [TEXT], 64, "right")
    assert windows[0][0].ids == arrays["input_ids"][0].tolist()
    assert windows[0][0].type_ids == arrays["token_type_ids"][0].tolist()


def test_a_long_question_leaves_half_the_room(processor):
    (windows,) = read_windows(processor, [long_text(80)], [long_text(30)], 24, 6)
    assert all(len(encoding.ids) <= 24 for encoding, _ in windows)
    inside = [int((reading.words >= 0).sum()) for _, reading in windows]
    assert inside[0] == 11  # of 21 tokens
    with pytest.raises(InputError, match="leaves no room"):
        read_windows(processor, ["who"], [TEXT], 4)


def test_labels_of_windows_are_the_tokens_of_the_answer(processor):
    context = long_text(60)
    words = context.split()
    start = len(" ".join(words[:40])) + 1
    answer = " ".join(words[40:43])
    assert context[start:].startswith(answer)
    rows = Rows(["who"] * 2, [context] * 2, object_array([((answer, start),), ()]))
    samples = AnswerSamples(rows, processor, "x", 24, overlap=6)
    batch = samples.collate(np.arange(len(samples)), 0)
    places = batch["labels.x"].numpy()
    half = len(samples) // 2
    assert (places[half:] == 0).all()  # no answer: the first token
    found = [row for row in range(half) if places[row, 0] > 0]
    assert 1 <= len(found) < half
    (whole,) = processor.encode([answer])
    for row in found:
        first, last = places[row]
        assert batch["input_ids"][row, first : last + 1].tolist() == whole
    (windows,) = read_windows(processor, ["who"], [context], 24, 6)
    assert [place_of(r, start, start + len(answer)) for _, r in windows] == [
        tuple(place) if place.any() else None for place in places[:half]
    ]


def rows_of(kind):
    texts = [long_text(3 + i) for i in range(7)]
    if kind == "answers":
        contexts = [long_text(20 + 5 * i) for i in range(7)]
        return Rows(texts, contexts, object_array([((c.split()[0], 0),) for c in contexts]))
    if kind == "choices":
        choices = [tuple(long_text(i + c) for c in range(2 + i % 3)) for i in range(1, 8)]
        return Rows(texts, None, np.arange(7) % 2, choices=choices)
    if kind == "pairs":
        return Rows(texts, texts[::-1], np.linspace(0, 1, 7, dtype=np.float32))
    return Rows(texts, None, object_array([long_text(1 + i) for i in range(7)]))


SAMPLES = {
    "answers": AnswerSamples,
    "choices": ChoiceSamples,
    "pairs": SimilarPairs,
    "prompts": PromptSamples,
}


@pytest.mark.parametrize("kind", SAMPLES)
def test_a_sample_does_not_depend_on_its_batch(processor, kind):
    samples = SAMPLES[kind](rows_of(kind), processor, "x", 32)
    assert samples.parts == (len(samples),)
    indices = np.asarray([5, 0, 3, 6])
    batch = samples.collate(indices, 0)
    for place, index in enumerate(indices):
        alone = samples.collate(np.asarray([index]), 1)
        per_row = {"choices": None, "pairs": 2}.get(kind, 1)
        if per_row is None:
            per_row = len(alone["input_ids"])
            width = len(batch["input_ids"]) // len(indices)
            rows = slice(place * width, place * width + per_row)
        else:
            rows = slice(place * per_row, (place + 1) * per_row)
        length = alone["input_ids"].shape[1]
        for name in ("input_ids", "attention_mask"):
            assert torch.equal(batch[name][rows, :length], alone[name])
            assert not batch[name][rows, length:].any() or PAD != 0
        labels = batch["labels.x"][place]
        mine = alone["labels.x"][0]
        assert torch.equal(labels[: len(mine)] if labels.ndim else labels, mine)


def test_rows_with_fewer_choices_have_sequences_without_tokens(processor):
    samples = ChoiceSamples(rows_of("choices"), processor, "x", 32)
    batch = samples.collate(np.arange(3), 0)
    real = batch["attention_mask"].any(dim=1).view(3, -1).sum(dim=1)
    assert real.tolist() == [3, 4, 2]
    rows = Rows(["context"], ["who"], np.zeros(1, np.int64), choices=[("fox", "dog")])
    batch = ChoiceSamples(rows, processor, "x", 32).collate(np.arange(1), 0)
    texts = [processor.decode(ids) for ids in batch["input_ids"].tolist()]
    assert [text.split()[-2:] for text in texts] == [["who", "fox"], ["who", "dog"]]


def test_the_loss_of_a_row_with_fewer_choices_is_the_same_alone():
    torch.manual_seed(0)
    head = ChoiceTarget(ChoiceConfig(dropout=0.0), SIZES).eval()
    hidden, mask = torch.randn(8, 5, 8), torch.ones(8, 5, dtype=torch.bool)
    mask[2:4] = False  # the first row has two choices of four
    together = head(hidden, mask, torch.tensor([1, 3]))
    first = head(hidden[:2], mask[:2], torch.tensor([1]))
    second = head(hidden[4:], mask[4:], torch.tensor([3]))
    assert together.loss.item() == pytest.approx((first.loss + second.loss).item())
    absent = head(hidden.requires_grad_(), torch.zeros_like(mask), torch.tensor([-100, -100]))
    absent.loss.backward()
    assert torch.isfinite(hidden.grad).all()


def test_negatives_stand_behind_the_pairs_and_only_make_the_choice_harder(processor):
    rows = rows_of("pairs")
    triplets = Rows(
        rows.texts, rows.pairs, np.ones(7), negatives=[long_text(30 + i) for i in range(7)]
    )
    batch = SimilarPairs(triplets, processor, "x", 32).collate(np.asarray([4, 1, 6]), 0)
    assert batch["labels.x"].tolist() == [1, 1, 1, 0, 0]
    assert len(batch["input_ids"]) == 10
    assert batch["attention_mask"].any(dim=1).tolist() == [True] * 9 + [False]
    encoded = processor.arrays([triplets.negatives[i] for i in (4, 1, 6)], None, 32, "right")
    width = encoded["input_ids"].shape[1]
    assert batch["input_ids"][6:9, :width].tolist() == encoded["input_ids"].tolist()
    torch.manual_seed(0)
    head = SimilarityTarget(SimilarityConfig(temperature=1.0), SIZES)
    hidden, mask = torch.randn(8, 4, 8), torch.ones(8, 4, dtype=torch.bool)
    mask[7] = False
    found = head(hidden, mask, torch.tensor([1.0, 1.0, 0.0, 0.0]))
    vectors = torch.nn.functional.normalize(hidden[:7].mean(1), dim=-1)
    cosines = vectors @ vectors.T
    cosines.fill_diagonal_(-torch.inf)
    expected = -cosines.log_softmax(-1)[[0, 1, 2, 3], [1, 0, 3, 2]].sum()
    assert found.loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert found.terms == 4


def test_scores_are_divided_by_the_highest(processor):
    rows = rows_of("pairs")
    samples = SimilarPairs(rows, processor, "x", 32, highest_score=5.0)
    labels = samples.collate(np.asarray([6, 0]), 0)["labels.x"]
    assert labels.dtype == torch.float32
    assert labels.tolist() == pytest.approx([0.2, 0.0])


def test_only_tokens_of_the_answer_are_learned(processor):
    rows = Rows(["who jumps"], None, object_array(["the fox"]))
    batch = PromptSamples(rows, processor, "x").collate(np.arange(1), 0)
    who, fox = processor.encode(["who jumps", "the fox"])
    assert batch["input_ids"][0].tolist() == [CLS, *who, *fox]
    assert batch["labels.x"][0].tolist() == [-100] * len(who) + [*fox, SEP]
    decoded = PromptSamples(rows, processor, "x", decoder=True, start_token_id=SEP)
    batch = decoded.collate(np.arange(1), 0)
    assert batch["input_ids"][0].tolist() == [CLS, *who, SEP]
    assert batch["decoder_input_ids"][0].tolist() == [SEP, *fox]
    assert batch["labels.x"][0].tolist() == [*fox, SEP]


def test_a_long_prompt_loses_its_first_tokens_and_a_long_answer_its_last(processor):
    prompt, answer = long_text(50), long_text(40)
    (ids,) = prompt_ids(processor, [prompt], 10)
    (whole,) = processor.encode([prompt])
    assert ids.tolist() == [CLS, *whole[-9:]]
    (cut,) = answer_ids(processor, [answer], 10)
    assert cut.tolist() == processor.encode([answer])[0][:10]
    rows = Rows([prompt], None, object_array([answer]))
    batch = PromptSamples(rows, processor, "x", 32).collate(np.arange(1), 0)
    assert batch["input_ids"].shape[1] <= 32
    assert (batch["labels.x"] != -100).sum() == 24  # three quarters of the room


@pytest.mark.parametrize(
    ("kind", "message"),
    [("answers", "no second text"), ("choices", "rows with choices"), ("pairs", "no second text")],
)
def test_rows_without_what_a_kind_needs_are_refused(processor, kind, message):
    with pytest.raises(InputError, match=message):
        SAMPLES[kind](rows_of("prompts"), processor, "x", 32)
