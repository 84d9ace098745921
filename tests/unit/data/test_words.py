"""Words of Chinese as units of masking, found by jieba in the tokens of every kind of tokenizer."""

import sys

import jieba
import numpy as np
import pytest

from orchestrator.config import validate_config
from orchestrator.data.processors.segmenters import (
    JiebaConfig,
    NoSegmenterConfig,
    build_segmenter,
    segmenters,
)
from orchestrator.data.processors.text import TextProcessor
from orchestrator.data.processors.words import WordFinder, byte_letters, token_bytes
from orchestrator.data.samples.kinds import MaskingConfig
from orchestrator.data.samples.masking import IGNORED, Vocabulary, mask_tokens
from orchestrator.errors import ConfigError, InputError
from orchestrator.pretraining.config import PretrainConfig
from orchestrator.pretraining.inputs import prepare_inputs
from orchestrator.pretraining.notes import notes_of

SENTENCES = [
    "我们去北京大学学习自然语言处理。",
    "今天天气很好,我喜欢playing football和机器学习。",
    "他毕业于清华大学计算机系,现在在上海工作。",
    "人工智能正在改变世界,深度学习模型越来越大了",
]


def processor(kind):
    """A tokenizer that knows the characters alone, or with merges."""
    return TextProcessor.train(SENTENCES, 2000 if kind == "wordpiece" else 400, kind)


def words_of(finder, tokens, ids):
    """Return the text of each word, special tokens left out."""
    found: list[bytes] = []
    pieces = token_bytes(tokens)
    special = set(tokens.settings.special.values())
    for number, begins in zip(ids, finder(ids[None])[0], strict=True):
        if number in special:
            continue
        if begins or not found:
            found.append(b"")
        found[-1] += pieces[number]
    return [word.decode().strip() for word in found if word.strip()]


@pytest.mark.parametrize("text", SENTENCES)
def test_words_of_wordpiece_are_those_of_jieba(text):
    tokens = processor("wordpiece")
    finder = WordFinder(tokens, build_segmenter(JiebaConfig()))
    ids = np.asarray(tokens.arrays([text])["input_ids"])[0]
    assert words_of(finder, tokens, ids) == [word for word in jieba.cut(text) if word.strip()]


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
@pytest.mark.parametrize("text", SENTENCES)
def test_a_word_of_jieba_begins_no_later_than_its_token(kind, text):
    """Pieces may span words; then the words they span are one unit."""
    tokens = processor(kind)
    finder = WordFinder(tokens, build_segmenter(JiebaConfig()))
    ids = np.asarray(tokens.arrays([text])["input_ids"])[0]
    found = words_of(finder, tokens, ids)
    assert "".join(found).replace(" ", "") == text.replace(" ", "")
    ends = np.cumsum([len(word.replace(" ", "")) for word in found])
    cuts = [word.replace(" ", "") for word in jieba.cut(text) if word.strip()]
    assert {*ends.tolist()} <= {*np.cumsum([len(word) for word in cuts]).tolist()}


def test_a_block_may_begin_within_a_character():
    tokens = processor("bpe")
    finder = WordFinder(tokens, build_segmenter(JiebaConfig()))
    letters = {letter: number for number, letter in enumerate(byte_letters())}
    assert len(letters) == 256
    single = [tokens.tokenizer.token_to_id(letter) for letter in byte_letters()]
    names = dict(zip(byte_letters().values(), single, strict=True))
    raw = "我们去北京大学".encode()[1:-1]
    ids = np.asarray([names[byte] for byte in raw])
    begins = finder(ids[None])[0]
    assert begins[0]
    assert begins.tolist()[2 + 3 :][:3] == [True, False, False]  # 去


def test_english_between_chinese_is_cut_at_its_words():
    tokens = TextProcessor.train(["playing football and the other games"] * 3 + SENTENCES, 400)
    finder = WordFinder(tokens, build_segmenter(JiebaConfig()))
    ids = np.asarray(tokens.arrays(["the other football games"])["input_ids"])[0]
    assert words_of(finder, tokens, ids) == ["the", "other", "football", "games"]
    begins = finder(ids[None])[0]
    ordinary = ~np.isin(ids, list(tokens.settings.special.values()))
    assert (begins[ordinary] == ~tokens.continues[ids][ordinary]).all()


def test_words_are_remembered_and_depend_on_the_tokens_alone():
    tokens, calls = processor("wordpiece"), []

    def counting(text):
        calls.append(text)
        return build_segmenter(JiebaConfig())(text)

    finder = WordFinder(tokens, counting)
    ids = np.asarray(tokens.arrays(SENTENCES)["input_ids"])
    first, again = finder(ids), finder(ids[::-1])[::-1]
    assert (first == again).all()
    assert len(calls) == len(SENTENCES)


