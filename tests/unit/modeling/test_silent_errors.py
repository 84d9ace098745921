"""Checkpoints that came in wrong in silence: repeated tensors, other rows, heads, options."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForMaskedLM,
    BertForPreTraining,
    CLIPConfig,
    CLIPModel,
    LlamaConfig,
    LlamaForCausalLM,
    MarianConfig,
    MarianMTModel,
    T5Config,
    T5ForConditionalGeneration,
)

from orchestrator.cli import main
from orchestrator.errors import InputError, IntegrityError
from orchestrator.modeling.huggingface import importing
from orchestrator.modeling.huggingface.exporting import export_package
from orchestrator.modeling.huggingface.importing import ImportOptions, import_checkpoint
from orchestrator.modeling.package import load_model
from orchestrator.zoo import Zoo

VOCAB, ROW = 97, 90
SIDES = {
    "vocab_size": VOCAB,
    "d_model": 16,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24,
    "pad_token_id": 1,
    "decoder_start_token_id": 1,
    "max_position_embeddings": 40,
}
BERT = {
    "vocab_size": VOCAB,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 40,
}


def t5(**options):
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 1, "num_heads": 2}
    return T5ForConditionalGeneration(T5Config(vocab_size=VOCAB, **sizes, **options))


def llama(**options):
    sizes = {k: v for k, v in BERT.items() if k != "max_position_embeddings"}
    return LlamaForCausalLM(LlamaConfig(**sizes, max_position_embeddings=40, **options))


MODELS = {
    "t5": t5,
    "bart": lambda: BartForConditionalGeneration(BartConfig(**SIDES)),
    "marian": lambda: MarianMTModel(MarianConfig(**SIDES)),
    "llama": lambda: llama(tie_word_embeddings=True),
    "bert": lambda: BertForMaskedLM(BertConfig(**BERT)),
}


def saved(folder, model):
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in (each for each in model.parameters() if each.requires_grad):
            parameter.add_(torch.randn_like(parameter) * 0.2)
    model.eval().save_pretrained(folder)
    return folder


def change_file(folder, change):
    path = folder / "model.safetensors"
    state = load_file(path)
    change(state)
    save_file(state, path, metadata={"format": "pt"})


def change_config(folder, **values):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def another(tensor, row):
    copy = tensor.clone()
    copy[row] += 1.0
    return copy


def bring(folder, **options):
    zoo = Zoo(str(folder.parent / "zoo"))
    return import_checkpoint(zoo, f"hf:{folder}", ImportOptions(**options))


REPEATS = [
    ("t5", "encoder.embed_tokens.weight", "shared.weight"),
    ("t5", "decoder.embed_tokens.weight", "shared.weight"),
    ("t5", "lm_head.weight", "shared.weight"),
    ("bart", "model.encoder.embed_tokens.weight", "model.shared.weight"),
    ("bart", "lm_head.weight", "model.shared.weight"),
    ("llama", "lm_head.weight", "model.embed_tokens.weight"),
    ("bert", "cls.predictions.decoder.weight", "bert.embeddings.word_embeddings.weight"),
    ("bert", "cls.predictions.decoder.bias", "cls.predictions.bias"),
]


@pytest.mark.parametrize(("model", "name", "of"), REPEATS)
def test_a_repeated_tensor_that_differs_in_one_row_is_refused(model, name, of, tmp_path):
    folder = saved(tmp_path / "theirs", MODELS[model]())
    change_file(folder, lambda state: state.update({name: another(state[of], ROW)}))
    with pytest.raises(IntegrityError, match=rf"{name} and {of} differ in 1 of 97 rows .*row 90"):
        bring(folder)
    change_file(folder, lambda state: state.update({name: state[of].clone()}))
    assert bring(folder).version == "v0001"


@pytest.mark.parametrize(("model", "name", "of"), REPEATS)
def test_a_tensor_stored_under_its_other_name_only_is_read(model, name, of, tmp_path):
    theirs = MODELS[model]()
    folder = saved(tmp_path / "theirs", theirs)
    change_file(folder, lambda state: state.update({name: state.pop(of)}))
    package = bring(folder)
    assert package.read_json("evaluation/import.json")["tensors_renamed"][of] == name
    export_package(package, tmp_path / "out")
    again = type(theirs).from_pretrained(tmp_path / "out").state_dict()
    assert all(torch.equal(again[key], tensor) for key, tensor in theirs.state_dict().items())


def test_sine_tables_that_differ_after_the_checked_positions_are_refused(tmp_path):
    folder = saved(tmp_path / "theirs", MODELS["marian"]())
    table = MODELS["marian"]().model.encoder.embed_positions.weight.detach()
    name = "model.encoder.embed_positions.weight"
    change_file(folder, lambda state: state.update({name: another(table, 30)}))
    with pytest.raises(IntegrityError, match=r"computed table differ in 1 of 40 rows .*row 30"):
        bring(folder)
    change_file(folder, lambda state: state.update({name: table.half()}))
    assert bring(folder).version == "v0001"


def test_a_row_that_the_random_batch_does_not_read_is_compared_too(tmp_path, monkeypatch):
    folder = saved(tmp_path / "theirs", MODELS["bert"]())
    right = importing.converted

    def wrong(*arguments):
        for name, tensor in right(*arguments):
            yield name, another(tensor, ROW) if name == "embedding.word.weight" else tensor

    monkeypatch.setattr(importing, "converted", wrong)
    with pytest.raises(IntegrityError, match=r"bert\.embeddings\.word_embeddings\.weight"):
        bring(folder)
    assert not (tmp_path / "zoo" / "theirs" / "v0001").exists()


def test_the_new_layout_of_t5_with_a_tied_output_that_is_not_scaled(tmp_path):
    model = t5(tie_word_embeddings=False, feed_forward_proj="gated-gelu")
    folder = saved(tmp_path / "theirs", model)
    assert "lm_head.weight" not in load_file(folder / "model.safetensors")
    package = bring(folder)
    (head,) = load_model(package.path).config.target
    assert (head.tie, head.scale) == (True, False)
    export_package(package, tmp_path / "out")
    configs = [json.loads((f / "config.json").read_text()) for f in (folder, tmp_path / "out")]
    assert configs[0] == configs[1]


def test_the_published_layout_of_bert_needs_no_options(tmp_path, capsys):
    folder = saved(tmp_path / "theirs", BertForPreTraining(BertConfig(**BERT)))
    change_config(folder, architectures=["BertForMaskedLM"])

    def old_names(state):
        for name in [n for n in state if "LayerNorm" in n]:
            old = name.replace("LayerNorm.weight", "LayerNorm.gamma")
            state[old.replace("LayerNorm.bias", "LayerNorm.beta")] = state.pop(name)

    change_file(folder, old_names)
    assert main(["zoo", "import", f"hf:{folder}", "--zoo", str(tmp_path / "zoo")]) == 0
    shown = capsys.readouterr().out
    assert "Left out: bert.pooler.dense.bias, bert.pooler.dense.weight, cls.seq_relat" in shown
    package = Zoo(str(tmp_path / "zoo")).get("theirs")
    left_out = package.read_json("evaluation/import.json")["other_heads_left_out"]
    assert len(left_out) == 4
    assert [each.type_name() for each in load_model(package.path).config.target] == ["mlm"]


def test_a_pooler_beside_masked_lm_of_roberta_is_left_out(tmp_path):
    from transformers import RobertaConfig, RobertaForMaskedLM

    folder = saved(tmp_path / "theirs", RobertaForMaskedLM(RobertaConfig(**BERT)))
    more = {"roberta.pooler.dense.weight": torch.zeros(16, 16)}
    more |= {"roberta.pooler.dense.bias": torch.zeros(16)}
    change_file(folder, lambda state: state.update(more))
    assert bring(folder).read_json("evaluation/import.json")["other_heads_left_out"] == sorted(more)
    change_file(folder, lambda state: state.update({"roberta.extra.weight": torch.zeros(2)}))
    with pytest.raises(IntegrityError, match=r"unexpected: roberta\.extra\.weight"):
        bring(folder)


@pytest.mark.parametrize("values", [{"quant_method": "gptq", "bits": 4}, {}])
def test_a_quantized_checkpoint_is_refused_in_one_line(values, tmp_path, capsys):
    folder = saved(tmp_path / "theirs", MODELS["llama"]())
    change_config(folder, quantization_config=values)
    assert main(["zoo", "import", f"hf:{folder}", "--zoo", str(tmp_path / "zoo")]) == 2
    shown = capsys.readouterr().err
    assert "quantization_config: quantized checkpoints are not read" in shown
    assert "Traceback" not in shown


def test_options_of_new_weights_only_are_accepted(tmp_path):
    tower = {k: v for k, v in BERT.items() if k not in ("vocab_size", "max_position_embeddings")}
    text = tower | {"vocab_size": VOCAB, "max_position_embeddings": 12, "eos_token_id": VOCAB - 1}
    vision = tower | {"image_size": 8, "patch_size": 4, "initializer_range": 0.1}
    config = CLIPConfig(
        text_config=text, vision_config=vision, projection_dim=8, initializer_factor=2.0
    )
    for name, model in (("clip", CLIPModel(config)), ("t5", t5(initializer_factor=0.5))):
        package = bring(saved(tmp_path / name, model))
        export_package(package, tmp_path / f"{name}-out")
        files = [Path(tmp_path / f / "config.json") for f in (name, f"{name}-out")]
        assert files[0].read_bytes() == files[1].read_bytes() or (
            json.loads(files[0].read_text()) == json.loads(files[1].read_text())
        )


def test_the_nearest_class_has_the_family_and_the_kind_of_head():
    from orchestrator.modeling.huggingface.classes import find_architecture

    nearest = {
        "BertForQuestionAnsweringAndMore": "BertFor",
        "WhisperForAudioClassification": "WhisperForConditionalGeneration",
        "UMT5EncoderModel": "T5",
        "ElectraForMultipleChoices": "ElectraForMultipleChoice",
        "Qwen9ForCausalLM": "Qwen3ForCausalLM",
        "ConvNextForImageClassification": "ForImageClassification",
    }
    for name, near in nearest.items():
        with pytest.raises(InputError) as caught:
            find_architecture(name)
        assert near in str(caught.value).partition("Supported:")[0], name


def test_a_legacy_rotary_config_comes_back_as_it_was(tmp_path):
    folder = saved(tmp_path / "theirs", llama())
    config = json.loads((folder / "config.json").read_text())
    theta = config.pop("rope_parameters")["rope_theta"]
    scaling = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    scaling |= {"original_max_position_embeddings": 16, "rope_type": "llama3"}
    config |= {"rope_scaling": scaling, "rope_theta": theta}
    (folder / "config.json").write_text(json.dumps(config))
    export_package(bring(folder), tmp_path / "out")
    assert json.loads((tmp_path / "out" / "config.json").read_text()) == config


def test_files_of_tokenizers_processors_and_generation_go_out_as_they_came(tmp_path):
    folder = saved(tmp_path / "theirs", MODELS["bert"]())
    names = (
        "chat_template.jinja",
        "chat_template.json",
        "normalizer.json",
        "generation_config.json",
    )
    names += ("source.spm", "target.spm", "spm.model", "video_preprocessor_config.json")
    for name in names:
        (folder / name).write_text(json.dumps({"of": name}))
    package = bring(folder)
    assert package.read_json("evaluation/import.json")["files_left_out"] == []
    export_package(package, tmp_path / "out")
    for name in names:
        assert (tmp_path / "out" / name).read_bytes() == (folder / name).read_bytes()


def test_a_tokenizer_with_more_tokens_than_the_word_table_is_refused(tmp_path):
    from tokenizers import Tokenizer, models

    folder = saved(tmp_path / "theirs", MODELS["bert"]())
    words = {f"w{number}": number for number in range(VOCAB)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w0"))
    tokenizer.save(str(folder / "tokenizer.json"))
    assert bring(folder).version == "v0001"
    tokenizer.add_tokens(["more", "most"])
    tokenizer.save(str(folder / "tokenizer.json"))
    with pytest.raises(InputError, match=r"2 tokens that .* \(it has 97; .* 'more', id 97\)"):
        bring(folder)


@pytest.mark.parametrize("kind", ["multi_label_classification", "regression"])
def test_a_head_of_an_image_model_keeps_its_kind(kind, tmp_path):
    from transformers import ViTConfig, ViTForImageClassification

    sizes = {k: v for k, v in BERT.items() if k not in ("vocab_size", "max_position_embeddings")}
    config = ViTConfig(**sizes, image_size=8, patch_size=4, num_labels=3, problem_type=kind)
    package = bring(saved(tmp_path / "theirs", ViTForImageClassification(config)))
    target = {"multi_label_classification": "multilabel"}.get(kind, kind)
    assert package.manifest.task.kind == target
    assert package.manifest.task.labels == {target: ["LABEL_0", "LABEL_1", "LABEL_2"]}
    export_package(package, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["problem_type"] == kind
