"""Checkpoints of TencentPretrain: its names written here from those of transformers' classes.

The oracle is transformers: weights are those of its class, renamed as TencentPretrain's conversion
scripts name them. Norms have its epsilon (1e-6), so that only defects of its code can differ.
"""

import inspect
import json
import pickle

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import (
    AlbertConfig,
    AlbertForPreTraining,
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForPreTraining,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    RobertaConfig,
    RobertaForMaskedLM,
    T5Config,
    T5ForConditionalGeneration,
)

from orchestrator.cli import main
from orchestrator.errors import InputError, IntegrityError
from orchestrator.modeling.huggingface.exporting import export_package
from orchestrator.modeling.huggingface.importing import ImportOptions
from orchestrator.modeling.package import load_model
from orchestrator.modeling.tencentpretrain.importing import import_tencentpretrain
from orchestrator.zoo import Zoo

from .harness import LAYERS, VOCAB, close, padded_batch, randomize

EPS = 1e-6
SIZES = {"hidden_size": 32, "feedforward_size": 48, "heads_num": 4, "layers_num": LAYERS}
SIZES |= {"emb_size": 32, "max_seq_length": 16, "dropout": 0.1, "encoder": "transformer"}
HF = {
    "vocab_size": VOCAB, "hidden_size": 32, "num_hidden_layers": LAYERS, "num_attention_heads": 4,
    "intermediate_size": 48, "max_position_embeddings": 16,
}  # fmt: skip
BERT = {"embedding": ["word", "pos", "seg"], "mask": "fully_visible", "target": ["mlm", "sp"]}
BERT |= {"data_processor": "bert", "tie_weights": True}


def tensors_of(model, folder):
    randomize(model.eval())
    model.save_pretrained(folder)
    return load_file(folder / "model.safetensors")


def move(source, target, theirs, ours, parts=("weight", "bias")):
    for part in parts:
        norm = {"weight": "gamma", "bias": "beta"}[part] if "layer_norm" in ours else part
        if ours.endswith(":rms"):
            target[f"{ours[:-4]}.{part}"] = source[f"{theirs}.{part}"]
        else:
            target[f"{ours}.{norm}"] = source[f"{theirs}.{part}"]


def segments(table):
    """Their table begins with a row for padding."""
    return torch.cat([torch.full((1, table.shape[1]), 9.0), table])


def bert_like(source, prefix, layer, target):
    for theirs, ours in (("word", "word"), ("position", "pos")):
        target[f"embedding.{ours}.embedding.weight"] = source[
            f"{prefix}.embeddings.{theirs}_embeddings.weight"
        ]
    types = source[f"{prefix}.embeddings.token_type_embeddings.weight"]
    target["embedding.seg.embedding.weight"] = segments(types)
    move(source, target, f"{prefix}.embeddings.LayerNorm", "embedding.layer_norm")
    for i in range(LAYERS):
        a, b = layer.format(i), f"encoder.transformer.{i}"
        for j, name in enumerate(("query", "key", "value")):
            move(source, target, f"{a}.attention.self.{name}", f"{b}.self_attn.linear_layers.{j}")
        move(source, target, f"{a}.attention.output.dense", f"{b}.self_attn.final_linear")
        move(source, target, f"{a}.attention.output.LayerNorm", f"{b}.layer_norm_1")
        move(source, target, f"{a}.intermediate.dense", f"{b}.feed_forward.linear_1")
        move(source, target, f"{a}.output.dense", f"{b}.feed_forward.linear_2")
        move(source, target, f"{a}.output.LayerNorm", f"{b}.layer_norm_2")


def bert(folder):
    theirs = BertForPreTraining(BertConfig(**HF, layer_norm_eps=EPS))
    source, target = tensors_of(theirs, folder), {}
    bert_like(source, "bert", "bert.encoder.layer.{}", target)
    move(source, target, "cls.predictions.transform.dense", "target.mlm.linear_1")
    move(source, target, "cls.predictions.transform.LayerNorm", "target.mlm.layer_norm")
    target["target.mlm.linear_2.weight"] = source["bert.embeddings.word_embeddings.weight"].clone()
    target["target.mlm.linear_2.bias"] = source["cls.predictions.bias"]
    move(source, target, "bert.pooler.dense", "target.sp.linear_1")
    move(source, target, "cls.seq_relationship", "target.sp.linear_2")
    outputs = {"mlm": lambda o: o.prediction_logits, "nsp": lambda o: o.seq_relationship_logits}
    return theirs, SIZES | BERT, target, outputs


