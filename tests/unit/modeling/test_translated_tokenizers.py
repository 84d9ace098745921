"""Translations of tokenizers that are Python code in transformers: what is exact, and refusals."""

import json
from itertools import groupby

import pytest
from transformers import AutoTokenizer

from orchestrator.data.processors.readings import answer_ids
from orchestrator.data.processors.text import TextProcessor
from orchestrator.errors import InputError
from orchestrator.modeling.huggingface.tokenization.completion import (
    complete_tokenizer,
    require_rows,
)
from tests.support import published

COMMUNITY = {"unk_token": "[UNK]", "pad_token": "[PAD]", "word_delimiter_token": "|"}
TEXTS = ("HELLO WORLD", "hello  world", "", "Größe ﬁ ǆ", "今天 😀", "A|B", "it's\nso", "a chch c h")


def letters(folder, alphabet, **config):
    listed = [*alphabet, "|", "[UNK]", "[PAD]"]
    numbers = {token: number for number, token in enumerate(listed)}
    published.ctc(folder, config=COMMUNITY | config, vocabulary=numbers, hub=False)
    published.write(folder, "config.json", {"model_type": "wav2vec2"})
    return len(listed)


def translated(folder, rows, pad=None):
    assert complete_tokenizer(folder, folder, rows, pad)
    require_rows(folder, rows)
    return TextProcessor.load(folder)


@pytest.mark.parametrize(
    ("alphabet", "config"),
    [
        ("ABCDEFGHILORSTUWÖ'", {}),
        ("ABCDEFGHILORSTUWÖ'ʼ", {"do_lower_case": True}),
        ("abcdeghilorstuw .,?!'", {"clean_up_tokenization_spaces": True}),
        ([*"abcdehlorw", "ch"], {"replace_word_delimiter_char": "_"}),
    ],
)
def test_letters_are_those_of_transformers_in_both_directions(alphabet, config, tmp_path):
    rows = letters(tmp_path, alphabet, **config)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    assert len(theirs) == rows + 2  # it numbers <s> and </s>, which the vocabulary lacks
    ours = translated(tmp_path, rows, pad=rows - 1)
    assert "<s>" not in ours.tokenizer.get_vocab()
    for text in TEXTS:
        (ids,) = ours.encode([text])
        assert ids == theirs(text).input_ids, text
    for seed in range(40):
        path = [(seed * 7 + step * step) % rows for step in range(seed % 9)]
        collapsed = [token for token, _ in groupby(path) if token != rows - 1]
        assert ours.decode(collapsed).strip() == theirs.decode(path), path


def refused(folder, rows, pad=None):
    with pytest.raises(InputError) as error:
        complete_tokenizer(folder, folder, rows, pad)
    assert not (folder / "tokenizer.json").exists()
    return str(error.value)


def test_another_blank_than_the_models_is_refused(tmp_path):
    rows = letters(tmp_path, "ABC")
    assert "'[PAD]', its padding token, is 5; the model's is 0" in refused(tmp_path, rows, 0)


def test_a_lowercase_that_depends_on_its_place_is_refused(tmp_path):
    rows = letters(tmp_path, "ΑΒΣ", do_lower_case=True)
    assert "that of 'Σ' depends on its place" in refused(tmp_path, rows)


def test_a_vocabulary_without_its_unknown_token_is_refused(tmp_path):
    rows = letters(tmp_path, "ABC", unk_token="<unk>")
    assert "unk_token, '<unk>', is not in vocab.json" in refused(tmp_path, rows)


def marian(folder, **options):
    published.marian(folder, **options)
    published.write(folder, "config.json", {"model_type": "marian"})
    return AutoTokenizer.from_pretrained(folder)


def test_each_side_of_marian_has_its_tokenizer(tmp_path):
    theirs = marian(tmp_path)
    ours = translated(tmp_path, len(theirs))
    assert ours.vocab_size == len(theirs)
    texts = [*published.LINES, *TEXTS, ">>fra<< hello", "我们去", "好 好"]
    for text in texts:
        ids = theirs(text_target=text, split_special_tokens=True).input_ids[:-1]
        assert ours.target.encode([text]) == [ids], text
    assert any(ours.encode([text]) != ours.target.encode([text]) for text in texts)
    answers = [each.tolist() for each in answer_ids(ours, published.LINES)]
    assert answers == [theirs(text_target=line).input_ids for line in published.LINES]
    saved = TextProcessor.load(tmp_path)
    saved.save(tmp_path / "again")
    again = TextProcessor.load(tmp_path / "again")
    assert again.target.encode(texts) == ours.target.encode(texts)
    assert (tmp_path / "again" / "source.spm").read_bytes() == (
        tmp_path / "source.spm"
    ).read_bytes()


def test_two_vocabularies_are_refused(tmp_path):
    theirs = marian(tmp_path)
    (tmp_path / "target_vocab.json").write_bytes((tmp_path / "vocab.json").read_bytes())
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    published.write(tmp_path, "tokenizer_config.json", config | {"separate_vocabs": True})
    assert "a vocabulary each (separate_vocabs)" in refused(tmp_path, len(theirs))


def test_a_model_of_merges_is_refused(tmp_path):
    published.marian(tmp_path, codes=())
    path = published.spm(model_type="bpe", vocab_size=120)
    (tmp_path / "source.spm").write_bytes(path.read_bytes())
    published.write(tmp_path, "config.json", {"model_type": "marian"})
    assert "source.spm: it is not a Unigram model" in refused(tmp_path, 10_000)


def test_other_python_tokenizers_are_named(tmp_path):
    published.write(tmp_path, "config.json", {"model_type": "ctrl"})
    published.write(tmp_path, "vocab.json", {"a</w>": 0, "<unk>": 1})
    published.write(tmp_path, "merges.txt", "#version: 0.2\na b\n")
    assert "CTRLTokenizer is Python code; supported are Wav2Vec2CTCTokenizer" in refused(
        tmp_path, 9
    )
