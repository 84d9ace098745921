"""Every class with the files that its family's published folders have: texts get the same ids.

A family is one line in ``FAMILIES``: the layouts of its folders, functions of
``tests.support.published``.
"""

from functools import cache, partial

import pytest
import torch
import transformers
from transformers import AutoProcessor, AutoTokenizer

from orchestrator.data.processors.text import TextProcessor
from orchestrator.modeling.huggingface.classes import architectures
from orchestrator.modeling.huggingface.exporting import export_package
from orchestrator.modeling.huggingface.importing import ImportOptions, import_checkpoint
from orchestrator.zoo import Zoo
from tests.support import published as files

from .test_exchange import CASES

TEXTS = (
    "", "Hello world", "The quick brown fox, it's 1,234.56!", "  two  spaces ", "a\nb\tc",
    "Größe und Straße, un café très naïf à Noël", "今天天气很好 我们去公园", "😀 party 🎉🎉",
    "[MASK] </s> <pad>", "a <new> token", "it's, \"c\" (a) [b] - d / e", "OVER THE MOON'S",
    ">>fra<< hello world", "我们去 好", "e\u0301 ﬁ ①", "hello|world ▁ x", "a" * 60,
)  # fmt: skip
GPT = ("<|endoftext|>",)
BLOOM = ("<unk>", "<s>", "</s>", "<pad>")
ROBERTA = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
QWEN = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
WHISPER = ("<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|transcribe|>", "<|notimestamps|>")
T5 = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
ALBERT = {"pad_id": 0, "unk_id": 1, "bos_id": -1, "eos_id": -1}
ALBERT |= {"control_symbols": "[CLS],[SEP],[MASK]"}
DEBERTA = {"pad_id": 0, "bos_id": 1, "eos_id": 2, "unk_id": 3, "pad_piece": "[PAD]"}
DEBERTA |= {"bos_piece": "[CLS]", "eos_piece": "[SEP]", "unk_piece": "[UNK]"}
DEBERTA_BYTES = ("[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]")
MPNET = ("<s>", "<pad>", "</s>", "[UNK]", "<mask>")
GEMMA = {"pad_id": 0, "eos_id": 1, "bos_id": 2, "unk_id": 3, "add_dummy_prefix": False}
LLAMA = {"model_type": "bpe", "byte_fallback": True, "vocab_size": 420}
LLAMA |= {"normalization_rule_name": "identity", "remove_extra_whitespaces": False}
LLAMA_CONFIG = {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "unk_token": "<unk>"}
LLAMA_CONFIG |= {"bos_token": "<s>", "eos_token": "</s>", "model_max_length": 2048}
SIGLIP_CONFIG = {"tokenizer_class": "SiglipTokenizer", "do_lower_case": True, "pad_token": "</s>"}
SIGLIP_CONFIG |= {"eos_token": "</s>", "unk_token": "<unk>", "model_max_length": 64}
CTC_CONFIG = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
CTC_CONFIG |= {"do_lower_case": False, "return_attention_mask": False, "do_normalize": True}


def both(*layouts):
    """Return a layout of several kinds of files."""
    return lambda folder: [layout(folder) for layout in layouts]


words = partial(files.saved_words, name="BertTokenizer")
old_bytes, saved_bytes = files.vocab_and_merges, files.saved_bytes
roberta = partial(saved_bytes, name="RobertaTokenizer", special=ROBERTA)
old_roberta = partial(old_bytes, special=ROBERTA)
spiece, image = files.spiece, files.image
llama = partial(spiece, name="tokenizer.model", config=LLAMA_CONFIG, **LLAMA)
gemma = both(partial(spiece, name="tokenizer.model", **(LLAMA | GEMMA)), files.chat)
qwen = both(partial(saved_bytes, name="Qwen2Tokenizer", special=QWEN), files.chat)
letters = partial(files.ctc, config=CTC_CONFIG)
speech = files.speech_to_text
small = {"size": {"height": 8, "width": 8}}
siglip = both(
    partial(spiece, config=SIGLIP_CONFIG, **T5), partial(image, name="SiglipImageProcessor")
)
OPT = ("<s>", "<pad>", "</s>", "<unk>")
OPT_CONFIG = {"tokenizer_class": "GPT2Tokenizer", "add_bos_token": True, "bos_token": "</s>"}
OPT_CONFIG |= {"eos_token": "</s>", "unk_token": "</s>", "pad_token": "<pad>"}
FAMILIES = {
    "albert": (partial(spiece, **ALBERT),),
    "bart": (old_roberta, roberta),
    "beit": (partial(image, name="BeitImageProcessor", **small),),
    "bert": (files.vocab_txt, partial(files.vocab_txt, lower=False), words),
    "bloom": (partial(saved_bytes, name="GPT2Tokenizer", special=BLOOM),),
    "camembert": (partial(spiece, name="sentencepiece.bpe.model"),),
    "clip": (both(files.clip_text, partial(image, name="CLIPImageProcessor")),),
    "clip_text_model": (partial(files.clip_text, config={"tokenizer_class": "CLIPTokenizer"}),),
    "clip_vision_model": (partial(image, name="CLIPImageProcessor"),),
    "deberta": (partial(saved_bytes, name="DebertaTokenizer", special=DEBERTA_BYTES),),
    "deberta-v2": (partial(spiece, name="spm.model", **DEBERTA),),
    "deit": (partial(image, name="DeiTImageProcessor", **small),),
    "dinov2": (partial(image, name="BitImageProcessor"),),
    "dinov2_with_registers": (partial(image, name="BitImageProcessor"),),
    "distilbert": (files.vocab_txt, words),
    "electra": (files.vocab_txt, words),
    "eurobert": (files.fast,),
    "gemma2": (gemma,),
    "gemma3_text": (gemma,),
    "gpt2": (
        partial(old_bytes, special=GPT),
        partial(saved_bytes, name="GPT2Tokenizer", special=GPT),
    ),
    "gpt_neox": (partial(files.fast, begin=None, end=None, special=GPT),),
    "gte": (words,),
    "hubert": (letters,),
    "llama": (both(llama, files.chat), partial(spiece, name="tokenizer.model", **LLAMA)),
    "marian": (files.marian, partial(files.marian, codes=(), missing=False)),
    "mistral": (both(llama, files.chat),),
    "mixtral": (both(llama, files.chat),),
    "modernbert": (files.fast,),
    "mpnet": (partial(files.saved_words, name="MPNetTokenizer", special=MPNET),),
    "mt5": (partial(spiece, **T5),),
    "nomic_bert": (words,),
    "olmo2": (partial(saved_bytes, name="GPT2Tokenizer", special=GPT),),
    "opt": (
        partial(old_bytes, special=OPT, config=OPT_CONFIG),
        partial(saved_bytes, name="GPT2Tokenizer", special=ROBERTA),
    ),
    "pegasus": (partial(spiece, **T5),),
    "phi3": (both(llama, files.chat),),
    "qwen2": (qwen, partial(old_bytes, special=QWEN)),
    "qwen3": (qwen,),
    "roberta": (old_roberta, roberta),
    "siglip": (siglip,),
    "siglip_text_model": (partial(spiece, config=SIGLIP_CONFIG, **T5),),
    "siglip_vision_model": (partial(image, name="SiglipImageProcessor"),),
    "smollm3": (both(partial(files.fast, begin=None, end=None, special=QWEN), files.chat),),
    "speech_to_text": (
        speech,
        partial(speech, do_upper_case=True),
        partial(speech, lang_codes="mustc", tgt_lang="fr"),
    ),
    "t5": (partial(spiece, **T5),),
    "vilt": (both(files.vocab_txt, partial(image, name="ViltImageProcessor")),),
    "vit": (partial(image, name="ViTImageProcessor", **small),),
    "wav2vec2": (letters, partial(files.ctc, hub=False)),
    "whisper": (partial(saved_bytes, name="WhisperTokenizer", special=WHISPER),),
    "xlm-roberta": (partial(spiece, name="sentencepiece.bpe.model"),),
}
"""Type of a model → what writes the files of its folders, one function per layout."""