def roberta(folder):
    """Their positions begin at 0, transformers' two rows later."""
    sizes = HF | {"max_position_embeddings": 18, "pad_token_id": 1, "type_vocab_size": 2}
    theirs = RobertaForMaskedLM(RobertaConfig(**sizes, layer_norm_eps=EPS))
    source, target = tensors_of(theirs, folder), {}
    bert_like(source, "roberta", "roberta.encoder.layer.{}", target)
    table = "embedding.pos.embedding.weight"
    target[table] = target[table][2:].clone()
    move(source, target, "lm_head.dense", "target.mlm.linear_1")
    move(source, target, "lm_head.layer_norm", "target.mlm.layer_norm")
    target["target.mlm.linear_2.bias"] = source["lm_head.bias"]
    options = SIZES | BERT | {"target": "mlm"}
    return theirs, options, target, {"mlm": lambda o: o.logits}


def albert(folder):
    theirs = AlbertForPreTraining(
        AlbertConfig(**HF, embedding_size=20, layer_norm_eps=EPS, hidden_act="gelu_new")
    )
    source, target = tensors_of(theirs, folder), {}
    for name, ours in (("word", "word"), ("position", "pos")):
        target[f"embedding.{ours}.embedding.weight"] = source[
            f"albert.embeddings.{name}_embeddings.weight"
        ]
    types = source["albert.embeddings.token_type_embeddings.weight"]
    target["embedding.seg.embedding.weight"] = segments(types)
    move(source, target, "albert.embeddings.LayerNorm", "embedding.layer_norm")
    move(source, target, "albert.encoder.embedding_hidden_mapping_in", "encoder.linear")
    a, b = "albert.encoder.albert_layer_groups.0.albert_layers.0", "encoder.transformer"
    for j, name in enumerate(("query", "key", "value")):
        move(source, target, f"{a}.attention.{name}", f"{b}.self_attn.linear_layers.{j}")
    move(source, target, f"{a}.attention.dense", f"{b}.self_attn.final_linear")
    move(source, target, f"{a}.attention.LayerNorm", f"{b}.layer_norm_1")
    move(source, target, f"{a}.ffn", f"{b}.feed_forward.linear_1")
    move(source, target, f"{a}.ffn_output", f"{b}.feed_forward.linear_2")
    move(source, target, f"{a}.full_layer_layer_norm", f"{b}.layer_norm_2")
    move(source, target, "predictions.dense", "target.mlm.linear_1")
    move(source, target, "predictions.LayerNorm", "target.mlm.layer_norm")
    target["target.mlm.linear_2.bias"] = source["predictions.bias"]
    move(source, target, "albert.pooler", "target.sp.linear_1")
    move(source, target, "sop_classifier.classifier", "target.sp.linear_2")
    options = (
        SIZES | BERT | {"emb_size": 20, "hidden_act": "gelu_fast", "embedding": "word_pos_seg"}
    )
    options |= {"factorized_embedding_parameterization": True, "parameter_sharing": True}
    options |= {"data_processor": "albert"}
    outputs = {"mlm": lambda o: o.prediction_logits, "sop": lambda o: o.sop_logits}
    return theirs, options, target, outputs


def gpt2(folder):
    config = GPT2Config(
        vocab_size=VOCAB, n_embd=32, n_layer=LAYERS, n_head=4, n_positions=16, n_inner=48,
        layer_norm_epsilon=EPS,
    )  # fmt: skip
    theirs = GPT2LMHeadModel(config)
    source = tensors_of(theirs, folder)
    target = {
        "embedding.word.embedding.weight": source["transformer.wte.weight"],
        "embedding.pos.embedding.weight": source["transformer.wpe.weight"],
        "target.lm.output_layer.weight": source["transformer.wte.weight"].clone(),
    }
    for i in range(LAYERS):
        a, b = f"transformer.h.{i}", f"encoder.transformer.{i}"
        for j in range(3):
            rows = slice(32 * j, 32 * j + 32)
            weight = source[f"{a}.attn.c_attn.weight"].t()[rows].contiguous()
            target[f"{b}.self_attn.linear_layers.{j}.weight"] = weight
            bias = source[f"{a}.attn.c_attn.bias"][rows].clone()
            target[f"{b}.self_attn.linear_layers.{j}.bias"] = bias
        linears = {"attn.c_proj": "self_attn.final_linear", "mlp.c_fc": "feed_forward.linear_1"}
        for name, ours in (linears | {"mlp.c_proj": "feed_forward.linear_2"}).items():
            target[f"{b}.{ours}.weight"] = source[f"{a}.{name}.weight"].t().contiguous()
            target[f"{b}.{ours}.bias"] = source[f"{a}.{name}.bias"]
        move(source, target, f"{a}.ln_1", f"{b}.layer_norm_1")
        move(source, target, f"{a}.ln_2", f"{b}.layer_norm_2")
    move(source, target, "transformer.ln_f", "encoder.layer_norm")
    options = SIZES | {"embedding": ["word", "pos"], "remove_embedding_layernorm": True}
    options |= {"mask": "causal", "layernorm_positioning": "pre", "hidden_act": "gelu_fast"}
    options |= {"target": ["lm"], "tie_weights": True, "data_processor": "lm"}
    return theirs, options, target, {"lm": lambda o: o.logits}