def test_the_extra_is_named_where_jieba_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "jieba", None)
    with pytest.raises(InputError, match=r"ray-model-orchestrator\[chinese\]"):
        build_segmenter(JiebaConfig())


def test_the_registry_has_both():
    assert segmenters.names() == ("jieba", "none")
    with pytest.raises(ValueError, match="finds nothing"):
        build_segmenter(NoSegmenterConfig())


@pytest.mark.parametrize("units", ["words", "spans"])
@pytest.mark.parametrize("kind", ["wordpiece", "bpe", "unigram"])
def test_words_of_chinese_are_masked_whole(kind, units):
    tokens = processor(kind)
    rule = MaskingConfig(units=units, segmenter="jieba", share=0.3)
    vocabulary = Vocabulary.for_rule(tokens, tokens.roles, rule)
    ids = np.asarray(tokens.arrays(SENTENCES * 50)["input_ids"])
    _, labels = mask_tokens(ids, np.arange(len(ids)), 0, 7, vocabulary, rule)
    chosen, ordinary = labels != IGNORED, vocabulary.ordinary[ids]
    word = np.cumsum(vocabulary.words(ids) | ~ordinary, axis=1)
    split = longer = 0
    for row in range(len(ids)):
        for number in np.unique(word[row][ordinary[row]]):
            mine = chosen[row][(word[row] == number) & ordinary[row]]
            longer += len(mine) > 1 and mine.all()
            split += 0 < mine.sum() < len(mine)
    assert longer > 50
    # The last span of a sequence is cut, so that the share is exact; words are never.
    assert split == 0 if units == "words" else split <= len(ids)
    plain = MaskingConfig(units=units, share=0.3)
    _, others = mask_tokens(
        ids, np.arange(len(ids)), 0, 7, Vocabulary.for_rule(tokens, tokens.roles, plain), plain
    )
    assert (others != labels).any()


@pytest.fixture
def job(tmp_path):
    """A job on Chinese documents of one sentence or two."""
    texts = [f"{a}{b}" for a in SENTENCES for b in SENTENCES]
    (tmp_path / "text.txt").write_text("\n".join(texts))

    def make(masking, target="mlm", samples="masked"):
        settings = {
            "run": {"name": "x", "dir": str(tmp_path / "runs"), "zoo": str(tmp_path / "zoo")},
            "package": {"name": "x"},
            "data": {
                "data": {"source": f"files:{tmp_path / 'text.txt'}"},
                "tokenizer": {"vocab_size": 2000},
                "block_size": 24,
            },
            "samples": {"type": samples, "masking": masking},
            "model": {
                "hidden_size": 16,
                "embedding": {"parts": ["word", "pos", "seg"]},
                "encoder": {"type": "transformer", "num_layers": 1, "num_heads": 2},
                "target": target,
            },
            "train": {"max_steps": 1, "global_batch_size": 8, "micro_batch_size": 8},
        }
        return validate_config(PretrainConfig, settings, "test")

    return make


def test_a_segmenter_without_words_as_units_is_refused(job):
    with pytest.raises(ConfigError, match=r"units are tokens\. Set units: words"):
        job({"segmenter": "jieba"})
    with pytest.raises(ConfigError, match="Did you mean 'jieba'"):
        job({"units": "words", "segmenter": "jeiba"})


def test_chinese_without_a_segmenter_is_said(job, tmp_path):
    found = {}
    for masking in ({}, {"units": "words"}, {"units": "words", "segmenter": "jieba"}):
        inputs = prepare_inputs(job(masking), tmp_path)
        found[str(masking)] = notes_of(inputs)
    first, second, third = found.values()
    assert first == third == []
    assert second[0].startswith("77%")
    assert "of the characters are Chinese" in second[0]
    assert "Set samples.masking.segmenter: jieba" in second[0]


@pytest.mark.parametrize(("target", "samples"), [("mlm", "masked"), (["sop", "mlm"], "pairs")])
def test_every_kind_with_masked_words_takes_a_segmenter(job, tmp_path, target, samples):
    plain, words = (
        prepare_inputs(job({"units": "words", **more}, target, samples), tmp_path).train
        for more in ({}, {"segmenter": "jieba"})
    )
    before, after, again = (
        each.collate(np.arange(8), 1)["labels.mlm"] for each in (plain, words, words)
    )
    assert (before != after).any()
    assert (after == again).all()


def test_a_missing_library_is_refused_by_check(job, monkeypatch):
    from orchestrator.pretraining import runner

    monkeypatch.setitem(sys.modules, "jieba", None)
    with pytest.raises(InputError, match=r"pip install 'ray-model-orchestrator\[chinese\]'"):
        runner.check(job({"units": "words", "segmenter": "jieba"}))
