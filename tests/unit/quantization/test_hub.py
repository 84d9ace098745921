"""``zoo export --format onnx``: the folder as users of transformers and ONNX Runtime open it."""

import json

import numpy as np
import onnxruntime
import pytest
import torch
import transformers
from transformers import AutoConfig, AutoTokenizer

from orchestrator.cli import main
from orchestrator.inference.predictor import Predictor
from orchestrator.modeling.huggingface.importing import ImportOptions, import_checkpoint
from orchestrator.quantization.backends.onnxruntime_cpu.session import OnnxModel
from orchestrator.zoo import Zoo
from tests.support.every_task import CASES, commit, data_of, load, task_of
from tests.support.packages import SENTENCES, commit_graph, commit_tiny
from tests.support.sentences import TEXTS, sentence_folder

POOLER = {"pooling": "first", "hidden": True}
"""The layers that BERT's classes have."""
HEADS = {
    "cls": ({"type": "cls", "num_labels": 3, **POOLER}, "SequenceClassification"),
    "multilabel": ({"type": "multilabel", "num_labels": 2, **POOLER}, "SequenceClassification"),
    "regression": ({"type": "regression", **POOLER}, "SequenceClassification"),
    "tags": ({"type": "tags", "num_labels": 4}, "TokenClassification"),
    "span": ({"type": "span"}, "QuestionAnswering"),
    "choice": ({"type": "choice"}, "MultipleChoice"),
}


SLOW = pytest.mark.slow


@pytest.fixture
def zoo(tmp_path):
    return Zoo(str(tmp_path / "zoo"))


def export(tmp_path, name, *more, folder="out"):
    arguments = ["zoo", "export", name, "--zoo", str(tmp_path / "zoo"), "--to"]
    return main([*arguments, str(tmp_path / folder), *more])


def session_of(folder):
    return onnxruntime.InferenceSession(folder / "onnx" / "model.onnx")


def tokens_of(folder, texts):
    return AutoTokenizer.from_pretrained(folder)(list(texts), padding=True, return_tensors="np")


@pytest.mark.parametrize(
    "name", ["cls", *(pytest.param(n, marks=SLOW) for n in HEADS if n != "cls")]
)
def test_a_float_graph_answers_as_the_class_of_transformers(name, tmp_path, zoo):
    head, kind = HEADS[name]
    commit_tiny(zoo, targets=({**head, "name": "topic"},))
    assert export(tmp_path, "tiny", "--format", "onnx") == 0
    assert export(tmp_path, "tiny", folder="torch") == 0
    model = getattr(transformers, f"AutoModelFor{kind}").from_pretrained(tmp_path / "torch").eval()
    session, batch = session_of(tmp_path / "out"), tokens_of(tmp_path / "out", SENTENCES)
    assert [value.type for value in session.get_inputs()] == ["tensor(int64)"] * 3
    feed = {value.name: batch[value.name] for value in session.get_inputs()}
    if name == "choice":  # three questions with two choices each
        feed = {key: values.reshape(3, 2, -1) for key, values in feed.items()}
    names = [value.name for value in session.get_outputs()]
    found = dict(zip(names, session.run(None, feed), strict=True))
    with torch.no_grad():
        expected = model(**{key: torch.from_numpy(values) for key, values in feed.items()})
    wanted = ["start_logits", "end_logits"] if name == "span" else ["logits"]
    assert names == wanted
    for key in wanted:
        np.testing.assert_allclose(found[key], expected[key].numpy(), atol=1e-5)
    config = AutoConfig.from_pretrained(tmp_path / "out")
    assert config.model_type == model.config.model_type
    assert config.num_labels == model.config.num_labels
    special = json.loads((tmp_path / "out" / "special_tokens_map.json").read_text())
    assert special["mask_token"] == "[MASK]"


@SLOW
def test_layers_that_no_class_has_are_in_the_graph(tmp_path, zoo, capsys):
    """The mean over the tokens, and names of classes: the config is that of the body."""
    package = commit_tiny(zoo)
    assert export(tmp_path, "tiny", "--format", "onnx", "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["outputs"], said["dtype"], said["head"]) == (["logits"], "float32", "topic")
    assert 0 <= said["max_abs_difference"] <= 1e-5
    config = AutoConfig.from_pretrained(tmp_path / "out")
    assert list(config.id2label.values()) == ["array", "error", "worker"]
    (logits,) = session_of(tmp_path / "out").run(None, dict(tokens_of(tmp_path / "out", SENTENCES)))
    answers = [answer.scores for answer in Predictor.open(package).answers(rows(SENTENCES))]
    scores = torch.from_numpy(logits).softmax(-1).numpy()
    np.testing.assert_allclose(scores, answers, atol=1e-5)


@SLOW
def test_both_texts_of_a_pair_have_their_segment(tmp_path, zoo):
    commit_tiny(zoo, targets=({"type": "cls", "name": "topic", "num_labels": 3, **POOLER},))
    assert export(tmp_path, "tiny", "--format", "onnx") == 0
    assert export(tmp_path, "tiny", folder="torch") == 0
    for folder in ("out", "torch"):
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / folder)
        segments = tokenizer(SENTENCES[0], SENTENCES[1])["token_type_ids"]
        assert sorted(set(segments)) == [0, 1]
        assert segments == sorted(segments)


