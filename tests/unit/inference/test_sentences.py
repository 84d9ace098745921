"""Sentence embedders in, served and out again: the vectors are those of sentence-transformers."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from torch import nn

from orchestrator.api import LoadedPackage, load
from orchestrator.errors import InputError
from orchestrator.inference.batching import pad
from orchestrator.inference.inputs import Item
from orchestrator.inference.models import OnePassModel
from orchestrator.modeling.huggingface import sentence_check
from orchestrator.modeling.huggingface.exporting import export_package
from orchestrator.modeling.huggingface.importing import ImportOptions, import_checkpoint
from orchestrator.modeling.sentence.embedder import SentenceEmbedder
from orchestrator.modeling.sentence.statement import read_statement
from orchestrator.quantization.source import read_source
from orchestrator.zoo import Zoo

from ...support.sentences import TEXTS, sentence_folder

EXACT = 1e-6

CASES = {
    "mean": ("mean", ()),
    "cls": ("cls", ()),
    "max": ("max", ("normalize",)),
    "last": ("lasttoken", ("normalize",)),
    "weighted": ("weightedmean", ()),
    "sqrt": ("mean_sqrt_len_tokens", ("normalize",)),
    "two": (("cls", "mean"), ((12, nn.Tanh()), "normalize")),
    "unordered": (("mean", "cls", "max"), ()),
    "two_dense": ("mean", ((24, nn.GELU()), (8, nn.Identity()))),
    "others": ("cls", ("normalize", (9, nn.ReLU()), (7, nn.SiLU()), (5, nn.Sigmoid()))),
}


def imported(tmp_path, folder, name="embedder"):
    return import_checkpoint(Zoo(tmp_path / "zoo"), f"hf:{folder}", ImportOptions(name=name))


def opened(tmp_path, name="embedder", **options) -> LoadedPackage:
    return load(name, zoo=tmp_path / "zoo", **options)


@pytest.mark.parametrize("case", CASES)
def test_vectors_are_equal_here_and_after_an_export(case, tmp_path):
    pooling, layers = CASES[case]
    theirs = sentence_folder(tmp_path / "model", pooling, layers, include_prompt=case != "weighted")
    package = imported(tmp_path, tmp_path / "model")
    ours = opened(tmp_path)
    export_package(package, tmp_path / "out")
    again = SentenceTransformer(str(tmp_path / "out"), device="cpu")
    for prompt in (None, "query", "passage"):
        expected = theirs.encode(list(TEXTS), prompt_name=prompt)
        np.testing.assert_allclose(ours.embed(TEXTS, prompt), expected, atol=EXACT)
        np.testing.assert_allclose(
            again.encode(list(TEXTS), prompt_name=prompt), expected, atol=EXACT
        )
    assert package.manifest.metrics["import.embedding_max_abs_difference"] < EXACT
    assert again.max_seq_length == theirs.max_seq_length == 24


@pytest.mark.parametrize("case", CASES)
def test_an_emitted_graph_gives_the_same_vectors(case, tmp_path):
    pooling, layers = CASES[case]
    inside = case != "weighted"
    sentence_folder(tmp_path / "model", pooling, layers, include_prompt=inside)
    package = imported(tmp_path, tmp_path / "model")
    ours = opened(tmp_path)
    (tmp_path / "graph").mkdir()
    emission = read_source(package.path).emit()
    (tmp_path / "graph" / "model.onnx").write_bytes(emission.to_bytes())
    graph = OnePassModel(tmp_path / "graph")
    for prompt in (None, "query"):
        encoded = ours.predictor.embedding_reader.encode([Item(text) for text in TEXTS], prompt)
        batch = pad([item.sequences[0] for item in encoded], 0)
        assert ("embedding_mask" in batch) == (prompt is not None and not inside)
        vectors = graph.run(batch, ["embedding"])["embedding"]
        np.testing.assert_allclose(vectors, ours.embed(TEXTS, prompt), atol=EXACT)


def test_lower_case_the_default_prompt_and_a_limit_above_the_positions(tmp_path):
    """``do_lower_case`` on a tokenizer that keeps capitals; a prompt where none is named."""
    theirs = sentence_folder(
        tmp_path / "model", "cls", lowercase=True, max_seq_length=512, default="query"
    )
    imported(tmp_path, tmp_path / "model")
    ours = opened(tmp_path)
    statement = ours.predictor.embedding_reader.statement
    assert (statement.lowercase, statement.default_prompt) == (True, "query")
    assert statement.max_length == 40  # what the encoder reads, although the file says more
    theirs.max_seq_length = 40
    np.testing.assert_allclose(ours.embed(TEXTS), theirs.encode(list(TEXTS)), atol=EXACT)
    plain = theirs.encode(list(TEXTS), prompt="")
    np.testing.assert_allclose(ours.embed(TEXTS, ""), plain, atol=EXACT)
    assert np.abs(ours.embed(TEXTS) - plain).max() > 0.01
    upper = [text.upper() for text in TEXTS]
    np.testing.assert_allclose(ours.embed(upper), ours.embed(TEXTS), atol=EXACT)
    processor = ours.predictor.reader.processor
    assert processor.encode(["QUEUE"]) != processor.encode(["queue"])
    with pytest.raises(InputError, match=r"no prompt 'qery'. Did you mean 'query'"):
        ours.embed(TEXTS, "qery")


def test_the_older_layout_is_read(tmp_path):
    """Flags and module types of versions 2 to 5, the limit in ``sentence_bert_config.json``."""
    theirs = sentence_folder(tmp_path / "model", ("cls", "max"), ((12, nn.Tanh()), "normalize"))
    older(tmp_path / "model")
    imported(tmp_path, tmp_path / "model")
    expected = theirs.encode(list(TEXTS))
    np.testing.assert_allclose(opened(tmp_path).embed(TEXTS), expected, atol=EXACT)


def older(folder):
    """Write the same modules as versions before 6 did."""
    listed = json.loads((folder / "modules.json").read_text())
    for module in listed:
        module["type"] = "sentence_transformers.models." + module["type"].rpartition(".")[2]
    (folder / "modules.json").write_text(json.dumps(listed))
    flags = {f"pooling_mode_{name}": False for name in ("mean_tokens", "mean_sqrt_len_tokens")}
    flags |= {"pooling_mode_cls_token": True, "pooling_mode_max_tokens": True}
    text = json.dumps({"word_embedding_dimension": 16} | flags)
    (folder / "1_Pooling" / "config.json").write_text(text)
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 24}')
    shutil.rmtree(folder / "3_Normalize")  # it had no file


REFUSED = {
    "layer norm": ("modules.json", lambda c: c[2].update(type=c[2]["type"] + "Norm"), "DenseNorm"),
    "own code": ("modules.json", lambda c: c[1].update(type="modeling.MyPooling"), "code of its"),
    "outside": ("modules.json", lambda c: c[2].update(path="../x"), "outside the folder"),
    "pooling": ("1_Pooling/config.json", lambda c: c.update(pooling_mode="median"), "'median'"),
    "width": ("1_Pooling/config.json", lambda c: c.update(embedding_dimension=99), "99 values"),
    "activation": (
        "2_Dense/config.json", lambda c: c.update(activation_function="torch.nn.Softplus"),
        "Softplus",
    ),
    "residual": ("2_Dense/config.json", lambda c: c.update(use_residual=True), "use_residual"),
    "truncated": (
        "config_sentence_transformers.json", lambda c: c.update(truncate_dim=4), "truncate_dim"
    ),
    "sparse": (
        "config_sentence_transformers.json", lambda c: c.update(model_type="SparseEncoder"),
        "SparseEncoder",
    ),
    "modality": (
        "sentence_bert_config.json", lambda c: c.update(module_output_name="sentence_embedding"),
        "module_output_name",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_other_modules_are_refused_by_name(case, tmp_path):
    name, change, message = REFUSED[case]
    folder = tmp_path / "model"
    sentence_folder(folder, "mean", ((12, nn.Tanh()),))
    content = json.loads((folder / name).read_text())
    change(content)
    (folder / name).write_text(json.dumps(content))
    with pytest.raises(InputError, match=message) as found:
        imported(tmp_path, folder)
    assert name in str(found.value)
    assert not (tmp_path / "zoo" / "embedder").exists()


def test_pickled_weights_are_refused_with_a_way_out(tmp_path):
    sentence_folder(tmp_path / "model", "mean", ((12, nn.Tanh()),))
    dense = tmp_path / "model" / "2_Dense"
    torch.save(load_file(dense / "model.safetensors"), dense / "pytorch_model.bin")
    (dense / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"2_Dense.model.safetensors is not there.*Save the fold"):
        imported(tmp_path, tmp_path / "model")


def test_a_wrong_pooling_would_be_found_with_and_without_the_library(tmp_path, monkeypatch):
    sentence_folder(
        tmp_path / "model", ("cls", "weightedmean"), ((8, nn.GELU()), "normalize"),
        include_prompt=False,
    )  # fmt: skip
    package = imported(tmp_path, tmp_path / "model")
    copy = tmp_path / "copy"
    shutil.copytree(package.path, copy)
    stated = read_statement(copy)
    wrong = stated.model_copy(update={"pooling": ("cls", "mean")})
    weights = SentenceEmbedder.load(copy).state_dict()
    for library in (True, False):
        if not library:
            monkeypatch.setattr(sentence_check.importlib.util, "find_spec", lambda name: None)
        assert sentence_check.check_vectors(tmp_path / "model", package.path) < EXACT
        expected = sentence_check.library_vectors if library else sentence_check.plain_vectors
        vectors = expected(tmp_path / "model", SentenceEmbedder.load(package.path))
        broken = SentenceEmbedder(wrong)
        broken.load_state_dict(weights)
        broken.save(copy)
        found = sentence_check._our_vectors(copy, SentenceEmbedder.load(copy))
        assert np.abs(found("query") - vectors("query")).max() > 1e-3


def test_a_package_without_a_statement_takes_the_mean_as_before(tmp_path):
    theirs = sentence_folder(tmp_path / "model", "mean")
    (tmp_path / "model" / "modules.json").unlink()
    package = imported(tmp_path, tmp_path / "model")
    assert not package.has("embedding.json")
    expected = theirs.encode([TEXTS[0]], prompt="")
    np.testing.assert_allclose(opened(tmp_path).embed([TEXTS[0]]), expected, atol=EXACT)
    with pytest.raises(InputError, match="states none"):
        opened(tmp_path).embed(TEXTS, "query")


def test_damaged_weights_of_a_projection_are_found(tmp_path):
    sentence_folder(tmp_path / "model", "mean", ((12, nn.Tanh()),))
    stored = tmp_path / "model" / "2_Dense" / "model.safetensors"
    tensors = {name: tensor[:5].clone() for name, tensor in load_file(stored).items()}
    save_file(tensors, stored)
    with pytest.raises(InputError, match="weights of Dense do not fit"):
        imported(tmp_path, tmp_path / "model")