@cache
def cases():
    """Return a model of each class and of each family, by name."""
    found = {}
    for build in CASES.values():
        theirs = build("sdpa", "right").theirs
        found.setdefault(type(theirs).__name__, theirs)
        found.setdefault(theirs.config.model_type, theirs)
    return found


def model(name, size):
    """Return a model of a class with room for a tokenizer."""
    known = cases()
    config = known[name if name in known else architectures()[name].model_type].config
    values = config.to_dict()
    part = values.get("text_config", values)
    part |= {key: max(size, 1) for key in part if key in ("vocab_size", "decoder_vocab_size")}
    if name == "CLIPModel" or name.startswith("CLIPText"):
        part["eos_token_id"] = size - 1
    torch.manual_seed(0)
    return getattr(transformers, name)(type(config).from_dict(values)).eval()


def folder_of(name, layout, tmp_path):
    """Return the folder of a checkpoint, the names of its further files, and its tokenizer."""
    shipped = tmp_path / "shipped"
    shipped.mkdir()
    files.write(shipped, "config.json", {"model_type": architectures()[name].model_type})
    layout(shipped)
    names = sorted(path.name for path in shipped.iterdir() if path.name != "config.json")
    image = set(names) == {"preprocessor_config.json"}
    tokenizer = None if image else AutoTokenizer.from_pretrained(shipped)
    made = model(name, 0 if tokenizer is None else len(tokenizer))
    kept = {each: (shipped / each).read_bytes() for each in names}
    made.save_pretrained(shipped)
    for each, content in kept.items():
        (shipped / each).write_bytes(content)
    return shipped, names, tokenizer


CHOSEN = [(name, 0) for name in architectures()] + [
    (next(name for name, each in architectures().items() if each.model_type == family), place)
    for family, layouts in FAMILIES.items()
    for place in range(1, len(layouts))
]


@pytest.mark.parametrize(("name", "place"), CHOSEN)
def test_a_published_folder_comes_in_and_goes_out(name, place, tmp_path):
    family = architectures()[name].model_type
    assert family in FAMILIES, f"{family} needs a line in FAMILIES: the files of its folders"
    shipped, names, theirs = folder_of(name, FAMILIES[family][place], tmp_path)
    package = import_checkpoint(Zoo(str(tmp_path / "zoo")), f"hf:{shipped}", ImportOptions())
    out = tmp_path / "out"
    export_package(package, out)
    for each in names:
        assert (out / each).read_bytes() == (shipped / each).read_bytes(), each
    if theirs is None:
        assert (
            AutoProcessor.from_pretrained(out).to_dict()
            == AutoProcessor.from_pretrained(shipped).to_dict()
        )
        return
    ours = TextProcessor.load(package.path)
    exported = AutoTokenizer.from_pretrained(out)
    for text in TEXTS:
        arrays = ours.arrays([text], max_length=10_000)
        ids = arrays["input_ids"][0][arrays["attention_mask"][0] == 1].tolist()
        assert ids == theirs(text, split_special_tokens=True).input_ids, text
        assert exported(text).input_ids == theirs(text).input_ids, text
    assert exported.chat_template == theirs.chat_template


def test_every_family_has_the_files_of_its_folders():
    assert {each.model_type for each in architectures().values()} <= FAMILIES.keys()
