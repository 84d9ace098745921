"""Packages of the presets open in transformers, with the files that a job packs."""

from pathlib import Path

import pytest
import torch
import transformers as hf

from orchestrator.config import load_config
from orchestrator.data.processors.example_processor import new_processor
from orchestrator.data.processors.text import chosen_tokenizer
from orchestrator.data.samples.kinds import ExamplesConfig
from orchestrator.errors import InputError
from orchestrator.modeling.builder import build_model
from orchestrator.modeling.huggingface.classes import architecture_of, padding_of
from orchestrator.modeling.huggingface.exporting import write_export
from orchestrator.modeling.package import write_model
from orchestrator.pretraining.config import PretrainConfig
from orchestrator.pretraining.model_streams import inputs_of

CONFIGS = Path(__file__).resolve().parents[3] / "jobs" / "configs"
TEXTS = ["the cat sat on the mat", "what a world is this", "a queue of tasks, cut in two"]
CLASSES = {
    "albert": "AlbertForPreTraining",
    "bart": "BartForConditionalGeneration",
    "beit": "BeitForMaskedImageModeling",
    "bert": "BertForMaskedLM",
    "bert_wide": "BertForMaskedLM",
    "clip": "CLIPModel",
    "deberta": "DebertaV2ForMaskedLM",
    "gpt": "GPT2LMHeadModel",
    "llama": "LlamaForCausalLM",
    "modernbert": "ModernBertForMaskedLM",
    "pegasus": "PegasusForConditionalGeneration",
    "roberta": "RobertaForMaskedLM",
    "s2t": "Speech2TextForConditionalGeneration",
    "t5": "T5ForConditionalGeneration",
    "vit": "ViTForImageClassification",
}
OPEN = ("gpt", "llama")
"""Presets that write on from a text: nothing stands behind it."""
WITHOUT_WORDS = ("beit", "vit")
WITHOUT_CLASS = {
    "bilstm": "transformers has no recurrent language model (ELMo)",
    "gatedcnn": "transformers has no gated convolutions over text",
}


@pytest.fixture
def packed(tmp_path):
    """Write the files of a package for a preset, with new weights; (model, its tokenizer)."""

    def pack(name):
        config = load_config(PretrainConfig, CONFIGS / f"pretrain_{name}_nano.yaml", [])
        text = None if name in WITHOUT_WORDS else chosen_tokenizer(config.data, TEXTS)
        model = build_model(config.model_for(text.vocab_size if text else 0))
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(torch.randn_like(parameter) * 0.05)
        (tmp_path / "ours").mkdir()
        (tmp_path / "theirs").mkdir()
        write_model(tmp_path / "ours", model, model.config)
        samples, processor = config.chosen_samples, text
        if isinstance(samples, ExamplesConfig):
            processor = new_processor(samples, inputs_of(config.model), text)
        if processor is not None:
            processor.save(tmp_path / "ours")
        return model.eval(), text

    return pack


def test_every_preset_has_a_class_or_a_reason():
    presets = {path.stem[9:-5] for path in CONFIGS.glob("pretrain_*_nano.yaml")}
    assert presets == CLASSES.keys() | WITHOUT_CLASS.keys()


@pytest.mark.parametrize("name", CLASSES)
def test_a_preset_has_a_class(name):
    assert class_of(CONFIGS / f"pretrain_{name}_nano.yaml").name == CLASSES[name]


@pytest.mark.slow
@pytest.mark.parametrize(
    "path", sorted((CONFIGS / "original").glob("*.yaml")), ids=lambda p: p.stem
)
def test_an_original_has_the_class_of_its_publication(path):
    family = (
        path.stem.split("_")[0].replace("s2t", "speech_to_text").replace("deberta", "deberta-v2")
    )
    assert class_of(path).model_type == family


def test_a_refusal_names_a_class_of_the_same_shape_or_none():
    speech = CONFIGS / "pretrain_s2t_nano.yaml"
    nearest = r"Speech2TextForConditionalGeneration; it differs in encoder.feed_forward\."
    with pytest.raises(InputError, match=nearest):
        class_of(speech, "model.encoder.feed_forward=gated")
    for name in WITHOUT_CLASS:
        with pytest.raises(InputError, match=r"no counterpart\b.* Supported: "):
            class_of(CONFIGS / f"pretrain_{name}_nano.yaml")


def class_of(path, *overrides):
    config = load_config(PretrainConfig, path, overrides).model
    reads = config.embedding.reads_words or config.target_embedding is not None
    config = config.with_vocab(99) if reads and not config.vocab_size else config
    return architecture_of(config.model_copy(update={"pad_token_id": padding_of(config)}))


