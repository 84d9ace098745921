"""A new head gets the layers that the class of transformers with the model's body has."""

import pytest
from transformers import AutoConfig

from orchestrator.errors import InputError
from orchestrator.modeling.huggingface.classes import (
    architecture_of,
    find_architecture,
    fitting_head,
)
from orchestrator.modeling.huggingface.values import Values
from orchestrator.modeling.targets.answer_configs import ChoiceConfig, SpanConfig
from orchestrator.modeling.targets.configs import ClsConfig

BODIES = {
    "BertModel": ("bert", {}),
    "ElectraModel": ("electra", {}),
    "LlamaModel": ("llama", {"pad_token_id": 2}),
    "Dinov2Model": ("dinov2", {}),
    "T5EncoderModel": ("t5", {}),
}
CASES = [
    ("BertModel", ClsConfig, "BertForSequenceClassification", "first", "tanh"),
    ("ElectraModel", ClsConfig, "ElectraForSequenceClassification", "first", "gelu"),
    ("LlamaModel", ClsConfig, "LlamaForSequenceClassification", "last_token", "tanh"),
    ("Dinov2Model", ClsConfig, "Dinov2ForImageClassification", "first_rest", "tanh"),
    ("ElectraModel", ChoiceConfig, "ElectraForMultipleChoice", "first", "tanh"),
    ("BertModel", SpanConfig, "BertForQuestionAnswering", None, None),
]


def body(name):
    model_type, options = BODIES[name]
    values = AutoConfig.for_model(model_type, **options).to_dict()
    return find_architecture(name).read(Values(values), name)


@pytest.mark.parametrize(("name", "kind", "expected", "pooling", "activation"), CASES)
def test_a_head_has_the_layers_of_its_class(name, kind, expected, pooling, activation):
    model = body(name)
    found = fitting_head(model, kind(name="mine", dropout=0.25, weight=2.0))
    assert (found.name, found.weight) == ("mine", 2.0)
    assert getattr(found, "pooling", None) == pooling
    assert getattr(found, "hidden_activation", None) == activation
    canonical = found.model_copy(update={"name": found.type_name()})
    assert architecture_of(model.with_targets((canonical,))).name == expected


def test_a_body_without_such_a_class_is_refused():
    with pytest.raises(InputError, match=r"no class of transformers.*exportable false"):
        fitting_head(body("T5EncoderModel"), ClsConfig())