def llama(folder):
    """Queries and keys as Meta's code has them: channel pairs instead of halves turn."""
    theirs = LlamaForCausalLM(LlamaConfig(**HF, num_key_value_heads=2, rms_norm_eps=EPS))
    source = tensors_of(theirs, folder)
    target = {"embedding.word.embedding.weight": source["model.embed_tokens.weight"]}
    target["target.lm.output_layer.weight"] = source["lm_head.weight"]
    target["encoder.layer_norm.weight"] = source["model.norm.weight"]

    def pairs(weight, heads):
        parts = weight.reshape(heads, 2, 4, 32)
        return parts.transpose(1, 2).reshape(heads * 8, 32).contiguous()

    for i in range(LAYERS):
        a, b = f"model.layers.{i}", f"encoder.transformer.{i}"
        attn = f"{b}.self_attn.linear_layers"
        target[f"{attn}.0.weight"] = pairs(source[f"{a}.self_attn.q_proj.weight"], 4)
        target[f"{attn}.1.weight"] = pairs(source[f"{a}.self_attn.k_proj.weight"], 2)
        plain = {
            "self_attn.v_proj": "self_attn.linear_layers.2",
            "self_attn.o_proj": "self_attn.final_linear",
            "mlp.gate_proj": "feed_forward.linear_gate",
            "mlp.up_proj": "feed_forward.linear_1",
            "mlp.down_proj": "feed_forward.linear_2",
            "input_layernorm": "layer_norm_1",
            "post_attention_layernorm": "layer_norm_2",
        }
        for name, ours in plain.items():
            target[f"{b}.{ours}.weight"] = source[f"{a}.{name}.weight"]
    options = SIZES | {"embedding": ["word"], "remove_embedding_layernorm": True}
    options |= {"remove_transformer_bias": True, "rotary_position_embedding": True}
    options |= {"feed_forward": "gated", "mask": "causal", "layernorm_positioning": "pre"}
    options |= {"layernorm": "rms", "hidden_act": "silu", "target": ["lm"], "local_kv_heads_num": 2}
    return theirs, options, target, {"lm": lambda o: o.logits}


