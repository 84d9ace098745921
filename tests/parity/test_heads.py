"""Other heads and bare bodies of families that are here, against transformers' classes.

Answers, choices, classifiers of causal models: outputs, loss, every gradient, there and back.
"""

from functools import partial

import pytest
import torch
import transformers
from transformers import (
    AlbertConfig,
    BertConfig,
    BloomConfig,
    CamembertConfig,
    DistilBertConfig,
    ElectraConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    Olmo2Config,
    OPTConfig,
    Phi3Config,
    Qwen2Config,
    Qwen3Config,
    RobertaConfig,
    SmolLM3Config,
    XLMRobertaConfig,
)

from orchestrator.errors import InputError
from orchestrator.modeling.huggingface.classes import find_architecture
from orchestrator.modeling.huggingface.values import Values

from .harness import (
    BATCH,
    LAYERS,
    LENGTH,
    VOCAB,
    Case,
    check_outputs_loss_and_gradients,
    check_there_and_back,
    close,
    ours_from,
    padded_batch,
    token_labels,
)
from .test_decoder_only import PLAIN_FORMULA
from .test_text_encoders import DISTILLED, build, classifier, inputs, masked, tagger

NARROW = {"embedding_size": 20}
ENCODERS = {
    "Bert": (BertConfig, {}),
    "Roberta": (RobertaConfig, {}),
    "XLMRoberta": (XLMRobertaConfig, {"type_vocab_size": 1}),
    "Camembert": (CamembertConfig, {"type_vocab_size": 1}),
    "Albert": (AlbertConfig, NARROW),
    "Electra": (ElectraConfig, NARROW),
    "DistilBert": (DistilBertConfig, DISTILLED),
}
TWINS = {"XLMRoberta": "Roberta", "Camembert": "Roberta"}


def class_of(family, head):
    return getattr(transformers, family + head)


def twin(family, head):
    return TWINS[family] + head if family in TWINS else ""


def answer(family, attention, side):
    """First and last token of an answer; two rows have none."""
    config_class, options = ENCODERS[family]
    batch = text_of(config_class, side)
    mask = batch["attention_mask"]
    first = mask.argmax(1)
    spans = torch.stack([first, first + torch.tensor([5, 2, 0, 3])], dim=1)
    return Case(
        build(class_of(family, "ForQuestionAnswering"), config_class, attention, **options),
        batch | {"start_positions": spans[:, 0], "end_positions": spans[:, 1]},
        batch | {"labels.span": spans},
        {"span": lambda o: torch.stack([o.start_logits, o.end_logits], dim=-1)},
        {"span": mask.bool()},
        twin=twin(family, "ForQuestionAnswering"),
    )


def text_of(config_class, side):
    """Return a batch without padding: the loss of their answers is over padding as well."""
    batch = inputs(config_class, side)
    pad = config_class().pad_token_id
    batch["input_ids"][batch["input_ids"] == pad] = 7
    batch["attention_mask"] = torch.ones_like(batch["attention_mask"])
    return batch


def choice(family, attention, side):
    """Two rows of two choices."""
    config_class, options = ENCODERS[family]
    batch = inputs(config_class, side)
    theirs = {name: value.view(2, 2, -1) for name, value in batch.items()}
    labels = torch.tensor([1, 0])
    return Case(
        build(class_of(family, "ForMultipleChoice"), config_class, attention, **options),
        theirs | {"labels": labels},
        batch | {"labels.choice": labels},
        {"choice": lambda o: o.logits.view(BATCH, 1)},
        twin=twin(family, "ForMultipleChoice"),
    )


def of_relative(family, head, make):
    """A head of a relative of RoBERTa."""
    config_class, options = ENCODERS[family]
    return make(class_of(family, head), config_class, twin=twin(family, head), **options)


CASES = {
    **{f"{family}_answer": partial(answer, family) for family in ENCODERS},
    **{f"{family}_choice": partial(choice, family) for family in ENCODERS},
    **{
        f"{family}{head}": of_relative(family, head, make)
        for family in TWINS
        for head, make in (
            ("ForSequenceClassification", classifier),
            ("ForTokenClassification", tagger),
        )
    },
    "Camembert": of_relative("Camembert", "ForMaskedLM", masked),
    "Electra_classifier": of_relative("Electra", "ForSequenceClassification", classifier),
}


