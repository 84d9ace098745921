"""Tiny folders with the files that published checkpoints have beside their weights.

Each function writes the files of one layout into a folder, as transformers' classes save them or as
older releases left them.
"""

import json
import random
import shutil
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import sentencepiece
import transformers
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

LINES = (
    "The quick brown fox jumps over the lazy dog", "Größe und Straße sind nicht das Gleiche",
    "un café très naïf à Noël", "今天天气很好 我们去公园", "it's 1,234.56 or 78, isn't it?",
    "hello world, hello moon", "he sells sea shells by the sea shore", "(a) [b] \"c\" - d / e",
    "Ein Text in zwei Sprachen, a text in two languages", "ABCDEFGHIJKLMNOPQRSTUVWXYZ 0123456789",
)  # fmt: skip
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
CHARACTERS = sorted({character for line in LINES for character in line if character != " "})
TARGET = slice(1, 3)
"""Lines that Marian's target side is trained on."""
TEMPLATE = "{% for m in messages %}{{ m['content'] }}{% endfor %}"


def write(folder, name, content):
    text = content if isinstance(content, str) else json.dumps(content, indent=2)
    (folder / name).write_text(text, encoding="utf-8")


def spm(part=slice(None), **options):
    return Path(trained(part.start, part.stop, **options))


@cache
def trained(start, stop, **options):
    """Return the file of a small SentencePiece model."""
    folder = Path(mkdtemp(prefix="spm"))
    lines = [line for line in LINES[start:stop] for _ in range(3)]
    defaults = {"vocab_size": 150, "hard_vocab_limit": False, "minloglevel": 2}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_prefix=str(folder / "m"), **(defaults | options)
    )
    return folder / "m.model"


def pieces(path):
    model = sentencepiece.SentencePieceProcessor(model_file=str(path))
    return [model.id_to_piece(number) for number in range(model.get_piece_size())]


def spiece(folder, name="spiece.model", config=None, **options):
    shutil.copyfile(spm(**options), folder / name)
    if config is not None:
        write(folder, "tokenizer_config.json", config)


def word_pieces(lower, special=SPECIAL):
    letters = sorted({c for line in LINES for c in (line.lower() if lower else line)} - {" "})
    words = sorted({w for line in LINES for w in (line.lower() if lower else line).split()})
    return [*special, *letters, *(f"##{c}" for c in letters), *(w for w in words if len(w) > 1)]


def vocab_txt(folder, lower=True, config=None, special=SPECIAL):
    """BERT as of 2018: a list of words, and whether they are lowercase."""
    write(folder, "vocab.txt", "\n".join(word_pieces(lower, special)) + "\n")
    write(folder, "tokenizer_config.json", config or {"do_lower_case": lower})


def saved_words(folder, name="BertTokenizer", special=SPECIAL):
    """Today's files of BERT, with an added token."""
    vocab_txt(folder, special=special)
    tokenizer = getattr(transformers, name)(str(folder / "vocab.txt"))
    tokenizer.add_tokens(["<new>"])
    tokenizer.save_pretrained(folder)


@cache
def byte_merges(special=(), last=False):
    """Return a vocabulary of bytes and the merges of a byte-level BPE model.

    Args:
        special: Special tokens.
        last: Whether they have the largest ids (Whisper), not the smallest.
    """
    if last:
        vocabulary, merges = byte_merges()
        more = {token: len(vocabulary) + place for place, token in enumerate(special)}
        return vocabulary | more, merges
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=330 + len(special),
        special_tokens=list(special),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(LINES, trainer)
    model = json.loads(backend.to_str())["model"]
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    return model["vocab"], merges


def vocab_and_merges(folder, special=(), config=None, last=False):
    """GPT-2 as of 2019: vocab.json and merges.txt."""
    vocabulary, merges = byte_merges(tuple(special), last)
    write(folder, "vocab.json", vocabulary)
    write(folder, "merges.txt", "\n".join(["#version: 0.2", *merges]) + "\n")
    if config is not None:
        write(folder, "tokenizer_config.json", config)


def saved_bytes(folder, name, special=(), last=False, **options):
    """Today's files of a byte-level BPE tokenizer, with an added token."""
    vocab_and_merges(folder, special, last=last)
    vocabulary, merges = byte_merges(tuple(special), last)
    pairs = [tuple(merge.split(" ")) for merge in merges]
    tokenizer = getattr(transformers, name)(vocab=vocabulary, merges=pairs, **options)
    tokenizer.add_tokens(["<new>"])
    tokenizer.save_pretrained(folder)


