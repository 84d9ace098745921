"""Checkpoints of transformers in, packages out: whole, checked and byte for byte, or not at all."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForPreTraining,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
    ViTConfig,
    ViTForImageClassification,
)

from orchestrator.cli import main
from orchestrator.data.processors.text import TextProcessor
from orchestrator.data.rows.rows import Rows, TaskData
from orchestrator.errors import InputError, IntegrityError
from orchestrator.inference.examination import examine_draft
from orchestrator.modeling.builder import build_model
from orchestrator.modeling.huggingface import checking, sources
from orchestrator.modeling.huggingface.exporting import export_package, write_export
from orchestrator.modeling.huggingface.importing import ImportOptions, import_checkpoint
from orchestrator.modeling.package import load_model, read_config, write_model
from orchestrator.tasks.suite import Learned
from orchestrator.zoo import Zoo

from .small import make_config

TEXTS = ["the cat sat on the mat", "what a world is this", "a queue of tasks"]
VOCAB = 61
NAMES = {0: "cat", 1: "dog", 2: "cow"}
BERT = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 16,
}


def randomized(model):
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model.eval()


@pytest.fixture
def zoo(tmp_path):
    return Zoo(str(tmp_path / "zoo"))


def save_tokenizer(folder):
    own = TextProcessor.train(TEXTS, VOCAB, max_length=16)
    names = {f"{name.lower()[1:-1]}_token": name for name in ("[PAD]", "[UNK]", "[CLS]", "[SEP]")}
    PreTrainedTokenizerFast(
        tokenizer_object=own.tokenizer, **names, mask_token="[MASK]"
    ).save_pretrained(folder)


@pytest.fixture
def bert(tmp_path):
    """A classifier with named classes and a value of its config that is not ours."""
    folder = tmp_path / "bert-tiny"
    config = BertConfig(**BERT, id2label=NAMES, label2id={v: k for k, v in NAMES.items()})
    config.finetuning_task = "animals"
    randomized(BertForSequenceClassification(config)).save_pretrained(folder)
    save_tokenizer(folder)
    return folder


def sharded(folder, size="12KB"):
    model = randomized(BertForPreTraining(BertConfig(**BERT)))
    model.save_pretrained(folder, max_shard_size=size)
    return model


def tensors(folder):
    found = {}
    for path in Path(folder).glob("*.safetensors"):
        found |= load_file(path)
    return found


def same_tensors(one, other):
    first, second = tensors(one), tensors(other)
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert tensor.dtype == second[name].dtype, name
        assert torch.equal(tensor, second[name]), name


def read(path):
    return json.loads(Path(path).read_text())


def test_a_package_says_where_it_comes_from_and_what_was_checked(bert, zoo):
    package = import_checkpoint(zoo, f"hf:{bert}", ImportOptions(licence="mit"))
    manifest = package.manifest
    assert (package.ref, package.kind, manifest.licence) == ("bert-tiny/v0001", "imported", "mit")
    assert manifest.task.labels == {"cls": ["cat", "dog", "cow"]}
    assert (manifest.task.kind, manifest.task.modality, manifest.task.max_length) == (
        "classification",
        "text",
        16,
    )
    producer = manifest.producer.model_dump()
    assert producer["architecture"] == "BertForSequenceClassification"
    assert producer["source"] == f"hf:{bert}"
    assert set(producer["source_files"]) >= {"config.json", "model.safetensors", "tokenizer.json"}
    assert 0 <= manifest.metrics["import.max_abs_difference"] < 1e-5
    report = package.read_json("evaluation/import.json")
    assert report["outputs"] == {"cls": [2, 3]}
    assert report["tolerance"] == 1e-4


def test_import_and_export_give_back_every_byte(bert, zoo, tmp_path):
    (bert / "README.md").write_text("# not data of the model")
    package = import_checkpoint(zoo, f"hf:{bert}", ImportOptions())
    assert package.read_json("evaluation/import.json")["files_left_out"] == ["README.md"]
    export_package(package, tmp_path / "out")
    same_tensors(bert, tmp_path / "out")
    for name in ("config.json", "tokenizer_config.json"):
        assert read(tmp_path / "out" / name) == read(bert / name)
    assert (tmp_path / "out/tokenizer.json").read_bytes() == (bert / "tokenizer.json").read_bytes()
    inputs = AutoTokenizer.from_pretrained(tmp_path / "out")(
        TEXTS, padding=True, return_tensors="pt"
    )
    opened = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    theirs = AutoModelForSequenceClassification.from_pretrained(bert)
    with torch.no_grad():
        assert torch.equal(opened(**inputs).logits, theirs(**inputs).logits)


def test_an_export_holds_no_rows(bert, zoo, tmp_path):
    imported = import_checkpoint(zoo, f"hf:{bert}", ImportOptions())
    rows = Rows(TEXTS, None, np.arange(3))
    data = TaskData("pets", ("cat", "dog", "cow"), rows, rows, rows)
    learned = {"cls": Learned.of_classes("cls", data)}
    task = imported.manifest.task.model_dump(mode="json")
    with zoo.draft("child", kind="finetuned", parents=[imported], task=task) as draft:
        shutil.copytree(imported.path, draft.path, dirs_exist_ok=True)
        (draft.path / "manifest.json").unlink()
        examine_draft(draft, learned=learned, default="cls")
        package = draft.commit()
    assert {name for name in package.manifest.files if name.endswith(".parquet")} == {
        "evaluation/suite/cls.parquet",
        "state/exemplars/cls.parquet",
    }
    export_package(package, tmp_path / "out")
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert not [path for path in files if path.suffix == ".parquet" or "suite" in str(path)]
    assert not [path for path in files if TEXTS[0].encode() in path.read_bytes()]


def test_shards_are_read_and_written(zoo, tmp_path):
    sharded(tmp_path / "big")
    assert len(list((tmp_path / "big").glob("model-*.safetensors"))) > 3
    options = ImportOptions(shard_bytes=20_000)
    package = import_checkpoint(zoo, f"hf:{tmp_path / 'big'}", options)
    assert package.has("model.safetensors.index.json")
    assert not package.has("model.safetensors")
    assert load_model(package.path).config == read_config(package.path)
    export_package(package, tmp_path / "out", shard_bytes=20_000)
    same_tensors(tmp_path / "big", tmp_path / "out")
    BertForPreTraining.from_pretrained(tmp_path / "out")


def test_element_types_are_kept(zoo, tmp_path):
    config = GPT2Config(vocab_size=VOCAB, n_embd=32, n_layer=2, n_head=4, n_positions=16)
    randomized(GPT2LMHeadModel(config)).to(torch.bfloat16).save_pretrained(tmp_path / "gpt")
    package = import_checkpoint(zoo, f"hf:{tmp_path / 'gpt'}", ImportOptions())
    assert {t.dtype for t in tensors(package.path).values()} == {torch.bfloat16}
    assert {p.dtype for p in load_model(package.path).parameters()} == {torch.float32}
    assert {p.dtype for p in load_model(package.path, dtype=None).parameters()} == {torch.bfloat16}
    export_package(package, tmp_path / "out")
    same_tensors(tmp_path / "gpt", tmp_path / "out")


def test_images_have_their_processor_with_them(zoo, tmp_path):
    config = ViTConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=48,
        image_size=12, patch_size=4, num_labels=3,
    )  # fmt: skip
    randomized(ViTForImageClassification(config)).save_pretrained(tmp_path / "vit")
    (tmp_path / "vit/preprocessor_config.json").write_text('{"image_mean": [0.5, 0.5, 0.5]}')
    package = import_checkpoint(zoo, f"hf:{tmp_path / 'vit'}", ImportOptions())
    assert package.manifest.task.modality == "vision"
    export_package(package, tmp_path / "out")
    assert read(tmp_path / "out/preprocessor_config.json")["image_mean"] == [0.5] * 3


def test_a_model_trained_here_opens_with_transformers(tmp_path):
    raw = {
        "encoder": {
            "type": "transformer", "num_layers": 2, "num_heads": 2, "norm_position": "pre",
            "activation": "gelu_tanh", "mask": "causal",
        },
        "embedding": {"parts": ["word", "pos"], "layernorm": False},
        "target": {"type": "lm", "name": "next"},
    }  # fmt: skip
    processor = TextProcessor.train(TEXTS, VOCAB, max_length=8)
    config = make_config(**raw).with_vocab(processor.vocab_size)
    model = randomized(build_model(config))
    (tmp_path / "ours").mkdir()
    (tmp_path / "out").mkdir()
    write_model(tmp_path / "ours", model, config)
    processor.save(tmp_path / "ours")
    report = write_export(tmp_path / "ours", {}, tmp_path / "out")
    assert report.max_abs_difference < 1e-4
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    inputs = tokenizer(TEXTS, padding=True, truncation=True, max_length=8, return_tensors="pt")
    # a prompt is left open: nothing stands behind it
    whole = processor(TEXTS, max_length=9)["input_ids"]
    open_texts = torch.where(whole == processor.roles.sep, processor.roles.pad, whole)
    assert torch.equal(inputs["input_ids"], open_texts[:, :8])
    ours = processor(TEXTS, max_length=8)
    opened = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    real = ours["attention_mask"].bool()
    with torch.no_grad():
        logits = opened(input_ids=ours["input_ids"], attention_mask=ours["attention_mask"]).logits
        torch.testing.assert_close(
            model.predict(ours)["next"][real], logits[real], atol=1e-5, rtol=0
        )


WORDS = {"parts": ["word"], "layernorm": False}
PLACES = {"parts": ["word", {"type": "pos", "offset": 2}]}
BLOCKS = {"type": "transformer", "num_layers": 1, "num_heads": 2, "attention_dropout": 0.1}
T5_BLOCKS = BLOCKS | {
    "norm_position": "pre", "norm": "rms", "activation": "relu", "bias": False,
    "attention_scale": 1.0, "position_bias": {"type": "t5"},
}  # fmt: skip
WRITERS = {
    "t5": {
        "share_embedding": True, "embedding": WORDS, "target_embedding": WORDS,
        "encoder": T5_BLOCKS, "decoder": T5_BLOCKS, "target": {"type": "lm", "scale": True},
    },
    "bart": {
        "share_embedding": True, "embedding": PLACES, "target_embedding": PLACES,
        "encoder": BLOCKS, "decoder": BLOCKS, "target": {"type": "lm", "bias": True},
    },
}  # fmt: skip


@pytest.mark.parametrize(("name", "begins"), [("t5", "[PAD]"), ("bart", "[SEP]")])
def test_a_model_that_writes_begins_and_ends_with_its_own_tokens(name, begins, tmp_path):
    processor = TextProcessor.train(TEXTS, VOCAB, max_length=8)
    config = make_config(**WRITERS[name]).with_vocab(processor.vocab_size)
    for folder in ("ours", "out"):
        (tmp_path / folder).mkdir()
    write_model(tmp_path / "ours", randomized(build_model(config)), config)
    processor.save(tmp_path / "ours")
    write_export(tmp_path / "ours", {}, tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    theirs = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "out")
    assert theirs.config.model_type == name
    assert theirs.generation_config.eos_token_id == tokenizer.convert_tokens_to_ids("[SEP]")
    start = theirs.generation_config.decoder_start_token_id
    assert start == tokenizer.convert_tokens_to_ids(begins)
    written = theirs.generate(**tokenizer(TEXTS[:1], return_tensors="pt"), max_new_tokens=3)
    assert written[0, 0] == start


def test_names_of_classes_become_theirs(tmp_path):
    raw = {
        "embedding": {"parts": ["word", "pos", "seg"]},
        "encoder": {"type": "transformer", "num_layers": 1, "num_heads": 2},
        "target": {
            "type": "cls", "name": "topic", "num_labels": 3, "pooling": "first", "hidden": True,
        },
    }  # fmt: skip
    for name in ("ours", "out"):
        (tmp_path / name).mkdir()
    model = randomized(build_model(make_config(**raw)))
    write_model(tmp_path / "ours", model, model.config)
    write_export(tmp_path / "ours", {"topic": ["x", "y", "z"]}, tmp_path / "out")
    opened = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    assert opened.config.id2label == {0: "x", 1: "y", 2: "z"}


def test_a_model_without_counterpart_is_not_exported(tmp_path):
    model = build_model(make_config(encoder="lstm", target="lm"))
    write_model(tmp_path, model, model.config)
    with pytest.raises(InputError, match="no counterpart"):
        write_export(tmp_path, {}, tmp_path)


def change_config(folder, **values):
    (folder / "config.json").write_text(json.dumps(read(folder / "config.json") | values))


def edit(folder, change):
    state = load_file(folder / "model.safetensors")
    change(state)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


def refused(zoo, folder, error, match, **options):
    with pytest.raises(error, match=match) as caught:
        import_checkpoint(zoo, f"hf:{folder}", ImportOptions(**options))
    assert zoo.packages() == []
    return str(caught.value)


def test_an_unsupported_architecture_names_the_nearest_and_the_others(bert, zoo):
    change_config(bert, architectures=["BertForQuestionAnswer"], model_type="bert")
    text = refused(zoo, bert, InputError, "not a supported architecture")
    assert "The nearest one is Bert" in text
    assert "GPT2LMHeadModel" in text


def test_a_config_that_does_not_say_its_class_is_refused(bert, zoo):
    change_config(bert, architectures=None)
    refused(zoo, bert, InputError, "does not say which class")


def test_wrong_tensors_are_all_listed_and_can_be_left_out_by_name(bert, zoo):
    def change(state):
        del state["classifier.bias"]
        state["extra.weight"] = torch.zeros(2)
        state["bert.pooler.dense.bias"] = torch.zeros(3)

    edit(bert, change)
    text = refused(zoo, bert, IntegrityError, "does not hold the tensors")
    assert "missing: classifier.bias" in text
    assert "unexpected: extra.weight" in text
    assert "mis-shaped: bert.pooler.dense.bias is [3], expected [32]" in text


def test_unexpected_tensors_are_left_out_only_when_told(bert, zoo):
    edit(bert, lambda state: state.update({"extra.weight": torch.zeros(2)}))
    refused(zoo, bert, IntegrityError, "unexpected: extra.weight")
    package = import_checkpoint(zoo, f"hf:{bert}", ImportOptions(leave_out=["extra.*"]))
    assert package.read_json("evaluation/import.json")["tensors_left_out"] == ["extra.weight"]


def test_old_names_of_norms_are_understood(bert, zoo):
    def age(state):
        for name in [n for n in state if "LayerNorm" in n]:
            old = name.replace("LayerNorm.weight", "LayerNorm.gamma")
            state[old.replace("LayerNorm.bias", "LayerNorm.beta")] = state.pop(name)

    edit(bert, age)
    package = import_checkpoint(zoo, f"hf:{bert}", ImportOptions())
    renamed = package.read_json("evaluation/import.json")["tensors_renamed"]
    assert renamed["bert.embeddings.LayerNorm.weight"] == "bert.embeddings.LayerNorm.gamma"


def test_older_files_without_the_name_of_the_body_are_understood(zoo, tmp_path):
    """As on the Hub: ``h.0...`` for ``transformer.h.0...``, and masks stored as tensors."""
    config = GPT2Config(vocab_size=VOCAB, n_embd=32, n_layer=2, n_head=4, n_positions=16)
    randomized(GPT2LMHeadModel(config)).save_pretrained(tmp_path / "gpt")

    def age(state):
        for name in list(state):
            state[name.removeprefix("transformer.")] = state.pop(name)
        state["h.0.attn.bias"] = torch.ones(1, 1, 16, 16)

    edit(tmp_path / "gpt", age)
    package = import_checkpoint(zoo, f"hf:{tmp_path / 'gpt'}", ImportOptions())
    report = package.read_json("evaluation/import.json")
    assert report["tensors_left_out"] == ["h.0.attn.bias"]
    assert report["tensors_renamed"]["transformer.wte.weight"] == "wte.weight"


def test_a_head_that_is_not_wanted_is_named(zoo, tmp_path):
    """One that no class of the family has; ``test_silent_errors`` has the others."""
    sharded(tmp_path / "more", "1GB")
    edit(tmp_path / "more", lambda found: found.update({"own.weight": torch.zeros(2)}))
    text = refused(zoo, tmp_path / "more", IntegrityError, r"unexpected: own\.weight")
    assert "--leave-out PATTERN" in text
    options = ImportOptions(leave_out=("own.*",))
    package = import_checkpoint(zoo, f"hf:{tmp_path / 'more'}", options)
    assert package.read_json("evaluation/import.json")["tensors_left_out"] == ["own.weight"]


def test_a_missing_folder_is_refused_with_the_nearest_name(bert, zoo):
    refused(zoo, bert.parent / "bert-tny", InputError, "Did you mean 'bert-tiny'")


def test_pickles_are_never_read(bert, zoo):
    (bert / "model.safetensors").rename(bert / "pytorch_model.bin")
    refused(zoo, bert, InputError, r"other weights: pytorch_model\.bin.*Only safetensors")


def test_truncated_weights_are_refused(bert, zoo):
    path = bert / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    refused(zoo, bert, IntegrityError, "cannot be read")


@pytest.mark.parametrize("damage", ["missing", "other", "outside", "no map"])
def test_damaged_shards_are_refused(damage, zoo, tmp_path):
    folder = tmp_path / "big"
    sharded(folder)
    index = folder / "model.safetensors.index.json"
    shard = sorted(folder.glob("model-*.safetensors"))[1]
    if damage == "missing":
        shard.unlink()
    elif damage == "other":
        save_file({"x": torch.zeros(1)}, shard)
    elif damage == "no map":
        index.write_text("{}")
    else:
        index.write_text(index.read_text().replace(shard.name, f"../{shard.name}"))
    refused(zoo, folder, IntegrityError, shard.name if damage != "no map" else "cannot be read")


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "notes.txt"])
def test_links_out_of_the_folder_are_refused(name, bert, zoo, tmp_path):
    (bert / name).unlink(missing_ok=True)
    (tmp_path / "elsewhere").write_text("{}")
    (bert / name).symlink_to(tmp_path / "elsewhere")
    refused(zoo, bert, IntegrityError, "link out of the folder")


def test_a_wrong_conversion_is_never_committed(bert, zoo, monkeypatch):
    real = checking.our_outputs
    monkeypatch.setattr(
        checking, "our_outputs", lambda *args: {k: v + 0.01 for k, v in real(*args).items()}
    )
    refused(zoo, bert, IntegrityError, "differs from theirs by 0.01")


def test_a_folder_that_is_not_empty_is_left_alone(bert, zoo):
    package = import_checkpoint(zoo, f"hf:{bert}", ImportOptions())
    with pytest.raises(InputError, match="is not empty"):
        export_package(package, bert)


def test_the_hub_is_asked_for_data_files_only(bert, zoo, monkeypatch, tmp_path):
    import huggingface_hub

    commit = "0123456789abcdef0123456789abcdef01234567"
    blobs, snapshot = tmp_path / "models--a--b/blobs", tmp_path / f"models--a--b/snapshots/{commit}"
    snapshot.parent.mkdir(parents=True)
    bert.rename(blobs)
    snapshot.mkdir()
    for path in blobs.iterdir():
        (snapshot / path.name).symlink_to(path)
    asked = {}

    def download(repository, **options):
        asked.update(options, repository=repository)
        return str(snapshot)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    package = import_checkpoint(zoo, "hf:a/b", ImportOptions(revision="v1"))
    assert (asked["repository"], asked["revision"]) == ("a/b", "v1")
    assert not any("*.bin" in p or ".py" in p or p == "*" for p in asked["allow_patterns"])
    assert {"adapter_config.json", "adapter_model.safetensors"} <= set(asked["allow_patterns"])
    assert package.name == "b"
    assert package.manifest.producer.model_dump()["revision"] == commit
    again = import_checkpoint(zoo, f"hf:{snapshot}", ImportOptions(name="folder"))
    same_tensors(again.path, package.path)


def test_a_hub_that_does_not_answer_is_one_clear_error(zoo, monkeypatch):
    import huggingface_hub

    def download(repository, **options):
        raise OSError("no network\nmore lines")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    text = refused(zoo, "someone/model", InputError, "Hub did not give 'someone/model'")
    assert "no network" in text
    assert "hf:<folder>" in text


def test_revisions_belong_to_the_hub(bert, zoo):
    refused(zoo, bert, InputError, "has no revisions", revision="main")


@pytest.mark.parametrize(
    ("source", "name"),
    [("hf:a/My Model", "my-model"), ("hf:Org/BERT_x.1", "bert_x.1"), ("hf:./", "bert-tiny")],
)
def test_names_of_packages_come_from_the_source(source, name, tmp_path):
    folder = tmp_path / "bert-tiny"
    folder.mkdir()
    assert sources.Origin(source, folder, folder).name == name


def test_the_command_line(bert, zoo, tmp_path, capsys):
    assert main(["zoo", "import", f"hf:{bert}", "--zoo", zoo.root, "--name", "one"]) == 0
    assert "one/v0001" in capsys.readouterr().out
    out = str(tmp_path / "out")
    assert main(["zoo", "export", "one", "--to", out, "--zoo", zoo.root, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["max_abs_difference"] < 1e-5
    assert main(["zoo", "import", str(bert), "--zoo", zoo.root]) == 2
    assert "is not a source of models" in capsys.readouterr().err


MEASURE = """
import re, resource, sys, threading
from pathlib import Path
import torch
from transformers import BertForPreTraining
from orchestrator.modeling.huggingface.folder import compare, open_source
from orchestrator.modeling.huggingface.importing import ImportOptions, convert, import_checkpoint
from orchestrator.zoo import Zoo