@pytest.mark.slow  # CLIP and Speech2Text have quick tests of their own below
@pytest.mark.parametrize("name", CLASSES)
def test_a_preset_opens_in_transformers(name, packed, tmp_path):
    _, text = packed(name)
    write_export(tmp_path / "ours", {}, tmp_path / "theirs")  # compares all outputs
    opened = hf.AutoModel.from_pretrained(tmp_path / "theirs")
    assert opened.config.architectures == [CLASSES[name]]
    if text is not None:
        tokenizer = hf.AutoTokenizer.from_pretrained(tmp_path / "theirs")
        assert opened.config.get_text_config().pad_token_id in (None, tokenizer.pad_token_id)
        tokens = [tokenizer.convert_ids_to_tokens(ids) for ids in tokenizer(TEXTS)["input_ids"]]
        ours = text(TEXTS, max_length=64)
        for found, ids, mask in zip(tokens, ours["input_ids"], ours["attention_mask"], strict=True):
            expected = [text.tokenizer.id_to_token(int(i)) for i in ids[mask.bool()]]
            assert found == (expected[:-1] if name in OPEN else expected)


def test_prompts_of_an_exported_language_model_stay_open(packed, tmp_path):
    """With [SEP] behind them, generation would begin another text."""
    _, text = packed("gpt")
    stored = (tmp_path / "ours" / "tokenizer.json").read_bytes()
    write_export(tmp_path / "ours", {}, tmp_path / "theirs")
    assert (tmp_path / "ours" / "tokenizer.json").read_bytes() == stored
    tokenizer = hf.AutoTokenizer.from_pretrained(tmp_path / "theirs")
    model = hf.AutoModelForCausalLM.from_pretrained(tmp_path / "theirs")
    words = text.encode(["the cat"])[0]
    assert tokenizer("the cat")["input_ids"] == [2, *words]
    assert tokenizer("the cat", "what")["input_ids"] == [2, *words, 3, *text.encode(["what"])[0]]
    written = model.generate(**tokenizer("the cat", return_tensors="pt"), max_new_tokens=4)
    assert written[0, : len(words) + 1].tolist() == [2, *words]
    assert (model.config.bos_token_id, model.config.eos_token_id) == (2, 3)


def test_renumbered_tokens_are_the_same_tokens(packed, tmp_path):
    """Speech2Text pads with 1: the same words, read and written, have the same logits."""
    model, text = packed("s2t")
    write_export(tmp_path / "ours", {}, tmp_path / "theirs")
    theirs = hf.AutoModelForSpeechSeq2Seq.from_pretrained(tmp_path / "theirs").eval()
    tokenizer = hf.AutoTokenizer.from_pretrained(tmp_path / "theirs")
    words = [text.tokenizer.id_to_token(i) for i in range(text.vocab_size)]
    number = torch.tensor(tokenizer.convert_tokens_to_ids(words))
    assert number[:4].tolist() == [1, 0, 2, 3]
    ids = torch.tensor([[3, 7, 1, 9], [3, 8, 0, 0]])  # of ours: [SEP] and letters, one unknown
    sound = torch.randn(2, 40, 16)
    sound[1, 20:] = 0.0
    heard = torch.ones(2, 40).long()
    heard[1, 20:] = 0
    shared = {"input_features": sound, "attention_mask": heard}
    shared["decoder_attention_mask"] = (ids != 0).long()
    with torch.no_grad():
        ours = model.predict(shared | {"decoder_input_ids": ids})["lm"]
        found = theirs(**shared, decoder_input_ids=number[ids]).logits[..., number]
    real = ids != 0
    torch.testing.assert_close(found[real], ours[real], atol=1e-4, rtol=1e-4)
    assert theirs.generation_config.eos_token_id == tokenizer.sep_token_id == 3
    assert theirs.generation_config.decoder_start_token_id == 3


def test_a_text_of_clip_ends_with_the_token_of_our_tokenizer(packed, tmp_path):
    model, text = packed("clip")
    write_export(tmp_path / "ours", {}, tmp_path / "theirs")
    theirs = hf.AutoModel.from_pretrained(tmp_path / "theirs").eval()
    inputs = text(TEXTS, max_length=16)
    pixels = torch.randn(len(TEXTS), 1, 16, 16)
    given = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        logits = theirs(**given, pixel_values=pixels).logits_per_text
        ours = model.predict(given | {"second.pixel_values": pixels})["clr"]
    torch.testing.assert_close(ours, logits, atol=1e-4, rtol=1e-4)