def fast(folder, begin="[CLS]", end="[SEP]", special=SPECIAL):
    """Files of today's models without a tokenizer class of their own."""
    vocabulary, merges = byte_merges(tuple(special))
    pairs = [tuple(merge.split(" ")) for merge in merges]
    backend = Backend(models.BPE(vocabulary, pairs))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    both = [token for token in (begin, end) if token]
    backend.post_processor = processors.TemplateProcessing(
        single=[*([begin] if begin else []), "$A", *([end] if end else [])],
        special_tokens=[(token, vocabulary[token]) for token in both],
    )
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token=special[0], model_max_length=64
    )
    tokenizer.add_special_tokens({"additional_special_tokens": list(special[1:])})
    tokenizer.add_tokens(["<new>"])
    tokenizer.save_pretrained(folder)


def clip_text(folder, config=None):
    """CLIP: characters that end a word have a mark."""
    if config is not None:
        write(folder, "tokenizer_config.json", config)
    letters = sorted({c for line in LINES for c in line.lower()} - {" "})
    listed = [*letters, *(f"{c}</w>" for c in letters), "he", "th", "the</w>"]
    listed += ["<|startoftext|>", "<|endoftext|>"]
    merges = ["h e", "t h", "th e</w>"]
    write(folder, "vocab.json", {token: number for number, token in enumerate(listed)})
    write(folder, "merges.txt", "\n".join(["#version: 0.2", *merges]) + "\n")


def ctc(folder, config=None, vocabulary=None, hub=True):
    """wav2vec 2.0 and HuBERT: letters."""
    letters = "ETAONIHSRDLUMWCFGYPBVKXJQZ'"
    listed = ["<pad>", "<s>", "</s>", "<unk>", "|", *letters]
    write(folder, "vocab.json", vocabulary or {token: n for n, token in enumerate(listed)})
    if config is not None:
        write(folder, "tokenizer_config.json", config)
    if hub:
        names = {
            "bos_token": "<s>",
            "eos_token": "</s>",
            "unk_token": "<unk>",
            "pad_token": "<pad>",
        }
        write(folder, "special_tokens_map.json", names)
    values = {"do_normalize": True, "feature_size": 1, "padding_side": "right"}
    values |= {"padding_value": 0.0, "return_attention_mask": False, "sampling_rate": 16000}
    values |= {"feature_extractor_type": "Wav2Vec2FeatureExtractor"}
    write(folder, "preprocessor_config.json", values)


def speech_to_text(folder, **options):
    """Speech2Text: a SentencePiece model, numbered by vocab.json."""
    langs = ["pt", "fr", "ru", "nl", "ro", "it", "es", "de"] if "lang_codes" in options else []
    more = {"user_defined_symbols": ",".join(f"<lang:{each}>" for each in langs)} if langs else {}
    path = spm(bos_id=0, pad_id=1, eos_id=2, unk_id=3, **more)
    shutil.copyfile(path, folder / "sentencepiece.bpe.model")
    write(folder, "vocab.json", {piece: number for number, piece in enumerate(pieces(path))})
    files = (str(folder / "vocab.json"), str(folder / "sentencepiece.bpe.model"))
    transformers.Speech2TextTokenizer(*files, **options).save_pretrained(folder)
    transformers.Speech2TextFeatureExtractor(feature_size=10, num_mel_bins=10).save_pretrained(
        folder
    )


def marian(folder, codes=(">>fra<<", ">>deu<<"), missing=True):
    """Marian: two SentencePiece models and the pieces of both that its training data had."""
    source, target = spm(), spm(TARGET, vocab_size=90)
    shutil.copyfile(source, folder / "source.spm")
    shutil.copyfile(target, folder / "target.spm")
    left_out = set(pieces(source)[40::19]) if missing else set()
    both = [*pieces(source)[3:], *pieces(target)[3:], "我们去", "好"]
    listed = [*dict.fromkeys(["</s>", "<unk>", *codes, *both])]
    listed = [piece for piece in listed if piece not in left_out]
    random.Random(1).shuffle(listed)
    numbered = {piece: number for number, piece in enumerate([*listed, "<pad>"])}
    write(folder, "vocab.json", numbered)
    config = {"source_lang": "eng", "target_lang": "deu", "model_max_length": 512}
    write(folder, "tokenizer_config.json", config)
    write(folder, "generation_config.json", {"max_length": 12, "num_beams": 2})


def image(folder, name, **options):
    """The settings of pictures."""
    getattr(transformers, name)(**options).save_pretrained(folder)


def chat(folder):
    """Files of a model of chats."""
    write(folder, "chat_template.jinja", TEMPLATE)
    write(folder, "generation_config.json", {"do_sample": True, "temperature": 0.6})
