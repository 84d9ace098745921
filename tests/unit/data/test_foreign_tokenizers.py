"""Fast tokenizers of Hugging Face, against transformers: BERT, RoBERTa, GPT-2, LLaMA, T5 forms."""

import json

import numpy as np
import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from orchestrator.data.processors.text import TextProcessor
from orchestrator.data.rows.rows import Rows
from orchestrator.data.samples.labelled_samples import ClsSamples
from orchestrator.errors import InputError

TEXTS = ["Return the SUM of an array.", "A queue; tasks!", "épi 漢 unseen", "x", "one two " * 9]
PAIRS = ["over the axis", "hands them to workers " * 3, "", "y z", "three"]


def trained(model, trainer, normalizer, pre_tokenizer):
    tokenizer = Tokenizer(model)
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, pre_tokenizer
    tokenizer.train_from_iterator(TEXTS * 3 + PAIRS, trainer)
    return tokenizer


def bert():
    special = ["[UNK]", "[SEP]", "[PAD]", "[CLS]", "[MASK]"]
    tokenizer = trained(
        models.WordPiece(unk_token="[UNK]"),
        trainers.WordPieceTrainer(vocab_size=120, special_tokens=special, show_progress=False),
        normalizers.BertNormalizer(),
        pre_tokenizers.BertPreTokenizer(),
    )
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 1), ("[CLS]", 3))
    names = {"unk": "[UNK]", "sep": "[SEP]", "pad": "[PAD]", "cls": "[CLS]", "mask": "[MASK]"}
    return tokenizer, names, {}


def byte_level(special):
    return trained(
        models.BPE(),
        trainers.BpeTrainer(
            vocab_size=320,
            special_tokens=special,
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        ),
        None,
        pre_tokenizers.ByteLevel(add_prefix_space=False),
    )


def roberta():
    tokenizer = byte_level(["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    names = {"cls": "<s>", "pad": "<pad>", "sep": "</s>", "unk": "<unk>", "mask": "<mask>"}
    return tokenizer, names, {"model_input_names": ["input_ids", "attention_mask"]}


def gpt2():
    tokenizer = byte_level(["<|endoftext|>"])
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    names = {"bos": "<|endoftext|>", "eos": "<|endoftext|>", "pad": "<|endoftext|>"}
    return tokenizer, names, {"model_input_names": ["input_ids", "attention_mask"]}


def unigram(special):
    return trained(
        models.Unigram(),
        trainers.UnigramTrainer(
            vocab_size=110, special_tokens=special, unk_token="<unk>", show_progress=False
        ),
        normalizers.NFKC(),
        pre_tokenizers.Metaspace(),
    )


def t5():
    tokenizer = unigram(["<pad>", "</s>", "<unk>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)]
    )
    names = {"pad": "<pad>", "eos": "</s>", "unk": "<unk>"}
    return tokenizer, names, {"model_input_names": ["input_ids", "attention_mask"]}


def left():
    tokenizer = unigram(["<unk>", "<s>", "</s>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", 1)]
    )
    names = {"bos": "<s>", "eos": "</s>", "unk": "<unk>", "pad": "</s>"}
    return tokenizer, names, {"padding_side": "left", "truncation_side": "left"}


FAMILIES = {"bert": bert, "roberta": roberta, "gpt2": gpt2, "t5": t5, "left": left}


@pytest.fixture(params=list(FAMILIES))
def folder(request, tmp_path):
    tokenizer, names, options = FAMILIES[request.param]()
    special = {f"{role}_token": token for role, token in names.items()}
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, **special, **options, model_max_length=24
    ).save_pretrained(tmp_path)
    return tmp_path


def agree(processor, opened, limit):
    for pairs in (None, PAIRS):
        ours = processor.arrays(TEXTS, pairs, limit)
        theirs = opened(
            TEXTS,
            pairs,
            truncation=True,
            max_length=limit,
            padding=True,
            return_tensors="np",
            return_token_type_ids=True,
        )
        assert np.array_equal(ours["input_ids"], theirs["input_ids"])
        assert np.array_equal(ours["attention_mask"], theirs["attention_mask"])
        if processor.settings.segments:
            assert np.array_equal(ours["token_type_ids"], theirs["token_type_ids"])
        else:
            assert not ours["token_type_ids"].any()


@pytest.mark.parametrize("limit", [5, 9, 24])
def test_ids_masks_and_segments_are_those_of_transformers(folder, limit):
    processor = TextProcessor.load(folder)
    assert processor.max_length == 24
    agree(processor, AutoTokenizer.from_pretrained(folder), limit)


def test_special_tokens_are_found_by_name(folder):
    processor, opened = TextProcessor.load(folder), AutoTokenizer.from_pretrained(folder)
    assert processor.settings.pad_id == opened.pad_token_id
    for role, number in processor.settings.special.items():
        theirs = getattr(opened, f"{role}_token_id")
        assert theirs in (None, number), role
    assert not processor.continues[list(processor.settings.special.values())].any()


def test_usual_names_decide_where_no_file_says(folder):
    before = TextProcessor.load(folder).settings.special
    (folder / "tokenizer_config.json").unlink()
    (folder / "special_tokens_map.json").unlink(missing_ok=True)
    after = TextProcessor.load(folder).settings.special
    assert {role: after.get(role) for role in before if role in after} == {
        role: number for role, number in before.items() if role in after
    }
    assert set(after) & {"cls", "bos", "eos"}


def test_what_is_saved_is_what_was_read(folder, tmp_path):
    processor = TextProcessor.load(folder)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    again = tmp_path / "again"
    processor.save(again)
    assert json.loads((again / "tokenizer_config.json").read_text()) == config
    agree(TextProcessor.load(again), AutoTokenizer.from_pretrained(again), 9)


def test_words_continue_where_no_space_is(folder):
    processor = TextProcessor.load(folder)
    ids = processor.encode(["queuearray sumof"])[0]
    tokens = [processor.tokenizer.id_to_token(i) for i in ids]
    starts = [token for i, token in zip(ids, tokens, strict=True) if not processor.continues[i]]
    assert 1 <= len(starts) <= 2
    assert len(ids) > 2


def test_other_kinds_of_tokenizers_are_refused(tmp_path):
    Tokenizer(models.WordLevel({"a": 0}, unk_token="a")).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(InputError, match="its model is WordLevel; supported are WordPiece, BPE"):
        TextProcessor.load(tmp_path)


def test_samples_are_padded_on_the_right_whatever_the_tokenizer_does(folder):
    """They are cut to the longest row of a batch, which only padding behind the texts allows."""
    processor = TextProcessor.load(folder)
    rows = Rows(TEXTS, None, np.arange(len(TEXTS)))
    batch = ClsSamples(rows, processor, max_length=12).collate(np.asarray([1, 3]), 0)
    lengths = batch["attention_mask"].sum(1).tolist()
    assert batch["input_ids"].shape == (2, max(lengths))
    for row, (index, length) in enumerate(zip((1, 3), lengths, strict=True)):
        alone = processor.arrays([TEXTS[index]], None, 12)
        assert batch["input_ids"][row, :length].tolist() == alone["input_ids"][0].tolist()
