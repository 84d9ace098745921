"""MPNet against transformers' classes: outputs, loss, every gradient, there and back, refusals."""

import pytest
import torch
import transformers
from transformers import MPNetConfig, MPNetModel

from orchestrator.errors import InputError
from orchestrator.modeling.huggingface.classes import find_architecture
from orchestrator.modeling.huggingface.values import Values

from .harness import (
    VOCAB,
    Case,
    check_outputs_loss_and_gradients,
    check_there_and_back,
    close,
    ours_from,
    randomize,
)
from .test_deberta import answer, choice
from .test_text_encoders import NUMBERS, build, classifier, inputs, masked, tagger


def mpnet(make, head, **options):
    return make(getattr(transformers, f"MPNet{head}"), MPNetConfig, **options)


CASES = {
    "mpnet": mpnet(masked, "ForMaskedLM"),
    "mpnet_relu": mpnet(masked, "ForMaskedLM", hidden_act="relu", layer_norm_eps=1e-3),
    "mpnet_tagger": mpnet(tagger, "ForTokenClassification"),
    "mpnet_answer": mpnet(answer, "ForQuestionAnswering"),
    "mpnet_classifier": mpnet(classifier, "ForSequenceClassification"),
    "mpnet_regression": mpnet(
        classifier, "ForSequenceClassification", target="regression", labels=NUMBERS, num_labels=1
    ),
    "mpnet_choice": mpnet(choice, "ForMultipleChoice"),
}
SIDES = [(name, "right") for name in CASES]
SIDES += [(name, "left") for name in ("mpnet", "mpnet_relu", "mpnet_tagger")]


@pytest.mark.parametrize(("name", "side"), SIDES)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_outputs_loss_and_gradients_equal_the_reference(name, attention, side, tmp_path):
    check_outputs_loss_and_gradients(CASES[name](attention, side), tmp_path, attention)


@pytest.mark.parametrize("name", list(CASES))
def test_import_and_export_are_inverse(name, tmp_path):
    check_there_and_back(CASES[name]("eager", "right"), tmp_path)


def body(length=12, **options):
    batch = inputs(MPNetConfig, "right")
    if length > 12:
        generator = torch.Generator().manual_seed(8)
        ids = torch.randint(2, VOCAB, (2, length), generator=generator)
        batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    theirs = build(MPNetModel, MPNetConfig, "eager", **options)
    return Case(theirs, batch, batch, {"vector": lambda o: o.pooler_output})


def test_a_body_goes_there_and_back(tmp_path):
    check_there_and_back(body(), tmp_path)


@pytest.mark.parametrize("length", [12, 200])
def test_a_body_equals_the_reference_beyond_the_largest_distance(length, tmp_path):
    case = body(length, max_position_embeddings=250)
    randomize(case.theirs.eval())
    case.theirs.save_pretrained(tmp_path)
    _, ours = ours_from(tmp_path)
    expected = case.theirs(**case.their_inputs)
    real = case.batch["attention_mask"].bool()
    close(ours.encode(case.batch)[real], expected.last_hidden_state[real], "hidden")
    close(ours.predict(case.batch)["vector"], expected.pooler_output, "vector")


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"relative_attention_num_buckets": 16}, "relative_attention_num_buckets: 16 is not"),
        ({"pad_token_id": 0}, "pad_token_id: 0 is not supported; only 1 is"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings: False is not supported"),
        ({"hidden_act": "mish"}, "hidden_act: 'mish' has no counterpart"),
    ],
)
def test_options_that_their_code_ignores_or_ours_lacks_are_refused(option, message):
    values = Values(MPNetConfig(**option).to_dict())
    with pytest.raises(InputError, match=message):
        find_architecture("MPNetForMaskedLM").read(values, "test")