SMALL = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
}
LLAMA = SMALL | {
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
}
HALF = {"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 0.5}
CAUSAL = {
    "GPT2": (GPT2Config, SMALL | {"n_positions": 16}),
    "Llama": (LlamaConfig, LLAMA),
    "Mistral": (MistralConfig, LLAMA | {"sliding_window": 5}),
    "Qwen2": (Qwen2Config, LLAMA),
    "Qwen3": (Qwen3Config, LLAMA | {"head_dim": 12}),
    "SmolLM3": (SmolLM3Config, LLAMA | {"no_rope_layers": [1, 0]}),
    "Olmo2": (Olmo2Config, LLAMA),
    "Phi3": (Phi3Config, LLAMA | {"rope_parameters": HALF}),
    "Gemma2": (Gemma2Config, LLAMA | {"head_dim": 12, "sliding_window": 4}),
    "Gemma3Text": (Gemma3TextConfig, LLAMA | {"head_dim": 12, "sliding_window": 4}),
    "Mixtral": (MixtralConfig, LLAMA | {"num_local_experts": 4}),
    "Bloom": (BloomConfig, SMALL),
    "OPT": (OPTConfig, SMALL | {"ffn_dim": 48, "max_position_embeddings": 16}),
    "GPTNeoX": (GPTNeoXConfig, SMALL | {"intermediate_size": 48, "classifier_dropout": 0.2}),
}
PAD = 3
CLASSES = {"num_labels": 3, "pad_token_id": PAD}


def causal_model(family, head, attention, **options):
    config_class, sizes = CAUSAL[family]
    kernel = "eager" if config_class in PLAIN_FORMULA else attention
    config = config_class(**sizes | {"pad_token_id": PAD} | options, attn_implementation=kernel)
    return class_of(family, head)(config)


def causal_batch(side):
    batch = padded_batch(side, first=4, pad=PAD)
    del batch["token_type_ids"]
    return batch


def causal_classifier(family, attention, side, target="cls", **options):
    """A classifier; one text ends with the padding token, which the mask calls real."""
    batch = causal_batch(side)
    last = (batch["attention_mask"][1] * torch.arange(1, LENGTH + 1)).argmax()
    batch["input_ids"][1, last] = PAD
    labels = {"cls": torch.tensor([0, 2, 1, 1]), "regression": torch.tensor([0.5, -1.0, 2.0, 0.0])}
    own = {"num_labels": 3 if target == "cls" else 1}
    return Case(
        causal_model(family, "ForSequenceClassification", attention, **own | options),
        batch | {"labels": labels[target]},
        batch | {f"labels.{target}": labels[target]},
        {target: lambda o: o.logits},
    )


def causal_tagger(family, attention, side):
    batch = causal_batch(side)
    labels = token_labels(batch["attention_mask"], 0.8, vocab=5)
    return Case(
        causal_model(family, "ForTokenClassification", attention, num_labels=5),
        batch | {"labels": labels},
        batch | {"labels.tags": labels},
        {"tags": lambda o: o.logits},
        {"tags": batch["attention_mask"].bool()},
    )


def causal_answer(family, attention, side):
    ids = torch.where(
        causal_batch(side)["attention_mask"].bool(), causal_batch(side)["input_ids"], 7
    )
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    spans = torch.tensor([[0, 5], [3, 3], [2, 9], [7, 11]])
    return Case(
        causal_model(family, "ForQuestionAnswering", attention),
        batch | {"start_positions": spans[:, 0], "end_positions": spans[:, 1]},
        batch | {"labels.span": spans},
        {"span": lambda o: torch.stack([o.start_logits, o.end_logits], dim=-1)},
    )


MAKERS = {
    "ForSequenceClassification": causal_classifier,
    "ForTokenClassification": causal_tagger,
    "ForQuestionAnswering": causal_answer,
}
CASES |= {
    f"{family}_{make.__name__}": partial(make, family)
    for family in CAUSAL
    for head, make in MAKERS.items()
    if hasattr(transformers, family + head)
}
CASES["Qwen2_reward"] = partial(causal_classifier, "Qwen2", target="regression")
SIDES = [(name, "right") for name in CASES] + [
    (name, "left") for name in CASES if "_causal_" in name and "answer" not in name
]


@pytest.mark.parametrize(("name", "side"), SIDES)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_outputs_loss_and_gradients_equal_the_reference(name, side, attention, tmp_path):
    case = CASES[name](attention, side)
    check_outputs_loss_and_gradients(case, tmp_path, attention)


@pytest.mark.parametrize("name", list(CASES))
def test_import_and_export_are_inverse(name, tmp_path):
    check_there_and_back(CASES[name]("sdpa", "right"), tmp_path)


BODIES = list(CAUSAL)


def body(family, attention="sdpa", side="left"):
    batch = causal_batch(side)
    return Case(causal_model(family, "Model", attention), batch, batch, {})


@pytest.mark.parametrize("family", BODIES)
def test_bodies_equal_the_reference(family, tmp_path):
    case = body(family)
    check_there_and_back(case, tmp_path)
    _, ours = ours_from(tmp_path / "first")
    expected, real = case.theirs(**case.their_inputs), case.batch["attention_mask"].bool()
    close(ours.encode(case.batch)[real], expected.last_hidden_state[real], "hidden")
    assert not ours.config.target


def test_a_classifier_without_a_padding_token_is_refused():
    theirs = LlamaConfig(**LLAMA, pad_token_id=None).to_dict()
    with pytest.raises(InputError, match="pad_token_id: null"):
        find_architecture("LlamaForSequenceClassification").model_config(Values(theirs))
