import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.data.processors.text import TextProcessor
from orchestrator.data.spec import CLS, MASK, PAD, SEP, SPECIAL_TOKENS, UNK
from orchestrator.errors import InputError

KINDS = ("wordpiece", "bpe", "unigram")


@pytest.fixture(scope="module", params=KINDS)
def each(request, texts):
    return TextProcessor.train(texts, 300, request.param, max_length=24)


@pytest.fixture(scope="module")
def opened(each, tmp_path_factory):
    from transformers import AutoTokenizer

    folder = tmp_path_factory.mktemp("tokenizer")
    each.save(folder)
    return AutoTokenizer.from_pretrained(folder)


def test_special_tokens_have_their_ids(each):
    assert [each.tokenizer.token_to_id(token) for token in SPECIAL_TOKENS] == [0, 1, 2, 3, 4]
    assert (PAD, UNK, CLS, SEP, MASK) == (0, 1, 2, 3, 4)
    assert each.vocab_size <= 300


words = st.lists(
    st.sampled_from(["array", "Tensors", "épi", "x1_y", "[MASK]", "-", "漢"]), max_size=30
)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(words, words), min_size=1, max_size=4), st.integers(5, 24))
def test_agrees_with_transformers(each, opened, rows, limit):
    first, second = ([" ".join(side) for side in column] for column in zip(*rows, strict=True))
    for pairs in (None, second):
        ours = each.arrays(first, pairs, limit)
        theirs = opened(
            first, pairs, truncation=True, max_length=limit, padding=True, return_tensors="np"
        )
        assert (ours["input_ids"] == theirs["input_ids"]).all()
        assert (ours["attention_mask"] == theirs["attention_mask"]).all()


def test_segments_of_pairs(processor):
    batch = processor.arrays(["array", "array shape value"], ["tensor axis", "tensor"])
    ids, types = batch["input_ids"], batch["token_type_ids"]
    for row, kinds in zip(ids, types, strict=True):
        ends = np.flatnonzero(row == SEP)
        assert len(ends) == 2
        assert np.flatnonzero(kinds).tolist() == list(range(ends[0] + 1, ends[1] + 1))


def test_written_special_tokens_are_ordinary_text(each):
    ids = each.encode(["[CLS] array [MASK] [SEP] [PAD]"])[0]
    assert not set(ids) & {PAD, CLS, SEP, MASK}


def test_saved_and_loaded_is_the_same(each, tmp_path, texts):
    each.save(tmp_path)
    again = TextProcessor.load(tmp_path)
    assert (again.kind, again.max_length, again.vocab_size) == (each.kind, 24, each.vocab_size)
    assert again.encode(texts) == each.encode(texts)
    names = {"tokenizer.json", "preprocessor_config.json", "tokenizer_config.json"}
    assert {path.name for path in tmp_path.iterdir()} == names


def test_a_tokenizer_without_our_settings_says_its_kind_itself(processor, tmp_path):
    processor.save(tmp_path)
    (tmp_path / "preprocessor_config.json").unlink()
    assert TextProcessor.load(tmp_path).kind == "wordpiece"


def test_continued_words_are_known(each):
    text = "predictions unseens tensorshape columned"
    ids = each.encode([text])[0]
    starts = sum(not each.continues[i] for i in ids)
    # byte-level BPE has no mark on the first word of a text
    assert starts == len(text.split()) - (each.kind == "bpe")
    assert len(ids) > 4
    assert not each.continues[:5].any()


TRAIN = """
import hashlib, json, sys
from orchestrator.data.processors.text import TextProcessor
texts = json.load(sys.stdin)
for kind in ("wordpiece", "bpe", "unigram"):
    tokenizer = TextProcessor.train(texts, 300, kind).tokenizer
    print(kind, hashlib.sha256(tokenizer.to_str().encode()).hexdigest())
"""


def test_training_is_the_same_in_every_process(texts):
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", TRAIN],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={"PYTHONHASHSEED": seed, "PATH": ""},
        )
        for seed in ("1", "2")
    ]
    outputs = [run.communicate(json.dumps(texts), timeout=60)[0] for run in runs]
    assert outputs[0] == outputs[1]
    assert len(outputs[0].splitlines()) == 3


def test_limits_on_rare_characters_keep_common_ones():
    rare = "".join(chr(0x4E00 + i) for i in range(300))
    processor = TextProcessor.train(["array shape " * 50, rare], 400, "wordpiece")
    vocabulary = processor.tokenizer.get_vocab()
    assert all(char in vocabulary for char in "arayshpe")
    assert len(vocabulary) <= 400
    assert UNK in processor.encode([rare[-1]])[0] or rare[-1] in vocabulary


def test_bad_input_is_refused(processor, tmp_path):
    with pytest.raises(InputError, match="no words"):
        TextProcessor.train(["", "  "], 300)
    with pytest.raises(InputError, match=r"holds no tokenizer\.json"):
        TextProcessor.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(InputError, match="no readable tokenizer"):
        TextProcessor.load(tmp_path)
    with pytest.raises(InputError, match="2 texts and 1 pairs"):
        processor.arrays(["a", "b"], ["c"])
    with pytest.raises(InputError, match="0 texts"):
        processor.arrays([])
