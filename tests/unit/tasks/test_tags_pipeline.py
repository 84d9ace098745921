"""Spans of tagged texts, beside transformers' token-classification pipeline."""

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing
from transformers import (
    BertConfig,
    BertForTokenClassification,
    PreTrainedTokenizerFast,
    TokenClassificationPipeline,
)

from orchestrator.data.processors.readings import read_texts, read_words
from orchestrator.data.processors.text import TextProcessor
from orchestrator.tasks.base import build_task
from orchestrator.zoo.suite import TaskSpec

LABELS = ("B-LOC", "B-PER", "I-LOC", "I-PER", "O")
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
TEXTS = [
    "Angela Merkel visited Paris, then New York.",
    "Nothing here",
    "U.S. officials met  Ban Ki-moon in Geneva",
    "Zürich!",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tokenizer whose words have several tokens each."""
    pieces = [chr(c) for c in range(33, 127)] + [f"##{chr(c)}" for c in range(33, 127)]
    words = ["angela", "##gel", "mer", "##kel", "paris", "new", "york", "ban", "ge", "##neva"]
    tokens = [*SPECIAL, *pieces, *words, "z", "##u"]
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    tokenizer = Tokenizer(WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = BertPreTokenizer()
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    roles = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=64,
        **{f"{role}_token": token for role, token in roles.items()},
    )
    path = tmp_path_factory.mktemp("tokenizer")
    fast.save_pretrained(path)
    return path, fast, len(vocabulary)


@pytest.mark.parametrize("seed", range(6))
def test_spans_are_those_of_the_pipeline(folder, seed):
    path, fast, size = folder
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=size,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        initializer_range=0.5,
        id2label=dict(enumerate(LABELS)),
        label2id={label: i for i, label in enumerate(LABELS)},
    )
    model = BertForTokenClassification(config).eval()
    pipeline = TokenClassificationPipeline(
        model=model, tokenizer=fast, aggregation_strategy="first"
    )
    processor = TextProcessor.load(path)
    task = build_task(TaskSpec(kind="tags", head="ner", labels=LABELS))
    for text in TEXTS:
        arrays, readings = read_texts(processor, [text])
        with torch.no_grad():
            logits = model(**{k: torch.from_numpy(v) for k, v in arrays.items()}).logits
        (answer,) = task.answers([logits[0].numpy()], readings)
        expected = pipeline(text)
        assert [(s.label, s.start, s.end) for s in answer.spans] == [
            (e["entity_group"], e["start"], e["end"]) for e in expected
        ]
        assert [s.score for s in answer.spans] == pytest.approx(
            [float(e["score"]) for e in expected], abs=1e-5
        )
        assert all(text[s.start : s.end] == s.text for s in answer.spans)


def test_words_that_are_given_have_their_places(folder):
    processor = TextProcessor.load(folder[0])
    rows = [["Angela", "Merkel", "visited", "U.S."], ["Paris"]]
    arrays, readings = read_words(processor, rows)
    assert arrays["input_ids"].shape[0] == 2
    for words, reading in zip(rows, readings, strict=True):
        assert reading.text == " ".join(words)
        for number, word in enumerate(words):
            (token,) = np.flatnonzero(reading.words == number)
            start, end = reading.offsets[token]
            assert reading.text[start:end] == word


def test_a_text_that_is_cut_keeps_its_first_words(folder):
    processor = TextProcessor.load(folder[0])
    _, (reading,) = read_words(processor, [["Angela", "Merkel", "visited", "Paris"]], 6)
    assert reading.words.max() < 3
    _, (pair,) = read_texts(processor, ["Who?"], ["Angela Merkel"], 20)
    inside = pair.words >= 0
    assert pair.text == "Angela Merkel"
    assert pair.text[pair.offsets[inside][0, 0] :] == "Angela Merkel"