def t5(folder, placed="encoder.relative_pos_emb"):
    config = T5Config(
        vocab_size=VOCAB, d_model=32, d_kv=6, d_ff=48, num_layers=LAYERS, num_heads=4,
        decoder_start_token_id=0, relative_attention_num_buckets=32,
    )  # fmt: skip
    theirs = T5ForConditionalGeneration(config)
    source = tensors_of(theirs, folder)
    target = {"embedding.word.embedding.weight": source["shared.weight"]}
    target["tgt_embedding.word.embedding.weight"] = source["shared.weight"].clone()
    bias = "block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    for side, name in (("encoder", placed), ("decoder", "decoder.self_pos_emb")):
        target[f"{name}.relative_attention_bias.weight"] = source[f"{side}.{bias}"]
        stack = "transformer" if side == "encoder" else "transformer_decoder"
        target[f"{side}.layer_norm.weight"] = source[f"{side}.final_layer_norm.weight"]
        for i in range(LAYERS):
            a, b = f"{side}.block.{i}.layer", f"{side}.{stack}.{i}"
            blocks = [("0.SelfAttention", "self_attn", "0", "layer_norm_1")]
            last = 1
            if side == "decoder":
                blocks.append(("1.EncDecAttention", "context_attn", "1", "layer_norm_2"))
                last = 2
            for theirs_name, ours, number, norm in blocks:
                for j, letter in enumerate("qkv"):
                    target[f"{b}.{ours}.linear_layers.{j}.weight"] = source[
                        f"{a}.{theirs_name}.{letter}.weight"
                    ]
                target[f"{b}.{ours}.final_linear.weight"] = source[f"{a}.{theirs_name}.o.weight"]
                target[f"{b}.{norm}.weight"] = source[f"{a}.{number}.layer_norm.weight"]
            for inner, ours in (("wi", "linear_1"), ("wo", "linear_2")):
                target[f"{b}.feed_forward.{ours}.weight"] = source[
                    f"{a}.{last}.DenseReluDense.{inner}.weight"
                ]
            target[f"{b}.layer_norm_{last + 1}.weight"] = source[f"{a}.{last}.layer_norm.weight"]
    options = SIZES | {"embedding": ["word"], "tgt_embedding": ["word"], "share_embedding": True}
    options |= {"remove_embedding_layernorm": True, "relative_position_embedding": True}
    options |= {"layernorm_positioning": "pre", "remove_attention_scale": True, "layernorm": "t5"}
    options |= {"remove_transformer_bias": True, "decoder": "transformer", "target": ["lm"]}
    options |= {"tie_weights": True, "hidden_act": "relu", "attention_head_size": 6}
    options |= {"decoder_layers_num": LAYERS, "mask": "fully_visible"}
    return theirs, options, target, {"lm": lambda o: o.logits}


def bart(folder):
    config = BartConfig(
        vocab_size=VOCAB, d_model=32, encoder_layers=LAYERS, decoder_layers=LAYERS, pad_token_id=0,
        encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=48,
        decoder_ffn_dim=48, max_position_embeddings=16,
    )  # fmt: skip
    theirs = BartForConditionalGeneration(config)
    for module in theirs.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.eps = EPS
    theirs.final_logits_bias.normal_()
    source, target = tensors_of(theirs, folder), {}
    for side, front in (("encoder", "embedding"), ("decoder", "tgt_embedding")):
        words = source["model.shared.weight"].clone()
        target[f"{front}.word.embedding.weight"] = words
        positions = source[f"model.{side}.embed_positions.weight"][2:].clone()
        target[f"{front}.pos.embedding.weight"] = positions
        move(source, target, f"model.{side}.layernorm_embedding", f"{front}.layer_norm")
        stack = "transformer" if side == "encoder" else "transformer_decoder"
        for i in range(LAYERS):
            a, b = f"model.{side}.layers.{i}", f"{side}.{stack}.{i}"
            blocks = [("self_attn", "self_attn", "layer_norm_1")]
            if side == "decoder":
                blocks.append(("encoder_attn", "context_attn", "layer_norm_2"))
            for name, ours, norm in blocks:
                for j, letter in enumerate("qkv"):
                    move(
                        source, target, f"{a}.{name}.{letter}_proj", f"{b}.{ours}.linear_layers.{j}"
                    )
                move(source, target, f"{a}.{name}.out_proj", f"{b}.{ours}.final_linear")
                move(source, target, f"{a}.{name}_layer_norm", f"{b}.{norm}")
            move(source, target, f"{a}.fc1", f"{b}.feed_forward.linear_1")
            move(source, target, f"{a}.fc2", f"{b}.feed_forward.linear_2")
            last = "layer_norm_2" if side == "encoder" else "layer_norm_3"
            move(source, target, f"{a}.final_layer_norm", f"{b}.{last}")
    target["target.lm.output_layer.weight"] = source["model.shared.weight"].clone()
    target["target.lm.output_layer.bias"] = source["final_logits_bias"][0]
    options = SIZES | {"embedding": ["word", "pos"], "tgt_embedding": ["word", "pos"]}
    options |= {"share_embedding": True, "decoder": "transformer", "decoder_layers_num": LAYERS}
    options |= {"target": ["lm"], "tie_weights": True, "has_lmtarget_bias": True}
    return theirs, options, target, {"lm": lambda o: o.logits}


FAMILIES = {f.__name__: f for f in (bert, roberta, albert, gpt2, llama, t5, bart)}


def write(folder, options, state, name="model.bin"):
    (folder / "config.json").write_text(json.dumps(options))
    if name.endswith(".safetensors"):
        save_file({k: v.contiguous() for k, v in state.items()}, folder / name)
    else:
        torch.save(state, folder / name)
    return f"tencentpretrain:{folder / 'config.json'},{folder / name}"


