"""Heads for extracted answers, choices and similarity, beside transformers and by formula."""

import pytest
import torch
import torch.nn.functional as F
from transformers import BertConfig, BertForMultipleChoice, BertForQuestionAnswering

from orchestrator.config import collect_problems
from orchestrator.modeling.component import Dimensions
from orchestrator.modeling.targets.answer_configs import ChoiceConfig, SimilarityConfig, SpanConfig
from orchestrator.modeling.targets.answers import ChoiceTarget, SimilarityTarget, SpanTarget

SIZES = Dimensions(
    hidden_size=16, vocab_size=50, max_position_embeddings=32, type_vocab_size=2, pad_token_id=0
)
THEIRS = BertConfig(
    vocab_size=50,
    hidden_size=16,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=16,
    max_position_embeddings=32,
    hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0,
)


def batch(rows, length=9):
    torch.manual_seed(1)
    mask = (torch.arange(length) < torch.randint(3, length + 1, (rows, 1))).long()
    return {"input_ids": torch.randint(1, 50, (rows, length)), "attention_mask": mask}


def test_spans_have_the_loss_of_transformers():
    """Places are real tokens; theirs counts padding as places, so that is hidden from both."""
    theirs = BertForQuestionAnswering(THEIRS).eval()
    inputs = batch(4) | {"attention_mask": torch.ones(4, 9, dtype=torch.int64)}
    starts, ends = torch.tensor([1, 0, 3, 2]), torch.tensor([2, 0, 3, 8])
    expected = theirs(**inputs, start_positions=starts, end_positions=ends)
    head = SpanTarget(SpanConfig(), SIZES).eval()
    head.output.load_state_dict(theirs.qa_outputs.state_dict())
    hidden = theirs.bert(**inputs).last_hidden_state
    mask = inputs["attention_mask"].bool()
    found = head(hidden, mask, torch.stack([starts, ends], dim=1))
    assert (found.loss / found.terms).item() == pytest.approx(expected.loss.item(), rel=1e-6)
    assert torch.allclose(head.predict(hidden, mask)[..., 0], expected.start_logits)


def test_padding_is_no_place_for_an_answer():
    head = SpanTarget(SpanConfig(), SIZES).eval()
    hidden, mask = torch.randn(2, 5, 16), torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]).bool()
    labels = torch.tensor([[1, 2], [-100, -100]])
    alone = head(hidden[:1, :3], mask[:1, :3], labels[:1])
    padded = head(hidden, mask, labels)
    assert padded.terms == 1
    assert padded.loss.item() == pytest.approx(alone.loss.item(), rel=1e-6)


def test_choices_have_the_loss_of_transformers():
    theirs = BertForMultipleChoice(THEIRS).eval()
    inputs, labels = batch(6), torch.tensor([2, 0])
    expected = theirs(**{k: v.view(2, 3, 9) for k, v in inputs.items()}, labels=labels)
    head = ChoiceTarget(ChoiceConfig(), SIZES).eval()
    head.dense.load_state_dict(theirs.bert.pooler.dense.state_dict())
    head.output.load_state_dict(theirs.classifier.state_dict())
    hidden = theirs.bert(**inputs).last_hidden_state
    found = head(hidden, inputs["attention_mask"].bool(), labels)
    assert found.terms == 2
    assert found.loss.item() / 2 == pytest.approx(expected.loss.item(), rel=1e-6)
    assert head.predict(hidden, inputs["attention_mask"].bool()).shape == (6, 1)


def vectors(pairs=3):
    torch.manual_seed(2)
    return torch.randn(2 * pairs, 4, 16), torch.ones(2 * pairs, 4).bool()


def test_the_contrastive_loss_is_equation_1_of_simcse_in_both_directions():
    hidden, mask = vectors()
    head = SimilarityTarget(SimilarityConfig(), SIZES)
    found = head(hidden, mask, torch.tensor([1.0, 1.0, 0.0]))
    h = F.normalize(hidden.mean(1), dim=-1).double()
    total = 0.0
    for i in range(4):  # texts of the third pair only serve as wrong answers
        scores = [(h[i] @ h[j] / 0.05).exp() for j in range(6) if j != i]
        total -= torch.log((h[i] @ h[i ^ 1] / 0.05).exp() / sum(scores))
    assert found.terms == 4
    assert found.loss.item() == pytest.approx(total.item(), rel=1e-5)


def test_the_cosine_loss_is_the_squared_distance():
    hidden, mask = vectors()
    head = SimilarityTarget(SimilarityConfig(loss="cosine"), SIZES)
    scores = torch.tensor([0.9, 0.1, float("nan")])
    found = head(hidden, mask, scores)
    h = hidden.mean(1)
    cosines = F.cosine_similarity(h[0::2], h[1::2])
    assert found.terms == 2
    assert found.loss.item() == pytest.approx(
        ((cosines[:2] - scores[:2]) ** 2).sum().item(), rel=1e-5
    )


def test_a_projection_sets_the_width():
    head = SimilarityTarget(SimilarityConfig(projection_size=5), SIZES)
    assert head.predict(*vectors()).shape == (6, 5)


def test_a_temperature_without_use_is_a_problem():
    config = SimilarityConfig(loss="cosine", temperature=0.1)
    assert [p.path for p in config.check(SIZES)] == ["temperature"]
    assert collect_problems(config) == []
