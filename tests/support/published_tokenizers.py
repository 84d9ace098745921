"""Small tokenizers with the special tokens, numbers and frames of published checkpoints."""

import numpy as np
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

TEXT = """return the value of an array along axis when shape is given a tensor with names and
columns estimator fits training samples then predicts classes for unseen rows scipy sparse matrix"""
WORDS = TEXT.split()
SENTINELS = 20
PLAIN = {"model_input_names": ["input_ids", "attention_mask"]}


def documents(count=120, seed=0, longest=6):
    """Return texts of some sentences each."""
    rng = np.random.default_rng(seed)

    def sentence():
        return " ".join(rng.choice(WORDS, rng.integers(3, 12))).capitalize() + "."

    return [" ".join(sentence() for _ in range(rng.integers(1, longest))) for _ in range(count)]


def bert(words=WORDS):
    """[PAD] 0, [UNK] 100, [CLS] 101, [SEP] 102, [MASK] 103, as in bert-base-uncased."""
    pieces = [f"[unused{number}]" for number in range(99)]
    letters = "abcdefghijklmnopqrstuvwxyz."
    pieces = ["[PAD]", *pieces, "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters]
    pieces += [f"##{letter}" for letter in letters] + [word for word in words if len(word) > 1]
    vocabulary = {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    names = {"unk": "[UNK]", "sep": "[SEP]", "pad": "[PAD]", "cls": "[CLS]", "mask": "[MASK]"}
    tokenizer.add_special_tokens(list(names.values()))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 101), ("[SEP]", 102)],
    )
    return tokenizer, names, {}


def _byte_level(special):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=special,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(documents(), trainer)
    return tokenizer


def roberta():
    """<s> 0, <pad> 1, </s> 2, <unk> 3, <mask> last."""
    tokenizer = _byte_level(["<s>", "<pad>", "</s>", "<unk>"])
    tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True, special=True)])
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    names = {"bos": "<s>", "cls": "<s>", "pad": "<pad>", "sep": "</s>", "eos": "</s>"}
    return tokenizer, {**names, "unk": "<unk>", "mask": "<mask>"}, PLAIN


def gpt2():
    """<|endoftext|> alone, last; nothing around a text, no padding."""
    tokenizer = _byte_level([])
    tokenizer.add_special_tokens(["<|endoftext|>"])
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return tokenizer, {"bos": "<|endoftext|>", "eos": "<|endoftext|>"}, PLAIN


def llama():
    """<unk> 0, <s> 1, </s> 2; <s> before a text, no padding."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    special = ["<unk>", "<s>", "</s>"]
    tokenizer.train_from_iterator(
        [word for text in documents() for word in text.split()],
        trainers.BpeTrainer(vocab_size=300, special_tokens=special, show_progress=False),
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", 1)]
    )
    return tokenizer, {"bos": "<s>", "eos": "</s>", "unk": "<unk>"}, PLAIN


def t5():
    """<pad> 0, </s> 1, <unk> 2, and sentinels, the first with the highest id."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=150,
        special_tokens=["<pad>", "</s>", "<unk>"],
        unk_token="<unk>",
        show_progress=False,
    )
    tokenizer.train_from_iterator(documents(), trainer)
    tokenizer.add_special_tokens([f"<extra_id_{k}>" for k in reversed(range(SENTINELS))])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)]
    )
    return tokenizer, {"pad": "<pad>", "eos": "</s>", "unk": "<unk>"}, PLAIN


PUBLISHED = {"bert": bert, "roberta": roberta, "gpt2": gpt2, "llama": llama, "t5": t5}


def save_tokenizer(family, folder, max_length=512, **settings):
    """Write the files of a tokenizer as transformers does; return its number of ids."""
    tokenizer, names, options = PUBLISHED[family](**settings)
    special = {f"{role}_token": token for role, token in names.items()}
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, **special, **options, model_max_length=max_length
    ).save_pretrained(folder)
    return max(tokenizer.get_vocab().values()) + 1