def batch_for(theirs, encoder_decoder):
    pad = theirs.config.pad_token_id or 0
    batch = padded_batch(pad=pad)
    if encoder_decoder:
        del batch["token_type_ids"]
        words = padded_batch(pad=pad)
        batch["decoder_input_ids"] = words["input_ids"].flip(0)
        batch["decoder_attention_mask"] = words["attention_mask"].flip(0)
    elif not isinstance(theirs, (BertForPreTraining, RobertaForMaskedLM, AlbertForPreTraining)):
        del batch["token_type_ids"]
    return batch


def compare(package, theirs, outputs):
    ours = load_model(package.path).eval()
    batch = batch_for(theirs, ours.decoder is not None)
    with torch.no_grad():
        expected, found = theirs.eval()(**batch), ours.predict(batch)
    mask = batch.get("decoder_attention_mask", batch["attention_mask"]).bool()
    for name, get in outputs.items():
        where = mask if found[name].dim() == 3 else slice(None)
        close(found[name][where], get(expected)[where], name)


@pytest.mark.parametrize("form", ["model.bin", "model.bin-100000", "model.safetensors"])
@pytest.mark.parametrize("name", list(FAMILIES))
def test_outputs_are_those_of_transformers(name, form, tmp_path):
    theirs, options, state, outputs = FAMILIES[name](tmp_path)
    zoo = Zoo(str(tmp_path / "zoo"))
    package = import_tencentpretrain(zoo, write(tmp_path, options, state, form), ImportOptions())
    assert (package.name, package.kind) == ("model", "imported")
    compare(package, theirs, outputs)


# BART's norms have 1e-5 in transformers and cannot have 1e-6.
EXPORTED = {
    "bert": "BertForPreTraining", "roberta": "BertForMaskedLM", "albert": "AlbertForPreTraining",
    "gpt2": "GPT2LMHeadModel", "llama": "LlamaForCausalLM", "t5": "T5ForConditionalGeneration",
}  # fmt: skip


@pytest.mark.parametrize("name", list(EXPORTED))
def test_an_import_opens_with_transformers(name, tmp_path):
    theirs, options, state, outputs = FAMILIES[name](tmp_path)
    package, found = report(tmp_path, options, state)
    assert found["same_as_in_transformers"] == EXPORTED[name]
    export_package(package, tmp_path / "out")
    opened = getattr(transformers, EXPORTED[name]).from_pretrained(tmp_path / "out").eval()
    batch = batch_for(theirs, "decoder_input_ids" in inspect.signature(theirs.forward).parameters)
    if name == "roberta":  # whose positions transformers counts from another row
        del outputs["mlm"]
    for get in outputs.values():
        mask = batch.get("decoder_attention_mask", batch["attention_mask"]).bool()
        expected, again = get(theirs(**batch)), get(opened(**batch))
        where = mask if expected.dim() == 3 else slice(None)
        close(again[where], expected[where], name)


def report(tmp_path, options, state):
    zoo = Zoo(str(tmp_path / "zoo"))
    package = import_tencentpretrain(zoo, write(tmp_path, options, state), ImportOptions())
    return package, package.read_json("evaluation/import.json")


def test_every_deviation_is_named(tmp_path):
    _, options, state, _ = bert(tmp_path)
    _, found = report(tmp_path, options, state)
    text = " ".join(found["deviations"])
    assert all(number in text for number in ("(T1)", "(T4)", "(T11)"))
    assert found["tensors_left_out"] == ["target.mlm.linear_2.weight"]
    _, options, state, _ = t5(tmp_path)
    assert "(T7)" in " ".join(report(tmp_path, options, state)[1]["deviations"])
    _, options, state, _ = gpt2(tmp_path)
    options |= {"alibi_position_embedding": True, "layer_number_scale": True}
    package, found = report(tmp_path, options, state)
    assert sum("(T9)" in line for line in found["deviations"]) == 2
    assert load_model(package.path).config.encoder.position_bias.type == "alibi"