@SLOW
def test_a_graph_of_images_goes_out(tmp_path, zoo, capsys):
    """No class of transformers has this body: the config is the package's own."""
    case = next(each for each in CASES if each.name == "classification, picture")
    data = load(case, data_of(case, tmp_path))
    commit(zoo, case, task_of(case, data), "pictures")
    assert export(tmp_path, "pictures", "--format", "onnx") == 0
    assert "`optimum` does not open the folder" in capsys.readouterr().out
    session = session_of(tmp_path / "out")
    (pixels,) = session.get_inputs()
    assert (pixels.name, pixels.type) == ("pixel_values", "tensor(float)")
    (logits,) = session.run(["logits"], {"pixel_values": np.zeros((3, 1, 8, 8), np.float32)})
    assert logits.shape == (3, 2)
    assert (
        json.loads((tmp_path / "out" / "config.json").read_text())["model_type"] == "orchestrator"
    )


def rows(texts):
    from orchestrator.inference.inputs import rows_of_texts

    return rows_of_texts(list(texts))


@pytest.mark.parametrize("kind", ["row_u8", pytest.param("s7", marks=SLOW)])
def test_an_int8_graph_goes_out_with_its_bits(kind, tmp_path, zoo, capsys):
    package = commit_tiny(zoo)
    graph = commit_graph(zoo, package, kind=kind)
    assert export(tmp_path, "graph", "--format", "onnx") == 0
    said = capsys.readouterr().out
    assert "int8: logits" in said
    assert ("one text at a time" in said) == (kind == "s7")
    session = session_of(tmp_path / "out")
    for text in SENTENCES:
        batch = dict(tokens_of(tmp_path / "out", [text]))
        expected = OnnxModel.load(graph.path).predict(batch)["topic"]
        assert np.array_equal(session.run(["logits"], batch)[0], expected)
    assert export(tmp_path, "graph", folder="again") == 2
    assert "--format onnx" in capsys.readouterr().err


@SLOW
@pytest.mark.parametrize("inside", [True, False])
def test_a_sentence_embedder_goes_out_with_vectors_and_modules(inside, tmp_path, zoo, capsys):
    theirs = sentence_folder(tmp_path / "model", "mean", ("normalize",), include_prompt=inside)
    import_checkpoint(zoo, f"hf:{tmp_path / 'model'}", ImportOptions(name="embedder"))
    assert export(tmp_path, "embedder", "--format", "onnx") == 0
    assert ("Left out: sentence_embedding" in capsys.readouterr().out) != inside
    session = session_of(tmp_path / "out")
    names = [value.name for value in session.get_outputs()]
    assert names == ["last_hidden_state", *(["sentence_embedding"] if inside else [])]
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    batch = tokenizer(list(TEXTS), padding=True, truncation=True, max_length=24)
    feed = {value.name: np.asarray(batch[value.name]) for value in session.get_inputs()}
    found = session.run(None, feed)
    mask = feed["attention_mask"][..., None]
    vectors = (found[0] * mask).sum(1) / mask.sum(1)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    expected = theirs.encode(list(TEXTS))
    np.testing.assert_allclose(vectors, expected, atol=1e-5)
    if inside:
        np.testing.assert_allclose(found[1], expected, atol=1e-5)
    assert (tmp_path / "out" / "modules.json").is_file()
    assert (tmp_path / "out" / "1_Pooling" / "config.json").is_file()


@SLOW
def test_one_of_several_heads_or_the_embedding_is_named(tmp_path, zoo, capsys):
    heads = ({"type": "tags", "name": "ner"}, {"type": "similarity", "name": "near"})
    commit_tiny(zoo, targets=heads)
    assert export(tmp_path, "tiny", "--format", "onnx") == 2
    assert "several heads: ner, near" in capsys.readouterr().err
    assert export(tmp_path, "tiny", "--format", "onnx", "--target", "nar") == 2
    assert "Did you mean" in capsys.readouterr().err
    for target, names in (
        ("near", ["last_hidden_state", "sentence_embedding"]),
        ("embedding", ["last_hidden_state", "sentence_embedding"]),
        ("ner", ["logits"]),
    ):
        arguments = ["--format", "onnx", "--target", target]
        assert export(tmp_path, "tiny", *arguments, folder=target) == 0
        assert "Left out: head" in capsys.readouterr().out
        outputs = session_of(tmp_path / target).get_outputs()
        assert [value.name for value in outputs] == names


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--format", "onnx", "--adapter"], "--adapter"),
        (["--target", "topic"], "needs --format onnx"),
        (["--format", "onnx"], "is not empty"),
        (["--format", "onnx", "--target", "none"], "no head 'none'"),
    ],
)
def test_what_cannot_go_out_is_one_error_and_no_folder(arguments, says, tmp_path, zoo, capsys):
    commit_tiny(zoo)
    folder = "out"
    if "empty" in says:
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "file").touch()
    before = sorted(tmp_path.rglob("*"))
    assert export(tmp_path, "tiny", *arguments, folder=folder) == 2
    assert says in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


def test_a_part_without_a_graph_is_named_and_nothing_is_written(tmp_path, zoo, capsys):
    commit_tiny(zoo, targets=({"type": "lm", "name": "words"},), mask="causal")
    assert export(tmp_path, "tiny", "--format", "onnx", "--target", "words") == 2
    assert "no head 'words' that answers in one pass" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