def anonymous():
    status = Path("/proc/self/status").read_text()
    return 1024 * int(re.search(r"RssAnon:\\s+(\\d+)", status)[1])

def watch():
    while not done.wait(0.002):
        seen.append(anonymous())

torch.set_num_threads(1)
folder, out, zoo = (Path(word) for word in sys.argv[1:])
source = open_source(folder)
contents = compare(source)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
convert(source, contents, out)
converting = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
done, start, seen = threading.Event(), anonymous(), []
thread = threading.Thread(target=watch)
thread.start()
import_checkpoint(Zoo(str(zoo)), f"hf:{folder}", ImportOptions())
done.set()
thread.join()
print(converting, max(seen) - start)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc")
@pytest.mark.slow
def test_an_import_needs_less_memory_than_the_model(tmp_path):
    """Measured in a process of its own: 60 MB in shards of 6 MB.

    Converting, mapped pages included, keeps less than half; the numeric check runs one model after
    the other, each mapped from its files.
    """
    sizes = {**BERT, "hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 4}
    model = BertForPreTraining(BertConfig(**sizes))
    model.save_pretrained(tmp_path / "big", max_shard_size="6MB")
    (tmp_path / "out").mkdir()
    words = [str(tmp_path / name) for name in ("big", "out", "zoo")]
    command = [sys.executable, "-c", MEASURE, *words]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert shown.returncode == 0, shown.stderr
    converting, importing = map(int, shown.stdout.split())
    size = (tmp_path / "out/model.safetensors").stat().st_size
    assert size > 50e6
    assert converting < 0.5 * size
    assert importing < size