def test_the_position_bias_that_was_trained_is_read(tmp_path):
    """Their layers share one bias, stored under each of them; another beside them is never used."""
    theirs, options, state, outputs = t5(tmp_path, "encoder.transformer.0.relative_pos_emb")
    name = "relative_pos_emb.relative_attention_bias.weight"
    state[f"encoder.transformer.1.{name}"] = state[f"encoder.transformer.0.{name}"].clone()
    state[f"encoder.{name}"] = torch.randn_like(state[f"encoder.transformer.0.{name}"])
    package, found = report(tmp_path, options, state)
    compare(package, theirs, outputs)
    assert "(T6)" in " ".join(found["deviations"])
    assert f"encoder.{name}" in found["tensors_left_out"]


def test_wrong_tensors_are_listed(tmp_path):
    _, options, state, _ = bert(tmp_path)
    del state["encoder.transformer.1.layer_norm_2.beta"]
    state["extra"] = torch.zeros(1)
    state["target.sp.linear_2.bias"] = torch.zeros(5)
    with pytest.raises(IntegrityError) as caught:
        report(tmp_path, options, state)
    text = str(caught.value)
    assert "missing: encoder.transformer.1.layer_norm_2.beta" in text
    assert "unexpected: extra" in text
    assert "mis-shaped: target.sp.linear_2.bias is [5], expected [2]" in text


def test_tied_tensors_must_be_equal(tmp_path):
    _, options, state, _ = bert(tmp_path)
    state["target.mlm.linear_2.weight"] = state["target.mlm.linear_2.weight"] + 1
    with pytest.raises(IntegrityError, match=r"linear_2\.weight and embedding\.word.* differ"):
        report(tmp_path, options, state)
    package, _ = report(tmp_path, options | {"tie_weights": False}, state)
    assert not load_model(package.path).config.target[0].tie


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"encoder": "cnn"}, "encoder: 'cnn' is not allowed. .*Allowed: .*'gatedcnn'"),
        ({"hidden_act": "linear"}, "hidden_act: 'linear' is not allowed. Allowed: 'gelu'"),
        ({"layers_nums": 2}, "Did you mean 'layers_num'"),
        ({"heads_num": 0}, "heads_num is missing; the encoder 'transformer' needs it"),
        ({"image_sizes": 2}, "'image_sizes' is not an option of a model that is read here.$"),
        ({"embedding": ["word", "patch"]}, "'patch' cannot stand here"),
        ({"embedding": ["patch", "pos"], "image_width": 32}, "images that are not square"),
        ({"encoder": "dual", "stream_0": {}}, "a dual encoder needs stream_1"),
        ({"embedding": ["speech"], "data_processor": "st"}, "sound for 'st' cannot be imported"),
        ({"decoder": "transformer"}, "tgt_embedding is missing, but there is a decoder"),
        (
            {"decoder": "transformer", "tgt_embedding": ["word"]},
            "an output layer tied to the other side",
        ),
    ],
)
def test_options_without_counterpart_are_refused(change, match, tmp_path):
    _, options, state, _ = bert(tmp_path)
    with pytest.raises(InputError, match=match):
        report(tmp_path, options | change, state)


class Evil:
    def __reduce__(self):
        return (print, ("run",))


def test_a_pickle_that_does_more_than_tensors_is_refused(tmp_path, capsys):
    _, options, state, _ = bert(tmp_path)
    source = write(tmp_path, options, state)
    zoo = Zoo(str(tmp_path / "zoo"))
    for content in ({"x": Evil()}, {"x": torch.zeros(1), "step": 3}, [1]):
        torch.save(content, tmp_path / "model.bin")
        with pytest.raises(IntegrityError, match=r"model\.bin"):
            import_tencentpretrain(zoo, source, ImportOptions())
    with (tmp_path / "model.bin").open("wb") as file:
        pickle.dump({"x": Evil()}, file)
    with pytest.raises(IntegrityError, match="tensors alone"):
        import_tencentpretrain(zoo, source, ImportOptions())
    assert "run" not in capsys.readouterr().out
    assert zoo.packages() == []


def test_the_command_line(tmp_path, capsys):
    _, options, state, _ = gpt2(tmp_path)
    source = write(tmp_path, options, state, "small gpt.bin")
    zoo = str(tmp_path / "zoo")
    assert main(["zoo", "import", source, "--zoo", zoo, "--licence", "apache-2.0"]) == 0
    out = capsys.readouterr().out
    assert "small-gpt/v0001" in out
    assert "Deviation: " in out
    assert main(["zoo", "import", "tencentpretrain:one.json", "--zoo", zoo]) == 2
    assert "must be tencentpretrain:<config.json>,<weights>" in capsys.readouterr().err
